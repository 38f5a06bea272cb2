"""Runs one program and takes every process that program left with it when it ends.

    python -I -S guard.py GRACE_S LOCK PROGRAM [ARGUMENT...] < PIPE

The guard ends its child tree when its standard input reaches its end, which is what happens when the
process holding the other end of the pipe dies in any way, SIGKILL included; or when it gets SIGTERM; or
when the program itself ends. The program gets SIGTERM first, then GRACE_S seconds, then SIGKILL.

As long as it lives, the guard holds a shared lock on the file LOCK: the next start waits for that.

On Linux nothing escapes: the guard is the "child subreaper", so that even a daemon (double fork, setsid)
becomes its child. Elsewhere it finds what is below it or in the program's process group.

Every child of the local stack pays for one guard, so it is a script run without `site` and imports
little (measured: 10 MB, of which 4 are its own).
"""

import fcntl
import os
import select
import signal
import sys
import time

TYPE_CHECKING = False  # `typing` itself would cost 5 ms
if TYPE_CHECKING:
    from collections.abc import Callable

PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
PR_SET_CHILD_SUBREAPER = 36
LEFTOVER_GRACE_S = 1.0  # what the program's own children get between SIGTERM and SIGKILL
SIGKILL_WAIT_S = 5.0  # how long we look for processes that SIGKILL has not ended yet
POLL_S = 0.02


def main(arguments: list[str]) -> int:
    """Run the program to its end and return its exit code (128 + n after signal n, as a shell does)."""
    grace_s, lock, argv = float(arguments[0]), arguments[1], arguments[2:]
    fcntl.flock(os.open(lock, os.O_RDWR | os.O_CREAT, 0o600), fcntl.LOCK_SH)  # the end of this process frees it
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    wakeups = _signals_as_bytes()
    program = _Program(argv)
    _close_what_is_for_the_program()
    try:
        _wait_for_the_end(program, wakeups)
        program.terminate(grace_s)
    finally:
        _end_leftovers(program)
    return program.exit_code


class _Program:
    """The guarded program: the leader of its own process group."""

    def __init__(self, argv: list[str]) -> None:
        self._status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(argv)

    def has_ended(self) -> bool:
        self._reap()
        return self._status is not None

    @property
    def exit_code(self) -> int:
        code = os.waitstatus_to_exitcode(self._status or 0)
        return code if code >= 0 else 128 - code

    def _reap(self) -> None:
        """Collect ended children: the program, and orphans that became ours."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self.pid:
                self._status = status

    def terminate(self, grace_s: float) -> None:
        """Send SIGTERM and wait up to `grace_s` seconds for the end."""
        if not self.has_ended():
            _send(self.pid, signal.SIGTERM)
            _wait_until(self.has_ended, grace_s)


def _become(argv: list[str]) -> None:
    """In the forked child: turn into the program, or say why not and exit with 127."""
    try:
        os.setpgid(0, 0)
        _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should the guard itself be killed
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        os.execvp(argv[0], argv)  # noqa: S606
    except OSError as error:
        os.write(2, f"cannot start {argv[0]}: {error.strerror}\n".encode())
    finally:
        os._exit(127)


def _close_what_is_for_the_program() -> None:
    """Close descriptors that came along for it: a listening socket must be gone as soon as the program is."""
    for number in [int(name) for name in os.listdir("/dev/fd")]:  # noqa: PTH208 - pathlib costs 10 ms here
        try:
            if number > 2 and os.get_inheritable(number):  # Python's own are not
                os.close(number)
        except OSError:  # the one with which we listed the folder
            continue


def _signals_as_bytes() -> int:
    """Make SIGTERM and SIGCHLD readable as bytes of a pipe, so that one `select` waits for everything."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, lambda _number, _frame: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's business; it stops us in order
    return reader


def _wait_for_the_end(program: _Program, wakeups: int) -> None:
    """Return when the program has ended, our parent has gone, or somebody sent us SIGTERM."""
    parent = 0
    while not program.has_ended():
        readable, _, _ = select.select([parent, wakeups], [], [])
        if parent in readable and os.read(parent, 4096) == b"":
            return
        if wakeups in readable and signal.SIGTERM in os.read(wakeups, 4096):
            return


def _end_leftovers(program: _Program) -> None:
    """End what the program left behind; politely, then not."""

    def nothing_left() -> bool:
        return program.has_ended() and not _below(program.pid)

    for pid in _below(program.pid):
        if pid != program.pid:  # it had its SIGTERM and its grace
            _send(pid, signal.SIGTERM)
    if program.has_ended() and _wait_until(nothing_left, LEFTOVER_GRACE_S):
        return

    def kill_again() -> bool:  # again and again, because a process may fork while we look
        for pid in _below(program.pid):
            _send(pid, signal.SIGKILL)
        return nothing_left()

    _wait_until(kill_again, SIGKILL_WAIT_S)


def _below(group: int) -> set[int]:
    """The living processes below the guard, or in the process group `group`."""
    processes = _processes()
    family = {os.getpid()}
    grew = True
    while grew:
        children = {pid for pid, parent, _ in processes if parent in family} - family
        family |= children
        grew = bool(children)
    return (family | {pid for pid, _, own_group in processes if own_group == group}) - {os.getpid()}


def _processes() -> list[tuple[int, int, int]]:
    """`(pid, parent's pid, process group)` of every process that is not a zombie."""
    if os.path.exists("/proc/self/stat"):  # noqa: PTH110 - pathlib costs 10 ms here
        rows = [_proc_row(entry) for entry in os.listdir("/proc") if entry.isdigit()]  # noqa: PTH208
        return [row for row in rows if row is not None]
    with os.popen("ps -A -o pid=,ppid=,pgid=,state=") as ps:  # noqa: S605 - a constant
        fields = [line.split() for line in ps]
    return [(int(pid), int(parent), int(group)) for pid, parent, group, state in fields if state[0] != "Z"]


def _proc_row(pid: str) -> tuple[int, int, int] | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            # "pid (any name) state ppid pgrp ...", and the name may contain spaces and parentheses
            state, parent, group, *_ = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
        return None
    return None if state in (b"Z", b"X") else (int(pid), int(parent), int(group))


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended while we looked
    except PermissionError:
        os.write(2, f"cannot end process {pid}: it runs as another user\n".encode())


def _wait_until(condition: "Callable[[], bool]", timeout_s: float) -> bool:
    """Poll `condition` for `timeout_s` seconds; return whether it came true."""
    give_up_at = time.monotonic() + timeout_s
    while not (fulfilled := condition()) and time.monotonic() < give_up_at:
        time.sleep(POLL_S)
    return fulfilled


def _prctl(option: int, argument: int) -> None:
    """Linux's prctl(2); nothing elsewhere."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, argument, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
