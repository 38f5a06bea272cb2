"""Which user runs PostgreSQL.

PostgreSQL refuses to run as root. Started by root (containers, CI) it therefore runs as an existing user
without rights. No user is created.
"""

import os
import pwd
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

ACCOUNTS = ("postgres", "nobody")

# What root needs to run a server as another user, by number (linux/capability.h). Docker grants all of them by default.
CAPABILITIES = {0: "CHOWN", 1: "DAC_OVERRIDE", 5: "KILL", 6: "SETGID", 7: "SETUID"}


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
        """The current user; for root the owner of the existing `pgdata`, else `postgres`, else `nobody`.

        Nothing is written. Raises PostgresError when that user cannot run PostgreSQL on `pgdata`.
        """
        if os.geteuid() != 0:
            account = cls(os.geteuid(), os.getegid(), switch=False)
        else:
            account = _account_for_root(pgdata)
            _check_switch(account)
        if not pgdata.exists():
            _check_name(account)
        return account

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


def _account_for_root(pgdata: Path) -> Account:
    with suppress(FileNotFoundError):
        owner = pgdata.stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid, switch=True)
    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid, switch=True)
    raise PostgresError(
        f"PostgreSQL refuses to run as root and none of the users {', '.join(ACCOUNTS)} exists. "
        "Start it as an ordinary user."
    )


def _check_switch(account: Account) -> None:
    """Refuse where root may not run and stop programs of another user, as with `docker run --cap-drop ALL`."""
    missing = ", ".join(_missing_capabilities())
    problem = f"it lacks {missing}" if missing else ""
    try:
        subprocess.run(["true"], cwd="/", check=False, **account.as_process_user())
    except OSError as error:  # also in a user namespace that does not map the user
        problem = problem or f"user id {account.uid}: {error.strerror}"
    if problem:
        raise PostgresError(
            f"PostgreSQL refuses to run as root, and root may not switch to another user here ({problem}). Start it "
            f"as an ordinary user, or run the container with the capabilities {', '.join(CAPABILITIES.values())}."
        )


def _missing_capabilities() -> list[str]:
    with suppress(OSError, StopIteration):  # no /proc, as on macOS: trying it out says the rest
        lines = Path("/proc/self/status").read_text().splitlines()
        effective = int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)
        return [name for number, name in CAPABILITIES.items() if not effective >> number & 1]
    return []


def _check_name(account: Account) -> None:
    """Refuse a user without a name before anything is written: `initdb` does not work for one."""
    try:
        pwd.getpwuid(account.uid)
    except KeyError:
        raise PostgresError(
            f"PostgreSQL needs a user with a name, and user id {account.uid} has no entry in /etc/passwd. "
            "Start it as a user that has one (with Docker: leave `-u` out, or add a user to the image)."
        ) from None
