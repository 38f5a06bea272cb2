"""Closes what E2B's build scripts leave open in an image. Anything that remains is found by the check that follows."""

# ruff: noqa: PTH108

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from sandbox.programs.image_check import (
    FIRST_USER,
    PASSWD,
    SHADOW,
    SSHD,
    forget_trusted,
    open_files,
    without_password,
)
from sandbox.programs.processes import name_of, pids
from sandbox.programs.safe_files import write_whole

SUDOERS = Path("/etc/sudoers")
SSH_UNITS = ("ssh.service", "ssh.socket", "sshd.service", "sshd.socket")
# The kernel then follows no link, and opens no file, that another user has put into a shared folder.
PROTECTIONS = ("hardlinks", "symlinks", "fifos", "regular")
SETTLE_S = 2.0  # until a server that was killed is gone


def close() -> Iterator[str]:
    """Close what is open; what was changed."""
    root = Path("/root")
    os.chown(root, 0, 0)
    root.chmod(0o700)
    for path, info in open_files():
        with contextlib.suppress(OSError):  # what stays open is a problem that the check afterwards finds
            close_file(path, info)
            yield path
    forget_trusted()
    for name in without_password():
        lock(name)
        yield f"account {name}"
    if forbid_sudo():
        yield str(SUDOERS)
    yield from end_sshd()
    for name in PROTECTIONS:
        with contextlib.suppress(OSError):
            setting = Path(f"/proc/sys/fs/protected_{name}")
            if setting.read_text(encoding="ascii").strip() == "0":
                setting.write_text("1", encoding="ascii")
                yield str(setting)


def close_file(path: str, info: os.stat_result) -> None:
    """Leave it to root. By a descriptor of the thing itself: a link in its place is not followed."""
    kind = os.O_DIRECTORY if stat.S_ISDIR(info.st_mode) else 0
    if not (stat.S_ISDIR(info.st_mode) or stat.S_ISREG(info.st_mode)):
        os.unlink(path)  # a socket, pipe or device that is open to others has no business in these trees
        return
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | kind)
    try:
        owner = 0 if info.st_uid >= FIRST_USER else -1
        group = 0 if info.st_gid >= FIRST_USER else -1
        os.fchown(handle, owner, group)
        closed = 0o7777 & ~(stat.S_IWGRP | stat.S_IWOTH)
        if stat.S_ISREG(info.st_mode):
            closed &= ~(stat.S_ISUID | stat.S_ISGID)
        os.fchmod(handle, stat.S_IMODE(info.st_mode) & closed)
    finally:
        os.close(handle)


def lock(account: str) -> None:
    """Give the account a password that no text matches."""
    for path in (SHADOW, PASSWD):
        with contextlib.suppress(FileNotFoundError):
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            empty, locked = f"{account}::", f"{account}:!:"
            lines = [locked + line[len(empty) :] if line.startswith(empty) else line for line in lines]
            _replace(path, "".join(f"{line}\n" for line in lines))


def forbid_sudo() -> bool:
    """Take back sudo without a password; whether anyone had it."""
    paths = [SUDOERS, *Path("/etc/sudoers.d").glob("*")]
    changed = False
    for path in paths:
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            kept = [line for line in lines if "NOPASSWD" not in line or line.lstrip().startswith("#")]
            if kept != lines:
                _replace(path, "".join(f"{line}\n" for line in kept))
                changed = True
    return changed


def end_sshd() -> Iterator[str]:
    """End the ssh server, for now and after a reboot."""
    units = Path("/etc/systemd/system")
    if units.is_dir():
        for unit in SSH_UNITS:
            with contextlib.suppress(OSError):
                mask = units / unit
                if not mask.is_symlink() or str(mask.readlink()) != os.devnull:
                    mask.unlink(missing_ok=True)
                    mask.symlink_to(os.devnull)
    with contextlib.suppress(OSError):
        if os.access(SSHD, os.X_OK):
            SSHD.chmod(0)
            yield str(SSHD)
    deadline = time.monotonic() + SETTLE_S
    while servers := [pid for pid in pids() if name_of(pid).startswith("sshd")]:
        for pid in servers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)


def _replace(path: Path, text: str) -> None:
    """Write the file whole, with the mode and owner that it had, or not at all."""
    write_whole(path, text.encode("utf-8", "surrogateescape"), like=path.stat())
