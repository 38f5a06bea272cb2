"""What a user may do to a task that was started: cancel it, have it done again, ask for more."""

from dataclasses import dataclass

from functions.api.services.run_start import check_prompt, check_token, hash_of, nudge, sealed_token
from shared.config import ApiSettings
from shared.domain.errors import InvalidInput
from shared.domain.messages import RunMessage
from shared.domain.ports import NewRun, RunQueue, SecretBox, StartedRun, TaskStore
from shared.domain.run import RunKind
from shared.domain.secret import Secret

PROMPT_REQUIRED = "prompt is required"
# A step that is at work knows of no cancellation and will ask for its successor as late as a minute later. Most take a
# second.
STEP_AT_WORK_S = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class AskedAgain:
    """What somebody wants done on a task of theirs, unchecked but trimmed. `prompt` is None for a retry."""

    user_id: str
    task_id: int
    prompt: str | None
    github_token: Secret | None
    idempotency_key: str | None
    trace_id: str


def run_again(
    asked: AskedAgain, *, settings: ApiSettings, tasks: TaskStore, queue: RunQueue, box: SecretBox
) -> StartedRun:
    """Store another run of the task, a follow-up or a retry, and nudge the executor.

    Raises InvalidInput, and what TaskStore.create_run raises; then nothing was stored.
    """
    kind = RunKind.RETRY if asked.prompt is None else RunKind.FOLLOW_UP
    if asked.prompt is not None:
        if not asked.prompt:
            raise InvalidInput(PROMPT_REQUIRED)
        check_prompt(asked.prompt, max_chars=settings.prompt_max_chars)
    if asked.github_token:
        check_token(asked.github_token)
    run = tasks.create_run(
        NewRun(
            task_id=asked.task_id,
            kind=kind,
            prompt=asked.prompt,
            token=sealed_token(asked.github_token, user_id=asked.user_id, box=box) if asked.github_token else None,
            idempotency_key=asked.idempotency_key,
            trace_id=asked.trace_id,
            request_hash=hash_of({"task_id": asked.task_id, "kind": kind, "prompt": asked.prompt}),
        )
    )
    message = RunMessage(
        task_id=run.task_id, run_id=run.run_id, seq=run.seq, user_id=asked.user_id, trace_id=asked.trace_id
    )
    nudge(message, queue)
    return run


def cancel(task_id: int, *, user_id: str, trace_id: str, tasks: TaskStore, queue: RunQueue) -> None:
    """Have the executor stop the task's run, now. Raises NotFound, Conflict when the task has ended, Unavailable."""
    run = tasks.request_cancel(task_id)
    seqs = {run.seq: 0, run.seq + 1: STEP_AT_WORK_S} if run.at_work else {run.seq: 0}
    for seq, delay_s in seqs.items():
        message = RunMessage(task_id=task_id, run_id=run.run_id, seq=seq, user_id=user_id, trace_id=trace_id)
        nudge(message, queue, delay_s=delay_s)
