"""Detached work in a sandbox: a job is a folder that our supervisor fills, so any later step can look at it."""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from functions.executor.agents import UsageLog
from functions.executor.errors import BrokenProgram
from functions.executor.ports import Workbench
from shared.domain.secret import Secret

# Shipped beside the functions and uploaded per run, so that an old sandbox image never meets a newer executor.
PROGRAMS = Path(__file__).parents[2] / "sandbox"
PROGRAM_NAMES = ("supervisor.py", "clone.py", "collect.py", "forget.py", "close.py")

# Root's home is closed to the agent (see sandbox/close.py).
RUNS = "/root/runs"
LOOK_BYTES = 256 * 1024  # of output per look: a few hundred events
LOOK_TIMEOUT_S = 30
STOP_GRACE_S = 5
MAX_OUTPUT_BYTES = 200 * 1024 * 1024  # an agent that prints more is stopped before it fills the disk
SECRET_ENV_FILE = "secret_env.json"
SECRET_HOME_FILE = "secret_home.json"
STDIN_FILE = "stdin"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobSpec:
    """What to start: as the agent any program, as root one of ours, by its name in the run's folder.

    `cwd` is relative to the user's home. `niceness` is what `nice` takes.
    `secret_env` and `home_files` (paths below that home, for nobody else to read) get there without touching a log.
    """

    argv: tuple[str, ...]
    user: str  # "agent" or "root"
    timeout_s: int
    cwd: str = "."
    env: Mapping[str, str] = field(default_factory=dict)
    secret_env: Mapping[str, Secret] = field(default_factory=dict)
    home_files: Mapping[str, Secret] = field(default_factory=dict)
    stdin: str | None = None
    niceness: int = 0
    idle_timeout_s: int | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """What a look found. `chunk` holds whole lines of output up to `offset`; `more` says that there is more to read."""

    state: str  # absent, starting, running, ended, crashed
    exit_code: int | None
    ended_by: str | None  # exit, signal, timeout, idle, output_limit, stop, crash
    offset: int
    chunk: bytes
    output_bytes: int
    stderr_tail: str
    note: str | None = None  # the line of the diary that was asked for

    @property
    def absent(self) -> bool:
        return self.state == "absent"

    @property
    def crashed(self) -> bool:
        """Its supervisor died: nobody knows the exit code, and `stop` ends what is left of it."""
        return self.state == "crashed"

    @property
    def interrupted(self) -> bool:
        """It was ended neither by itself nor by the executor: memory was short, or its sandbox was restarted."""
        return self.ended_by in ("crash", "signal")

    @property
    def over(self) -> bool:
        return self.crashed or self.state == "ended"

    @property
    def more(self) -> bool:
        return bool(self.chunk) and self.offset < self.output_bytes


class RunFolder:
    """The run's folder in its sandbox."""

    def __init__(self, bench: Workbench, run_id: str) -> None:
        self._bench = bench
        self._path = f"{RUNS}/{run_id}"
        self._found_programs: str | None = None

    def install(self) -> None:
        """Bring our programs into the sandbox, unless a look has found these very ones.

        On a full disk, an upload leaves an empty file in the place of a program.
        """
        programs = {name: (PROGRAMS / name).read_bytes() for name in PROGRAM_NAMES}
        if self._found_programs != digest_of(programs):
            self._bench.upload({f"{self._path}/{name}": program for name, program in programs.items()})

    def path(self, *parts: str) -> str:
        """The absolute path of something in the run's folder."""
        return "/".join((self._path, *parts))

    def start(self, job: str, spec: JobSpec, *, wait_s: float = 1) -> JobState:
        """Start a job that is absent; one that was started already is only looked at."""
        self._bench.upload({self.path(job, name): data for name, data in {**spec.files, **_job_files(spec)}.items()})
        return self._supervise("start", job, ["--wait-s", str(wait_s)], wait_s)

    def look(self, job: str, *, offset: int = 0, wait_s: float = 0, diary: UsageLog | None = None) -> JobState:
        """The job's state, its output from `offset` on, its diary. Waits up to `wait_s` for its end: billed time."""
        options = ["--offset", str(offset), "--max-bytes", str(LOOK_BYTES), "--wait-s", str(wait_s)]
        if diary:
            options += ["--diary", diary.pattern, "--diary-word", diary.word]
        return self._supervise("look", job, options, wait_s)

    def stop(self, job: str) -> JobState:
        """End the job with everything it started; it may have ended already."""
        return self._supervise("stop", job, [], STOP_GRACE_S * 2)

    def run(self, program: str, *arguments: str, timeout_s: int) -> str:
        """The line that a program of ours printed, which ends within the time: no job."""
        return self._bench.run_python(self.path(program), *arguments, timeout_s=timeout_s)

    def read(self, *parts: str) -> bytes:
        return self._bench.read(self.path(*parts))

    def _supervise(self, verb: str, job: str, options: list[str], wait_s: float) -> JobState:
        supervise = (self.path("supervisor.py"), verb, self.path(job), *options)
        found = _answer(self._bench.run_python(*supervise, timeout_s=LOOK_TIMEOUT_S + int(wait_s)))
        self._found_programs = found.get("programs")
        return _state(found)


def digest_of(programs: Mapping[str, bytes]) -> str:
    """What supervisor.py calls `programs`: changes when one of these files does."""
    parts = (f"{name} {hashlib.sha256(programs[name]).hexdigest()}\n" for name in sorted(programs))
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _answer(line: str) -> dict[str, Any]:
    """The answer of supervisor.py. Raises BrokenProgram for anything else."""
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    if not isinstance(found, dict) or "state" not in found:
        raise BrokenProgram(0, f"supervisor.py answered: {line[:200]}")
    return found


def _job_files(spec: JobSpec) -> dict[str, bytes]:
    job = {
        "argv": list(spec.argv),
        "cwd": spec.cwd,
        "user": spec.user,
        "env": dict(spec.env),
        "secret_env_file": SECRET_ENV_FILE if spec.secret_env else None,
        "secret_home_file": SECRET_HOME_FILE if spec.home_files else None,
        "stdin": STDIN_FILE if spec.stdin is not None else None,
        "niceness": spec.niceness,
        "timeout_s": spec.timeout_s,
        "idle_timeout_s": spec.idle_timeout_s,
        "max_output_bytes": MAX_OUTPUT_BYTES,
        "stop_grace_s": STOP_GRACE_S,
    }
    files = {"job.json": json.dumps(job).encode()}
    for name, secrets in ((SECRET_ENV_FILE, spec.secret_env), (SECRET_HOME_FILE, spec.home_files)):
        if secrets:
            files[name] = json.dumps({key: secret.reveal() for key, secret in secrets.items()}).encode()
    if spec.stdin is not None:
        files[STDIN_FILE] = spec.stdin.encode()
    return files


def _state(found: Mapping[str, Any]) -> JobState:
    return JobState(
        state=found["state"],
        exit_code=found.get("exit_code"),
        ended_by="crash" if found["state"] == "crashed" else found.get("ended_by"),
        offset=found.get("offset") or 0,
        chunk=base64.b64decode(found.get("chunk") or ""),
        output_bytes=found.get("output_bytes") or 0,
        stderr_tail=found.get("stderr_tail") or "",
        note=found.get("diary"),
    )
