"""Takes secrets out of whatever was written down in the sandbox, so that it may be kept for later.

    wipe_secrets REQUEST.json

The file is a WipeRequest, in the run's folder. Prints one line, a WipeReport or a Failure, and exits 0.

The secrets themselves come in two environment variables, as JSON lists. In every file of the agent's home, of the
temporary folders and of the run's own folder each of them is overwritten with `*`, in place and of the same length, so
that the session of an agent, for instance, stays what it is. In the work tree that is done to those of OUR_SECRETS
only: what a user calls a secret of their own (USERS_SECRETS) may well be a part of their repository.

To be run when the agent has ended. May be killed and run again at any point.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sandbox.programs.account import agent_account
from sandbox.programs.failures import REPORTED, failure_of
from sandbox.programs.protocol import (
    OUR_SECRETS,
    USERS_SECRETS,
    Failure,
    WipeReport,
    WipeRequest,
    from_json,
)
from sandbox.programs.run_folder import ARCHIVE, RUN, answer_request
from sandbox.programs.safe_files import NotRegular, is_no_folder, open_folder, open_regular

BLOCK_BYTES = 1 << 20
SECRETS = (OUR_SECRETS, USERS_SECRETS)


def main(arguments: list[str]) -> int:
    """The program: its exit code."""
    return answer_request("wipe_secrets", arguments, run)


def run(path: Path) -> WipeReport | Failure:
    """Wipe as the file says. A failure tells no more than its kind: a message could hold a secret."""
    try:
        request = from_json(WipeRequest, path.read_bytes(), path.name)
        ours, users = (from_json(tuple[str, ...], os.environ.get(name, ""), name) for name in SECRETS)
        return WipeReport(changed=wipe(request, ours, users))
    except REPORTED as error:
        return dataclasses.replace(failure_of(error), message=type(error).__name__)


def wipe(request: WipeRequest, ours: tuple[str, ...], users: tuple[str, ...]) -> int:
    """Take the secrets out of all files; how many files had some. Raises OSError and ProgramFailed."""
    home = agent_account().home
    work_tree = home / request.work_tree
    for file in request.files:
        delete(home, Path(file))
    everywhere, outside = longest_first(ours), longest_first(ours + users)
    changed = sum(overwrite(file, outside) for place in places(home) for file in files_in(place, without=work_tree))
    if work_tree.is_dir():
        changed += sum(overwrite(file, everywhere) for file in files_in(work_tree))
    return changed


def places(home: Path) -> list[Path]:
    """Where jobs can write. Where TMPDIR is not /tmp, the machine has other uses, too: its other folders stay."""
    temporary = [Path(tempfile.gettempdir())]
    if os.environ.get("TMPDIR", "/tmp") == "/tmp":  # noqa: S108
        temporary += [Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108 - looked through, nothing is made there
    return [place for place in (home, RUN, *temporary) if place.is_dir()]


def delete(home: Path, path: Path) -> None:
    """Delete home/path. Where a folder of it is a link, no secret lies behind it: see job.write_home_files."""
    try:
        folder = open_folder(home, path.parent)
        try:
            os.unlink(path.name, dir_fd=folder)
        finally:
            os.close(folder)
    except FileNotFoundError:
        return
    except OSError as error:
        if not is_no_folder(error):
            raise


def files_in(place: Path, *, without: Path | None = None) -> Iterator[int]:
    """Every regular file, opened; for writing too, where it may be written. Links are not followed.

    The programs' own archive is left out: no secret is written there, and a short one may be a word of its sources.
    """
    for path, folders, names, folder in os.fwalk(place):
        folders[:] = [name for name in folders if Path(path, name) != without]
        for name in names:
            if Path(path, name) == ARCHIVE:
                continue
            access = os.O_RDWR if os.access(name, os.W_OK, dir_fd=folder) else os.O_RDONLY
            try:
                file = open_regular(name, access, folder=folder)
            except (FileNotFoundError, NotRegular):
                continue
            try:
                yield file
            finally:
                os.close(file)


def overwrite(file: int, secrets: list[bytes]) -> bool:
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


def longest_first(texts: tuple[str, ...]) -> list[bytes]:
    """One may be a part of another."""
    return sorted({text.encode() for text in texts if text}, key=len, reverse=True)
