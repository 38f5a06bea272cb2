"""Starts runs of tasks, and cancels them."""

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from functions.api.tasks.models import PROMPT_REQUIRED, START_REQUIRED
from functions.api.web.ids import MAX_ROW_ID
from shared.config import ApiSettings
from shared.domain.agents import AgentName
from shared.domain.errors import AppError, InvalidInput, NotFound
from shared.domain.messages import RunMessage
from shared.domain.ports import NewRun, NewTask, RunQueue, SecretBox, StartedRun, TaskOptions, TaskStore
from shared.domain.repository import Repository, branch_name
from shared.domain.run import RunKind
from shared.domain.secret import SealedFor, SealedToken, Secret, hint_of

log = logging.getLogger("api.tasks")

MAX_TOKEN_BYTES = 4096  # what KMS encrypts directly; no git host issues longer ones
# A running step does not notice the cancellation and would schedule its successor as late as a minute later. Most steps
# take a second.
RUNNING_STEP_S = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTaskCommand:
    """The task to start. Its texts are trimmed but not validated."""

    user_id: str
    prompt: str
    repo_url: str
    github_token: Secret
    branch: str | None
    agent: AgentName
    options: TaskOptions
    idempotency_key: str | None
    trace_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RerunCommand:
    """The next run of a task: a retry when `prompt` is None, otherwise a follow-up. Not validated."""

    user_id: str
    task_id: int
    prompt: str | None
    github_token: Secret | None
    idempotency_key: str | None
    trace_id: str


def start_task(
    command: StartTaskCommand, *, settings: ApiSettings, tasks: TaskStore, queue: RunQueue, box: SecretBox
) -> StartedRun:
    """Store the task and nudge the executor. Once this returns, the task is safe even if the nudge was lost.

    Raises InvalidInput, NotFound for another user's project, Conflict for an idempotency key of a different request,
    TooMany beyond one of the user's limits, Unavailable; then nothing was stored.
    """
    _check_start(command, settings)
    repository = Repository.parse(command.repo_url, origins=settings.repo_origins)
    branch = branch_name(command.branch)
    token = _sealed(command.github_token, user_id=command.user_id, box=box)
    run = tasks.create(
        NewTask(
            prompt=command.prompt,
            repo_url=repository.url,
            branch=branch,
            agent=command.agent,
            options=command.options,
            credential_id=token.id,
            credential=token.sealed,
            credential_hint=token.hint,
            idempotency_key=command.idempotency_key,
            trace_id=command.trace_id,
            request_hash=_start_hash(command, repository.url, branch),
        )
    )
    _nudge(_first_step(run, command), queue)
    return run


def run_again(
    command: RerunCommand, *, settings: ApiSettings, tasks: TaskStore, queue: RunQueue, box: SecretBox
) -> StartedRun:
    """Store another run of the task, a follow-up or a retry, and nudge the executor.

    Raises InvalidInput, and what TaskStore.create_run raises; then nothing was stored.
    """
    kind = RunKind.RETRY if command.prompt is None else RunKind.FOLLOW_UP
    if command.prompt is not None:
        if not command.prompt:
            raise InvalidInput(PROMPT_REQUIRED)
        _check_prompt(command.prompt, max_chars=settings.prompt_max_chars)
    if command.github_token:
        _check_token(command.github_token)
    run = tasks.create_run(
        NewRun(
            task_id=command.task_id,
            kind=kind,
            prompt=command.prompt,
            token=_sealed(command.github_token, user_id=command.user_id, box=box) if command.github_token else None,
            idempotency_key=command.idempotency_key,
            trace_id=command.trace_id,
            request_hash=_hash({"task_id": command.task_id, "kind": kind, "prompt": command.prompt}),
        )
    )
    _nudge(_first_step(run, command), queue)
    return run


def cancel(task_id: int, *, user_id: str, trace_id: str, tasks: TaskStore, queue: RunQueue) -> None:
    """Have the executor stop the task's run now. Raises NotFound, Conflict when the task has ended, Unavailable."""
    run = tasks.request_cancel(task_id)
    delays = {run.seq: 0, run.seq + 1: RUNNING_STEP_S} if run.at_work else {run.seq: 0}
    for seq, delay_s in delays.items():
        message = RunMessage(task_id=task_id, run_id=run.run_id, seq=seq, user_id=user_id, trace_id=trace_id)
        _nudge(message, queue, delay_s=delay_s)


def _check_start(command: StartTaskCommand, settings: ApiSettings) -> None:
    """Raises InvalidInput, NotFound for a project id that no row can have."""
    if not (command.prompt and command.repo_url and command.github_token):
        raise InvalidInput(START_REQUIRED)
    _check_prompt(command.prompt, max_chars=settings.prompt_max_chars)
    _check_token(command.github_token)
    if command.options.project_id is not None and not 0 < command.options.project_id <= MAX_ROW_ID:
        raise NotFound("Project not found")
    if command.options.max_cost_usd is not None and command.options.max_cost_usd > settings.max_cost_usd:
        raise InvalidInput(f"max_cost_usd may be at most {settings.max_cost_usd:g}")


def _check_prompt(prompt: str, *, max_chars: int) -> None:
    if len(prompt) > max_chars:
        raise InvalidInput(f"prompt may have at most {max_chars} characters")


def _check_token(token: Secret) -> None:
    if len(token.reveal().encode()) > MAX_TOKEN_BYTES:
        raise InvalidInput(f"github_token may have at most {MAX_TOKEN_BYTES} bytes")


def _sealed(token: Secret, *, user_id: str, box: SecretBox) -> SealedToken:
    """The token, encrypted for its owner. Raises Unavailable."""
    owner = SealedFor(user_id=user_id, kind="git_token", id=str(uuid.uuid4()))
    return SealedToken(owner.id, box.seal(token, owner), hint_of(token))


def _start_hash(command: StartTaskCommand, repo_url: str, branch: str) -> str:
    request = {
        "prompt": command.prompt,
        "repo_url": repo_url,
        "branch": branch,
        "model": command.agent,
        "project_id": None,
    }
    # Absent options leave no trace: an option that is added later does not change the hashes of earlier requests.
    return _hash(request | {name: value for name, value in asdict(command.options).items() if value is not None})


def _hash(request: Mapping[str, object]) -> str:
    """The SHA-256 of a request, in hexadecimal. It never includes the token, which may differ in a repeated request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def _first_step(run: StartedRun, command: StartTaskCommand | RerunCommand) -> RunMessage:
    return RunMessage(
        task_id=run.task_id, run_id=run.run_id, seq=run.seq, user_id=command.user_id, trace_id=command.trace_id
    )


def _nudge(message: RunMessage, queue: RunQueue, *, delay_s: int = 0) -> None:
    """Have the executor look at a run that is already stored."""
    try:
        queue.send(message, delay_s=delay_s)
    except AppError as error:  # the row is the truth: the reaper finds the run and sends the message again
        log.warning("run.nudge_failed", extra={"task_id": message.task_id, "run_id": message.run_id} | error.for_log())
