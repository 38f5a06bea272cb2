"""A run: one execution of one prompt. Its phases, what a step may do to it, and how it may end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, TypedDict

from shared.domain.agents import AgentName
from shared.domain.errors import IllegalTransition

# The error_code of a run that failed by a fault of ours, which nobody foresaw: it may be replayed once that is mended.
INTERNAL = "internal"


class RunKind(StrEnum):
    FIRST = "first"
    FOLLOW_UP = "follow_up"  # goes on from where the task's last run ended
    RETRY = "retry"  # the last prompt once more, from the branch as it is


class RunStatus(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    QUEUED = "queued"
    PROVISIONING = "provisioning"
    CLONING = "cloning"
    SETUP = "setup"
    AGENT = "agent"
    COLLECTING = "collecting"
    DONE = "done"


# A step may stay in its phase (look again later), go on along this table, or end the run.
NEXT_PHASES: dict[Phase, frozenset[Phase]] = {
    Phase.QUEUED: frozenset({Phase.PROVISIONING}),
    Phase.PROVISIONING: frozenset({Phase.CLONING, Phase.AGENT}),  # the agent, in a sandbox that was kept
    Phase.CLONING: frozenset({Phase.SETUP, Phase.AGENT}),
    Phase.SETUP: frozenset({Phase.AGENT}),
    Phase.AGENT: frozenset({Phase.COLLECTING}),
    Phase.COLLECTING: frozenset(),
    Phase.DONE: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A claimed run, as far as its steps need it. Times are UTC; `output_offset` is bytes of the agent's output."""

    id: str
    task_id: int
    user_id: str
    kind: RunKind
    prompt: str
    agent: AgentName
    status: RunStatus
    phase: Phase
    seq: int
    fence: int
    attempt: int
    repo_url: str
    branch: str
    model: str | None = None
    max_cost_usd: float | None = None  # what its user allows; None: what the deployment does
    max_duration_s: int | None = None  # as its user wants it; None: what the deployment gives
    setup_script: str | None = None
    deadline_at: datetime | None = None
    cancel_requested: bool = False
    sandbox_id: str | None = None
    agent_session_id: str | None = None
    base_commit: str | None = None
    output_offset: int = 0
    reader_state: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)  # see functions/executor/work/checkpoint.py
    exit_code: int | None = None
    error_code: str | None = None
    error: str | None = None
    git_credential_id: str | None = None
    trace_id: str | None = None
    created_at: datetime | None = None
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """One entry of a task's live log. `payload` is JSON-able and free of secrets."""

    kind: str
    payload: Mapping[str, Any] = field(default_factory=dict)


class RunChanges(TypedDict, total=False):
    """Columns of a run that a step changes; absent ones stay as they are. The database refuses any other."""

    attempt: int
    sandbox_id: str | None
    agent_session_id: str | None
    base_commit: str | None
    output_offset: int
    reader_state: Mapping[str, Any]
    usage: Mapping[str, Any]
    checkpoint: Mapping[str, Any]
    exit_code: int | None
    error_code: str | None
    error: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """A step that leaves the run alive: look again in `check_in_s` seconds, with these columns of the run changed."""

    check_in_s: int = 0
    phase: Phase | None = None
    changes: RunChanges = field(default_factory=RunChanges)
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What the agent changed, exactly. `files` are rows of task_files; `patch` applies with `git apply`."""

    commit_hash: str | None
    diff: str
    patch: str | None
    changed_files: tuple[str, ...]
    files: tuple[Mapping[str, Any], ...]
    metadata: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """A step that ends the run. `message` becomes the assistant's chat message; `result` is kept in any status.

    `keep_sandbox_s`: so many seconds the sandbox is kept for a follow-up; 0 has it killed.
    """

    status: RunStatus
    error_code: str | None = None
    error: str | None = None
    message: str = ""
    result: Result | None = None
    events: tuple[Event, ...] = ()
    keep_sandbox_s: int = 0


Outcome = Advance | Finish


def check_phase(was: Phase, becomes: Phase) -> None:
    """Raises IllegalTransition when a step may not lead from `was` to `becomes`."""
    if becomes is not was and becomes not in NEXT_PHASES[was]:
        raise IllegalTransition(f"A run cannot go from {was} to {becomes}.")
