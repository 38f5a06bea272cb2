"""Files where an agent may have put anything: a link, a pipe, a device. No link is followed, and no pipe waited for."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Union

AnyPath = Union[str, bytes, "os.PathLike[str]"]


class NotRegular(OSError):
    """There is something else in the place of a regular file."""


def open_folder(home: Path, relative: Path, *, create: bool = False) -> int:
    """Open the folder home/relative; `create` makes what is missing, for nobody else to enter.

    Raises OSError, with ELOOP or ENOTDIR where a link or a file is in the place of a folder below `home`, and
    ValueError for a path that leads out of it.
    """
    if relative.is_absolute() or ".." in relative.parts:
        raise ValueError(f"{relative} does not lie below the home.")
    here = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    for part in relative.parts:
        try:
            if create:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=here)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def is_no_folder(error: OSError) -> bool:
    """Whether `open_folder` met something else in the place of a folder."""
    return error.errno in (errno.ELOOP, errno.ENOTDIR)


def open_regular(path: AnyPath, access: int = os.O_RDONLY, *, folder: int | None = None) -> int:
    """Open a regular file, by its path or its name in a folder. Raises NotRegular, OSError."""
    _refuse_all_but_regular(os.stat(path, dir_fd=folder, follow_symlinks=False))  # opening a device may do something
    file = os.open(path, access | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:
        _refuse_all_but_regular(os.fstat(file))  # it may have been replaced
    except OSError:
        os.close(file)
        raise
    return file


def _refuse_all_but_regular(info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise NotRegular(errno.EINVAL, "not a regular file")


def create_private(name: str, text: str, *, folder: int) -> None:
    """Write a new file that only its owner can read; what has its name, even a link, is replaced. Raises OSError."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=folder)
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(text)


def write_whole(path: Path, data: bytes, *, like: os.stat_result | None = None) -> None:
    """Write the file whole and durable, or not at all; for its owner only, or with owner and mode of `like`.

    Its folder must be closed to others. Raises OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(file, "wb") as opened:
            opened.write(data)
            if like is not None:
                os.fchown(file, like.st_uid, like.st_gid)
                os.fchmod(file, stat.S_IMODE(like.st_mode))
            opened.flush()
            os.fsync(file)
        temporary.replace(path)
    except OSError:  # a full disk, which needs the room
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
