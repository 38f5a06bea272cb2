"""Sandboxes in memory: files are a dict, jobs are scripts, time is the clock's.

The jobs answer like sandbox/programs/supervisor.py; both pass tests/integration/test_jobs.py.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from functions.executor.errors import InjectionUnavailable, SandboxGone, failed_command
from functions.executor.ports import SandboxInfo, StoredSecret
from functions.executor.work import closing
from functions.executor.work.jobs import RUNS, SUPERVISOR
from sandbox.programs.protocol import (
    JOB_FILE,
    STDERR_TAIL_BYTES,
    TAKEN_AT_START,
    TAKEN_BY_THE_JOB,
    CloseReport,
    JobEnd,
    JobReport,
    JobRequest,
    LookRequest,
    from_json,
    to_json,
)
from shared.domain.errors import RunFailed, Unavailable
from shared.domain.network import OPEN_NETWORK, SandboxNetwork
from shared.domain.run import Run
from shared.domain.secret import Secret
from tests.fakes.clock import FakeClock

TERMINATED = 128 + 15
NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a job does, in seconds since its start. `ends_at` None: it goes on until somebody ends it.

    `writes` are files that it leaves in the run's folder; `crashes_at` is the death of its supervisor.
    """

    output: tuple[tuple[float, bytes], ...] = ()
    ends_at: float | None = 0
    exit_code: int = 0
    ended_by: JobEnd = "exit"  # or signal
    stderr: str = ""
    writes: Mapping[str, bytes] = field(default_factory=dict)
    crashes_at: float | None = None
    usage_log: tuple[tuple[float, str], ...] = ()  # its lines, as a look that asks for it finds them


@dataclass
class FakeJob:
    """A job that was started; `request` is its job.json, None for one that was stopped before."""

    script: Script
    request: JobRequest | None
    started_at: datetime
    now: Callable[[], datetime]
    stopped_after: float | None = None
    tidied: bool = False  # it crashed, and somebody has stopped it since

    @property
    def age(self) -> float:
        return (self.now() - self.started_at).total_seconds()

    @property
    def end(self) -> tuple[float, JobEnd, int | None] | None:
        """When, how and with which exit code it ends; None when nothing will end it."""
        if self.request is None:
            return None
        ends: list[tuple[float, JobEnd, int | None]] = [
            (at, by, code)
            for at, by, code in (
                (self.stopped_after, "stop", TERMINATED),
                (self.script.ends_at, self.script.ended_by, self.script.exit_code),
                (self._too_much_output_at(), "output_limit", TERMINATED),
                (self.request.timeout_s, "timeout", TERMINATED),
                (self._idle_at(), "idle", TERMINATED),
            )
            if at is not None
        ]
        return min(ends, key=lambda end: end[0], default=None)

    @property
    def crashed(self) -> bool:
        at = self.script.crashes_at
        return at is not None and at <= self.age and not self.tidied

    @property
    def ended(self) -> bool:
        return self.tidied or (not self.crashed and self.end is not None and self.end[0] <= self.age)

    @property
    def stdout(self) -> bytes:
        until = min(self.age, self.end[0]) if self.end else self.age
        return b"".join(data for at, data in self.script.output if at <= until)

    def usage_line(self, word: str) -> str | None:
        until = min(self.age, self.end[0]) if self.end else self.age
        return next((line for at, line in reversed(self.script.usage_log) if at <= until and word in line), None)

    def _too_much_output_at(self) -> float | None:
        total = 0
        for at, data in self.script.output:
            total += len(data)
            if total > self.request.max_output_bytes:
                return at
        return None

    def _idle_at(self) -> float | None:
        patience, last = self.request.idle_timeout_s, 0.0
        if patience is None:
            return None
        for at, _ in self.script.output:
            if at - last > patience:
                break
            last = at
        return last + patience


@dataclass
class FakeSandbox:
    """One sandbox, running or paused. After its lease it pauses: its jobs stand still until somebody attaches."""

    id: str
    run_id: str
    started_at: datetime
    scripts: dict[str, Script]
    now: FakeClock
    lease_until: datetime = NEVER
    paused: bool = False
    slept: timedelta = timedelta()
    files: dict[str, bytes] = field(default_factory=dict)
    uploads: list[tuple[str, bytes]] = field(default_factory=list)  # everything that ever came in
    jobs: dict[str, FakeJob] = field(default_factory=dict)
    commands: list[list[str]] = field(default_factory=list)  # of the supervisor
    checks: list[str] = field(default_factory=list)  # verbs of `close`
    network: SandboxNetwork = OPEN_NETWORK
    problems: list[str] = field(default_factory=list)  # what `close` finds
    started: list[tuple[str, SandboxNetwork]] = field(default_factory=list)  # each job, and the network of that moment

    def clock(self) -> datetime:
        """Time as its jobs see it."""
        return self.now() - self.slept

    def lease(self, seconds: float) -> None:
        """Wake it if it sleeps, and let it live so long from now."""
        self.slept += max(self.now() - self.lease_until, timedelta())
        self.lease_until = self.now() + timedelta(seconds=seconds)
        self.paused = False

    def file(self, *parts: str) -> bytes:
        return self.files["/".join((RUNS, self.run_id, *parts))]

    def has_file(self, *parts: str) -> bool:
        return "/".join((RUNS, self.run_id, *parts)) in self.files

    def uploaded(self, *parts: str) -> bytes:
        """What was uploaded last to this path of the run's folder."""
        return dict(self.uploads)["/".join((RUNS, self.run_id, *parts))]


@dataclass
class FakeSandboxes:
    """E2B. `scripts` says what each job of a new sandbox does; `down` is raised by everything while it is set.

    `team_has` names what of egress injection E2B offers: "secrets", "rules".
    """

    now: FakeClock
    scripts: dict[str, Script] = field(default_factory=dict)
    boxes: dict[str, FakeSandbox] = field(default_factory=dict)
    created: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    last: FakeSandbox | None = None  # the one created last, also when it is gone
    ever: list[FakeSandbox] = field(default_factory=list)
    down: Exception | None = None
    lease_s: float = 900
    problems: list[str] = field(default_factory=list)  # what `close` cannot close in a new one
    team_has: set[str] = field(default_factory=set)
    secrets: dict[str, tuple[StoredSecret, Secret]] = field(default_factory=dict)
    secrets_stored: list[str] = field(default_factory=list)  # every name, each time
    asked_in_vain: int = 0
    asked: int = 0  # calls into sandboxes, counted from 1
    asked_after_loss: int = 0  # of those, by a workbench that had met an Unavailable
    trouble: dict[int, tuple[Exception | None, Exception | None]] = field(
        default_factory=dict
    )  # before, after that call
    refused: bool = False

    def find(self, run_id: str) -> str | None:
        self._answer()
        return next((box.id for box in self.boxes.values() if box.run_id == run_id), None)

    def create(self, run: Run, network: SandboxNetwork = OPEN_NETWORK) -> str:
        self._answer()  # a second one for the same run: how long E2B remembers the idempotency key is not known
        self.created.append(f"sbx{len(self.created) + 1}")
        lease_until = self.now() + timedelta(seconds=self.lease_s)
        self.last = FakeSandbox(self.created[-1], run.id, self.now(), self.scripts, self.now, lease_until)
        self.last.network = network
        self.last.problems = list(self.problems)
        self.boxes[self.last.id] = self.last
        self.ever.append(self.last)
        return self.last.id

    def attach(self, sandbox_id: str) -> "FakeSandboxConnection":
        self._answer()
        self._box(sandbox_id).lease(self.lease_s)
        return FakeSandboxConnection(self, sandbox_id)

    def kill(self, sandbox_id: str) -> None:
        self._answer()
        if self.boxes.pop(sandbox_id, None):
            self.killed.append(sandbox_id)

    def pause(self, sandbox_id: str) -> None:
        box = self._box(sandbox_id)
        box.lease_until, box.paused = min(box.lease_until, self.now()), True

    def list_ours(self) -> Iterator[SandboxInfo]:
        self._answer()
        for box in list(self.boxes.values()):
            yield SandboxInfo(id=box.id, run_id=box.run_id, started_at=box.started_at)

    def set_network(self, sandbox_id: str, network: SandboxNetwork) -> None:
        box = self._box(sandbox_id)
        if network.rules:
            self._offer("rules")
        box.network = network

    def store_secret(self, name: str, run_id: str, value: Secret) -> None:
        if self.refused:
            raise InjectionUnavailable("as before")
        self._answer()
        self._offer("secrets")
        self.secrets_stored.append(name)
        self.secrets[name] = (StoredSecret(name=name, run_id=run_id), value)

    def destroy_secret(self, name: str) -> None:
        self._answer()
        self.secrets.pop(name, None)

    def list_secrets(self) -> Iterator[StoredSecret]:
        self._answer()
        yield from [stored for stored, _ in self.secrets.values()]

    def _offer(self, feature: str) -> None:
        if feature not in self.team_has:
            self.refused = True
            self.asked_in_vain += 1
            raise InjectionUnavailable("not available for your team")

    def _answer(self) -> None:
        if self.down:
            raise self.down

    def _box(self, sandbox_id: str) -> FakeSandbox:
        self._answer()
        if sandbox_id not in self.boxes:
            raise SandboxGone(sandbox_id=sandbox_id)
        return self.boxes[sandbox_id]


@dataclass
class FakeSandboxConnection:
    sandboxes: FakeSandboxes
    sandbox_id: str
    lost: bool = False  # a call did not come through

    def upload(self, files: Mapping[str, bytes]) -> None:
        with self._asking():
            self._box.files.update(files)
            self._box.uploads.extend(files.items())

    def read(self, path: str) -> bytes:
        with self._asking():
            if path not in self._box.files:
                raise RunFailed("A file is missing in the sandbox.", error_code="sandbox_file_missing", path=path)
            return self._box.files[path]

    def run_python(self, program: str, *arguments: str, timeout_s: int) -> str:
        """Only ever `…/programs.pyz supervisor VERB JOB_DIR LOOK` and `…/programs.pyz close VERB`."""
        with self._asking():
            return self._run(program, *arguments)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """As with E2B: after a call that was Unavailable, none is answered. `trouble` has what each meets."""
        if self.lost:
            self.sandboxes.asked_after_loss += 1
            raise Unavailable("The sandbox is not responding.")
        self.sandboxes.asked += 1
        before, after = self.sandboxes.trouble.get(self.sandboxes.asked, (None, None))
        try:
            if before:
                raise before
            yield
            if after:
                raise after
        except Unavailable:
            self.lost = True
            raise

    def _run(self, program: str, *arguments: str) -> str:
        box = self._box
        assert program.startswith("/"), program
        if program not in box.files:
            raise failed_command(2, f"python3: can't open file '{program}'")
        name, *arguments = arguments
        if name == closing.PROGRAM:
            box.checks += arguments
            return to_json(CloseReport(ok=not box.problems, problems=tuple(box.problems), closed=()))
        assert name == SUPERVISOR, name
        box.commands.append([program, name, *arguments])
        verb, job_dir, asked = arguments
        request = from_json(LookRequest, asked)
        {"start": self._start, "look": lambda _: None, "stop": self._stop}[verb](job_dir)
        self._wait(job_dir, request.wait_s)
        self._settle(job_dir)
        job = box.jobs.get(job_dir)
        usage_line = job.usage_line(request.usage_log.word) if job and request.usage_log else None
        programs = hashlib.sha256(box.files[program]).hexdigest()
        report = replace(_look(job, request), usage_line=usage_line, programs=programs)
        self._discard_leftovers(job_dir, report.state)
        return to_json(report)

    @property
    def _box(self) -> FakeSandbox:
        return self.sandboxes._box(self.sandbox_id)

    def _start(self, job_dir: str) -> None:
        box = self._box
        if job_dir in box.jobs:
            return
        request = from_json(JobRequest, box.files[f"{job_dir}/{JOB_FILE}"])
        for secrets in request.secret_files:
            del box.files[f"{job_dir}/{secrets}"]
        job = job_dir.rpartition("/")[2]
        box.started.append((job, box.network))
        script = box.scripts.get(job) or box.scripts[job.rpartition("-")[0]]  # one for all the checkpoints
        box.jobs[job_dir] = FakeJob(script, request, box.clock(), box.clock)

    def _stop(self, job_dir: str) -> None:
        box = self._box
        if job_dir not in box.jobs:  # one that never ran can never start
            box.jobs[job_dir] = FakeJob(Script(), None, box.clock(), box.clock)
        job = box.jobs[job_dir]
        if job.crashed or job.request is None:
            job.tidied = True
        elif not job.ended:
            job.stopped_after = job.age

    def _wait(self, job_dir: str, seconds: float) -> None:
        """Time passes until the job's end, at most so long."""
        job = self._box.jobs.get(job_dir)
        if job is None or job.ended or job.crashed:
            return
        ends = [at for at in (job.end and job.end[0], job.script.crashes_at) if at is not None]
        self.sandboxes.now.pass_(min([seconds, *(max(0.0, at - job.age) for at in ends)]))

    def _discard_leftovers(self, job_dir: str, state: str) -> None:
        """Secrets that came with a start which failed or was not needed."""
        for name in (*TAKEN_AT_START, *(TAKEN_BY_THE_JOB if state != "running" else ())):
            self._box.files.pop(f"{job_dir}/{name}", None)

    def _settle(self, job_dir: str) -> None:
        """What a job leaves behind when it comes to its own end."""
        job = self._box.jobs.get(job_dir)
        if job and job.ended and job.end and job.end[1] in {"exit", "signal"}:
            folder = job_dir.rpartition("/")[0]
            self._box.files.update({f"{folder}/{name}": data for name, data in job.script.writes.items()})


def _look(job: FakeJob | None, request: LookRequest) -> JobReport:
    if job is None:
        return JobReport(state="absent", offset=request.offset)
    stdout, limit = job.stdout, request.max_bytes
    data = stdout[request.offset : request.offset + limit]
    is_over = job.ended or job.crashed
    if not (is_over and len(data) < limit):  # whole lines only, unless one fills the chunk
        data = data[: data.rfind(b"\n") + 1] or (data if len(data) == limit else b"")
    ended_by, exit_code = _how_it_ended(job)
    return JobReport(
        state="crashed" if job.crashed else "ended" if job.ended else "running",
        exit_code=exit_code,
        ended_by=ended_by,
        output_bytes=len(stdout),
        offset=request.offset + len(data),
        chunk=data,
        stderr_tail=job.script.stderr.encode()[-STDERR_TAIL_BYTES:].decode(errors="replace"),
    )


def _how_it_ended(job: FakeJob) -> tuple[JobEnd | None, int | None]:
    if job.request is None:
        return "stop", None
    if job.crashed or job.tidied:
        return "crash", None
    return job.end[1:] if job.ended and job.end else (None, None)
