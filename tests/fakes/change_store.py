"""What agents changed, in memory, seen as one user."""

import base64
from collections.abc import Collection
from dataclasses import dataclass, field

from shared.domain.changes import RunChanges
from shared.domain.errors import NotFound
from shared.domain.ports import Row
from shared.domain.pull_request import PullRequest
from tests.fakes.task_store import FakeDatabase

LISTED = ("path", "previous_path", "status", "mode", "size", "truncated")


@dataclass
class FakeChangeStore:
    """`changes` are those of each task's last completed run, by the task's id, and `rows` its files as rows.

    Of those with the encoding `apart`, both sides stand in the row as bytes.
    """

    database: FakeDatabase
    changes: dict[int, RunChanges]
    user_id: str
    rows: dict[int, list[Row]] = field(default_factory=dict)

    def latest(self, task_id: int, *, owner_id: str) -> RunChanges:
        seen = self._owner(task_id) == self.user_id == owner_id
        return self.changes.get(task_id, RunChanges()) if seen else RunChanges()

    def files(self, task_id: int, *, owner_id: str) -> list[Row]:
        return [{name: row[name] for name in LISTED} for row in self._rows(task_id, owner_id)]

    def file(self, task_id: int, path: str, *, sides: Collection[str], owner_id: str) -> Row | None:
        row = next((row for row in self._rows(task_id, owner_id) if row["path"] == path), None)
        return row and row | {side: _content(row, side, sides) for side in ("before", "after")}

    def _rows(self, task_id: int, owner_id: str) -> list[Row]:
        seen = self._owner(task_id) == self.user_id == owner_id
        return sorted(self.rows.get(task_id, []) if seen else [], key=lambda row: row["path"])

    def record_pull_request(self, task_id: int, pull_request: PullRequest) -> None:
        if self._owner(task_id) != self.user_id:
            raise NotFound("Task not found")
        made = {"pr_branch": pull_request.branch, "pr_number": pull_request.number, "pr_url": pull_request.url}
        self.database.tasks[task_id] |= made

    def _owner(self, task_id: int) -> str | None:
        return self.database.tasks.get(task_id, {}).get("user_id")


def _content(row: Row, side: str, sides: Collection[str]) -> bytes | None:
    content = row[side]
    if row["encoding"] == "apart":
        return content if side in sides else None
    if content is None:
        return None
    return base64.b64decode(content) if row["encoding"] == "base64" else content.encode()
