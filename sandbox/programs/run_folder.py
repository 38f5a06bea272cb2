"""The run's folder, which only root can enter, and in it the archive of the programs that the executor uploaded."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from sandbox.programs.protocol import to_json

# What Python was started with: `__main__.py` lies at its top, this module in sandbox/programs.
ARCHIVE = Path(__file__).parents[2].resolve()
RUN = ARCHIVE.parent  # paths in requests are relative to it


def digest_of_programs() -> str:
    """The SHA-256 of the archive, by which the executor knows whether it has to be uploaded again."""
    return hashlib.sha256(ARCHIVE.read_bytes()).hexdigest()


def answer_request(program: str, arguments: list[str], answer: Callable[[Path], object]) -> int:
    """Print the report that `answer` makes of the request, a file of this folder. The program's exit code."""
    if len(arguments) != 1:
        print(f"Usage: {program} REQUEST.json", file=sys.stderr)
        return 2
    print(to_json(answer(RUN / arguments[0])))
    return 0
