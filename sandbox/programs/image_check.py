"""Whether a sandbox is closed: what in its image would let the agent become root."""

# Ten thousands of files are looked at in each new sandbox, hence os.path instead of pathlib where that counts.
# ruff: noqa: PTH116, PTH120

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from sandbox.programs.account import Account, agent_account
from sandbox.programs.failures import UsageError
from sandbox.programs.processes import name_of, pids

# envd finds `ionice`, `nice` and `socat` along its own PATH, and runs a login shell along that of /etc/profile.
SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# What root starts, loads, sources or imports lies in these. Nobody else can enter /root, once it is closed.
IN_USR = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/local")
TREES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", *IN_USR, "/etc", "/code")
# The folders themselves, without what is in them.
FOLDERS = ("/", "/usr", "/var", "/var/spool", "/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/atjobs")
# Who may write to one of these is root.
SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock")
SHADOW, PASSWD = Path("/etc/shadow"), Path("/etc/passwd")
SSHD = Path("/usr/sbin/sshd")
FIRST_USER = 1000  # Debian's and E2B's first uid of a person


def problems() -> list[str]:
    """What is open, as sentences; empty when the sandbox is closed. What cannot be looked at is not closed."""
    if os.getuid() != 0:
        return ["Commands do not run as root, so the agent could read what is root's."]
    try:
        return [*account_problems(), *home_problems(), *file_problems(), *login_problems()]
    except OSError as error:
        return [f"{error.filename or 'A file'} cannot be checked: {error.strerror}."]


def agent() -> Account | None:
    """The agent's own user; None when there is none."""
    try:
        account = agent_account()
    except UsageError:
        return None
    return account if account.uid else None


def account_problems() -> Iterator[str]:
    who = agent()
    if who is None:
        yield "The image has no user for the agent, or it is root."
        return
    for gid in os.getgrouplist(who.name, who.gid):
        if (gid < FIRST_USER and gid != who.gid) or gid == 0:
            yield f"The agent belongs to the group {group_name(gid)}."
    for entry in pwd.getpwall():
        if entry.pw_uid == 0 and entry.pw_name != "root":
            yield f"The account {entry.pw_name} is another root."
    for name in without_password():
        yield f"The account {name} has an empty password."


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def without_password() -> list[str]:
    """Accounts that anyone may log in to; in /etc/passwd an `x` says that the password is in /etc/shadow."""
    found = []
    for path in (SHADOW, PASSWD):
        with contextlib.suppress(FileNotFoundError):
            fields = [line.split(":") for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
            found += [each[0] for each in fields if len(each) > 1 and not each[1] and each[0]]
    return sorted(set(found))


def home_problems() -> Iterator[str]:
    info = os.stat("/root")
    if info.st_uid != 0 or info.st_mode & 0o077:
        yield "Root's home is not closed to others."
    who = agent()
    if who is None:
        return
    if not who.home.is_dir():
        yield f"The agent's home {who.home} is missing."
    for above in who.home.resolve().parents:
        info = above.lstat()
        if is_open(info) and not info.st_mode & stat.S_ISVTX:  # a sticky one keeps what is in it
            yield f"{above}, above the agent's home, is writable for others than root."


def file_problems() -> Iterator[str]:
    for path, info in open_files():
        if is_setuid(info) and not is_open(info):
            yield f"{path} gives its user root's rights (setuid or setgid)."
        else:
            yield f"{path} is writable for others than root."
    for path in (sys.executable, *(entry for folder in SEARCHED for entry in links_in(folder))):
        if weak := weak_place_of(os.path.realpath(path)):
            yield f"{path} leads to {weak}, which is writable for others than root."
    for name in SOCKETS:
        with contextlib.suppress(FileNotFoundError):
            if is_open(os.stat(name)):
                yield f"{name} is writable for others than root."


def open_files() -> Iterator[tuple[str, os.stat_result]]:
    """What others than root can change, and what gives root's rights away, in TREES and FOLDERS."""
    for path, info in files():
        if (is_open(info) or is_setuid(info)) and not is_read_only(path):
            yield path, info


def files() -> Iterator[tuple[str, os.stat_result]]:
    """Every file and folder of TREES, and FOLDERS. Not symbolic links, nor what is mounted read-only."""
    for top in FOLDERS:
        with contextlib.suppress(FileNotFoundError):
            yield top, os.lstat(top)
    folders = [*TREES, *mounts_below(TREES), os.path.dirname(os.__file__)]
    known = set(folders)
    while folders:
        folder = folders.pop()
        with contextlib.suppress(FileNotFoundError):  # it went away, or there is none
            info = os.lstat(folder)
            if not stat.S_ISDIR(info.st_mode) or is_read_only(folder):  # /bin is a link to /usr/bin
                continue
            yield folder, info
            for entry in os.scandir(folder):
                if entry.is_dir(follow_symlinks=False):
                    folders += [] if entry.path in known else [entry.path]
                elif not entry.is_symlink():
                    with contextlib.suppress(FileNotFoundError):  # of this entry alone
                        yield entry.path, entry.stat(follow_symlinks=False)


def mounts_below(tops: tuple[str, ...]) -> list[str]:
    """What is mounted in these folders: a writable folder may be mounted into a read-only one."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    points = {line.split(" ")[1] for line in lines}
    return sorted(point for point in points if point.startswith(tuple(f"{top}/" for top in tops)))


def is_read_only(path: str) -> bool:
    return bool(os.statvfs(path).f_flag & os.ST_RDONLY)


def is_open(info: os.stat_result) -> bool:
    """Whether an account of a person, or everyone, can change it. A sticky folder keeps what others own in it safe,
    but lets them add to it."""
    by_group = info.st_mode & stat.S_IWGRP and info.st_gid >= FIRST_USER
    return bool(info.st_uid >= FIRST_USER or by_group or info.st_mode & stat.S_IWOTH)


def is_setuid(info: os.stat_result) -> bool:
    return stat.S_ISREG(info.st_mode) and bool(info.st_mode & (stat.S_ISUID | stat.S_ISGID))


def links_in(folder: str) -> list[str]:
    """Programs that may lie where others can write."""
    with contextlib.suppress(FileNotFoundError):
        return [entry.path for entry in os.scandir(folder) if entry.is_symlink()]
    return []


_trusted: dict[str, str | None] = {}


def forget_trusted() -> None:
    """To be called when the image was changed: what was found of its folders is not true any more."""
    _trusted.clear()


def weak_place_of(path: str) -> str | None:
    """The path, or the folder above it, that others than root can change; None when there is none."""
    if path not in _trusted:
        above = os.path.dirname(path)
        weak = weak_place_of(above) if above != path else None
        if weak is None:
            with contextlib.suppress(FileNotFoundError):  # a link that leads nowhere yet: above counts
                weak = path if is_open(os.lstat(path)) and not is_read_only(path) else None
        _trusted[path] = weak
    return _trusted[path]


def login_problems() -> Iterator[str]:
    if any(name.startswith("sshd") for name in map(name_of, pids())):
        yield "sshd is running."
    if SSHD.exists() and os.access(SSHD, os.X_OK) and not is_read_only(str(SSHD)):
        yield "sshd can be started."
