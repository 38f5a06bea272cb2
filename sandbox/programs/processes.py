"""The process table: what runs, who belongs to whom, and how all of it is ended."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from sandbox.programs.account import Account, become

LINUX = sys.platform.startswith("linux")
MARKER = "SANDBOX_JOB"  # names the job in its processes' environment: how orphans are found again
CHASE_S = 1.0  # of killing one by one, before all processes of the agent's user are killed at once
STOP_PATIENCE_S = 15.0  # until what was killed must be gone
PR_SET_NO_NEW_PRIVS, PR_SET_CHILD_SUBREAPER = 38, 36  # linux/prctl.h


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
    for pid in pids():
        if stat := _stat(pid):
            yield Process(pid, int(stat[1]), int(stat[2]), int(stat[3]), stat[0])


def _from_ps() -> Iterator[Process]:
    with subprocess.Popen(["ps", "-A", "-o", "pid=,ppid=,pgid=,state="], stdout=subprocess.PIPE, text=True) as ps:
        table, _ = ps.communicate(timeout=30)
    for line in table.splitlines():
        pid, ppid, pgid, state = line.split()[:4]
        if int(pid) != ps.pid:  # our own child, but not of the job
            yield Process(int(pid), int(ppid), int(pgid), 0, state)


def pids() -> list[int]:
    """The numbers of all processes. Linux only, like all below that reads /proc."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from `state` on; the name before it may hold anything, even `)`."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return line.rpartition(")")[2].split()


def status_of(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status by its names; empty when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


def name_of(pid: int) -> str:
    """The name of the program; "" when it has ended."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def lives(status: dict[str, list[str]]) -> bool:
    """Whether the process of this `status_of` had not ended."""
    return status.get("State", ["Z"])[0] not in "ZX"


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


def marked(folder: Path) -> set[int]:
    """Processes whose environment names the job: found even when none of their family is left."""
    if not LINUX:
        return set()
    needle = os.fsencode(f"{MARKER}={folder}")
    found = set()
    for pid in pids():
        with contextlib.suppress(OSError):  # it ended meanwhile
            if needle in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                found.add(pid)
    return found


def processes_of(account: Account) -> set[int]:
    """Every living process with the account's uid; none where it is not separate, or the system does not tell."""
    if not (LINUX and account.is_separate):
        return set()
    # not by the owner of /proc/PID, which is root for a process that cannot be dumped
    found = {pid: status_of(pid) for pid in pids()}
    return {pid for pid, status in found.items() if lives(status) and str(account.uid) in status["Uid"]}


def send(signal_number: int, to: set[int]) -> None:
    """Send the signal to these processes, as far as they still run."""
    for pid in to:
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


def end_all_of(account: Account) -> None:
    """Kill every process of a separate account, whatever started it. Returns when none is left."""
    deadline = time.monotonic() + STOP_PATIENCE_S
    while (left := processes_of(account)) and time.monotonic() < deadline:
        send(signal.SIGKILL, left)
        kill_all_of(account)
        time.sleep(0.02)


def prctl(option: int, value: int) -> None:
    """Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")
