"""What the machine, the container and the user's limits give to the local stack. Standard library only."""

import os
import pwd
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024
POSTGRES_ACCOUNTS = ("postgres", "nobody")  # who runs PostgreSQL for root, as in local/services/postgres/account.py


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A folder that the stack writes to. `path` is that folder, or its nearest parent while it does not exist."""

    purpose: str
    path: Path
    needed_mb: int  # for what is not there yet
    passing_mb: int = 0  # beyond that while it is being unpacked
    device: int = 0
    free_mb: int = MIB
    write_error: OSError | None = None
    owner: str | None = None  # of `path`, when that is another user
    noexec: bool = False  # on a file system whose programs may not be run
    runs_programs: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """None stands for `without a limit`, and for what this system does not tell."""

    uid: int
    user: str | None = None  # the name that belongs to `uid`
    account: str | None = None  # who would run PostgreSQL for root
    switch_error: OSError | None = None  # why root cannot become `account`
    capabilities: int | None = None  # the effective ones, as bits
    has_git: bool = True
    memory_mb: int | None = None
    in_container: bool = False  # `memory_mb` is a limit below what the machine has
    available_mb: int | None = None
    swap_mb: int = 0
    processes: int | None = None  # threads included, that may still be started
    open_files: int | None = None  # the hard limit, up to which a program may raise its own
    file_size_mb: int | None = None
    shared_memory_mb: int | None = None
    runs_postgres: bool = True
    places: tuple[Place, ...] = ()


def facts_of_this_machine(places: tuple[Place, ...], *, runs_postgres: bool = True, system: Path = Path("/")) -> Facts:
    """Look at the machine; takes a few milliseconds. `system` is where /proc, /sys and /dev are."""
    uid = os.geteuid()
    account = _postgres_account() if uid == 0 else None
    memory = _memory_info(system)
    total = memory.get("MemTotal") or _physical_memory()
    limit = min(cgroup_limits(system, "memory"), default=None)
    limited = limit is not None and (total is None or limit < total)
    return Facts(
        uid=uid,
        user=_name_of(uid),
        account=account.pw_name if account else None,
        switch_error=_switch_error(account) if account else None,
        capabilities=_capabilities(system),
        has_git=shutil.which("git") is not None,
        memory_mb=_in_mib(limit if limited else total),
        in_container=limited,
        available_mb=_in_mib(memory.get("MemAvailable")),
        swap_mb=_in_mib(memory.get("SwapFree")) or 0,
        processes=min([*cgroup_limits(system, "pids"), *_user_processes(uid)], default=None),
        open_files=_hard_limit(resource.RLIMIT_NOFILE),
        file_size_mb=_in_mib(_hard_limit(resource.RLIMIT_FSIZE)),
        shared_memory_mb=_free_mb(system / "dev/shm"),
        runs_postgres=runs_postgres,
        places=places,
    )


def look_at(
    purpose: str, folder: Path, needed_mb: int, passing_mb: int = 0, *, written: bool, runs_programs: bool = False
) -> Place:
    """A place as it is now. With `written`, a small file is written there (and leaves nothing behind)."""
    path = folder.absolute()
    while not os.path.isdir(path):  # noqa: PTH112 - False, not an error, for what may not be looked at
        path = path.parent
    status, disk = path.stat(), os.statvfs(path)
    return Place(
        purpose=purpose,
        path=path,
        needed_mb=needed_mb,
        passing_mb=passing_mb,
        device=status.st_dev,
        free_mb=disk.f_bavail * disk.f_frsize // MIB,
        write_error=_write_error(path) if written else None,
        owner=None if status.st_uid == os.geteuid() else _name_of(status.st_uid) or f"user id {status.st_uid}",
        noexec=bool(disk.f_flag & getattr(os, "ST_NOEXEC", 0)),
        runs_programs=runs_programs,
    )


def size_mb(folder: Path) -> int:
    """The size of all files below a folder; 0 when there is none."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it may go while we look
                total += Path(root, name).lstat().st_size
    return total // MIB


def _write_error(folder: Path) -> OSError | None:
    """Why no file can be written there. Only a try tells: read-only, owner, quota and full disk look alike before."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as probe:
            probe.write(bytes(65536))
    except OSError as error:
        return error
    return None


# ---------------------------------------------------------------------------------------------------------------- users


def _name_of(uid: int) -> str | None:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return None


def _postgres_account() -> pwd.struct_passwd | None:
    for name in POSTGRES_ACCOUNTS:
        with suppress(KeyError):
            return pwd.getpwnam(name)
    return None


def _switch_error(account: pwd.struct_passwd) -> OSError | None:
    """Why this process cannot become `account`: capabilities, a user namespace without that user, a filter."""
    try:
        child = os.fork()
    except OSError:  # the limit of processes is reached, which is found by itself
        return None
    if child == 0:
        code = 255
        try:
            os.setgroups([])
            os.setgid(account.pw_gid)
            os.setuid(account.pw_uid)
            code = 0
        except OSError as error:
            code = error.errno or 255
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return OSError(code, os.strerror(code)) if code else None


def _capabilities(system: Path) -> int | None:
    for name, value in _pairs(system / "proc/self/status"):
        if name == "CapEff":
            return int(value, 16)
    return None


# ---------------------------------------------------------------------------------------------------- memory and limits


def cgroup_limits(system: Path, controller: str) -> Iterator[int]:
    """What each level of this process's control groups leaves of `memory` (bytes) or `pids`; both versions."""
    for folder in _cgroup_folders(system, controller):
        if controller == "memory":
            limits = [_number(folder / "memory.max"), _number(folder / "memory.limit_in_bytes")]
            yield from (limit for limit in limits if limit is not None)
        else:
            limit, used = _number(folder / "pids.max"), _number(folder / "pids.current")
            if limit is not None:
                yield max(limit - (used or 0), 0)


def _cgroup_folders(system: Path, controller: str) -> Iterator[Path]:
    """From the process's own group up to the root. Inside a container, only the upper end may be visible."""
    for line in _lines(system / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base = system / "sys/fs/cgroup"
        elif controller in controllers.split(","):
            base = system / "sys/fs/cgroup" / controller
        else:
            continue
        own = base / path.strip("/")
        yield own
        yield from (parent for parent in own.parents if parent.is_relative_to(base))


def _memory_info(system: Path) -> dict[str, int]:
    """/proc/meminfo in bytes; empty where there is none."""
    return {name: int(value.split()[0]) * 1024 for name, value in _pairs(system / "proc/meminfo")}


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None


def _free_mb(folder: Path) -> int | None:
    try:
        disk = os.statvfs(folder)
    except OSError:
        return None
    return disk.f_bavail * disk.f_frsize // MIB


def _user_processes(uid: int) -> list[int]:
    limit = _hard_limit(resource.RLIMIT_NPROC)
    return [] if uid == 0 or limit is None else [limit]  # the kernel does not apply it to root


def _hard_limit(kind: int) -> int | None:
    _, hard = resource.getrlimit(kind)
    return None if hard == resource.RLIM_INFINITY else hard


# -------------------------------------------------------------------------------------------------------------- reading


def _in_mib(number: int | None) -> int | None:
    return None if number is None else number // MIB


def _number(path: Path) -> int | None:
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdecimal() else None  # "max" is no limit


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for line in _lines(path):
        name, colon, value = line.partition(":")
        if colon:
            yield name, value.strip()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
