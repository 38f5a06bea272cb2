"""What the functions need from the outside world. Adapters provide it; tests bring fakes that pass the same suites."""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from shared.domain.messages import RunMessage
from shared.domain.run import Advance, AgentName, Finish, Run
from shared.domain.secret import Sealed, SealedFor, Secret

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to be started, already checked. `credential_id` names the sealed git token."""

    prompt: str
    repo_url: str
    branch: str
    agent: AgentName
    project_id: int | None
    credential_id: str
    credential: Sealed
    credential_hint: str | None
    idempotency_key: str | None
    trace_id: str | None
    model: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run that is safely stored. `created` is False when an earlier call with the same idempotency key made it."""

    task_id: int
    run_id: str
    seq: int
    created: bool


@dataclass(frozen=True, slots=True)
class LiveLog:
    """A part of a task's live log, oldest entry first, and the task's status at that same moment."""

    task_status: str
    events: list[Row]


class TaskStore(Protocol):
    """The database as one signed-in user sees it. Rows have the keys of the wire contract."""

    def create(self, task: NewTask) -> StartedRun:
        """Raises NotFound for a foreign project, TooMany beyond the user's limit, Unavailable."""
        ...

    def get(self, task_id: int, *, owner_id: str) -> Row:
        """The whole row. Raises NotFound, also when it is somebody else's."""
        ...

    def get_columns(self, task_id: int, columns: Collection[str], *, owner_id: str) -> Row: ...

    def list_all(self, *, owner_id: str, project_id: int | None) -> list[Row]:
        """All tasks, newest first, without what their agents changed."""
        ...

    def events(self, task_id: int, *, after: int, limit: int, owner_id: str) -> LiveLog:
        """Up to `limit` entries with `seq` above `after`. Raises NotFound, also when it is somebody else's."""
        ...


class UserDirectory(Protocol):
    """Who exists, as seen with that user's own token."""

    def exists(self, user_id: str) -> bool: ...

    def has_live_session(self, user_agent: str) -> bool: ...


class ClaimOutcome(StrEnum):
    """What the database answered to a claim; see claim_run in the migrations."""

    CLAIMED = "claimed"
    WAITING = "waiting"
    BUSY = "busy"
    OVERDUE = "overdue"
    STALE = "stale"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Claim:
    """`run` is there when claimed; `retry_in_s` and `seq` say when and for which step to nudge again."""

    outcome: ClaimOutcome
    run: Run | None = None
    retry_in_s: int = 0
    seq: int | None = None


class RunStore(Protocol):
    """The runs, for the executor. Every write names the fence of its claim and is refused once that has moved on."""

    def claim(self, message: RunMessage) -> Claim: ...

    def seize(self, run_id: str) -> Run | None:
        """Take a run from whoever holds it; None when it has ended or never was."""
        ...

    def advance(self, run: Run, step: Advance) -> int | None:
        """Save a step and give the lease back. The next step's number, or None when the fence was lost."""
        ...

    def finish(self, run: Run, end: Finish) -> bool:
        """End the run and its task in one transaction. False when the fence was lost."""
        ...

    def due(self, *, grace_s: int, limit: int) -> list[RunMessage]:
        """Nudges for runs whose own were lost."""
        ...

    def live(self, run_ids: Collection[str]) -> set[str]:
        """Which of these runs have not ended."""
        ...

    def git_credential(self, run: Run) -> Sealed | None: ...

    def expire_credentials(self) -> int: ...


class RunQueue(Protocol):
    def send(self, message: RunMessage, *, delay_s: int = 0) -> None:
        """Deliver `message` after about `delay_s` seconds, at least once. Raises Unavailable."""
        ...


class SecretBox(Protocol):
    def seal(self, secret: Secret, owner: SealedFor) -> Sealed: ...

    def open(self, sealed: Sealed, owner: SealedFor) -> Secret:
        """Raises CannotOpen when it was sealed for another owner or by an unknown key."""
        ...
