"""Pull requests of one repository, in a JSON file beside it."""

import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from local.state_files import set_aside, write_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    """`merge_commit` is the id of the commit that merged it; None while that has not happened."""

    number: int
    title: str
    body: str | None
    branch: str
    target: str
    login: str
    state: str = "open"
    draft: bool = False
    merge_commit: str | None = None


class Pulls:
    """Read from the file and written to it by each call. A file that cannot be read is set aside."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> list[Pull]:
        """The newest first, as GitHub lists them."""
        return self._read()[::-1]

    def add(self, pull: Pull) -> None:
        self._write([*self._read(), pull])

    def close(self, branch: str) -> None:
        """Close what is open from this branch."""
        self._write(
            [
                replace(pull, state="closed") if (pull.branch, pull.state) == (branch, "open") else pull
                for pull in self._read()
            ]
        )

    def merged(self, number: int, merge_commit: str) -> None:
        """Close this one as merged."""
        self._write(
            [
                replace(pull, state="closed", merge_commit=merge_commit) if pull.number == number else pull
                for pull in self._read()
            ]
        )

    def next_number(self, taken: Iterable[int]) -> int:
        """One that no pull request has had; `taken` are numbers that the repository itself knows."""
        return 1 + max([*taken, *(pull.number for pull in self._read())], default=0)

    def _read(self) -> list[Pull]:
        try:
            return [_pull(facts) for facts in json.loads(self._file.read_text(encoding="utf-8"))]
        except FileNotFoundError:
            return []
        except (ValueError, TypeError) as error:
            with suppress(FileNotFoundError):  # the other server has just done it
                aside = set_aside(self._file)
                logger.warning("%s is broken (%s); it was renamed to %s.", self._file, error, aside.name)
            return []

    def _write(self, pulls: list[Pull]) -> None:
        write_state(self._file, json.dumps([asdict(pull) for pull in pulls], indent=2))


def _pull(facts: dict[str, Any]) -> Pull:
    if not (isinstance(facts, dict) and isinstance(facts.get("number"), int)):
        raise TypeError("a pull request has no number")
    return Pull(**facts)
