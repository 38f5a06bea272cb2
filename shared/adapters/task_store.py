"""Tasks as one signed-in user sees them: every request carries that user's token, and the database decides."""

from collections.abc import Collection

from postgrest import SyncPostgrestClient, SyncSelectRequestBuilder

from shared.adapters.postgrest_client import call, speaking_our_errors
from shared.domain.errors import NotFound
from shared.domain.ports import LiveLog, NewTask, Row, StartedRun

MAX_ID = 2**63 - 1  # of a bigint; PostgreSQL answers a larger number with an error
# PostgREST caps an answer at 1,000 rows by default, silently; longer lists are read page by page.
PAGE_ROWS = 1000

# Of a list: nothing that grows with what an agent changed.
LIST_COLUMNS = (
    "id,user_id,project_id,status,agent,repo_url,target_branch,commit_hash,pr_branch,pr_number,pr_url,error,"
    "chat_messages,created_at,updated_at,started_at,completed_at,has_patch"
)


class SupabaseTaskStore:
    """Rows of `tasks` and `task_events`. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def create(self, task: NewTask) -> StartedRun:
        """Raises NotFound for a foreign project, TooMany beyond the user's limit, Unavailable."""
        with speaking_our_errors({"PT404": "Project not found"}):
            made = call(
                self._client,
                "create_task",
                {
                    "p_prompt": task.prompt,
                    "p_repo_url": task.repo_url,
                    "p_branch": task.branch,
                    "p_agent": task.agent,
                    "p_project_id": task.project_id,
                    "p_model": task.model,
                    "p_credential": {
                        "id": task.credential_id,
                        "kind": "git_token",
                        "ciphertext": task.credential.ciphertext,
                        "key_id": task.credential.key_id,
                        "alg": task.credential.alg,
                        "hint": task.credential_hint,
                    },
                    "p_idempotency_key": task.idempotency_key,
                    "p_trace_id": task.trace_id,
                },
            )
        return StartedRun(task_id=made["task_id"], run_id=made["run_id"], seq=made["seq"], created=made["created"])

    def get(self, task_id: int, *, owner_id: str) -> Row:
        """The whole row. Raises NotFound, also when it is somebody else's."""
        return _found(self._row(task_id, "*", owner_id))

    def get_columns(self, task_id: int, columns: Collection[str], *, owner_id: str) -> Row:
        """Some columns of the row. Raises NotFound, also when it is somebody else's."""
        return _found(self._row(task_id, ",".join(columns), owner_id))

    def list_all(self, *, owner_id: str, project_id: int | None) -> list[Row]:
        """All tasks, newest first, without what their agents changed."""
        rows: list[Row] = []
        if project_id is not None and abs(project_id) > MAX_ID:
            return rows
        while True:
            page = self._client.table("tasks").select(LIST_COLUMNS).eq("user_id", owner_id)
            if project_id is not None:
                page = page.eq("project_id", project_id)
            if rows:
                page = page.lt("id", rows[-1]["id"])
            with speaking_our_errors():
                found = page.order("id", desc=True).limit(PAGE_ROWS).execute().data
            rows += found  # type: ignore[arg-type]  # the library types rows as any JSON value
            if len(found) < PAGE_ROWS:
                return rows

    def events(self, task_id: int, *, after: int, limit: int, owner_id: str) -> LiveLog:
        """Entries of the live log with `seq` above `after`; one query, so that the status fits the entries.

        Raises NotFound, also when it is somebody else's.
        """
        query = self._row(task_id, "status,task_events(seq,run_id,kind,payload,at)", owner_id)
        query = query.gt("task_events.seq", after).order("seq", foreign_table="task_events")
        row = _found(query.limit(limit, foreign_table="task_events"))
        return LiveLog(row["status"], row["task_events"])

    def _row(self, task_id: int, columns: str, owner_id: str) -> SyncSelectRequestBuilder:
        if task_id > MAX_ID:
            raise NotFound("Task not found")
        return self._client.table("tasks").select(columns).eq("id", task_id).eq("user_id", owner_id)


def _found(query: SyncSelectRequestBuilder) -> Row:
    with speaking_our_errors():
        rows = query.execute().data
    if not rows:
        raise NotFound("Task not found")
    return rows[0]  # type: ignore[return-value]  # the library types rows as any JSON value


class SupabaseUserDirectory:
    """Whether a user exists and is signed in, asked with that user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def exists(self, user_id: str) -> bool:
        """Raises Unavailable: a database that is down must not look like a missing user."""
        with speaking_our_errors():
            return bool(self._client.table("users").select("id").eq("id", user_id).execute().data)

    def has_live_session(self, user_agent: str) -> bool:
        """Whether a Supabase session of this user agent was refreshed within the last 70 minutes."""
        with speaking_our_errors():
            return call(self._client, "has_live_session", {"p_user_agent": user_agent}) is True
