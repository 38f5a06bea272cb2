"""Small files that the local stack keeps between two starts. A full disk or a killed process leaves no half of one."""

import os
import secrets
from contextlib import suppress
from pathlib import Path


def write_state(path: Path, text: str, *, mode: int = 0o600) -> None:
    """Replace `path` with `text` in one step: readers see the old file or the new one, never a part.

    The folder of `path` must exist. Raises OSError, for example when the disk is full; `path` is unchanged then.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as out:
            out.write(text)
        draft.chmod(mode)  # whatever the umask is
        draft.replace(path)
    finally:
        with suppress(OSError):
            draft.unlink()


def set_aside(path: Path) -> Path:
    """Rename an unreadable state file or folder out of the way; returns its new path. Nothing is deleted."""
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.broken-{number}")
        if not os.path.lexists(aside):
            return path.rename(aside)
    raise FileExistsError(f"{path.parent} holds too many files named {path.name}.broken-*. Delete them.")
