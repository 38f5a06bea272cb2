"""Closes a sandbox's image, so that its agent can never become root, and checks that it is closed.

    close.py close      close what is open, check, and remember which processes run
    close.py build      the same, with exit code 1 when something is still open
    close.py check      check, and that no process runs that was not there when the image was closed

E2B's build scripts run after the Dockerfile. They make /usr/local and /code writable for everyone, empty the passwords
of root and of `user`, give `user` sudo without a password, and start sshd with root login and empty passwords. Its
envd then starts commands as root that it finds on a PATH which begins in /usr/local.

`build` is the template's start command (see template.py). `close` is the first command in each new sandbox: there it
usually only checks. `check` runs in a sandbox that was kept, before a secret is brought into it.

What is checked, with the agent (AGENT_USER) and every other account from uid 1000 on as the attacker:

- It can write no file and no folder that root starts, sources or imports: see TREES.
- There is no account without a password, no sshd, no setuid program, and no socket that gives root away.
- Root's home is closed, and the agent is in no group but its own.

Changes are made in E2B's images only (they have the file /.e2b), and never on a file system that is mounted read-only.
Prints one line of JSON and exits 0:

    {"ok": bool, "problems": [sentence, ...], "closed": [what was changed, ...]}

Standard library only, Python 3.9 or newer, Linux. May be killed and run again at any point.
"""

# Ten thousands of files are looked at in each new sandbox, hence os.path instead of pathlib where that counts.
# ruff: noqa: PTH101, PTH108, PTH115, PTH116, PTH120

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import signal
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

E2B_IMAGE = Path("/.e2b")
# envd finds `ionice`, `nice` and `socat` along its own PATH, and runs a login shell along that of /etc/profile.
SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
# What root starts, loads, sources or imports lies in these. Nobody else can enter /root, once it is closed.
IN_USR = ("/usr/bin", "/usr/sbin", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/libx32", "/usr/libexec", "/usr/local")
TREES = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", *IN_USR, "/etc", "/code")
# The folders themselves, without what is in them.
FOLDERS = ("/", "/usr", "/var", "/var/spool", "/var/spool/cron", "/var/spool/cron/crontabs", "/var/spool/cron/atjobs")
# Who may write to one of these is root.
SOCKETS = ("/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock", "/run/crio/crio.sock")
SHADOW, PASSWD, SUDOERS = Path("/etc/shadow"), Path("/etc/passwd"), Path("/etc/sudoers")
SSHD, SSH_UNITS = Path("/usr/sbin/sshd"), ("ssh.service", "ssh.socket", "sshd.service", "sshd.socket")
# The kernel then follows no link, and opens no file, that another user has put into a shared folder.
PROTECTIONS = ("hardlinks", "symlinks", "fifos", "regular")
PROCESSES = Path("/root/runs/processes.json")
FIRST_USER = 1000  # Debian's and E2B's first uid of a person
SETTLE_S = 2.0  # for programs that the system starts and ends by itself, when a sandbox wakes up
MAX_PROBLEMS = 20


def main(arguments: list[str]) -> int:
    if arguments not in (["close"], ["build"], ["check"]):
        print("Usage: close.py close|build|check", file=sys.stderr)
        return 2
    closed: list[str] = []
    found: list[str] = []
    if is_shared():
        found = problems()
        if arguments == ["check"]:
            found += unknown_processes()
        else:
            if found and E2B_IMAGE.exists() and os.getuid() == 0:
                closed = list(close())
                found = problems()
            remember_processes()
    print(json.dumps({"ok": not found, "problems": found[:MAX_PROBLEMS], "closed": closed[:MAX_PROBLEMS]}))
    return 1 if found and arguments == ["build"] else 0


def is_shared() -> bool:
    """Whether the agent has a user of its own here: without one there is nobody to close anything to.

    That is so on a laptop only. In E2B's images it is a problem of its own.
    """
    return E2B_IMAGE.exists() or (os.getuid() == 0 and os.environ.get("AGENT_USER", "agent") != "")


# --- the check ------------------------------------------------------------------------------------------


def problems() -> list[str]:
    """What is open, as sentences; empty when the sandbox is closed. What cannot be looked at is not closed."""
    if os.getuid() != 0:
        return ["Commands do not run as root, so the agent could read what is root's."]
    try:
        return [*account_problems(), *home_problems(), *file_problems(), *login_problems()]
    except OSError as error:
        return [f"{error.filename or 'A file'} cannot be checked: {error.strerror}."]


def agent() -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(os.environ.get("AGENT_USER") or "agent")
    return None


def account_problems() -> Iterator[str]:
    who = agent()
    if who is None or who.pw_uid == 0:
        yield "The image has no user for the agent, or it is root."
        return
    for gid in os.getgrouplist(who.pw_name, who.pw_gid):
        if (gid < FIRST_USER and gid != who.pw_gid) or gid == 0:
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
    home = Path(os.environ.get("AGENT_HOME") or who.pw_dir)
    if not home.is_dir():
        yield f"The agent's home {home} is missing."
    for above in home.resolve().parents:
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


# --- the closing ----------------------------------------------------------------------------------------


def close() -> Iterator[str]:
    """Close what is open; what was changed. What could not be closed is found by the check that follows."""
    os.chown("/root", 0, 0)
    os.chmod("/root", 0o700)
    for path, info in open_files():
        with contextlib.suppress(OSError):
            close_file(path, info)
            yield path
    _trusted.clear()
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
            replace(path, "".join(f"{line}\n" for line in lines))


def forbid_sudo() -> bool:
    """Take back sudo without a password; whether anyone had it."""
    paths = [SUDOERS, *Path("/etc/sudoers.d").glob("*")]
    changed = False
    for path in paths:
        with contextlib.suppress(OSError):
            lines = path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            kept = [line for line in lines if "NOPASSWD" not in line or line.lstrip().startswith("#")]
            if kept != lines:
                replace(path, "".join(f"{line}\n" for line in kept))
                changed = True
    return changed


def replace(path: Path, text: str) -> None:
    """Write the file whole, with the mode and owner that it had, or not at all."""
    info = path.stat()
    temporary = path.with_name(f".{path.name}.closed")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        os.fchown(file.fileno(), info.st_uid, info.st_gid)
        os.fchmod(file.fileno(), stat.S_IMODE(info.st_mode))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def end_sshd() -> Iterator[str]:
    """End the ssh server, for now and after a reboot."""
    units = Path("/etc/systemd/system")
    if units.is_dir():
        for unit in SSH_UNITS:
            with contextlib.suppress(OSError):
                mask = units / unit
                if not mask.is_symlink() or os.readlink(mask) != "/dev/null":
                    mask.unlink(missing_ok=True)
                    mask.symlink_to("/dev/null")
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


# --- processes ------------------------------------------------------------------------------------------


def pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def name_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def status_of(pid: int) -> dict[str, list[str]]:
    """/proc/PID/status by its names; empty when the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    return {name: value.split() for name, _, value in (line.partition(":") for line in lines)}


class Process(NamedTuple):
    """A running program: its most powerful uid, its file ("" where even root may not know), its name."""

    uid: int
    file: str
    name: str


def running() -> set[Process]:
    """All processes but this one, those above it, zombies and the kernel's own."""
    ours = set()
    pid = os.getpid()
    while pid and pid not in ours:
        ours.add(pid)
        pid = int((status_of(pid).get("PPid") or ["0"])[0])
    found = set()
    for pid in pids():
        status = status_of(pid)
        if pid in ours or not status or status.get("State", ["Z"])[0] in "ZX" or "VmSize" not in status:
            continue
        try:
            file = os.readlink(f"/proc/{pid}/exe")
        except FileNotFoundError:  # it ended meanwhile
            continue
        except PermissionError:  # in a container whose root lacks powers
            file = ""
        found.add(Process(min(map(int, status["Uid"])), file, " ".join(status["Name"])))
    return found


def remember_processes() -> None:
    """Which programs run in the sandbox before anything of the user's was started in it."""
    PROCESSES.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = PROCESSES.with_suffix(".part")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump(sorted(running()), file)
    temporary.replace(PROCESSES)


def unknown_processes() -> list[str]:
    """Processes that were not there when the sandbox was closed, as sentences; they get a moment to end."""
    try:
        known = [Process(*each) for each in json.loads(PROCESSES.read_text(encoding="utf-8"))]
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
