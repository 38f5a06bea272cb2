"""What agents changed, in memory, seen as one user."""

from dataclasses import dataclass

from shared.domain.changes import RunChanges
from shared.domain.errors import NotFound
from shared.domain.pull_request import PullRequest
from tests.fakes.task_store import FakeDatabase


@dataclass
class FakeChangeStore:
    """`changes` are those of each task's last completed run, by the task's id."""

    database: FakeDatabase
    changes: dict[int, RunChanges]
    user_id: str

    def latest(self, task_id: int, *, owner_id: str) -> RunChanges:
        seen = self._owner(task_id) == self.user_id == owner_id
        return self.changes.get(task_id, RunChanges()) if seen else RunChanges()

    def record_pull_request(self, task_id: int, pull_request: PullRequest) -> None:
        if self._owner(task_id) != self.user_id:
            raise NotFound("Task not found")
        made = {"pr_branch": pull_request.branch, "pr_number": pull_request.number, "pr_url": pull_request.url}
        self.database.tasks[task_id] |= made

    def _owner(self, task_id: int) -> str | None:
        return self.database.tasks.get(task_id, {}).get("user_id")
