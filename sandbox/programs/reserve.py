"""Room on the disk that a job cannot use up: set aside before it starts, for its end and what is collected then."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

# At most a quarter of what is free is set aside.
RESERVED_BYTES = 64 * 1024 * 1024
RESERVED_INODES = 1024  # a collection makes one or two files for each changed file, and some 300 more


def take(folder: Path) -> None:
    """Make the folder and fill it, as far as there is room and the system can. A full disk refuses either."""
    try:
        disk = os.statvfs(folder.parent)
        folder.mkdir(mode=0o700)
    except OSError:
        return
    with contextlib.suppress(OSError):  # f_files is 0 where inodes are made on demand
        for number in range(min(RESERVED_INODES, disk.f_favail // 4) if disk.f_files else 0):
            os.close(os.open(folder / str(number), os.O_WRONLY | os.O_CREAT, 0o600))
    with contextlib.suppress(OSError, AttributeError):  # macOS has no posix_fallocate
        handle = os.open(folder / "bytes", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(handle, 0, min(RESERVED_BYTES, disk.f_bavail * disk.f_frsize // 4))
        finally:
            os.close(handle)


def give_back(folder: Path) -> None:
    """Remove it, before anything is written about the end: there may be no other room."""
    shutil.rmtree(folder, ignore_errors=True)
