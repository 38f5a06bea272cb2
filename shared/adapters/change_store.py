"""What a signed-in user's agents changed, and the pull requests made of it; the database decides what is whose."""

import base64
import binascii
from typing import Any

from postgrest import SyncPostgrestClient

from shared.adapters.postgrest_client import call, speaking_our_errors
from shared.domain.changes import FileChange, RunChanges
from shared.domain.pull_request import PullRequest
from shared.domain.run import RunStatus

FILE_COLUMNS = "path,previous_path,status,mode,before,after,encoding,truncated"
NO_AFTER = "deleted"  # the only status of a file that need not exist afterwards


class SupabaseChangeStore:
    """Rows of `runs` and `task_files`. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def latest(self, task_id: int, *, owner_id: str) -> RunChanges:
        """Of the task's last completed run; files whose contents were too much to store are left out.

        So are those beyond PostgREST's cap of 1,000 rows: compare with the task's `changed_files`.
        """
        query = self._client.table("runs").select(f"base_commit,task_files({FILE_COLUMNS})")
        query = query.eq("task_id", task_id).eq("user_id", owner_id).eq("status", RunStatus.COMPLETED)
        with speaking_our_errors():
            rows: list[Any] = query.order("finished_at", desc=True).limit(1).execute().data
        if not rows:
            return RunChanges()
        changes = (_change(file) for file in rows[0]["task_files"])
        return RunChanges(rows[0]["base_commit"], tuple(change for change in changes if change))

    def record_pull_request(self, task_id: int, pull_request: PullRequest) -> None:
        """Raises NotFound, also when the task is somebody else's."""
        arguments = {
            "p_task_id": task_id,
            "p_branch": pull_request.branch,
            "p_number": pull_request.number,
            "p_url": pull_request.url,
        }
        with speaking_our_errors({"PT404": "Task not found"}):
            call(self._client, "record_pull_request", arguments)


def _change(row: dict[str, Any]) -> FileChange | None:
    """None when the row does not have all of the file: too large, or a submodule, which has no contents."""
    if row["truncated"] or (row["after"] is None and row["status"] != NO_AFTER):
        return None
    try:
        before, after = (_content(row[side], row["encoding"]) for side in ("before", "after"))
    except binascii.Error:  # a secret was taken out of it, and now it is no base64 any more
        return None
    return FileChange(
        path=row["path"], previous_path=row["previous_path"], mode=row["mode"], before=before, after=after
    )


def _content(text: str | None, encoding: str) -> bytes | None:
    if text is None:
        return None
    return base64.b64decode(text, validate=True) if encoding == "base64" else text.encode()
