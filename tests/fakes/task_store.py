"""Tasks in memory, seen as one user at a time: what row-level security does in the database."""

import itertools
import json
import math
import uuid
from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta

from shared.domain.errors import Conflict, InvalidInput, NotFound, TooMany
from shared.domain.ports import CancelledRun, LiveLog, NewRun, NewTask, Row, StartedRun, TaskFilter, TaskPage
from shared.domain.run import RunKind
from shared.domain.task import ENDED
from shared.domain.usage import totals
from tests.sql_files import columns_of

MAX_PAGE_BYTES, MAX_CHAT_BYTES = 6_000_000, 2_000_000

# Every column of the table, so that a new one is here, too.
EMPTY_TASK = dict.fromkeys(columns_of("tasks")) | {
    "status": "pending",
    "agent": "claude",
    "repo_url": "https://github.com/o/r",
    "target_branch": "main",
    "changed_files": [],
    "chat_messages": [],
    "execution_metadata": {},
    "is_test_data": False,
}
RUN_OPTIONS = {"max_cost_usd", "max_duration_s"}  # those TaskOptions that are columns of the run, not of the task

EMPTY_PROJECT = {
    "repo_url": "https://github.com/o/r",
    "repo_owner": "o",
    "repo_name": "r",
    "name": "R",
    "description": None,
    "is_active": True,
    "settings": {},
    "is_test_data": False,
}


@dataclass
class FakeDatabase:
    """The rows, for everybody to look at. `store_of(user)` is the way in that a user has."""

    tasks: dict[int, Row] = field(default_factory=dict)
    events: list[Row] = field(default_factory=list)
    credentials: dict[str, NewTask | NewRun] = field(default_factory=dict)
    runs: dict[tuple[str, str | None], StartedRun] = field(default_factory=dict)  # by whose and which idempotency key
    newest_runs: dict[int, StartedRun] = field(default_factory=dict)  # by task
    cancelled: set[str] = field(default_factory=set)
    at_work: set[str] = field(default_factory=set)  # runs whose step somebody is taking
    request_hashes: dict[tuple[str, str | None], str | None] = field(default_factory=dict)
    starts: list[tuple[str, datetime]] = field(default_factory=list)
    usages: dict[int, list[Row]] = field(default_factory=dict)  # of the runs, by task
    projects: dict[int, Row] = field(default_factory=dict)
    active_per_user: int = 50
    started_per_hour: int = 100
    max_duration_s: int = 86_400
    ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def store_of(self, user_id: str) -> "FakeTaskStore":
        return FakeTaskStore(self, user_id)

    def add_project(self, user_id: str, **columns) -> int:
        project_id, now = next(self.ids), datetime.now(UTC).isoformat()
        self.projects[project_id] = EMPTY_PROJECT | {"created_at": now, "updated_at": now} | columns
        self.projects[project_id] |= {"id": project_id, "user_id": user_id}
        return project_id

    def add_task(self, user_id: str, **columns) -> int:
        task_id, now = next(self.ids), datetime.now(UTC).isoformat()
        self.tasks[task_id] = EMPTY_TASK | {"created_at": now, "updated_at": now} | columns
        self.tasks[task_id] |= {"id": task_id, "user_id": user_id}
        self.tasks[task_id]["has_patch"] = bool(self.tasks[task_id]["git_patch"])
        return task_id

    def add_run(self, task_id: int, seq: int = 0) -> StartedRun:
        run = StartedRun(task_id=task_id, run_id=str(uuid.uuid4()), seq=seq, created=True)
        self.newest_runs.pop(task_id, None)  # it goes to the end of the queue
        self.newest_runs[task_id] = run
        return run

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
            if task.request_hash != db.request_hashes[key]:
                raise Conflict("Something else was asked under this key.", code="idempotency_key_reused")
            return replace(db.runs[key], created=False)
        options = asdict(task.options)
        project_id, max_duration_s = options["project_id"], options["max_duration_s"]
        if project_id is not None and db.projects.get(project_id, {}).get("user_id") != self.user_id:
            raise NotFound("Project not found")
        if (max_duration_s or 0) > db.max_duration_s:
            shown = {"limit": db.max_duration_s}
            raise InvalidInput("A task may not take so long here.", code="max_duration_too_long", shown=shown)
        self._admit_start(datetime.now(UTC))
        task_id = db.add_task(
            self.user_id,
            **{name: value for name, value in options.items() if name not in RUN_OPTIONS},
            repo_url=task.repo_url,
            target_branch=task.branch,
            agent=str(task.agent),
            chat_messages=[{"role": "user", "content": task.prompt, "timestamp": datetime.now(UTC).isoformat()}],
        )
        db.add_event(task_id, "phase", {"phase": "queued"})
        db.credentials[task.credential_id] = task
        db.runs[key] = run = db.add_run(task_id)
        db.request_hashes[key] = task.request_hash
        return run

    def create_run(self, run: NewRun) -> StartedRun:
        db, key = self.database, (self.user_id, run.idempotency_key)
        task = self.get(run.task_id, owner_id=self.user_id)
        if run.idempotency_key and key in db.runs:
            if run.request_hash != db.request_hashes[key]:
                raise Conflict("Something else was asked under this key.", code="idempotency_key_reused")
            return replace(db.runs[key], created=False)
        if task["status"] not in ENDED:
            raise Conflict("The task is being worked on.", code="run_active")
        if run.kind is RunKind.RETRY and run.task_id not in db.newest_runs:
            raise Conflict("The task has never been run here.", code="nothing_to_retry")
        if run.kind is RunKind.FOLLOW_UP:
            self.append_chat_message(run.task_id, "user", run.prompt)
        self._admit_start(datetime.now(UTC))
        db.tasks[run.task_id] |= {"status": "pending", "error": None, "completed_at": None}
        if run.token:
            db.credentials[run.token.id] = run
        db.runs[key] = started = db.add_run(run.task_id)
        db.request_hashes[key] = run.request_hash
        return started

    def request_cancel(self, task_id: int) -> CancelledRun:
        if self.get(task_id, owner_id=self.user_id)["status"] in ENDED:
            raise Conflict("The task has already ended.", code="task_ended")
        run = self.database.newest_runs[task_id]
        self.database.cancelled.add(run.run_id)
        return CancelledRun(run_id=run.run_id, seq=run.seq, at_work=run.run_id in self.database.at_work)

    def run_progress(self, task_id: int) -> Row:
        db, run = self.database, self.database.newest_runs.get(task_id)
        if run is None or db.tasks[task_id]["user_id"] != self.user_id:
            return {"run_id": None, "phase": None, "queue_position": None}
        status = db.tasks[task_id]["status"]
        queued = [i for i in db.newest_runs if db.tasks[i]["status"] == "pending"]
        return {
            "run_id": run.run_id,
            "phase": {"pending": "queued", "running": "agent"}.get(status),
            "queue_position": queued.index(task_id) if status == "pending" else None,
        }

    def _admit_start(self, now: datetime) -> None:
        db = self.database
        active = [t for t in db.tasks.values() if t["user_id"] == self.user_id and t["status"] not in ENDED]
        if len(active) >= db.active_per_user:
            raise _too_many("too_many_active_runs", db.active_per_user, len(active), retry_after_s=30)
        hour = timedelta(hours=1)
        started = sorted(at for user_id, at in db.starts if user_id == self.user_id and at > now - hour)
        if len(started) >= db.started_per_hour:
            free_in = started[-db.started_per_hour] + hour - now
            seconds = max(1, math.ceil(free_in.total_seconds()))
            raise _too_many("too_many_starts", db.started_per_hour, len(started), retry_after_s=seconds)
        db.starts.append((self.user_id, now))

    def get(self, task_id: int, *, owner_id: str) -> Row:
        row = self.database.tasks.get(task_id)
        if row is None or not row["user_id"] == self.user_id == owner_id:
            raise NotFound("Task not found")
        return row | {"usage": totals(self.database.usages.get(task_id, []))}

    def get_columns(self, task_id: int, columns: Collection[str], *, owner_id: str) -> Row:
        row = self.get(task_id, owner_id=owner_id)
        return {column: row[column] for column in columns}

    def page(self, wanted: TaskFilter, *, limit: int, after: Row | None, owner_id: str) -> TaskPage:
        rows = [_light(t) for t in self.database.tasks.values() if t["user_id"] == self.user_id == owner_id]
        matching = sorted((row for row in rows if _matches(row, wanted)), key=_position, reverse=True)
        rest = [row for row in matching if after is None or _position(row) < _position(after)]
        sizes = itertools.accumulate(len(json.dumps(row, ensure_ascii=False).encode()) for row in rest)
        fit = sum(1 for size in sizes if size <= MAX_PAGE_BYTES)
        shown = rest[: min(limit, 1000, max(fit, 1))]
        return TaskPage(shown, total=len(matching), more=len(shown) < len(rest))

    def append_chat_message(self, task_id: int, role: str, content: str) -> None:
        chat = self.get(task_id, owner_id=self.user_id)["chat_messages"] or []
        if len(json.dumps(chat, ensure_ascii=False).encode()) >= MAX_CHAT_BYTES:
            raise Conflict("The chat of this task is full.", code="chat_full")
        message = {"role": role, "content": content, "timestamp": datetime.now(UTC).isoformat()}
        self.database.tasks[task_id]["chat_messages"] = [*chat, message]

    def events(self, task_id: int, *, after: int, limit: int, owner_id: str) -> LiveLog:
        task = self.get(task_id, owner_id=owner_id)
        found = [e for e in self.database.events if e["task_id"] == task_id and e["seq"] > after]
        return LiveLog(task["status"], [{k: v for k, v in e.items() if k != "task_id"} for e in found[:limit]])


def _too_many(code: str, limit: int, current: int, *, retry_after_s: int) -> TooMany:
    return TooMany("Too many.", code=code, shown={"limit": limit, "current": current}, retry_after_s=retry_after_s)


def _light(row: Row) -> Row:
    return row | {"git_diff": None, "git_patch": None, "execution_metadata": {}}


def _matches(row: Row, wanted: TaskFilter) -> bool:
    prompts = [m["content"].lower() for m in row["chat_messages"] or [] if m["role"] == "user"]
    return (
        wanted.status in {None, row["status"]}
        and wanted.project_id in {None, row["project_id"]}
        and (wanted.search is None or any(wanted.search.lower() in prompt for prompt in prompts))
    )


def _position(row: Row) -> tuple[datetime, int]:
    return datetime.fromisoformat(row["created_at"]), row["id"]
