"""Runs in memory, with the semantics of the database's run functions: both pass tests/integration/test_run_store.py."""

import itertools
import json
import math
import uuid
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta

from shared.domain.agents import AgentName
from shared.domain.contents import ContentPart, joined
from shared.domain.errors import InvalidInput, RunFailed, TooMany
from shared.domain.messages import RunMessage
from shared.domain.ports import Claim, ClaimOutcome, NewTask, OwnersEnvironment, Row, StartedRun
from shared.domain.run import (
    INTERNAL,
    Advance,
    Event,
    Finish,
    Phase,
    Result,
    Run,
    RunChanges,
    RunKind,
    RunStatus,
    check_phase,
)
from shared.domain.secret import Sealed
from tests.fakes.clock import FakeClock
from tests.fakes.task_store import EMPTY_TASK

ALIVE = {RunStatus.QUEUED, RunStatus.RUNNING}
CREDENTIAL_LIFE = timedelta(days=2)
NEVER = datetime.max.replace(tzinfo=UTC)  # the next_check_at of a run that sleeps
STEP_COLUMNS = {"phase", *RunChanges.__annotations__}
FILE_COLUMNS = ("path", "previous_path", "status", "mode", "before", "after", "encoding", "size", "truncated")


def stored(value):
    """What comes back of a value that went through JSON into PostgreSQL, which has no place for NULs and half pairs."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput("The database refused the data.", database_code="22P05") from error
    if "\\u0000" in text.replace("\\\\", ""):
        raise InvalidInput("The database refused the data.", database_code="22P05")
    return json.loads(text)


@dataclass
class FakeRunDatabase:
    """The rows, for everybody to look at, and what a signed-in user may do with them."""

    now: FakeClock = field(default_factory=FakeClock)
    tasks: dict[int, Row] = field(default_factory=dict)
    runs: dict[str, Row] = field(default_factory=dict)
    events: list[Row] = field(default_factory=list)
    files: list[Row] = field(default_factory=list)
    contents: dict[tuple[str, str, int], ContentPart] = field(default_factory=dict)  # by run, id and part
    credentials: dict[str, Row] = field(default_factory=dict)
    preferences: dict[str, object] = field(default_factory=dict)  # by user
    limits: dict[str, int] = field(
        default_factory=lambda: {
            "active_per_user": 50,
            "running_per_user": 10,
            "running_in_all": 100,
            "started_per_second": 5,
            "max_duration_s": 86_400,
        }
    )
    ids: itertools.count = field(default_factory=lambda: itertools.count(1))

    def store(self, *, lease_s: int = 150, run_timeout_s: int = 3300) -> "FakeRunStore":
        return FakeRunStore(self, lease_s, run_timeout_s)

    def create_task(
        self,
        user_id: str,
        task: NewTask,
        *,
        setup_script: str | None = None,
        project_env: object = None,
        project_network: object = None,
    ) -> StartedRun:
        task_id = next(self.ids)
        self.tasks[task_id] = EMPTY_TASK | {
            "id": task_id,
            "user_id": user_id,
            "agent": task.agent,
            "repo_url": task.repo_url,
            "target_branch": task.branch,
            "setup_script": setup_script,  # of the project
            "project_env": project_env,
            "project_network": project_network,
            "chat_messages": [self._chat_message("user", task.prompt)],
        }
        if task.credential:
            self.credentials[task.credential_id] = {
                "user_id": user_id,
                "sealed": task.credential,
                "expires_at": self.now() + CREDENTIAL_LIFE,
            }
        return self._insert_run(self.tasks[task_id], task.prompt, task.credential and task.credential_id, task)

    def retry(self, task_id: int) -> StartedRun:
        return self._create_run(task_id, RunKind.RETRY)

    def follow_up(self, task_id: int, prompt: str) -> StartedRun:
        task = self.tasks[task_id]
        task["chat_messages"] = [*task["chat_messages"], self._chat_message("user", prompt)]
        return self._create_run(task_id, RunKind.FOLLOW_UP, prompt)

    def _create_run(self, task_id: int, kind: RunKind, prompt: str | None = None) -> StartedRun:
        task = self.tasks[task_id]
        task |= {"status": "pending", "error": None, "completed_at": None}
        last = [run for run in self.runs.values() if run["task_id"] == task_id][-1]
        started = self._insert_run(task, prompt or last["prompt"], None, None, kind=kind)
        run, goes_on = self.runs[started.run_id], kind is RunKind.FOLLOW_UP
        run["base_commit"] = task["execution_metadata"].get("base_commit") if goes_on else None
        run |= {name: last[name] for name in ("max_cost_usd", "max_duration_s")}
        if last["kept_until"] and last["kept_until"] > self.now():
            run["sandbox_id"], last["kept_until"] = last["sandbox_id"], None
            if goes_on:
                run |= {name: last[name] for name in ("agent_session_id", "reader_state")}
        return started

    def request_cancel(self, task_id: int) -> None:
        [run] = [r for r in self.runs.values() if r["task_id"] == task_id and r["status"] in ALIVE]
        run["cancel_requested_at"] = run["cancel_requested_at"] or self.now()

    def events_of(self, task_id: int) -> list[Row]:
        return [event for event in self.events if event["task_id"] == task_id]

    def append_events(self, task_id: int, run_id: str, events: Collection[Event]) -> None:
        for event in events:
            seq = 1 + max((e["seq"] for e in self.events_of(task_id)), default=0)
            row = {"task_id": task_id, "seq": seq, "run_id": run_id, "kind": str(event.kind), "at": self.now()}
            self.events.append(row | {"payload": stored(dict(event.payload))})

    def active(self, status: Collection[str], user_id: str | None = None) -> int:
        return sum(r["status"] in status and user_id in (None, r["user_id"]) for r in self.runs.values())

    def _insert_run(
        self, task: Row, prompt: str, credential_id, new: NewTask | None, kind: str = "first"
    ) -> StartedRun:
        if self.active(ALIVE, task["user_id"]) >= self.limits["active_per_user"]:
            raise TooMany("Too many tasks are active. Wait for one to end, then try again.")
        run_id = str(uuid.uuid4())
        self.runs[run_id] = {each.name: None for each in fields(Run)} | {
            "id": run_id,
            "task_id": task["id"],
            "user_id": task["user_id"],
            "kind": kind,
            "prompt": prompt,
            "agent": AgentName(task["agent"]),
            "model": new.model if new else None,
            "max_cost_usd": new.options.max_cost_usd if new else None,
            "max_duration_s": new.options.max_duration_s if new else None,
            "trace_id": new.trace_id if new else None,
            "git_credential_id": credential_id,
            "status": RunStatus.QUEUED,
            "phase": Phase.QUEUED,
            **dict.fromkeys(("seq", "fence", "attempt", "output_offset"), 0),
            "reader_state": {},
            "usage": {},
            "checkpoint": {},
            "lease_until": None,
            "next_check_at": self.now(),
            "cancel_requested_at": None,
            "updated_at": self.now(),
            "asked_at": None,
            "kept_until": None,
            "created_at": self.now(),
            "finished_at": None,
        }
        self.append_events(task["id"], run_id, [Event("phase", {"phase": "queued"})])
        return StartedRun(task_id=task["id"], run_id=run_id, seq=0, created=True)

    def _chat_message(self, role: str, content: str) -> Row:
        return {"role": role, "content": content, "timestamp": self.now().isoformat()}


def _message(row: Row) -> RunMessage:
    return RunMessage(run_id=row["id"], **{name: row[name] for name in ("task_id", "seq", "user_id", "trace_id")})


@dataclass
class FakeRunStore:
    database: FakeRunDatabase
    lease_s: int
    run_timeout_s: int

    def claim(self, message: RunMessage) -> Claim:
        row, now = self.database.runs.get(message.run_id), self._now
        if row is None:
            return Claim(ClaimOutcome.UNKNOWN)
        if row["status"] not in ALIVE:
            return Claim(ClaimOutcome.ENDED)
        leased = row["lease_until"] is not None and row["lease_until"] > now
        if leased and row["seq"] == message.seq:
            left_s = (row["lease_until"] - now).total_seconds()
            return Claim(ClaimOutcome.BUSY, retry_in_s=math.ceil(left_s) + 1)
        if row["seq"] != message.seq:
            if row["next_check_at"] <= now and not leased:
                return Claim(ClaimOutcome.OVERDUE, seq=row["seq"])
            return Claim(ClaimOutcome.STALE)
        if row["status"] is RunStatus.QUEUED and row["cancel_requested_at"] is None:
            row["asked_at"] = row["asked_at"] or now
            if row not in (front := self._next_to_start()):
                row["next_check_at"] = NEVER
                return Claim(ClaimOutcome.WAITING)
            second_ago, per_second = now - timedelta(seconds=1), self.database.limits["started_per_second"]
            started = [r["started_at"] for r in self.database.runs.values() if r["started_at"]]
            if sum(at > second_ago for at in started) >= per_second:
                wait_s = 1 + front.index(row) // per_second
                row["next_check_at"] = now + timedelta(seconds=wait_s)
                return Claim(ClaimOutcome.WAITING, retry_in_s=wait_s)
            self._admit(row)
        row["attempt"] += 1
        return Claim(ClaimOutcome.CLAIMED, self._taken(row))

    def seize(self, run_id: str) -> Run | None:
        row = self.database.runs.get(run_id)
        return self._taken(row) if row and row["status"] in ALIVE else None

    def advance(self, run: Run, step: Advance) -> int | None:
        check_phase(run.phase, step.phase or run.phase)
        changes = stored({**step.changes, "phase": step.phase or run.phase})
        if changes.keys() - STEP_COLUMNS:
            raise InvalidInput("The request cannot be accepted.")
        events = [Event(event.kind, stored(dict(event.payload))) for event in step.events]
        row = self._held(run)
        if row is None:
            return None
        row |= changes
        row["phase"] = Phase(row["phase"])
        row |= {"seq": row["seq"] + 1, "lease_until": None, "updated_at": self._now}
        row["next_check_at"] = self._now + timedelta(seconds=step.check_in_s)
        self.database.tasks[run.task_id]["container_id"] = row["sandbox_id"]
        self.database.append_events(run.task_id, run.id, events)
        return row["seq"]

    def finish(self, run: Run, end: Finish) -> bool:
        written = stored(asdict(end))
        row = self._held(run)
        if row is None:
            return False
        ended = {"status": RunStatus(end.status), "phase": Phase.DONE, "finished_at": self._now}
        row |= ended | {"error_code": end.error_code, "error": end.error}
        row["kept_until"] = self._now + timedelta(seconds=end.keep_sandbox_s) if end.keep_sandbox_s else None
        row |= {"seq": row["seq"] + 1, "lease_until": None}
        task = self.database.tasks[run.task_id]
        task |= {"status": str(end.status), "error": end.error, "completed_at": self._now.isoformat()}
        if result := written["result"]:
            self._store_result(run, result)
        if end.message:
            task["chat_messages"] = [*task["chat_messages"], self.database._chat_message("assistant", end.message)]
        self._drop_credentials({run.git_credential_id} if end.error_code != INTERNAL else set())
        self.database.append_events(run.task_id, run.id, end.events)
        return True

    def save_checkpoint(self, run: Run, result: Result) -> bool:
        written = stored(asdict(result))
        row = self._held(run)
        if row is None or row["status"] is not RunStatus.RUNNING:
            return False
        self._store_result(run, written)
        return True

    def stored_contents(self, run: Run) -> set[str]:
        return set(joined(part for (run_id, _, _), part in self.database.contents.items() if run_id == run.id))

    def store_contents(self, run: Run, parts: Collection[ContentPart]) -> bool:
        if self._held(run) is None:
            return False
        for part in parts:
            self.database.contents.setdefault((run.id, part.id, part.part), part)
        return True

    def due(self, *, grace_s: int, limit: int) -> list[RunMessage]:
        before = self._now - timedelta(seconds=grace_s)
        rows = [r for r in self.database.runs.values() if r["status"] in ALIVE and r["next_check_at"] < before]
        rows = [r for r in rows if r["lease_until"] is None or r["lease_until"] < self._now]
        due = sorted(rows, key=lambda r: r["next_check_at"])[:limit]
        for row in due:
            row["next_check_at"] = self._now
        return [_message(row) for row in due]

    def needed(self, sandboxes: Mapping[str, str]) -> set[str]:
        rows = self.database.runs
        alive = {run_id for run_id, row in rows.items() if row["status"] in ALIVE}
        kept = {run_id for run_id, row in rows.items() if row["kept_until"] and row["kept_until"] > self._now}
        theirs = {rows[run_id]["sandbox_id"] for run_id in alive | kept}
        return {sandbox for sandbox, run_id in sandboxes.items() if run_id in alive or sandbox in theirs}

    def without_sandbox(self, sandboxes: Collection[str], *, grace_s: int) -> list[RunMessage]:
        before = self._now - timedelta(seconds=grace_s)
        rows = [r for r in self.database.runs.values() if r["status"] is RunStatus.RUNNING and r["sandbox_id"]]
        rows = [r for r in rows if r["lease_until"] is None or r["lease_until"] < self._now]
        lost = [r for r in rows if r["sandbox_id"] not in sandboxes and r["updated_at"] < before]
        for row in lost:
            row |= {"next_check_at": self._now, "updated_at": self._now}
        return [_message(row) for row in lost]

    def end_stuck(self, *, waited_s: int, waited: RunFailed, orphaned: str) -> int:
        before = self._now - timedelta(seconds=waited_s)
        rows = [r for r in self.database.runs.values() if r["status"] is RunStatus.QUEUED and r["created_at"] < before]
        for row in rows:
            told = {"status": "failed", "error_code": waited.error_code, "text": str(waited)}
            end = Finish(
                status=RunStatus.FAILED,
                error_code=waited.error_code,
                error=str(waited),
                events=(Event("ended", told),),
            )
            self.finish(Run(**{each.name: row[each.name] for each in fields(Run)} | self._of_task(row)), end)
        return len(rows)

    def replay(self, run_id: str) -> RunMessage | None:
        row = self.database.runs.get(run_id)
        if row is None or (row["status"], row["error_code"]) != (RunStatus.FAILED, INTERNAL):
            return None
        if [r for r in self.database.runs.values() if r["task_id"] == row["task_id"]][-1] is not row:
            return None
        goes_on = row["kind"] == RunKind.FOLLOW_UP
        started = self.database._create_run(
            row["task_id"], RunKind.FOLLOW_UP if goes_on else RunKind.RETRY, row["prompt"]
        )
        successor = self.database.runs[started.run_id]
        successor |= {name: row[name] for name in ("git_credential_id", "trace_id", "model")}
        row["git_credential_id"] = None
        return _message(successor)

    def saved_patch(self, run: Run) -> str | None:
        task = self.database.tasks[run.task_id]
        return task["git_patch"] or (None if task["changed_files"] else "")

    def git_credential(self, run: Run) -> Sealed | None:
        row = self.database.credentials.get(run.git_credential_id or "")
        return row["sealed"] if row and row["user_id"] == run.user_id else None

    def environment(self, run: Run) -> OwnersEnvironment:
        task = self.database.tasks[run.task_id]
        preferences = self.database.preferences.get(run.user_id)
        return OwnersEnvironment(preferences or {}, task["project_env"] or {}, task["project_network"])

    def expire_credentials(self) -> int:
        runs = self.database.runs.values()
        ended = {r["git_credential_id"] for r in runs if r["status"] not in ALIVE and r["error_code"] != INTERNAL}
        old = {i for i, row in self.database.credentials.items() if row["expires_at"] < self._now}
        return self._drop_credentials(ended | old)

    @property
    def _now(self) -> datetime:
        return self.database.now()

    def wake(self) -> list[RunMessage]:
        front = self._next_to_start()
        sleeping = [r for r in self.database.runs.values() if r["status"] is RunStatus.QUEUED]
        sleeping = [r for r in sleeping if r["next_check_at"] == NEVER and (r["cancel_requested_at"] or r in front)]
        for row in sleeping:
            row["next_check_at"] = self._now
        return [_message(row) for row in sleeping]

    def _next_to_start(self) -> list[Row]:
        """As many of the line as there are free sandboxes: one after the other, from whoever has the fewest by then."""
        limits, rows = self.database.limits, list(self.database.runs.values())
        sandboxes = Counter(row["user_id"] for row in rows if row["status"] is RunStatus.RUNNING)
        line = [r for r in rows if r["status"] is RunStatus.QUEUED and r["asked_at"] and not r["cancel_requested_at"]]
        front: list[Row] = []
        while sandboxes.total() < limits["running_in_all"]:
            line = [row for row in line if sandboxes[row["user_id"]] < limits["running_per_user"]]
            if not line:
                break
            # Of one moment, as everything is while a test's clock stands still: the one that was put in first.
            front.append(min(line, key=lambda row: (sandboxes[row["user_id"]], row["created_at"])))
            line.remove(front[-1])
            sandboxes[front[-1]["user_id"]] += 1
        return front

    def _admit(self, row: Row) -> None:
        row |= {"status": RunStatus.RUNNING, "phase": Phase.PROVISIONING, "started_at": self._now}
        most_s = max(self.run_timeout_s, self.database.limits["max_duration_s"])
        row["deadline_at"] = self._now + timedelta(seconds=min(row["max_duration_s"] or self.run_timeout_s, most_s))
        self.database.tasks[row["task_id"]] |= {"status": "running", "started_at": self._now.isoformat()}
        self.database.append_events(row["task_id"], row["id"], [Event("phase", {"phase": "provisioning"})])

    def _taken(self, row: Row) -> Run:
        row |= {"fence": row["fence"] + 1, "lease_until": self._now + timedelta(seconds=self.lease_s)}
        row["updated_at"] = self._now
        return Run(**{each.name: row[each.name] for each in fields(Run)} | self._of_task(row))

    def _of_task(self, row: Row) -> Row:
        task = self.database.tasks[row["task_id"]]
        return {
            "repo_url": task["repo_url"],
            "branch": task["target_branch"],
            "setup_script": task["setup_script"],
            "cancel_requested": row["cancel_requested_at"] is not None,
        }

    def _held(self, run: Run) -> Row | None:
        row = self.database.runs.get(run.id)
        return row if row and row["fence"] == run.fence and row["status"] in ALIVE else None

    def _store_result(self, run: Run, result: Row) -> None:
        task = self.database.tasks[run.task_id]
        task |= {"commit_hash": result["commit_hash"], "git_diff": result["diff"], "git_patch": result["patch"]}
        task["changed_files"] = result["changed_files"]
        task["execution_metadata"] = task["execution_metadata"] | result["metadata"]
        task["has_patch"] = bool(result["patch"])
        self.database.files[:] = [row for row in self.database.files if row["run_id"] != run.id]
        self._add_files(run, result["files"])

    def _add_files(self, run: Run, files: Collection[Row]) -> None:
        known = {(row["run_id"], row["path"]) for row in self.database.files}
        for file in files:
            if (run.id, file["path"]) not in known:
                known.add((run.id, file["path"]))
                row = {name: file.get(name) for name in FILE_COLUMNS}
                self.database.files.append({"run_id": run.id, "task_id": run.task_id, **row})

    def _drop_credentials(self, ids: Collection[str | None]) -> int:
        gone = [i for i in ids if i is not None and self.database.credentials.pop(i, None)]
        for row in self.database.runs.values():
            if row["git_credential_id"] in gone:
                row["git_credential_id"] = None  # on delete set null
        return len(gone)
