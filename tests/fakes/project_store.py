"""Projects in memory, seen as one user at a time: what row-level security and the unique index do in the database."""

import copy
import re
from dataclasses import dataclass
from datetime import UTC, datetime

from shared.adapters.supabase.project_store import project_exists
from shared.domain.errors import Forbidden, InvalidInput, NotFound
from shared.domain.ports import Row
from tests.fakes.task_store import FakeDatabase

ACTIVE = {"pending", "running"}


@dataclass
class FakeProjectStore:
    database: FakeDatabase
    user_id: str

    def list_all(self, *, owner_id: str) -> list[Row]:
        rows = [self._counted(row) for row in self._own(owner_id)]
        return sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)

    def get(self, project_id: int, *, owner_id: str) -> Row:
        return self._counted(self._row(project_id, owner_id))

    def create(self, columns: Row, *, owner_id: str) -> Row:
        if owner_id != self.user_id:
            raise Forbidden("That is not allowed.")
        self._check(columns, self._own(owner_id))
        return self.get(self.database.add_project(owner_id, **copy.deepcopy(columns)), owner_id=owner_id)

    def update(self, project_id: int, changes: Row, *, owner_id: str) -> Row:
        row = self._row(project_id, owner_id)
        if changes:
            self._check(row | changes, [other for other in self._own(owner_id) if other is not row])
            row |= copy.deepcopy(changes) | {"updated_at": datetime.now(UTC).isoformat()}
        return self._counted(row)

    def delete(self, project_id: int, *, owner_id: str) -> None:
        del self.database.projects[self._row(project_id, owner_id)["id"]]
        tasks = self.database.tasks
        for task_id in [task_id for task_id, task in tasks.items() if task["project_id"] == project_id]:
            del tasks[task_id]

    def _own(self, owner_id: str) -> list[Row]:
        return [row for row in self.database.projects.values() if row["user_id"] == self.user_id == owner_id]

    def _row(self, project_id: int, owner_id: str) -> Row:
        found = [row for row in self._own(owner_id) if row["id"] == project_id]
        if not found:
            raise NotFound("Project not found")
        return found[0]

    def _counted(self, row: Row) -> Row:
        states = [task["status"] for task in self.database.tasks.values() if task["project_id"] == row["id"]]
        return copy.deepcopy(row) | {
            "task_count": len(states),
            "completed_tasks": states.count("completed"),
            "active_tasks": len([state for state in states if state in ACTIVE]),
        }

    def _check(self, row: Row, others: list[Row]) -> None:
        if _has_nul(row):
            raise InvalidInput("Text must not contain the character NUL.")
        same = [other for other in others if _full_name(other) == _full_name(row)]
        if any(_host(other) == _host(row) for other in same):
            raise project_exists(f"{row['repo_owner']}/{row['repo_name']}", same)


def _full_name(row: Row) -> tuple[str, str]:
    return row["repo_owner"].lower(), row["repo_name"].lower()


def _host(row: Row) -> str:
    found = re.search("git@([^:/]+):|://([^/]+)/", row["repo_url"])
    return (found[1] or found[2]).lower()


def _has_nul(value: object) -> bool:
    if isinstance(value, dict):
        return any(_has_nul(part) for item in value.items() for part in item)
    if isinstance(value, list):
        return any(_has_nul(part) for part in value)
    return isinstance(value, str) and "\0" in value
