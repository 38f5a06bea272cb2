"""What a step may use: the ports of the domain, the sandboxes, and the settings, built once per environment."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from shared.config import ExecutorSettings
from shared.domain.network import SandboxNetwork
from shared.domain.ports import RunQueue, RunStore, SecretBox
from shared.domain.run import Run
from shared.domain.secret import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxInfo:
    """A sandbox of this deployment, as E2B lists it."""

    id: str
    run_id: str
    started_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSecret:
    """A secret of this deployment that is kept at E2B for a run. Nobody can read its value there."""

    name: str
    run_id: str


class SandboxConnection(Protocol):
    """A running sandbox. Everything happens as root. All paths are absolute: a template has defaults of its own.

    After a call that raised Unavailable, no further one answers: attach again.
    """

    def upload(self, files: Mapping[str, bytes]) -> None: ...

    def read(self, path: str) -> bytes: ...

    def run_python(self, program: str, *arguments: str, timeout_s: int) -> str:
        """The last line that a program of ours printed. No secret may be in `arguments`: every process can read them.

        When it exits non-zero, raises RunFailed for a full disk, BrokenProgram for a fault of ours, CommandFailed else.
        """
        ...


class Sandboxes(Protocol):
    """E2B, as far as runs need it. Unreachable raises Unavailable; gone for good raises SandboxGone."""

    def find(self, run_id: str) -> str | None:
        """The id of the run's sandbox, running or paused."""
        ...

    def create(self, run: Run, network: SandboxNetwork) -> str: ...

    def attach(self, sandbox_id: str) -> SandboxConnection:
        """The running sandbox, its life extended; a paused one is resumed."""
        ...

    def kill(self, sandbox_id: str) -> None:
        """End it; it may be gone already."""
        ...

    def pause(self, sandbox_id: str) -> None:
        """Let it stand still, all it holds kept, until somebody attaches or kills it."""
        ...

    def list_ours(self) -> Iterator[SandboxInfo]: ...

    def set_network(self, sandbox_id: str, network: SandboxNetwork) -> None:
        """From now on it may reach this, and nothing of what was set before. Raises InjectionUnavailable for rules."""
        ...

    def store_secret(self, name: str, run_id: str, value: Secret) -> None:
        """Keep the value for HeaderRules; one of the same name is replaced. Raises InjectionUnavailable.

        That is remembered, whether secrets or rules were refused: E2B is not asked again as long as this object lives.
        """
        ...

    def destroy_secret(self, name: str) -> None:
        """It may be gone already, or never have been."""
        ...

    def list_secrets(self) -> Iterator[StoredSecret]:
        """Those of this deployment; none where the team lacks them."""
        ...


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
