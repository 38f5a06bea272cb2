"""Takes secrets out of whatever was written down in the sandbox, so that it may be kept for later.

    forget.py SPEC.json

The spec:

    files       paths below the agent's home that hold nothing but secrets: they are deleted
    work_tree   of the agent, relative to its home

The secrets themselves come in two environment variables, as JSON lists. In every file of the agent's home, of the
temporary folders and of the run's own folder each of them is overwritten with `*`, in place and of the same length, so
that the session of an agent, for instance, stays what it is. In the work tree that is done to those of OUR_SECRETS
only: what somebody calls a secret of their own (USERS_SECRETS) may well be a part of their repository.

Prints one line of JSON and exits 0:

    {"ok": true, "changed": number of files}
    {"ok": false, "message"}

To be run when the agent has ended. May be killed and run again at any point. Standard library only, Python 3.9 or
newer.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUN = Path(__file__).resolve().parent
BLOCK_BYTES = 1 << 20


def agent_home() -> Path:
    """AGENT_HOME, else the home of AGENT_USER (default `agent`); the same rule as in supervisor.py."""
    if home := os.environ.get("AGENT_HOME"):
        return Path(home)
    wanted = os.environ.get("AGENT_USER", "agent")
    if os.getuid() == 0 and wanted:
        return Path(pwd.getpwnam(wanted).pw_dir)
    return Path.home()


def places() -> list[Path]:
    """Where jobs can write. Where TMPDIR is not /tmp, this is a machine that we are a guest on: its folders stay."""
    temporary = [Path(tempfile.gettempdir())]
    if os.environ.get("TMPDIR", "/tmp") == "/tmp":  # noqa: S108
        temporary += [Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108 - looked through, nothing is made there
    return [place for place in (agent_home(), RUN, *temporary) if place.is_dir()]


def delete(home: Path, path: str) -> None:
    """Delete home/path. Where a folder of it is a link, nothing of ours lies behind it: see write_private there."""
    folder = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for part in Path(path).parent.parts:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
            os.close(folder)
            folder = inner
        os.unlink(Path(path).name, dir_fd=folder)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
    finally:
        os.close(folder)


def files_in(place: Path, *, without: Path | None = None) -> Iterator[int]:
    """Every regular file, opened; for writing too, where it may be written. Links are not followed."""
    for path, folders, names, folder in os.fwalk(place):
        folders[:] = [name for name in folders if Path(path, name) != without]
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    continue
                access = os.O_RDWR if os.access(name, os.W_OK, dir_fd=folder) else os.O_RDONLY
                file = os.open(name, access | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                try:
                    yield file
                finally:
                    os.close(file)


def forget(file: int, secrets: list[bytes]) -> bool:
    """Overwrite the secrets in this file; whether there were any."""
    if not secrets:
        return False
    overlap = max(map(len, secrets)) - 1
    found, at = False, 0
    while block := os.pread(file, BLOCK_BYTES + overlap, at):
        for secret in secrets:
            place = block.find(secret)
            while place >= 0:
                os.pwrite(file, b"*" * len(secret), at + place)
                found, place = True, block.find(secret, place + len(secret))
        at += BLOCK_BYTES
    return found


def longest_first(texts: list[str]) -> list[bytes]:
    """One may be a part of another."""
    return sorted({text.encode() for text in texts if text}, key=len, reverse=True)


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("Usage: forget.py SPEC.json", file=sys.stderr)
        return 2
    try:
        spec = json.loads((RUN / arguments[0]).read_text(encoding="utf-8"))
        ours, users = (json.loads(os.environ[name]) for name in ("OUR_SECRETS", "USERS_SECRETS"))
        work_tree = agent_home() / spec["work_tree"]
        for path in spec["files"]:
            delete(agent_home(), path)
        everywhere, outside = longest_first(ours), longest_first(ours + users)
        changed = sum(forget(file, outside) for place in places() for file in files_in(place, without=work_tree))
        if work_tree.is_dir():
            changed += sum(forget(file, everywhere) for file in files_in(work_tree))
        answer: dict[str, Any] = {"ok": True, "changed": changed}
    except (OSError, KeyError, ValueError) as error:
        answer = {"ok": False, "message": type(error).__name__}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
