"""Pull requests of one repository, in a JSON file beside it."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Pull:
    number: int
    title: str
    body: str | None
    branch: str
    target: str
    login: str
    state: str = "open"
    draft: bool = False


class Pulls:
    """Read from the file and written to it by each call."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def all(self) -> list[Pull]:
        """The newest first, as GitHub lists them."""
        return [Pull(**facts) for facts in self._read()][::-1]

    def add(self, pull: Pull) -> None:
        self._write([*self._read(), asdict(pull)])

    def close(self, branch: str) -> None:
        """Close what is open from this branch."""
        pulls = [replace(pull, state="closed") if pull.branch == branch else pull for pull in self.all()]
        self._write([asdict(pull) for pull in pulls[::-1]])

    def next_number(self) -> int:
        return len(self._read()) + 1

    def _read(self) -> list[dict[str, Any]]:
        if not self._file.exists():
            return []
        found: list[dict[str, Any]] = json.loads(self._file.read_text(encoding="utf-8"))
        return found

    def _write(self, pulls: list[dict[str, Any]]) -> None:
        self._file.write_text(json.dumps(pulls, indent=2), encoding="utf-8")
