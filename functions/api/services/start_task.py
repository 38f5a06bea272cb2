"""Starting a task: checked, sealed, stored; then the executor is nudged."""

import hashlib
import json
import logging
import uuid
from dataclasses import dataclass

from shared.config import ApiSettings
from shared.domain.errors import AppError, InvalidInput, NotFound
from shared.domain.messages import RunMessage
from shared.domain.ports import NewTask, RunQueue, SecretBox, StartedRun, TaskStore
from shared.domain.repository import Repository, branch_name
from shared.domain.run import AgentName
from shared.domain.secret import SealedFor, Secret, hint_of

log = logging.getLogger("api.start_task")

REQUIRED = "prompt, repo_url, and github_token are required"
MAX_TOKEN_BYTES = 4096  # what KMS encrypts directly; no git host issues longer ones
MAX_ROW_ID = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What somebody wants done, unchecked but trimmed."""

    user_id: str
    prompt: str
    repo_url: str
    github_token: Secret
    branch: str | None
    agent: AgentName
    project_id: int | None
    idempotency_key: str | None
    trace_id: str


def start_task(asked: Asked, *, settings: ApiSettings, tasks: TaskStore, queue: RunQueue, box: SecretBox) -> StartedRun:
    """Store the task and nudge the executor. Once this returns, the task is safe whatever happened to the nudge.

    Raises InvalidInput, NotFound for a foreign project, Conflict for a key under which something else was asked,
    TooMany beyond a limit of the user's, Unavailable; then nothing was stored.
    """
    _check(asked, prompt_max_chars=settings.prompt_max_chars)
    repository = Repository.parse(asked.repo_url, origins=settings.repo_origins)
    branch = branch_name(asked.branch)
    owner = SealedFor(user_id=asked.user_id, kind="git_token", id=str(uuid.uuid4()))
    run = tasks.create(
        NewTask(
            prompt=asked.prompt,
            repo_url=repository.url,
            branch=branch,
            agent=asked.agent,
            project_id=asked.project_id,
            credential_id=owner.id,
            credential=box.seal(asked.github_token, owner),
            credential_hint=hint_of(asked.github_token),
            idempotency_key=asked.idempotency_key,
            trace_id=asked.trace_id,
            request_hash=_hash_of(asked, repository.url, branch),
        )
    )
    _nudge(run, asked, queue)
    return run


def _check(asked: Asked, *, prompt_max_chars: int) -> None:
    if not (asked.prompt and asked.repo_url and asked.github_token):
        raise InvalidInput(REQUIRED)
    if len(asked.prompt) > prompt_max_chars:
        raise InvalidInput(f"prompt may have at most {prompt_max_chars} characters")
    if len(asked.github_token.reveal().encode()) > MAX_TOKEN_BYTES:
        raise InvalidInput(f"github_token may have at most {MAX_TOKEN_BYTES} bytes")
    if asked.project_id is not None and not 0 < asked.project_id <= MAX_ROW_ID:
        raise NotFound("Project not found")


def _hash_of(asked: Asked, repo_url: str, branch: str) -> str:
    """What is asked for, as SHA-256 in hexadecimal digits. Not the token: it may have been renewed in between."""
    request = {
        "prompt": asked.prompt,
        "repo_url": repo_url,
        "branch": branch,
        "model": asked.agent,
        "project_id": asked.project_id,
    }
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _nudge(run: StartedRun, asked: Asked, queue: RunQueue) -> None:
    message = RunMessage(
        task_id=run.task_id, run_id=run.run_id, seq=run.seq, user_id=asked.user_id, trace_id=asked.trace_id
    )
    try:
        queue.send(message)
    except AppError as error:  # the row is the truth: the reaper finds the run and sends again
        log.warning("run.nudge_failed", extra={"task_id": run.task_id, "run_id": run.run_id} | error.for_log())
