"""Whom the programs work for: the unprivileged user that the agent runs as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import NamedTuple

from sandbox.programs.failures import UsageError

DEFAULT_USER = "agent"
OVERFLOW_UID = 65534  # `nobody`: what has no user of its own runs as it, so nothing is ended for belonging to it


class Account(NamedTuple):
    """A user and their home. `uid` None: the user that this program runs as."""

    name: str
    home: Path
    uid: int | None = None
    gid: int = 0

    @property
    def is_separate(self) -> bool:
        """Whether every process with this uid belongs to the agent's jobs."""
        return self.uid not in (None, 0, OVERFLOW_UID)


def own_account() -> Account:
    """The user that this program runs as. In a container it may have no name."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return Account(name, Path.home())


def agent_account() -> Account:
    """The unprivileged user AGENT_USER (default `agent`) with home AGENT_HOME.

    The user that this program runs as, when it cannot switch: it is not root, or AGENT_USER is set but empty.
    Raises UsageError when there is no such user, or it is root: an agent never runs as root by accident.
    """
    wanted = os.environ.get("AGENT_USER", DEFAULT_USER)
    home = os.environ.get("AGENT_HOME")
    if os.getuid() == 0 and wanted:
        try:
            entry = pwd.getpwnam(wanted)
        except KeyError:
            raise UsageError(f"AGENT_USER names the user {wanted}, which does not exist.") from None
        if entry.pw_uid == 0:
            raise UsageError(f"AGENT_USER names the user {wanted}, which is root.")
        return Account(entry.pw_name, Path(home or entry.pw_dir), entry.pw_uid, entry.pw_gid)
    me = own_account()
    return me._replace(home=Path(home)) if home else me


def become(account: Account) -> None:
    """Become the user, for good. Raises OSError."""
    if account.uid is not None:
        os.setgroups(os.getgrouplist(account.name, account.gid))
        os.setgid(account.gid)
        os.setuid(account.uid)
