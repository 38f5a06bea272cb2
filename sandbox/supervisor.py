"""Runs one detached job and tells what became of it.

A job is one folder, readable by root only. The executor writes `job.json` (see `Job`) into it and calls

    supervisor.py start JOB_DIR [--wait-s W]    start it, once; then like `look`
    supervisor.py look  JOB_DIR [--offset N] [--max-bytes M] [--wait-s W] [--diary PATTERN --diary-word WORD]
    supervisor.py stop  JOB_DIR                 end it and everything it started; then like `look`

Each prints one line of JSON (see `look`) and exits 0; bad usage is exit 2 and a sentence on stderr.
Every call may be repeated: the folder `state` is the lock, so a job starts at most once.

What stands in the job's folder:

    job.json, stdin and secret files    written by the executor
    stdout, stderr                      output of the job; it holds open files, it cannot open them itself
    state/                              the lock; made by the first `start`
        supervisor.json, child.json     who runs: pid, birth, time
        heartbeat                       touched every 5 s
        reserve/                        disk space and inodes that an agent cannot use up; given back when it has ended
        stop                            there as soon as somebody asked for the end
        exit.json                       how it ended, written once all its processes are gone
        log                             what the supervisor itself had to say

Nothing of the agent's user outlives a job of the agent: where that user has a uid of its own, every process of it is
ended with the job, so two such jobs must not run at the same time.

Standard library only, Python 3.9 or newer, Linux and macOS.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import ctypes
import hashlib
import itertools
import json
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

HEARTBEAT_S = 5.0
CHECK_S = 0.25  # how often the limits are checked; the end of the child itself wakes the supervisor at once
START_PATIENCE_S = 10.0  # a lock older than this without a supervisor is a start that died
CHASE_S = 1.0  # of killing one by one, before all processes of the agent's user are killed at once
STOP_PATIENCE_S = 15.0  # what `stop` waits beyond the job's own grace; more than a start may take
DEFAULT_CHUNK_BYTES = 256 * 1024  # base64 makes a third more of it, in one answer of envd
STDERR_TAIL_BYTES = 4096
DIARY_TAIL_BYTES = 1024 * 1024  # of a diary; between two lines that count lies what one tool has printed
MAX_DIARIES = 100  # files looked at; there is one, unless somebody means mischief
# Kept of the disk for the end of the job and what is collected then: at most a quarter of what is free.
RESERVED_BYTES = 64 * 1024 * 1024
RESERVED_INODES = 1024  # a collection makes one or two files for each changed file, and some 300 more
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit codes of a shell for a command it could not start

PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 38, 36  # linux/prctl.h
LINUX = sys.platform.startswith("linux")

PROGRAMS = Path(__file__).resolve().parent  # what root may run
# What a job inherits: where programs and temporary files are. Nothing else. The agent's PATH is AGENT_PATH.
INHERITED = ("PATH", "TMPDIR")
# Root's own jobs (clone, collect) must know for whom they work.
INHERITED_BY_ROOT = ("AGENT_USER", "AGENT_HOME")
MARKER = "SANDBOX_JOB"  # names the job in its processes' environment: how orphans are found again
# What the executor calls files with secrets. A start takes the first two, clone.py the last one when it runs.
TAKEN_AT_START, TAKEN_BY_THE_JOB = ("secret_env.json", "secret_home.json"), ("git_token",)
OVERFLOW_UID = 65534  # `nobody`: what has no user of its own runs as it, so nothing is ended for belonging to it


class UsageError(Exception):
    """The caller asked for something that cannot be done; the text says what."""


class StartError(Exception):
    """The job could not be started this time; it may be started again."""


# --- who runs the job ---------------------------------------------------------------------------------


class Account(NamedTuple):
    """Whom a job runs as. `uid` None means: as whoever we are."""

    name: str
    home: Path
    uid: int | None = None
    gid: int = 0

    @property
    def is_separate(self) -> bool:
        """Whether every process with this uid belongs to the agent's jobs."""
        return self.uid not in (None, 0, OVERFLOW_UID)


def own_account() -> Account:
    """The user we are. In a container it may have no name."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Account(name, Path.home())


def agent_account() -> Account:
    """The unprivileged user AGENT_USER (default `agent`) with home AGENT_HOME.

    Ourselves, when we cannot switch: not root, or AGENT_USER set but empty.
    Raises UsageError when there is no such user, or it is root: an agent never runs as root by accident.
    """
    wanted = os.environ.get("AGENT_USER", "agent")
    home = os.environ.get("AGENT_HOME")
    if os.getuid() == 0 and wanted:
        try:
            entry = pwd.getpwnam(wanted)
        except KeyError:
            raise UsageError(f"AGENT_USER names the user {wanted}, which does not exist.") from None
        if entry.pw_uid == 0:
            raise UsageError(f"AGENT_USER names the user {wanted}, which is root.")
        return Account(entry.pw_name, Path(home or entry.pw_dir), entry.pw_uid, entry.pw_gid)
    me = own_account()
    return me._replace(home=Path(home)) if home else me


# --- the job ------------------------------------------------------------------------------------------


class Secrets(NamedTuple):
    """What a job gets and nobody else shall see."""

    env: dict[str, str]
    home_files: dict[str, str]  # path below the home -> text


@dataclass(frozen=True)
class Job:
    """What `job.json` says."""

    argv: list[str]  # as root: the name of a program beside this one, and its arguments
    cwd: str  # absolute, or relative to the home of the user
    user: str  # "agent" or "root"
    env: dict[str, str]
    secret_env_file: str | None  # JSON object in the job's folder; deleted before the job runs
    secret_home_file: str | None  # the same: paths below the user's home, and the texts to write there
    stdin: str | None  # a file in the job's folder; None is /dev/null
    timeout_s: float
    idle_timeout_s: float | None  # without output for so long
    max_output_bytes: int  # stdout and stderr together
    stop_grace_s: float  # between SIGTERM and SIGKILL
    niceness: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Job:
        """The job of this folder. Raises UsageError."""
        raw = _read_object(folder / "job.json")
        fields: dict[str, Any] = {name: raw.get(name) for name in cls.__dataclass_fields__}
        job = cls(**fields)
        for problem in job._problems():
            raise UsageError(f"job.json: {problem}.")
        return job

    def _problems(self) -> Iterator[str]:
        if not (isinstance(self.argv, list) and self.argv and all(isinstance(a, str) for a in self.argv)):
            yield "argv must be a list of texts, the program first"
        if not isinstance(self.cwd, str) or self.user not in ("agent", "root"):
            yield 'cwd must be a path and user "agent" or "root"'
        if not _is_texts(self.env):
            yield "env must be an object of texts"
        for name in filter(None, (self.secret_env_file, self.secret_home_file, self.stdin)):
            if not isinstance(name, str) or "/" in name:
                yield "secret_env_file, secret_home_file and stdin must be names of files in the job's folder"
        limits = (self.timeout_s, self.max_output_bytes, self.stop_grace_s, self.idle_timeout_s or 0)
        for limit in (*limits, self.niceness or 0):
            if not isinstance(limit, (int, float)) or limit < 0:
                yield "timeout_s, idle_timeout_s, max_output_bytes, stop_grace_s and niceness must be numbers"

    def account(self) -> Account:
        return agent_account() if self.user == "agent" else own_account()

    def command(self) -> list[str]:
        """What is executed: as root nothing but a program of ours, isolated from what else Python would import."""
        if self.user == "agent":
            return self.argv
        return [sys.executable, "-I", "-S", str(PROGRAMS / Path(self.argv[0]).name), *self.argv[1:]]

    def environment(self, account: Account, folder: Path, secrets: Secrets) -> dict[str, str]:
        """The whole environment of the job: nothing of ours leaks into it by accident."""
        is_agent = self.user == "agent"
        inherited = INHERITED if is_agent else INHERITED + INHERITED_BY_ROOT
        return {
            "PATH": os.defpath,
            **{name: os.environ[name] for name in inherited if name in os.environ},
            **({"PATH": os.environ["AGENT_PATH"]} if is_agent and "AGENT_PATH" in os.environ else {}),
            "HOME": str(account.home),
            "USER": account.name,
            "LOGNAME": account.name,
            "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh",
            "LANG": "C.UTF-8",
            "IS_SANDBOX": "1",  # Claude Code runs as root only where it is told so
            MARKER: str(folder),
            **self.env,
            **secrets.env,
        }


def _is_texts(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(text, str) for text in value.values())


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"{path.name}: {error.strerror}") from None
    except ValueError:
        raise UsageError(f"{path.name} is not JSON.") from None  # never its text: it may be a secret
    if not isinstance(value, dict):
        raise UsageError(f"{path.name} must be an object.")
    return value


def take_secrets(job: Job, folder: Path) -> Secrets:
    """The job's secrets; the files they came in are gone afterwards. Raises UsageError."""
    names = (job.secret_env_file, job.secret_home_file)
    try:
        return Secrets(*(_read_texts(folder / name) if name else {} for name in names))
    finally:
        for name in filter(None, names):
            (folder / name).unlink(missing_ok=True)


def _read_texts(path: Path) -> dict[str, str]:
    texts = _read_object(path)
    if not _is_texts(texts):
        raise UsageError(f"{path.name} must be an object of texts.")
    return texts


# --- processes ----------------------------------------------------------------------------------------


class Process(NamedTuple):
    """One line of the process table; `session` is 0 where the system does not tell."""

    pid: int
    ppid: int
    pgid: int
    session: int
    state: str


def processes() -> list[Process]:
    """Every living process (zombies have ended)."""
    found = _from_proc() if LINUX else _from_ps()
    return [process for process in found if not process.state.startswith(("Z", "X"))]


def _from_proc() -> Iterator[Process]:
    for pid in _pids():
        if stat := _stat(pid):
            yield Process(pid, int(stat[1]), int(stat[2]), int(stat[3]), stat[0])


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from `state` on; the name before it may hold anything, even `)`."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return line.rpartition(")")[2].split()


def _from_ps() -> Iterator[Process]:
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,pgid=,state="], stdout=subprocess.PIPE, text=True) as ps:
        table, _ = ps.communicate(timeout=30)
    for line in table.splitlines():
        pid, ppid, pgid, state = line.split()[:4]
        if int(pid) != ps.pid:  # our own child, but not of the job
            yield Process(int(pid), int(ppid), int(pgid), 0, state)


def birth(pid: int) -> str | None:
    """A text that no later process with the same number can have; None when `pid` has ended."""
    if LINUX:
        stat = _stat(pid)
        if stat is None or stat[0] in "ZX":
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {stat[19]}"  # starttime, in ticks since boot: proc(5) field 22
    shown = subprocess.run(
        ["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True, timeout=30, check=False
    ).stdout.strip()
    return None if not shown or shown.startswith("Z") else shown.split(None, 1)[1]


def is_alive(who: dict[str, Any] | None) -> bool:
    """Whether the process of a supervisor.json or child.json still runs."""
    return who is not None and who["birth"] is not None and birth(who["pid"]) == who["birth"]


def with_descendants(seeds: set[int], table: list[Process]) -> set[int]:
    """`seeds` and everything that descends from them."""
    children: dict[int, list[int]] = {}
    for process in table:
        children.setdefault(process.ppid, []).append(process.pid)
    found, todo = set(seeds), list(seeds)
    while todo:
        new = [pid for pid in children.get(todo.pop(), []) if pid not in found]
        found.update(new)
        todo.extend(new)
    return found


def send(signal_number: int, pids: set[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended meanwhile
            os.kill(pid, signal_number)


def kill_all_of(account: Account) -> None:
    """Kill every process of the user at one stroke."""
    if (pid := os.fork()) == 0:
        try:
            become(account)
            os.kill(-1, signal.SIGKILL)
        finally:
            os._exit(0)
    deadline = time.monotonic() + CHASE_S
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:  # a process of the user has stopped ours, which has the same uid by now
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.005)


def processes_of(account: Account) -> set[int]:
    """Every living process with the account's uid; none where it is not separate, or the system does not tell."""
    found: set[int] = set()
    if not (LINUX and account.is_separate):
        return found
    for pid in _pids():
        with contextlib.suppress(OSError):  # it ended meanwhile
            # not the owner of /proc/PID, which is root for a process that cannot be dumped
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
            facts = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            if str(account.uid) in facts["Uid"].split() and facts["State"].split()[0] not in "ZX":
                found.add(pid)
    return found


def end_all_of(account: Account) -> None:
    """Kill every process of a separate account, whatever started it. Returns when none is left."""
    deadline = time.monotonic() + STOP_PATIENCE_S
    while (left := processes_of(account)) and time.monotonic() < deadline:
        send(signal.SIGKILL, left)
        kill_all_of(account)
        time.sleep(0.02)


def become(account: Account) -> None:
    """Give up what we are, for good. Raises OSError."""
    if account.uid is not None:
        os.setgroups(os.getgrouplist(account.name, account.gid))
        os.setgid(account.gid)
        os.setuid(account.uid)


def marked(folder: Path) -> set[int]:
    """Processes whose environment names the job: found even when nobody of their family is left."""
    if not LINUX:
        return set()
    needle = os.fsencode(f"{MARKER}={folder}")
    found = set()
    for pid in _pids():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


# --- the job's folder ---------------------------------------------------------------------------------


class Folder:
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

    def lock(self) -> bool:
        """True for the one caller who may start the job. Raises UsageError without a folder."""
        try:
            self.state.mkdir(mode=0o700)
        except FileExistsError:
            return False
        except OSError as error:
            raise UsageError(f"{self.path}: {error.strerror}") from None
        return True

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Write state/`name` whole and durable, or not at all."""
        temporary = self.state / f"{name}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8", opener=_private) as file:
            json.dump(record, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.state / name)
        handle = os.open(self.state, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def read(self, name: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self.state / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record

    def write_who(self, name: str, pid: int) -> None:
        self.write(name, {"pid": pid, "birth": birth(pid), "at": time.time()})

    def take_reserve(self) -> None:
        """Keep some of the disk from the job, as far as there is any and the system can. A full disk refuses either."""
        try:
            disk = os.statvfs(self.path)
            self.reserve.mkdir(mode=0o700)
        except OSError:
            return
        with contextlib.suppress(OSError):  # f_files is 0 where inodes are made on demand
            for number in range(min(RESERVED_INODES, disk.f_favail // 4) if disk.f_files else 0):
                os.close(os.open(self.reserve / str(number), os.O_WRONLY | os.O_CREAT, 0o600))
        with contextlib.suppress(OSError, AttributeError):
            handle = os.open(self.reserve / "bytes", os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(handle, 0, min(RESERVED_BYTES, disk.f_bavail * disk.f_frsize // 4))
            finally:
                os.close(handle)

    def give_back_reserve(self) -> None:
        """Before anything is written about the end: there may be no other room."""
        shutil.rmtree(self.reserve, ignore_errors=True)

    def write_exit(self, ended_by: str, exit_code: int | None) -> None:
        self.give_back_reserve()
        child = self.read("child.json")
        record = {"exit_code": exit_code, "ended_by": ended_by, "started_at": child and child["at"]}
        self.write("exit.json", {**record, "ended_at": time.time()})

    def output_sizes(self) -> tuple[int, int]:
        return _size(self.stdout), _size(self.stderr)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _age(path: Path) -> float | None:
    """Seconds since `path` was written; None when it is not there."""
    try:
        return round(max(0.0, time.time() - path.stat().st_mtime), 3)
    except FileNotFoundError:
        return None


# --- start: the daemon --------------------------------------------------------------------------------


def start(folder: Folder) -> None:
    """Start the job unless it was started before. Returns as soon as it runs. Raises UsageError."""
    if not folder.lock():
        if folder.read("supervisor.json"):  # the one that runs has taken its own; these came with this start
            _discard_secrets(folder)
        return
    try:
        job = Job.read(folder.path)
        account = job.account()
        secrets = take_secrets(job, folder.path)
    except UsageError:
        _discard_secrets(folder)
        with contextlib.suppress(OSError):  # somebody asked for the end meanwhile: then the lock stays
            folder.state.rmdir()
        raise
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(reader)
        _become_daemon(folder, writer, job, account, secrets)
    os.close(writer)
    os.waitpid(pid, 0)
    select.select([reader], [], [], START_PATIENCE_S)  # closed by the daemon when the child runs
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        if problem := os.read(reader, 1000):
            if not folder.stop.exists():
                shutil.rmtree(folder.state, ignore_errors=True)  # nothing of the job has run
            raise StartError(problem.decode("utf-8", "replace"))
    os.close(reader)


def _become_daemon(folder: Folder, started: int, job: Job, account: Account, secrets: Secrets) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if os.fork() == 0:
            _only_own_files(folder.state / "log", keep=started)
            os.chdir("/")
            os.umask(0o077)
            supervisor = Supervisor(folder, job, account)
            try:
                begun = supervisor.begin(secrets)
            except OSError as error:
                # not by the log: a full disk has no room for it
                os.write(started, f"The job could not be started: {error}".encode())
                raise
            os.close(started)
            if begun:
                supervisor.see_through()
        code = 0
    except BaseException:  # noqa: BLE001 - the last line of a process of its own: into its log, and out
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _only_own_files(log: Path, keep: int) -> None:
    """Close whatever we inherited, so that nobody waits for us and nothing leaks into the job."""
    for fd in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        if fd > 2 and fd != keep:
            with contextlib.suppress(OSError):  # the one that listed the folder
                os.close(fd)
    null = os.open(os.devnull, os.O_RDWR)
    try:
        errors = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError:  # a full disk
        errors = os.dup(null)
    for fd, source in ((0, null), (1, null), (2, errors)):
        os.dup2(source, fd)
    os.close(null)
    os.close(errors)


class Supervisor:
    """The daemon: starts the child, watches its limits, ends everything, records how it ended."""

    def __init__(self, folder: Folder, job: Job, account: Account) -> None:
        self.folder = folder
        self.job = job
        self.account = account
        self.child = 0
        self.status: int | None = None  # of the child, once it has ended
        self.asked_to_stop = False
        self.beat_at = -HEARTBEAT_S
        self.wake, wake_writer = os.pipe()
        for fd in (self.wake, wake_writer):
            os.set_blocking(fd, False)
        signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to be woken
        signal.signal(signal.SIGTERM, self._on_sigterm)

    def _on_sigterm(self, *_: object) -> None:
        self.asked_to_stop = True

    def begin(self, secrets: Secrets) -> bool:
        """Start the child; whether there is one. It runs only once all is recorded that `look` and `stop` need.

        Raises OSError when it could not be started: then nothing of the job has run.
        """
        if LINUX:
            prctl(PR_SET_CHILD_SUBREAPER, 1)  # whoever leaves the process group still comes back to us
        self.folder.write_who("supervisor.json", os.getpid())
        if self.folder.stop.exists():
            self.folder.write_exit("stop", None)
            return False
        if self.job.user == "agent":
            self.folder.take_reserve()
        self.beat()
        self.child, gate = spawn(self.job, self.folder, self.account, secrets)
        self.folder.write_who("child.json", self.child)
        os.write(gate, b"go")
        os.close(gate)
        return True

    def see_through(self) -> None:
        """Watch the child, end what is left of the job, record how it ended."""
        reason = self.watch()
        self.end_all()
        self.folder.write_exit(*self.verdict(reason))

    def watch(self) -> str | None:
        """Wait for the end of the child; else why it has to be ended."""
        began = last_output = time.monotonic()  # not the wall clock: it jumps when a sandbox is paused
        bytes_seen = 0
        while self.status is None:
            now = time.monotonic()
            total = sum(self.folder.output_sizes())
            if total != bytes_seen:
                bytes_seen, last_output = total, now
            if self.asked_to_stop or self.folder.stop.exists():
                return "stop"
            if total > self.job.max_output_bytes:
                return "output_limit"
            if now - began > self.job.timeout_s:
                return "timeout"
            if self.job.idle_timeout_s is not None and now - last_output > self.job.idle_timeout_s:
                return "idle"
            self.nap(CHECK_S)
        return None

    def end_all(self) -> None:
        """End whatever is left of the job: a polite signal, the grace, then for certain."""
        send(signal.SIGTERM, self.family())
        deadline = time.monotonic() + self.job.stop_grace_s
        while not self.is_alone() and time.monotonic() < deadline:
            self.nap(0.05)
        deadline = time.monotonic() + CHASE_S
        while not self.is_alone():
            send(signal.SIGKILL, self.family())
            if time.monotonic() > deadline and self.account.uid is not None:
                kill_all_of(self.account)  # they fork faster than we look
            self.nap(0.05)
        if self.job.user == "agent":
            end_all_of(self.account)  # what was never our descendant: started by a timer, or by a server that listens

    def is_alone(self) -> bool:
        """Whether nobody of the job is left.

        On Linux whoever loses its parent becomes our child: without a child there is no descendant either. That
        holds at one instant, while reading the process table takes long enough to miss somebody.
        """
        has_children = self.reap()
        return not has_children if LINUX else not self.family()

    def verdict(self, reason: str | None) -> tuple[str, int]:
        """How the job ended and its exit code, 128 + n for signal n as in a shell."""
        status = 0 if self.status is None else self.status
        if os.WIFSIGNALED(status):
            return reason or "signal", 128 + os.WTERMSIG(status)
        return reason or "exit", os.WEXITSTATUS(status)

    def family(self) -> set[int]:
        table = processes()
        group = {process.pid for process in table if process.pgid == self.child}
        living = {process.pid for process in table}
        return (with_descendants({os.getpid(), *group}, table) & living) - {os.getpid()}

    def nap(self, seconds: float) -> None:
        """Sleep, shorter when a child ends or a signal comes; the heart goes on beating."""
        if time.monotonic() - self.beat_at >= HEARTBEAT_S:
            self.beat()
        select.select([self.wake], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(self.wake, 512)
        self.reap()

    def beat(self) -> None:
        with contextlib.suppress(OSError):  # a full disk
            self.folder.heartbeat.touch()
        self.beat_at = time.monotonic()

    def reap(self) -> bool:
        """Take note of the children that have ended; whether there are others."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self.child:
                    self.status = status
        return False


def spawn(job: Job, folder: Folder, account: Account, secrets: Secrets) -> tuple[int, int]:
    """Fork the job's program, in a session of its own: its pid, and a pipe. It starts when the pipe is written to, and
    ends when that is closed before. What fails is told on its stderr. Raises OSError."""
    source = os.open(folder.path / job.stdin if job.stdin else os.devnull, os.O_RDONLY)
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    outputs = [os.open(path, flags, 0o600) for path in (folder.stdout, folder.stderr)]
    reader, gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(gate)
        _exec(job, folder, account, secrets, [source, *outputs], reader)
    for fd in (source, *outputs, reader):
        os.close(fd)
    return pid, gate


def _exec(job: Job, folder: Folder, account: Account, secrets: Secrets, files: list[int], gate: int) -> NoReturn:
    code = NOT_EXECUTABLE
    try:
        if not os.read(gate, 1):  # the supervisor has died
            os._exit(code)
        for target, fd in enumerate(files):
            os.dup2(fd, target)  # everything above 2 closes itself on exec: Python opens it so
        for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)  # Python ignores some, a shell may have ignored others
        os.setsid()
        with contextlib.suppress(OSError):  # Linux: when memory runs out, the job has to go, not its supervisor
            Path("/proc/self/oom_score_adj").write_text("500", encoding="ascii")
        become(account)
        if LINUX and account.uid is not None:
            prctl(PR_SET_NO_NEW_PRIVS, 1)  # sudo and other setuid programs lose their power
        os.umask(0o022)
        os.nice(int(job.niceness or 0))
        for path, text in secrets.home_files.items():
            write_private(account.home, Path(path), text)
        os.chdir(account.home / job.cwd)
        environment, command = job.environment(account, folder.path, secrets), job.command()
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is the point
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            code = NOT_FOUND
        why = error.strerror if isinstance(error, OSError) else error
        os.write(2, f"Cannot run {job.argv[0]} in {job.cwd or 'home'}: {why}\n".encode(errors="replace"))
    finally:
        os._exit(code)


def write_private(home: Path, path: Path, text: str) -> None:
    """Write home/path as the user we are by now, for nobody else to read. Raises ValueError.

    A setup script may have put anything there. A folder that is a link would lead the secret astray, into the
    repository perhaps: it is refused. What has the file's name (a link, a pipe, an older file) is replaced.
    """
    try:
        folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
        for part in path.parent.parts:
            with contextlib.suppress(FileExistsError):
                os.mkdir(part, 0o700, dir_fd=folder)
            folder = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path.name, dir_fd=folder)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        with os.fdopen(os.open(path.name, flags, 0o600, dir_fd=folder), "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


# --- look ---------------------------------------------------------------------------------------------


def look(folder: Folder, offset: int, max_bytes: int) -> dict[str, Any]:
    """What is known of the job, and its stdout from `offset` on.

    `state` is absent (never started), starting, running, ended, or crashed (its supervisor died: `stop` tidies
    up). `ended_by` is exit, signal, timeout, idle, output_limit, stop or crash (`stop` found it crashed).
    `output_bytes` counts stdout, `offset` is what to ask for next; `chunk` is base64, whole lines unless the job is
    over or one line fills it. `programs` changes when a program beside this one does.
    """
    state, record = _state(folder)  # before the output, so that an ended job's output is complete
    is_over = state in ("ended", "crashed")
    chunk = _chunk(folder.stdout, offset, max_bytes, is_over)
    ages = [age for age in map(_age, (folder.stdout, folder.stderr)) if age is not None]
    return {
        "state": state,
        "exit_code": record.get("exit_code"),
        "ended_by": record.get("ended_by"),
        "started_at": record.get("started_at"),
        "ended_at": record.get("ended_at"),
        "heartbeat_age_s": _age(folder.heartbeat),
        "idle_s": min(ages, default=None),
        "output_bytes": _size(folder.stdout),
        "offset": offset + len(chunk),
        "chunk": base64.b64encode(chunk).decode("ascii"),
        "stderr_tail": _tail(folder.stderr),
        "programs": _digest_of_programs(),
    }


def _digest_of_programs() -> str:
    """One text for names and contents of the programs that lie here; jobs.py knows the same rule."""
    programs = sorted(Path(__file__).resolve().parent.glob("*.py"))
    parts = (f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in programs)
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _state(folder: Folder) -> tuple[str, dict[str, Any]]:
    if not folder.state.is_dir():
        return "absent", {}
    supervisor = folder.read("supervisor.json")
    alive = is_alive(supervisor)
    if record := folder.read("exit.json"):  # after the question above: it may end in between
        return "ended", record
    child = folder.read("child.json")
    record = {"started_at": child["at"]} if child else {}
    if alive:
        return ("running" if child else "starting"), record
    if supervisor is None and _is_fresh(folder.state):
        return "starting", record
    return "crashed", record


def _is_fresh(path: Path) -> bool:
    """Whether `path` was written just now. The clock of a machine that was rebooted may have been set back."""
    try:
        return abs(time.time() - path.stat().st_mtime) <= START_PATIENCE_S
    except FileNotFoundError:
        return False


def discard_leftovers(folder: Folder, state: str) -> None:
    """Remove secrets that came with a start which failed or was not needed; not those that a start is taking now."""
    if state == "starting" and folder.read("supervisor.json") is None:
        return
    _discard_secrets(folder, but=TAKEN_BY_THE_JOB if state in ("starting", "running") else ())


def _chunk(path: Path, offset: int, max_bytes: int, is_over: bool) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(max_bytes)
    except FileNotFoundError:
        return b""
    is_full = len(data) == max_bytes
    whole_lines = data[: data.rfind(b"\n") + 1]
    if is_over and not is_full:
        return data
    return whole_lines or (data if is_full else b"")


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, _size(path) - STDERR_TAIL_BYTES))
            return file.read(STDERR_TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def last_note(folder: Folder, pattern: str, word: str) -> str | None:
    """The last line with `word` in the newest file below the home of the job's user that matches `pattern`.

    That user may have put anything there: only plain files are read, and none is waited for.
    """
    try:
        home = Job.read(folder.path).account().home
        files = [path for path in itertools.islice(home.glob(pattern), MAX_DIARIES) if path.is_file()]
        newest = max(files, key=lambda path: path.stat().st_mtime)
        handle = os.open(newest, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            file.seek(max(0, os.fstat(file.fileno()).st_size - DIARY_TAIL_BYTES))
            *lines, _unfinished = file.read(DIARY_TAIL_BYTES).split(b"\n")
    except (UsageError, OSError, ValueError):  # there is none, or not any more
        return None
    found = (line for line in reversed(lines) if word.encode() in line)
    return next((line.decode("utf-8", "replace") for line in found), None)


def wait_for_end(folder: Folder, seconds: float) -> None:
    """Return when the job is over, at the latest after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while time.monotonic() < deadline and not folder.exit.exists():
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.5, 0.25)
        if _state(folder)[0] in ("absent", "crashed"):
            return


# --- stop ---------------------------------------------------------------------------------------------


def stop(folder: Folder) -> None:
    """End the job and everything it started; one that never ran can never start. Raises UsageError."""
    folder.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lock():
        _discard_secrets(folder)
        folder.write_exit("stop", None)
        return
    if folder.exit.exists():
        return
    is_dead = _state(folder)[0] == "crashed"  # asked first: our file makes the lock look new
    supervisor = folder.read("supervisor.json")
    if supervisor and is_alive(supervisor):
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor["pid"], signal.SIGTERM)  # quicker than its next check, and enough on a full disk
    with contextlib.suppress(OSError):
        folder.stop.touch(mode=0o600)
    if not is_dead:
        wait_for_end(folder, _grace(folder) + STOP_PATIENCE_S)
    if is_dead or _state(folder)[0] == "crashed":
        _end_orphans(folder)
        _discard_secrets(folder)
        folder.write_exit("crash", None)


def _grace(folder: Folder) -> float:
    try:
        return Job.read(folder.path).stop_grace_s
    except UsageError:
        return 0.0


def _discard_secrets(folder: Folder, but: tuple[str, ...] = ()) -> None:
    """Remove the secrets of a start that is not going to be, also of one whose job.json never came."""
    names = {*TAKEN_AT_START, *TAKEN_BY_THE_JOB}
    with contextlib.suppress(UsageError):
        job = Job.read(folder.path)
        names |= set(filter(None, (job.secret_env_file, job.secret_home_file)))
    for name in names.difference(but):
        with contextlib.suppress(OSError):
            (folder.path / name).unlink()


def _end_orphans(folder: Folder) -> None:
    """Do the killing of a supervisor that died."""
    account = _separate_account(folder)
    send(signal.SIGTERM, _orphans(folder, account))
    deadline = time.monotonic() + _grace(folder)
    while _orphans(folder, account) and time.monotonic() < deadline:
        time.sleep(0.05)
    deadline = time.monotonic() + STOP_PATIENCE_S
    while (left := _orphans(folder, account)) and time.monotonic() < deadline:
        send(signal.SIGKILL, left)
        if account:
            kill_all_of(account)
        time.sleep(0.05)


def _separate_account(folder: Folder) -> Account | None:
    """The account of a job whose user's processes are all the job's own."""
    try:
        job = Job.read(folder.path)
        account = job.account()
    except UsageError:
        return None
    return account if job.user == "agent" and account.is_separate else None


def _orphans(folder: Folder, account: Account | None) -> set[int]:
    """Whatever still runs of the job: by the mark in its environment, by session or group, by descent, by its user."""
    table = processes()
    seeds = marked(folder.path) | (processes_of(account) if account else set())
    child = folder.read("child.json")
    if child and birth(child["pid"]) in (None, child["birth"]):  # else the number belongs to a stranger now
        seeds |= {p.pid for p in table if child["pid"] in (p.pgid, p.session)}
    return with_descendants(seeds, table) & {process.pid for process in table}


# --- the command line ---------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="supervisor.py", description="Runs one detached job.")
    parser.add_argument("command", choices=("start", "look", "stop"))
    parser.add_argument("job_dir", type=Path)
    parser.add_argument("--offset", type=int, default=0, help="of stdout, in bytes")
    parser.add_argument("--max-bytes", type=int, default=DEFAULT_CHUNK_BYTES, help="of stdout to show")
    parser.add_argument("--wait-s", type=float, default=0.0, help="wait so long for the end of the job")
    parser.add_argument("--diary", default="", help="a file to read too, as a pattern below the home of the job's user")
    parser.add_argument("--diary-word", default="", help="in the one line of it that is wanted, the last")
    options = parser.parse_args(arguments)
    if options.offset < 0 or options.max_bytes < 1:
        parser.error("--offset must not be negative and --max-bytes at least 1.")
    folder = Folder(options.job_dir)
    try:
        if options.command == "start":
            start(folder)
        elif options.command == "stop":
            stop(folder)
        wait_for_end(folder, options.wait_s)
        answer = look(folder, options.offset, options.max_bytes)
        discard_leftovers(folder, answer["state"])
        if options.diary:
            answer["diary"] = last_note(folder, options.diary, options.diary_word)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
