"""What the functions need from the outside world. Adapters provide it; tests bring fakes that pass the same suites."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Protocol

from shared.domain.agents import AgentName
from shared.domain.contents import ContentPart
from shared.domain.errors import RunFailed
from shared.domain.messages import RunMessage
from shared.domain.run import Advance, Finish, Result, Run, RunKind
from shared.domain.secret import Sealed, SealedFor, SealedToken, Secret
from shared.domain.task import TaskStatus

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskOptions:
    """What a user may choose for a new task beside prompt, repository and agent.

    Each value goes unchanged from the request to the argument `p_<name>` of `create_task`, and into the hash by which
    a repeated request is recognised.
    """

    project_id: int | None = None
    max_cost_usd: float | None = None  # None: what the deployment allows
    max_duration_s: int | None = None  # None: what the deployment gives


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A task to be started, already checked. `credential_id` names the sealed git token."""

    prompt: str
    repo_url: str
    branch: str
    agent: AgentName
    credential_id: str
    credential: Sealed
    credential_hint: str | None
    idempotency_key: str | None
    trace_id: str | None
    request_hash: str | None = None  # tells a repeated request under the same key from another one
    model: str | None = None
    options: TaskOptions = TaskOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRun:
    """Another run of a task, already checked. `prompt` is None for a retry."""

    task_id: int
    kind: RunKind
    prompt: str | None
    token: SealedToken | None
    idempotency_key: str | None
    trace_id: str | None
    request_hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run that is safely stored. `created` is False when an earlier call with the same idempotency key made it."""

    task_id: int
    run_id: str
    seq: int
    created: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelledRun:
    """A run that is to be stopped. `at_work`: somebody takes its step `seq` now, who does not know of it."""

    run_id: str
    seq: int
    at_work: bool


@dataclass(frozen=True, slots=True)
class LiveLog:
    """A part of a task's live log, oldest entry first, and the task's status at that same moment."""

    task_status: str
    events: list[Row]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks a list shows: those that pass everything that is not None. `search` is looked for in prompts."""

    status: TaskStatus | None = None
    project_id: int | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Tasks, newest first, with every key of a row, but without what agents produced.

    `more` of those that match come after them; `total` counts all that match.
    """

    rows: list[Row]
    total: int
    more: bool


class TaskStore(Protocol):
    """The database as one signed-in user sees it. Rows have the keys of the wire contract."""

    def create(self, task: NewTask) -> StartedRun:
        """Raises NotFound for a foreign project, Conflict for a key under which something else was asked, InvalidInput
        (code `max_duration_too_long`), TooMany beyond a limit of the user's, Unavailable.
        """
        ...

    def create_run(self, run: NewRun) -> StartedRun:
        """Another run of a task that has ended. Raises NotFound, Conflict (codes `run_active`, `chat_full`,
        `nothing_to_retry`, `idempotency_key_reused`), TooMany, Unavailable.
        """
        ...

    def request_cancel(self, task_id: int) -> CancelledRun:
        """Asking twice is fine. Raises NotFound, Conflict (code `task_ended`) when nothing is left to stop."""
        ...

    def run_progress(self, task_id: int) -> Row:
        """The newest run's run_id, its phase while it is active, its queue_position while it is queued; else None."""
        ...

    def get(self, task_id: int, *, owner_id: str) -> Row:
        """The whole row, and `usage`: what all its runs have used, with the keys of shared/domain/usage.py.

        Raises NotFound, also when it is somebody else's.
        """
        ...

    def get_columns(self, task_id: int, columns: Collection[str], *, owner_id: str) -> Row: ...

    def page(self, wanted: TaskFilter, *, limit: int, after: Row | None, owner_id: str) -> TaskPage:
        """Up to `limit` tasks (at most 1,000) that come after the row `after`, whose created_at and id count.

        Fewer, but at least one, where their rows would have more than 6 MB.
        """
        ...

    def append_chat_message(self, task_id: int, role: str, content: str) -> None:
        """Two at once both stay. Raises NotFound, also when it is somebody else's, and Conflict (code `chat_full`)."""
        ...

    def events(self, task_id: int, *, after: int, limit: int, owner_id: str) -> LiveLog:
        """Up to `limit` entries with `seq` above `after`. Raises NotFound, also when it is somebody else's."""
        ...


class UsageStore(Protocol):
    """What a signed-in user's runs have used, also those of tasks that are gone."""

    def totals(self, *, start: datetime, end: datetime | None, project_id: int | None) -> Row:
        """From `start` up to `end` (None: now): the keys of shared/domain/usage.py, `by_agent`, and `by_day` (UTC)."""
        ...


class ProjectStore(Protocol):
    """A signed-in user's own projects. Rows also have task_count, completed_tasks and active_tasks."""

    def list_all(self, *, owner_id: str) -> list[Row]:
        """Newest first."""
        ...

    def get(self, project_id: int, *, owner_id: str) -> Row:
        """Raises NotFound, also when it is somebody else's."""
        ...

    def create(self, columns: Row, *, owner_id: str) -> Row:
        """Raises Conflict when there is a project of this repository already."""
        ...

    def update(self, project_id: int, changes: Row, *, owner_id: str) -> Row:
        """Raises NotFound, Conflict."""
        ...

    def delete(self, project_id: int, *, owner_id: str) -> None:
        """Its tasks go with it. Raises NotFound."""
        ...


class UserDirectory(Protocol):
    """Who exists, as seen with that user's own token."""

    def exists(self, user_id: str) -> bool: ...

    def has_live_session(self, user_agent: str) -> bool: ...


class ProfileStore(Protocol):
    """A signed-in user's own row of `users`, without what no user may read."""

    def get(self, *, owner_id: str) -> Row:
        """Raises NotFound."""
        ...

    def update(self, changes: Row, *, owner_id: str) -> Row:
        """Change full_name, avatar_url, github_username, preferences. Of the preferences, each named section replaces
        the stored one, and None removes it. Raises NotFound.
        """
        ...


class ApiKeyStore(Protocol):
    """A signed-in user's own keys for programs. Only their hashes are known."""

    def create(self, *, name: str, key_hash: str, hint: str, expires_at: datetime | None) -> Row:
        """Keys: id, name, hint, created_at, expires_at, last_used_at. Raises Conflict beyond 50 keys."""
        ...

    def list_all(self, *, owner_id: str) -> list[Row]:
        """Newest first."""
        ...

    def revoke(self, key_id: str, *, owner_id: str) -> None:
        """Raises NotFound."""
        ...


class ApiKeyDirectory(Protocol):
    """Asked by nobody in particular."""

    def user_of(self, key_hash: str) -> str | None:
        """Whose valid key has this SHA-256 in hexadecimal digits."""
        ...


class AuthAdmin(Protocol):
    """The sign-in service's own administration. It knows every user: ask first who somebody is."""

    def create_user(self, email: str, *, app_metadata: Mapping[str, Any], user_metadata: Mapping[str, Any]) -> Row:
        """Keys: id, metadata. Raises Conflict when the address is taken, InvalidInput when it is none."""
        ...

    def delete_user(self, user_id: str) -> None:
        """All that belongs to the user goes, too. Raises NotFound."""
        ...


class TestUserDirectory(Protocol):
    """Test users, as the operator sees them: whole rows of `users` but for the git token. Nobody else is in it."""

    def list_all(self) -> list[Row]:
        """Newest first."""
        ...

    def get(self, user_id: str) -> Row:
        """Raises NotFound, also for a user who is no test user."""
        ...

    def expired(self, now: datetime, *, limit: int) -> list[str]:
        """The ids of those whose time was over at `now`, longest ago first."""
        ...


class ClaimOutcome(StrEnum):
    """What the database answered to a claim; see claim_run in supabase/schemas."""

    CLAIMED = "claimed"
    WAITING = "waiting"
    BUSY = "busy"
    OVERDUE = "overdue"
    STALE = "stale"
    ENDED = "ended"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Claim:
    """`run` is there when claimed; `retry_in_s` and `seq` say when and for which step to nudge again.

    A run that waits without `retry_in_s` sleeps: RunStore.wake names it when a sandbox is free for it.
    """

    outcome: ClaimOutcome
    run: Run | None = None
    retry_in_s: int | None = None
    seq: int | None = None


@dataclass(frozen=True, slots=True)
class OwnersEnvironment:
    """What a run's owner wants its programs to find, unchecked; {} for nothing. See shared/domain/preferences.py.

    `project_network` (None: nothing) are the hosts that they may reach, too: shared/domain/network.py.
    """

    preferences: object
    project_env: object
    project_network: object = None


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
        """End the run and its task in one transaction. False when the fence was lost.

        Without a result, the last checkpoint is what the run leaves.
        """
        ...

    def save_checkpoint(self, run: Run, result: Result) -> bool:
        """Save what the run has changed so far. False when the fence was lost."""
        ...

    def stored_contents(self, run: Run) -> set[str]:
        """The ids of the run's contents that store_contents has stored whole."""
        ...

    def store_contents(self, run: Run, parts: Collection[ContentPart]) -> bool:
        """Store what lies apart from the result, before finish; what is there stays. False when the fence was lost."""
        ...

    def due(self, *, grace_s: int, limit: int) -> list[RunMessage]:
        """Nudges for runs whose own were lost."""
        ...

    def wake(self) -> list[RunMessage]:
        """Nudges for sleeping runs that sandboxes are free for. Each is named once."""
        ...

    def needed(self, sandboxes: Mapping[str, str]) -> set[str]:
        """Which of these sandboxes (id -> the run that it was made for) an active run works in or may take over."""
        ...

    def without_sandbox(self, sandboxes: Collection[str], *, grace_s: int) -> list[RunMessage]:
        """Nudges for running runs whose sandbox is none of these, and that nobody has touched for `grace_s` seconds."""
        ...

    def end_stuck(self, *, waited_s: int, waited: RunFailed, orphaned: str) -> int:
        """End runs that have waited so long for a sandbox, and active tasks without an active run. How many."""
        ...

    def replay(self, run_id: str) -> RunMessage | None:
        """Have done again what a run was to do that ended as INTERNAL: the nudge of the new run.

        None when there is nothing to do again: it did not end so, or something else was asked of its task since.
        """
        ...

    def saved_patch(self, run: Run) -> str | None:
        """What the task's earlier runs have changed, as a patch for `run.base_commit`; "" for nothing.

        None: it was too large to be stored.
        """
        ...

    def git_credential(self, run: Run) -> Sealed | None: ...

    def environment(self, run: Run) -> OwnersEnvironment: ...

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
