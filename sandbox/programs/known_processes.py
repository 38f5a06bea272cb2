"""Which processes run in a sandbox: those of before anything of the user's was started, and what is new since."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from sandbox.programs.processes import lives, pids, status_of
from sandbox.programs.safe_files import write_whole

PROCESSES = Path("/root/runs/processes.json")
SETTLE_S = 2.0  # for programs that the system starts and ends by itself, when a sandbox wakes up


class Program(NamedTuple):
    """A running program: its most powerful uid, its file ("" where even root may not know), its name."""

    uid: int
    file: str
    name: str


def running() -> set[Program]:
    """All processes but this one, those above it, zombies and the kernel's own."""
    ours = set()
    pid = os.getpid()
    while pid and pid not in ours:
        ours.add(pid)
        pid = int((status_of(pid).get("PPid") or ["0"])[0])
    found = set()
    for pid in pids():
        status = status_of(pid)
        if pid in ours or not status or not lives(status) or "VmSize" not in status:
            continue
        try:
            file = str(Path(f"/proc/{pid}/exe").readlink())
        except FileNotFoundError:  # it ended meanwhile
            continue
        except PermissionError:  # in a container whose root lacks powers
            file = ""
        found.add(Program(min(map(int, status["Uid"])), file, " ".join(status["Name"])))
    return found


def remember_processes() -> None:
    """Which programs run in the sandbox before anything of the user's was started in it."""
    PROCESSES.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_whole(PROCESSES, json.dumps(sorted(running())).encode())


def unknown_processes() -> list[str]:
    """Processes that were not there when the sandbox was closed, as sentences; they get a moment to end."""
    try:
        known = [Program(*each) for each in json.loads(PROCESSES.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return ["It is not known which processes belong to this sandbox."]
    files, names = {(each.uid, each.file) for each in known}, {(each.uid, each.name) for each in known}
    deadline = time.monotonic() + SETTLE_S
    while True:
        unknown = [
            each
            for each in running()
            if ((each.uid, each.file) not in files if each.file else (each.uid, each.name) not in names)
        ]
        if not unknown or time.monotonic() > deadline:
            return [f"{each.file or each.name} runs with uid {each.uid} and is new." for each in sorted(unknown)]
        time.sleep(0.1)
