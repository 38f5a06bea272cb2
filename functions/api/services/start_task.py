"""Starting a task: checked, sealed, stored; then the executor is nudged."""

from dataclasses import asdict, dataclass

from functions.api.services.run_start import check_prompt, check_token, hash_of, nudge, sealed_token
from shared.config import ApiSettings
from shared.domain.errors import InvalidInput, NotFound
from shared.domain.messages import RunMessage
from shared.domain.ports import NewTask, RunQueue, SecretBox, StartedRun, TaskOptions, TaskStore
from shared.domain.repository import Repository, branch_name
from shared.domain.run import AgentName
from shared.domain.secret import Secret

REQUIRED = "prompt, repo_url, and github_token are required"
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
    options: TaskOptions
    idempotency_key: str | None
    trace_id: str


def start_task(asked: Asked, *, settings: ApiSettings, tasks: TaskStore, queue: RunQueue, box: SecretBox) -> StartedRun:
    """Store the task and nudge the executor. Once this returns, the task is safe whatever happened to the nudge.

    Raises InvalidInput, NotFound for a foreign project, Conflict for a key under which something else was asked,
    TooMany beyond a limit of the user's, Unavailable; then nothing was stored.
    """
    _check(asked, prompt_max_chars=settings.prompt_max_chars)
    check_max_cost(asked.options.max_cost_usd, most=settings.max_cost_usd)
    repository = Repository.parse(asked.repo_url, origins=settings.repo_origins)
    branch = branch_name(asked.branch)
    token = sealed_token(asked.github_token, user_id=asked.user_id, box=box)
    run = tasks.create(
        NewTask(
            prompt=asked.prompt,
            repo_url=repository.url,
            branch=branch,
            agent=asked.agent,
            options=asked.options,
            credential_id=token.id,
            credential=token.sealed,
            credential_hint=token.hint,
            idempotency_key=asked.idempotency_key,
            trace_id=asked.trace_id,
            request_hash=_hash_of(asked, repository.url, branch),
        )
    )
    message = RunMessage(
        task_id=run.task_id, run_id=run.run_id, seq=run.seq, user_id=asked.user_id, trace_id=asked.trace_id
    )
    nudge(message, queue)
    return run


def _check(asked: Asked, *, prompt_max_chars: int) -> None:
    if not (asked.prompt and asked.repo_url and asked.github_token):
        raise InvalidInput(REQUIRED)
    check_prompt(asked.prompt, max_chars=prompt_max_chars)
    check_token(asked.github_token)
    if asked.options.project_id is not None and not 0 < asked.options.project_id <= MAX_ROW_ID:
        raise NotFound("Project not found")


def check_max_cost(max_cost_usd: float | None, *, most: float) -> None:
    """Raises InvalidInput when it is more than the deployment allows."""
    if max_cost_usd is not None and max_cost_usd > most:
        raise InvalidInput(f"max_cost_usd may be at most {most:g}")


def _hash_of(asked: Asked, repo_url: str, branch: str) -> str:
    """What is asked for, as SHA-256 in hexadecimal digits. Not the token: it may have been renewed in between."""
    request = {
        "prompt": asked.prompt,
        "repo_url": repo_url,
        "branch": branch,
        "model": asked.agent,
        "project_id": None,
    }
    # Absent options leave no trace: an option that is added later does not change the hashes of earlier requests.
    return hash_of(request | {name: value for name, value in asdict(asked.options).items() if value is not None})
