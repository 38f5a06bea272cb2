"""Tasks as one signed-in user sees them: every request carries that user's token, and the database decides."""

from collections.abc import Collection
from dataclasses import asdict

from postgrest import SyncPostgrestClient, SyncSelectRequestBuilder

from shared.adapters.supabase.postgrest_client import call, speaking_our_errors
from shared.domain.errors import NotFound
from shared.domain.ports import CancelledRun, LiveLog, NewRun, NewTask, Row, StartedRun, TaskFilter, TaskPage
from shared.domain.secret import Sealed
from shared.domain.usage import totals

MAX_ID = 2**63 - 1  # of a bigint; PostgreSQL answers a larger number with an error


class SupabaseTaskStore:
    """Rows of `tasks` and `task_events`. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def create(self, task: NewTask) -> StartedRun:
        """Raises NotFound for a foreign project, Conflict (code `idempotency_key_reused`) for a key under which
        something else was asked, InvalidInput (code `max_duration_too_long`), TooMany (`too_many_active_runs`,
        `too_many_starts`) beyond a limit, Unavailable.
        """
        with speaking_our_errors({"PT404": "Project not found"}):
            made = call(
                self._client,
                "create_task",
                {
                    "p_prompt": task.prompt,
                    "p_repo_url": task.repo_url,
                    "p_branch": task.branch,
                    "p_agent": task.agent,
                    "p_model": task.model,
                    "p_credential": _git_token(task.credential_id, task.credential, task.credential_hint),
                    "p_idempotency_key": task.idempotency_key,
                    "p_trace_id": task.trace_id,
                    "p_request_hash": task.request_hash,
                    **{f"p_{name}": value for name, value in asdict(task.options).items()},
                },
            )
        return StartedRun(task_id=made["task_id"], run_id=made["run_id"], seq=made["seq"], created=made["created"])

    def create_run(self, run: NewRun) -> StartedRun:
        """Another run of a task that has ended. Raises NotFound, Conflict (codes `run_active`, `chat_full`,
        `nothing_to_retry`, `idempotency_key_reused`), TooMany, Unavailable.
        """
        arguments = {
            "p_task_id": _existing(run.task_id),
            "p_kind": run.kind,
            "p_prompt": run.prompt,
            "p_credential": _git_token(run.token.id, run.token.sealed, run.token.hint) if run.token else None,
            "p_idempotency_key": run.idempotency_key,
            "p_trace_id": run.trace_id,
            "p_request_hash": run.request_hash,
        }
        with speaking_our_errors({"PT404": "Task not found"}):
            made = call(self._client, "create_run", arguments)
        return StartedRun(task_id=made["task_id"], run_id=made["run_id"], seq=made["seq"], created=made["created"])

    def request_cancel(self, task_id: int) -> CancelledRun:
        """Asking twice is fine. Raises NotFound, Conflict (code `task_ended`) when nothing is left to stop."""
        with speaking_our_errors({"PT404": "Task not found"}):
            run = call(self._client, "request_cancel", {"p_task_id": _existing(task_id)})
        return CancelledRun(run_id=run["run_id"], seq=run["seq"], at_work=run["at_work"])

    def run_progress(self, task_id: int) -> Row:
        """The newest run's run_id, its phase while it is active, its queue_position while it is queued; else None."""
        with speaking_our_errors():
            found: Row = call(self._client, "run_progress", {"p_task_id": _existing(task_id)})
        return found

    def get(self, task_id: int, *, owner_id: str) -> Row:
        """The whole row, and the usage. Raises NotFound, also when it is somebody else's."""
        return self.get_columns(task_id, ["*", "usage"], owner_id=owner_id)

    def get_columns(self, task_id: int, columns: Collection[str], *, owner_id: str) -> Row:
        """Some columns of the row, and `usage`. Raises NotFound, also when it is somebody else's."""
        selected = ",".join("runs(usage)" if column == "usage" else column for column in columns)
        row = _found(self._row(task_id, selected, owner_id))
        return row | {"usage": totals(run["usage"] for run in row.pop("runs"))} if "usage" in columns else row

    def page(self, wanted: TaskFilter, *, limit: int, after: Row | None, owner_id: str) -> TaskPage:
        """Up to `limit` tasks (at most 1,000) that come after the row `after`, whose created_at and id count.

        Fewer, but at least one, where their rows would have more than 6 MB.
        """
        if abs(wanted.project_id or 0) > MAX_ID:
            return TaskPage([], total=0, more=False)
        arguments = {
            "p_limit": limit,
            "p_after_at": after and after["created_at"],
            "p_after_id": after and after["id"],
            "p_status": wanted.status,
            "p_project_id": wanted.project_id,
            "p_search": wanted.search,
        }
        with speaking_our_errors():
            found = call(self._client, "list_tasks", arguments)
        own = [row for row in found["tasks"] if row["user_id"] == owner_id]  # the function has asked whose token it is
        return TaskPage(own, total=found["total"], more=found["more"])

    def append_chat_message(self, task_id: int, role: str, content: str) -> None:
        """Two at once both stay. Raises NotFound, also when it is somebody else's, and Conflict (code `chat_full`)."""
        arguments = {"p_task_id": _existing(task_id), "p_role": role, "p_content": content}
        with speaking_our_errors({"PT404": "Task not found"}):
            call(self._client, "append_chat_message", arguments)

    def events(self, task_id: int, *, after: int, limit: int, owner_id: str) -> LiveLog:
        """Entries of the live log with `seq` above `after`; one query, so that the status fits the entries.

        Raises NotFound, also when it is somebody else's.
        """
        query = self._row(task_id, "status,task_events(seq,run_id,kind,payload,at)", owner_id)
        query = query.gt("task_events.seq", after).order("seq", foreign_table="task_events")
        row = _found(query.limit(limit, foreign_table="task_events"))
        return LiveLog(row["status"], row["task_events"])

    def _row(self, task_id: int, columns: str, owner_id: str) -> SyncSelectRequestBuilder:
        return self._client.table("tasks").select(columns).eq("id", _existing(task_id)).eq("user_id", owner_id)


def _git_token(credential_id: str, sealed: Sealed, hint: str | None) -> Row:
    return {
        "id": credential_id,
        "kind": "git_token",
        "ciphertext": sealed.ciphertext,
        "key_id": sealed.key_id,
        "alg": sealed.alg,
        "hint": hint,
    }


def _existing(task_id: int) -> int:
    if task_id > MAX_ID:
        raise NotFound("Task not found")
    return task_id


def _found(query: SyncSelectRequestBuilder) -> Row:
    with speaking_our_errors():
        rows = query.execute().data
    if not rows:
        raise NotFound("Task not found")
    return rows[0]  # type: ignore[return-value]  # the library types rows as any JSON value
