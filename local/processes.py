"""Starts the programs of the local stack and leaves none of them behind.

Every child runs under `guard.py`, which ends the child's whole process tree when this process ends, be it
by `with` reaching its end, an exception, Ctrl-C or SIGKILL.
"""

import fcntl
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from local.listening import SERVING, listen, url_of

PROJECT_ROOT = Path(__file__).resolve().parents[1]
GUARD = Path(__file__).with_name("guard.py")
GRACE_S = 5.0  # between SIGTERM and SIGKILL
GUARD_MARGIN_S = 8.0  # what the guard itself may take after the grace: its own waits add up to 6 s
POLL_S = 0.05
QUOTED_LINES = 20


class ProcessError(Exception):
    """A child did not start, or ended too early. The text quotes the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Child:
    """One running program. `log` holds its stdout and stderr; what it wrote itself begins at `log_start`.

    `url` is where its listener is reached; empty without one.
    """

    name: str
    log: Path
    log_start: int
    guard: "subprocess.Popen[bytes]"
    url: str = ""

    def is_alive(self) -> bool:
        return self.guard.poll() is None

    def output(self) -> str:
        """What it has written since it was started."""
        return self.log.read_bytes()[self.log_start :].decode(errors="replace")


Probe = Callable[[Child], bool]


@dataclass(frozen=True, slots=True)
class _Start:
    """What it takes to start a child again."""

    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Probe
    ready_timeout_s: float
    address: tuple[str, int] | None  # where it listens


class ProcessGroup:
    """The programs of one stack, as a context manager: leaving it stops them, the youngest first.

    Several threads may start programs of different names at the same time.
    `logs` is the folder for `<name>.log` files; it is created. `grace_s` is how many seconds a program
    gets between SIGTERM and SIGKILL.
    """

    def __init__(self, logs: Path, *, grace_s: float = GRACE_S) -> None:
        self._logs = logs
        self._lock = logs / ".guards"
        self._grace_s = grace_s
        self._children: dict[str, Child] = {}  # in order of start
        self._starts: dict[str, _Start] = {}

    def __enter__(self) -> Self:
        """Raises ProcessError when programs of an earlier group with these logs do not end."""
        self._logs.mkdir(parents=True, exist_ok=True)
        with self._lock.open("a") as lock:
            _wait_until_unlocked(lock, self._grace_s + GUARD_MARGIN_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stops:  # calls back in reverse order, and every one even if one raises
            for name in list(self._children):
                stops.callback(self.stop, name)

    def start(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        ready: Probe | None = None,
        ready_timeout_s: float = 120.0,
        listener: socket.socket | None = None,
    ) -> Child:
        """Start `argv` in the project's folder with exactly `env`, and return once `ready(child)` says so.

        The child gets `listener` as its option `--listen-fd`; here it is closed. `ready` is asked every 50 ms; by
        default it waits until a child with a listener says that it serves, and for nothing without one. Raises
        ProcessError when the child ends before it is ready or is not ready after `ready_timeout_s` seconds; the child
        is gone then.
        """
        if name in self.alive():
            raise ProcessError(f"{name} is running already.")
        address = listener.getsockname()[:2] if listener else None
        ready = ready or (has_said(SERVING) if listener else Child.is_alive)
        return self._start(name, _Start(argv, env, ready, ready_timeout_s, address), listener, log_mode="wb")

    def stop(self, name: str) -> None:
        """End the child and everything below it. Nothing happens when it has ended already."""
        guard = self._children[name].guard
        if guard.stdin:
            guard.stdin.close()  # the guard's sign to end everything
        try:
            guard.wait(self._grace_s + GUARD_MARGIN_S)
        except subprocess.TimeoutExpired:
            guard.kill()  # on Linux the program dies with its guard
            guard.wait()

    def restart(self, name: str) -> Child:
        """Stop the child and start it as it was started, on the same port; its log goes on. Raises as `start` does."""
        self.stop(name)
        start = self._starts[name]
        listener = None
        if start.address:
            host, port = start.address
            try:
                listener = listen(port, host)
            except OSError as error:
                raise ProcessError(f"{name} cannot start again: another program uses its port {port} now.") from error
        return self._start(name, start, listener, log_mode="ab")

    def alive(self) -> list[str]:
        """Names of the running children, the oldest first."""
        return [child.name for child in list(self._children.values()) if child.is_alive()]

    def _start(self, name: str, start: _Start, listener: socket.socket | None, *, log_mode: str) -> Child:
        log = self._logs / f"{name}.log"
        handed_over = [listener.fileno()] if listener else []
        url = url_of(listener) if listener else ""
        with log.open(log_mode) as output, listener or nullcontext():  # open in the child only: it may end and free it
            log_start = output.tell()
            place = [word for number in handed_over for word in ("--listen-fd", str(number))]
            guard = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARD), str(self._grace_s), str(self._lock), *start.argv, *place],
                pass_fds=handed_over,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=dict(start.env),
                cwd=PROJECT_ROOT,
                start_new_session=True,  # Ctrl-C in the terminal reaches us only; we stop in order
            )
        child = Child(name, log, log_start, guard, url)
        self._children.pop(name, None)
        self._children[name] = child
        self._starts[name] = start
        try:
            _wait_until_ready(child, start)
        except BaseException:
            self.stop(name)
            raise
        return child


def has_said(text: str) -> Probe:
    """Return a probe that tells whether the child's log contains `text`."""
    return lambda child: text in child.output()


def _wait_until_unlocked(lock: TextIO, timeout_s: float) -> None:
    """Wait until no guard of an earlier group lives: after SIGKILL, its programs need a moment to end."""
    give_up_at = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > give_up_at:
                raise ProcessError(f"Programs of an earlier start still run, and use {lock.name}. End them.") from None
            time.sleep(POLL_S)
        else:
            return


def _wait_until_ready(child: Child, start: _Start) -> None:
    give_up_at = time.monotonic() + start.ready_timeout_s
    while not start.ready(child):
        _raise_if_ended(child)
        if time.monotonic() > give_up_at:
            raise ProcessError(f"{child.name} was not ready after {start.ready_timeout_s:g} s.{_last_lines(child)}")
        time.sleep(POLL_S)
    _raise_if_ended(child)  # another program may have answered in its place


def _raise_if_ended(child: Child) -> None:
    code = child.guard.poll()
    if code is not None:
        raise ProcessError(f"{child.name} ended with exit code {code}.{_last_lines(child)}")


def _last_lines(child: Child) -> str:
    lines = child.output().splitlines()[-QUOTED_LINES:]
    return "\n".join([f" The end of {child.log}:", *(f"    {line}" for line in lines)]) if lines else ""
