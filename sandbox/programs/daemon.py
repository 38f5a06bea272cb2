"""The start of a job, and the process that then watches it until its end."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from sandbox.programs import reserve
from sandbox.programs.account import Account, become
from sandbox.programs.failures import UsageError
from sandbox.programs.job import Secrets, account_of, command_of, environment_of, take_secrets, write_home_files
from sandbox.programs.job_folder import START_PATIENCE_S, JobFolder
from sandbox.programs.processes import (
    CHASE_S,
    LINUX,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_NO_NEW_PRIVS,
    end_all_of,
    kill_all_of,
    prctl,
    processes,
    send,
    with_descendants,
)
from sandbox.programs.protocol import JobEnd, JobRequest

HEARTBEAT_S = 5.0
CHECK_S = 0.25  # how often the limits are checked; the end of the child itself wakes the supervisor at once
NOT_FOUND, NOT_EXECUTABLE = 127, 126  # exit codes of a shell for a command it could not start


class StartError(Exception):
    """The job could not be started this time; it may be started again."""


def start(folder: JobFolder) -> None:
    """Start the job unless it was started before. Returns as soon as it runs. Raises UsageError and StartError."""
    if not folder.lock():
        if folder.supervisor():  # the one that runs has taken its own; these came with this start
            folder.discard_secrets()
        return
    try:
        job = folder.job()
        account = account_of(job)
        secrets = take_secrets(job, folder)
    except UsageError:
        folder.discard_secrets()
        with contextlib.suppress(OSError):  # the end was asked for meanwhile: then the lock stays
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


def _become_daemon(folder: JobFolder, started: int, job: JobRequest, account: Account, secrets: Secrets) -> NoReturn:
    code = 1
    try:
        os.setsid()
        if os.fork() == 0:
            _only_own_files(folder.state / "log", keep=started)
            os.chdir("/")
            os.umask(0o077)
            daemon = Daemon(folder, job, account)
            try:
                begun = daemon.begin(secrets)
            except OSError as error:
                # not by the log: a full disk has no room for it
                os.write(started, f"The job could not be started: {error}".encode())
                raise
            os.close(started)
            if begun:
                daemon.see_through()
        code = 0
    except BaseException:  # noqa: BLE001 - the last line of a process of its own: into its log, and out
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def _only_own_files(log: Path, keep: int) -> None:
    """Close whatever was inherited, so that nobody waits for this process and nothing leaks into the job."""
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


class Daemon:
    """Starts the child, watches its limits, ends everything, records how it ended."""

    def __init__(self, folder: JobFolder, job: JobRequest, account: Account) -> None:
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
        self.folder.record_supervisor(os.getpid())
        if self.folder.stop.exists():
            self.folder.record_exit("stop", None)
            return False
        if self.job.user == "agent":
            reserve.take(self.folder.reserve)
        self.beat()
        self.child, gate = spawn(self.job, self.folder, self.account, secrets)
        self.folder.record_child(self.child)
        os.write(gate, b"go")
        os.close(gate)
        return True

    def see_through(self) -> None:
        """Watch the child, end what is left of the job, record how it ended."""
        reason = self.watch()
        self.end_all()
        self.folder.record_exit(*self.verdict(reason))

    def watch(self) -> JobEnd | None:
        """Wait for the end of the child; else why it has to be ended."""
        began = last_output = time.monotonic()  # not the wall clock: it jumps when a sandbox is paused
        bytes_seen = 0
        while self.status is None:
            now = time.monotonic()
            total = self.folder.output_bytes()
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
        """Whether nothing of the job is left.

        On Linux whoever loses its parent becomes our child: without a child there is no descendant either. That
        holds at one instant, while reading the process table takes long enough to miss one.
        """
        has_children = self.reap()
        return not has_children if LINUX else not self.family()

    def verdict(self, reason: JobEnd | None) -> tuple[JobEnd, int]:
        """How the job ended and its exit code, 128 + n for signal n as in a shell."""
        status = 0 if self.status is None else self.status
        if os.WIFSIGNALED(status):
            return reason or "signal", 128 + os.WTERMSIG(status)
        return reason or "exit", os.WEXITSTATUS(status)

    def family(self) -> set[int]:
        """All processes of the job."""
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
        """Touch the heartbeat."""
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


def spawn(job: JobRequest, folder: JobFolder, account: Account, secrets: Secrets) -> tuple[int, int]:
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


def _exec(
    job: JobRequest, folder: JobFolder, account: Account, secrets: Secrets, files: list[int], gate: int
) -> NoReturn:
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
        os.nice(job.niceness)
        write_home_files(account.home, secrets.home_files)
        os.chdir(account.home / job.cwd)
        environment, command = environment_of(job, account, folder.path, secrets), command_of(job)
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is the point
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError):
            code = NOT_FOUND
        why = error.strerror if isinstance(error, OSError) else error
        os.write(2, f"Cannot run {job.argv[0]} in {job.cwd or 'home'}: {why}\n".encode(errors="replace"))
    finally:
        os._exit(code)
