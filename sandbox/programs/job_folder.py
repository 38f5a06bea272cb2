"""A job's folder, readable by root only: what stands in it, and what it tells of the job.

job.json, stdin and secret files    written by the executor
stdout, stderr                      output of the job; it holds open files, it cannot open them itself
state/                              the lock; made by the first `start`
    supervisor.json, child.json     who runs: ProcessRecord
    heartbeat                       touched every 5 s
    reserve/                        disk space and inodes that an agent cannot use up; given back when it has ended
    stop                            there as soon as the end was asked for
    exit.json                       how it ended, ExitRecord, written once all its processes are gone
    log                             what the supervisor itself had to say
"""

# The codec evaluates the annotations, so they are written as Python 3.9 can evaluate them.
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, TypeVar

from sandbox.programs import processes, reserve
from sandbox.programs.failures import UsageError
from sandbox.programs.protocol import (
    JOB_FILE,
    TAKEN_AT_START,
    TAKEN_BY_THE_JOB,
    JobEnd,
    JobPhase,
    JobRequest,
    ProtocolError,
    from_json,
    to_json,
)
from sandbox.programs.safe_files import write_whole

START_PATIENCE_S = 10.0  # a lock older than this without a supervisor is a start that died

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessRecord:
    """A process that was started, at seconds since the epoch; `birth` tells it from a later one with its number."""

    pid: int
    birth: Optional[str]
    at: float

    @property
    def is_alive(self) -> bool:
        """Whether it still runs."""
        return self.birth is not None and processes.birth(self.pid) == self.birth


@dataclass(frozen=True)
class ExitRecord:
    """How a job ended. `started_at` is None for one that never ran."""

    exit_code: Optional[int]
    ended_by: JobEnd
    started_at: Optional[float]
    ended_at: float


class JobFolder:
    """Paths and records of one job."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.state = self.path / "state"
        self.stdout = self.path / "stdout"
        self.stderr = self.path / "stderr"
        self.heartbeat = self.state / "heartbeat"
        self.stop = self.state / "stop"
        self.exit = self.state / "exit.json"
        self.reserve = self.state / "reserve"
        self._supervisor = self.state / "supervisor.json"
        self._child = self.state / "child.json"

    def lock(self) -> bool:
        """True for the one caller who may start the job. Raises UsageError without a folder."""
        try:
            self.state.mkdir(mode=0o700)
        except FileExistsError:
            return False
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}") from None
        return True

    # --- records

    def job(self) -> JobRequest:
        """The job that was asked for. Raises UsageError."""
        return self.message(JobRequest, JOB_FILE)

    def message(self, kind: type[T], name: str) -> T:
        """What the executor wrote into this file of the folder. Raises UsageError."""
        try:
            return from_json(kind, (self.path / name).read_bytes(), name)
        except OSError as error:
            raise UsageError(f"{name}: {error.strerror}") from None
        except ProtocolError as error:
            raise UsageError(str(error)) from None

    def supervisor(self) -> Optional[ProcessRecord]:
        """The supervisor, once there is one."""
        return _record(ProcessRecord, self._supervisor)

    def child(self) -> Optional[ProcessRecord]:
        """The job's own process, once there is one."""
        return _record(ProcessRecord, self._child)

    def exited(self) -> Optional[ExitRecord]:
        """How the job ended, once it has."""
        return _record(ExitRecord, self.exit)

    def record_supervisor(self, pid: int) -> None:
        _write_process(self._supervisor, pid)

    def record_child(self, pid: int) -> None:
        _write_process(self._child, pid)

    def record_exit(self, ended_by: JobEnd, exit_code: Optional[int]) -> None:
        """Write down that the job has ended; its room on the disk is given back."""
        reserve.give_back(self.reserve)
        child = self.child()
        record = ExitRecord(exit_code, ended_by, child.at if child else None, time.time())
        write_whole(self.exit, to_json(record).encode())

    # --- what they say

    def phase(self) -> JobPhase:
        """Where the job is."""
        if not self.state.is_dir():
            return "absent"
        supervisor = self.supervisor()
        is_alive = supervisor is not None and supervisor.is_alive
        if self.exit.exists():  # after the question above: it may end in between
            return "ended"
        if is_alive:
            return "running" if self.child() else "starting"
        if supervisor is None and _is_fresh(self.state):
            return "starting"
        return "crashed"

    def output_bytes(self) -> int:
        """How much the job has printed, on both streams."""
        return size_of(self.stdout) + size_of(self.stderr)

    def discard_secrets(self, but: Iterable[str] = ()) -> None:
        """Remove the secrets of a start that is not going to be, also of one whose job.json never came."""
        names = {*TAKEN_AT_START, *TAKEN_BY_THE_JOB}
        with contextlib.suppress(UsageError):
            names |= set(self.job().secret_files)
        for name in names.difference(but):
            with contextlib.suppress(OSError):
                (self.path / name).unlink()


def size_of(path: Path) -> int:
    """Bytes of the file; 0 when it is not there."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def age_of(path: Path) -> Optional[float]:
    """Seconds since `path` was written; None when it is not there."""
    try:
        return round(max(0.0, time.time() - path.stat().st_mtime), 3)
    except FileNotFoundError:
        return None


def _record(kind: type[T], path: Path) -> Optional[T]:
    try:
        return from_json(kind, path.read_bytes(), path.name)
    except FileNotFoundError:
        return None


def _write_process(path: Path, pid: int) -> None:
    record = ProcessRecord(pid, processes.birth(pid), time.time())
    write_whole(path, to_json(record).encode())


def _is_fresh(path: Path) -> bool:
    """Whether `path` was written just now. The clock of a machine that was rebooted may have been set back."""
    try:
        return abs(time.time() - path.stat().st_mtime) <= START_PATIENCE_S
    except FileNotFoundError:
        return False
