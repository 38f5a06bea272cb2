"""How git is run: with nothing of this machine's configuration, and with no way to run what a repository brings."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

COMMIT_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
# No hook runs, and no transport is allowed that the caller does not allow.
SETTINGS = {"core.hooksPath": "/dev/null", "protocol.allow": "never"}

# How git (LC_ALL=C) ends a line about a full disk. A server may have a full disk, too, and a file any name.
# `git add` goes on without the file, and often git says no more than that it could not write one.
FULL = "No space left on device|Disk quota exceeded|Out of diskspace|nable to write new index file"
FULL_DISK = re.compile(rf"^(?!remote: ).*(?:{FULL})\W?$", re.MULTILINE)
NO_ROOM_BYTES, NO_ROOM_INODES = 1 << 16, 8


def environment(settings: Mapping[str, str], variables: Mapping[str, str]) -> dict[str, str]:
    """The whole environment of one git process. Settings travel in it: arguments can be read by everyone."""
    settings = {**SETTINGS, **settings}
    numbered = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (key, value) in enumerate(settings.items()):
        numbered[f"GIT_CONFIG_KEY_{number}"] = key
        numbered[f"GIT_CONFIG_VALUE_{number}"] = value
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        **numbered,
        **variables,
    }


def has_no_room(folder: Path) -> bool:
    """Whether the folder's disk is as good as full."""
    disk = os.statvfs(folder)
    return disk.f_bfree * disk.f_frsize < NO_ROOM_BYTES or (disk.f_files > 0 and disk.f_ffree < NO_ROOM_INODES)
