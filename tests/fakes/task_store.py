"""Tasks in memory, seen as one user at a time: what row-level security does in the database."""

import itertools
import uuid
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from shared.adapters.task_store import LIST_COLUMNS
from shared.domain.errors import NotFound, TooMany
from shared.domain.ports import LiveLog, NewTask, Row, StartedRun
from shared.domain.task import ENDED

EMPTY_TASK = {
    "project_id": None,
    "status": "pending",
    "agent": "claude",
    "repo_url": "https://github.com/o/r",
    "target_branch": "main",
    "pr_branch": None,
    "container_id": None,
    "commit_hash": None,
    "pr_number": None,
    "pr_url": None,
    "git_diff": None,
    "git_patch": None,
    "changed_files": [],
    "error": None,
    "chat_messages": [],
    "execution_metadata": {},
    "started_at": None,
    "completed_at": None,
    "is_test_data": False,
}


@dataclass
class FakeDatabase:
    """The rows, for everybody to look at. `store_of(user)` is the way in that a user has."""

    tasks: dict[int, Row] = field(default_factory=dict)
    events: list[Row] = field(default_factory=list)
    credentials: dict[str, NewTask] = field(default_factory=dict)
    runs: dict[tuple[str, str | None], StartedRun] = field(default_factory=dict)
    projects: dict[int, str] = field(default_factory=dict)  # id: owner
    active_per_user: int = 50
    ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def store_of(self, user_id: str) -> "FakeTaskStore":
        return FakeTaskStore(self, user_id)

    def add_project(self, user_id: str) -> int:
        project_id = next(self.ids)
        self.projects[project_id] = user_id
        return project_id

    def add_task(self, user_id: str, **columns) -> int:
        task_id, now = next(self.ids), datetime.now(UTC).isoformat()
        self.tasks[task_id] = EMPTY_TASK | {"created_at": now, "updated_at": now} | columns
        self.tasks[task_id] |= {"id": task_id, "user_id": user_id}
        self.tasks[task_id]["has_patch"] = bool(self.tasks[task_id]["git_patch"])
        return task_id

    def add_event(self, task_id: int, kind: str, payload: dict) -> None:
        seq = 1 + max((e["seq"] for e in self.events if e["task_id"] == task_id), default=0)
        event = {"seq": seq, "run_id": str(uuid.uuid4()), "kind": kind, "payload": payload}
        self.events.append(event | {"task_id": task_id, "at": datetime.now(UTC).isoformat()})


@dataclass
class FakeTaskStore:
    database: FakeDatabase
    user_id: str

    def create(self, task: NewTask) -> StartedRun:
        db, key = self.database, (self.user_id, task.idempotency_key)
        if task.idempotency_key and key in db.runs:
            return replace(db.runs[key], created=False)
        if task.project_id is not None and db.projects.get(task.project_id) != self.user_id:
            raise NotFound("Project not found")
        active = [t for t in db.tasks.values() if t["user_id"] == self.user_id and t["status"] not in ENDED]
        if len(active) >= db.active_per_user:
            raise TooMany("Too many tasks are active. Wait for one to end, then try again.")
        task_id = db.add_task(
            self.user_id,
            project_id=task.project_id,
            repo_url=task.repo_url,
            target_branch=task.branch,
            agent=str(task.agent),
            chat_messages=[{"role": "user", "content": task.prompt, "timestamp": datetime.now(UTC).isoformat()}],
        )
        db.add_event(task_id, "phase", {"phase": "queued"})
        db.credentials[task.credential_id] = task
        run = StartedRun(task_id=task_id, run_id=str(uuid.uuid4()), seq=0, created=True)
        db.runs[key] = run
        return run

    def get(self, task_id: int, *, owner_id: str) -> Row:
        row = self.database.tasks.get(task_id)
        if row is None or not row["user_id"] == self.user_id == owner_id:
            raise NotFound("Task not found")
        return dict(row)

    def get_columns(self, task_id: int, columns: Collection[str], *, owner_id: str) -> Row:
        row = self.get(task_id, owner_id=owner_id)
        return {column: row[column] for column in columns}

    def list_all(self, *, owner_id: str, project_id: int | None) -> list[Row]:
        rows = [t for t in self.database.tasks.values() if t["user_id"] == self.user_id == owner_id]
        wanted = [t for t in rows if project_id is None or t["project_id"] == project_id]
        columns = LIST_COLUMNS.split(",")
        return [{column: t[column] for column in columns} for t in sorted(wanted, key=lambda t: -t["id"])]

    def events(self, task_id: int, *, after: int, limit: int, owner_id: str) -> LiveLog:
        task = self.get(task_id, owner_id=owner_id)
        found = [e for e in self.database.events if e["task_id"] == task_id and e["seq"] > after]
        return LiveLog(task["status"], [{k: v for k, v in e.items() if k != "task_id"} for e in found[:limit]])
