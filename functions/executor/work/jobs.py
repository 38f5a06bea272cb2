"""Detached work in a sandbox: a job is a folder that our supervisor fills, so any later step can look at it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from functions.executor.errors import BrokenProgram
from functions.executor.ports import SandboxConnection
from sandbox import archive
from sandbox.programs.protocol import (
    JOB_FILE,
    SECRET_ENV_FILE,
    SECRET_HOME_FILE,
    JobReport,
    JobRequest,
    JobUser,
    LookRequest,
    ProtocolError,
    UsageLog,
    from_json,
    to_json,
)
from shared.domain.secret import Secret

# Root's home is closed to the agent (see sandbox/programs/close.py).
RUNS = "/root/runs"
LOOK_BYTES = 256 * 1024  # of output per look: a few hundred events
LOOK_TIMEOUT_S = 30
STOP_GRACE_S = 5
MAX_OUTPUT_BYTES = 200 * 1024 * 1024  # an agent that prints more is stopped before it fills the disk
STDIN_FILE = "stdin"
SUPERVISOR = "supervisor"

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What to start: as the agent any program, as root one of ours, by its name.

    `cwd` is relative to the user's home. `niceness` is what `nice` takes.
    `secret_env` and `home_files` (paths below that home, for nobody else to read) get there without touching a log.
    """

    argv: tuple[str, ...]
    user: JobUser
    timeout_s: int
    cwd: str = "."
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, Secret] = field(default_factory=dict)
    home_files: Mapping[str, Secret] = field(default_factory=dict)
    stdin: str | None = None
    niceness: int = 0
    idle_timeout_s: int | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


class RunFolder:
    """The run's folder in its sandbox."""

    def __init__(self, bench: SandboxConnection, run_id: str) -> None:
        self._bench = bench
        self._path = f"{RUNS}/{run_id}"
        self._found_programs: str | None = None

    def install(self) -> None:
        """Bring our programs into the sandbox, unless a look has found these very ones.

        On a full disk, an upload leaves an empty file in the place of the programs.
        """
        if self._found_programs != archive.digest():
            self._bench.upload({self.path(archive.NAME): archive.archive()})

    def path(self, *parts: str) -> str:
        """The absolute path of something in the run's folder."""
        return "/".join((self._path, *parts))

    def start(self, job: str, spec: JobSpec, *, wait_s: float = 1) -> JobReport:
        """Start a job that is absent; one that was started already is only looked at."""
        self._bench.upload({self.path(job, name): data for name, data in {**spec.files, **_job_files(spec)}.items()})
        return self._supervise("start", job, LookRequest(wait_s=wait_s))

    def look(self, job: str, *, offset: int = 0, wait_s: float = 0, usage_log: UsageLog | None = None) -> JobReport:
        """The job's state, its output from `offset` on, the last line of its usage log.

        Waits up to `wait_s` for its end: billed time.
        """
        request = LookRequest(offset=offset, max_bytes=LOOK_BYTES, wait_s=wait_s, usage_log=usage_log)
        return self._supervise("look", job, request)

    def stop(self, job: str) -> JobReport:
        """End the job with everything it started; it may have ended already."""
        return self._supervise("stop", job, LookRequest(), patience_s=STOP_GRACE_S * 2)

    def run(self, program: str, *arguments: str, timeout_s: int) -> str:
        """The line that a program of ours printed, which ends within the time: no job."""
        return self._bench.run_python(self.path(archive.NAME), program, *arguments, timeout_s=timeout_s)

    def read(self, *parts: str) -> bytes:
        """The bytes of a file in the run's folder. Raises RunFailed when there is none."""
        return self._bench.read(self.path(*parts))

    def request_of(self, job: str) -> JobRequest:
        """What the job was started with. Raises RunFailed when it never was, BrokenProgram when it cannot be read."""
        return parsed(JobRequest, self.read(job, JOB_FILE))

    def _supervise(self, verb: str, job: str, request: LookRequest, *, patience_s: float = 0) -> JobReport:
        timeout_s = LOOK_TIMEOUT_S + int(request.wait_s + patience_s)
        line = self.run(SUPERVISOR, verb, self.path(job), to_json(request), timeout_s=timeout_s)
        found = parsed(JobReport, line)
        self._found_programs = found.programs
        return found


def parsed(kind: type[T], text: str | bytes) -> T:
    """The message of this kind that came from a sandbox. Raises BrokenProgram for anything else."""
    try:
        return from_json(kind, text)
    except ProtocolError as error:
        raise broken(error, text) from None


def broken(error: ProtocolError, text: str | bytes) -> BrokenProgram:
    """What came instead of a message, for the operator's log."""
    said = text if isinstance(text, str) else text[:800].decode(errors="replace")
    return BrokenProgram(0, f"{error} It was: {said[:200]}")


def _job_files(spec: JobSpec) -> dict[str, bytes]:
    request = JobRequest(
        argv=spec.argv,
        cwd=spec.cwd,
        user=spec.user,
        env=dict(spec.env),
        secret_env_file=SECRET_ENV_FILE if spec.secret_env else None,
        secret_home_file=SECRET_HOME_FILE if spec.home_files else None,
        stdin=STDIN_FILE if spec.stdin is not None else None,
        niceness=spec.niceness,
        timeout_s=spec.timeout_s,
        idle_timeout_s=spec.idle_timeout_s,
        max_output_bytes=MAX_OUTPUT_BYTES,
        stop_grace_s=STOP_GRACE_S,
    )
    files = {JOB_FILE: to_json(request).encode()}
    for name, secrets in ((SECRET_ENV_FILE, spec.secret_env), (SECRET_HOME_FILE, spec.home_files)):
        if secrets:
            files[name] = json.dumps({key: secret.reveal() for key, secret in secrets.items()}).encode()
    if spec.stdin is not None:
        files[STDIN_FILE] = spec.stdin.encode()
    return files
