"""The run's folder, which only root can enter, and in it the archive of the programs that the executor uploaded."""

from __future__ import annotations

import hashlib
from pathlib import Path

# What Python was started with: `__main__.py` lies at its top, this module in sandbox/programs.
ARCHIVE = Path(__file__).parents[2].resolve()
RUN = ARCHIVE.parent  # paths in requests are relative to it


def digest_of_programs() -> str:
    """The SHA-256 of the archive, by which the executor knows whether it has to be uploaded again."""
    return hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()
