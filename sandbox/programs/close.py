"""Closes a sandbox's image, so that its agent can never become root, and checks that it is closed.

    close close      close what is open, check, and remember which processes run
    close build      the same, with exit code 1 when something is still open
    close check      check, and that no process runs that was not there when the image was closed

E2B's build scripts run after the Dockerfile. They make /usr/local and /code writable for everyone, empty the passwords
of root and of `user`, give `user` sudo without a password, and start sshd with root login and empty passwords. Its
envd then starts commands as root that it finds on a PATH which begins in /usr/local.

`build` is the template's start command (see template.py). `close` is the first command in each new sandbox: there it
usually only checks. `check` runs in a sandbox that was kept, before a secret is brought into it.

What is checked, with the agent (AGENT_USER) and every other account from uid 1000 on as the attacker:

- It can write no file and no folder that root starts, sources or imports: see TREES in image_check.py.
- There is no account without a password, no sshd, no setuid program, and no socket that gives root away.
- Root's home is closed, and the agent is in no group but its own.

Changes are made in E2B's images only (they have the file /.e2b), and never on a file system that is mounted read-only.
Prints one line, a CloseReport, and exits 0. Linux. May be killed and run again at any point.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import get_args

from sandbox.programs.account import DEFAULT_USER
from sandbox.programs.image_check import problems
from sandbox.programs.image_close import close
from sandbox.programs.known_processes import remember_processes, unknown_processes
from sandbox.programs.protocol import CloseReport, CloseVerb, to_json

E2B_IMAGE = Path("/.e2b")
MAX_PROBLEMS = 20


def main(arguments: list[str]) -> int:
    """The program: its exit code."""
    if len(arguments) != 1 or arguments[0] not in get_args(CloseVerb):
        print("Usage: close close|build|check", file=sys.stderr)
        return 2
    report = run(arguments[0])
    print(to_json(report))
    return 1 if arguments[0] == "build" and not report.ok else 0


def run(verb: str) -> CloseReport:
    """Do what the verb says."""
    closed: list[str] = []
    found: list[str] = []
    if is_shared():
        found = problems()
        if verb == "check":
            found += unknown_processes()
        else:
            if found and E2B_IMAGE.exists() and os.getuid() == 0:
                closed = list(close())
                found = problems()
            remember_processes()
    return CloseReport(ok=not found, problems=tuple(found[:MAX_PROBLEMS]), closed=tuple(closed[:MAX_PROBLEMS]))


def is_shared() -> bool:
    """Whether the agent has a user of its own here: without one there is nothing to close to it.

    That is so on a laptop only. In E2B's images it is a problem of its own.
    """
    return E2B_IMAGE.exists() or (os.getuid() == 0 and os.environ.get("AGENT_USER", DEFAULT_USER) != "")
