"""What a step may use: the ports of the domain, the sandboxes, and the settings, built once per environment."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.config import ExecutorSettings
from shared.domain.ports import RunQueue, RunStore, SecretBox
from shared.domain.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo:
    """A sandbox of this deployment, as E2B lists it."""

    id: str
    run_id: str
    started_at: datetime


class Workbench(Protocol):
    """A running sandbox. Everything happens as root; relative paths start at root's home, where no agent can read."""

    def upload(self, files: Mapping[str, bytes]) -> None: ...

    def read(self, path: str) -> bytes: ...

    def run(self, argv: list[str], *, timeout_s: int) -> str:
        """What the program printed. Raises CommandFailed when it exits non-zero. No secret may be in `argv`."""
        ...


class Sandboxes(Protocol):
    """E2B, as far as runs need it. Unreachable raises Unavailable; gone for good raises SandboxGone."""

    def find(self, run_id: str) -> str | None:
        """The id of the run's sandbox, running or paused."""
        ...

    def create(self, run: Run) -> str: ...

    def attach(self, sandbox_id: str) -> Workbench:
        """The running sandbox, its life extended; a paused one is resumed."""
        ...

    def kill(self, sandbox_id: str) -> None:
        """End it; it may be gone already."""
        ...

    def pause(self, sandbox_id: str) -> None:
        """Let it stand still, all it holds kept, until somebody attaches or kills it."""
        ...

    def list_ours(self) -> Iterator[SandboxInfo]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything from outside, the clock included."""

    runs: RunStore
    queue: RunQueue
    replays: RunQueue  # where the messages of runs that were given up are kept
    sandboxes: Sandboxes
    box: SecretBox
    settings: ExecutorSettings
    now: Callable[[], datetime]
