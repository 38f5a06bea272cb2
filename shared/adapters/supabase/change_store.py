"""What a signed-in user's agents changed, and the pull requests made of it; the database decides what is whose."""

import base64
import binascii
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from postgrest import SyncPostgrestClient

from shared.adapters.supabase.postgrest_client import call, speaking_our_errors
from shared.domain.binary_patch import blob_id
from shared.domain.changes import FileChange, RunChanges
from shared.domain.contents import APART, PART_BYTES, ContentPart, joined
from shared.domain.ports import Row
from shared.domain.pull_request import PullRequest
from shared.domain.run import RunStatus

FILE_COLUMNS = "path,previous_path,status,mode,before,after,encoding,size,truncated"
LISTED_COLUMNS = "path,previous_path,status,mode,size,truncated"
NO_AFTER = "deleted"  # the only status of a file that need not exist afterwards
FETCHED_BYTES = 4 * PART_BYTES  # of contents in one answer, where they are twice as long, unless one alone is more
FETCHED_IDS = 50  # in one address


class SupabaseChangeStore:
    """Rows of `runs`, `task_files` and `task_contents`. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def latest(self, task_id: int, *, owner_id: str) -> RunChanges:
        """Of the task's last completed run; files whose contents were too much to store are left out.

        So are those beyond PostgREST's cap of 1,000 rows: compare with the task's `changed_files`.
        """
        query = self._client.table("runs").select(f"id,base_commit,prompt,task_files({FILE_COLUMNS})")
        query = query.eq("task_id", task_id).eq("user_id", owner_id).eq("status", RunStatus.COMPLETED)
        with speaking_our_errors():
            query = query.order("finished_at", desc=True).limit(1).order("path", foreign_table="task_files")
            rows: list[Any] = query.execute().data
        if not rows:
            return RunChanges()
        files = rows[0]["task_files"]
        apart = {file["after"]: file["size"] for file in files if file["encoding"] == APART and file["after"]}
        contents = self._contents(rows[0]["id"], apart)
        changes = (_change(file, contents) for file in files)
        return RunChanges(rows[0]["base_commit"], tuple(change for change in changes if change), rows[0]["prompt"])

    def files(self, task_id: int, *, owner_id: str) -> list[Row]:
        """Without contents, by path: of the newest run that was completed or has left any."""
        run_id = self._run_to_show(task_id)
        if run_id is None:
            return []
        query = self._client.table("task_files").select(f"{LISTED_COLUMNS},tasks!inner()").eq("run_id", run_id)
        with speaking_our_errors():
            found: Any = query.eq("tasks.user_id", owner_id).order("path").execute().data
        rows: list[Row] = found
        return rows

    def file(self, task_id: int, path: str, *, sides: Collection[str], owner_id: str) -> Row | None:
        """One of those, with `before` and `after` as bytes; of a large one, those of `sides` only. None: no such file.

        A side is None where it does not exist, was not asked for, or was too much to be stored.
        """
        run_id = self._run_to_show(task_id)
        if run_id is None:
            return None
        query = self._client.table("task_files").select(f"{FILE_COLUMNS},tasks!inner()").eq("run_id", run_id)
        with speaking_our_errors():
            rows: list[Any] = query.eq("tasks.user_id", owner_id).eq("path", path).execute().data
        return self._with_contents(run_id, rows[0], sides) if rows else None

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

    def _run_to_show(self, task_id: int) -> str | None:
        with speaking_our_errors():
            run_id: str | None = call(self._client, "run_with_files", {"p_task_id": task_id})
        return run_id

    def _with_contents(self, run_id: str, row: Row, sides: Collection[str]) -> Row:
        wanted = {row[side]: 0 for side in sides if row["encoding"] == APART and row[side]}
        contents = self._contents(run_id, wanted)
        return {**row, **{side: _content(row, side, contents) for side in ("before", "after")}}

    def _contents(self, run_id: str, sizes: Mapping[str, int]) -> dict[str, bytes]:
        """Those of the run that are whole, by id; `sizes` tells how many to fetch at once."""
        found: dict[str, bytes] = {}
        for ids in _portions(sizes):
            query = self._client.table("task_contents").select("id,part,parts,data").eq("run_id", run_id)
            with speaking_our_errors():
                rows: list[Any] = query.in_("id", ids).execute().data
            found |= joined(ContentPart(row["id"], row["part"], row["parts"], _bytea(row["data"])) for row in rows)
        return found


def _portions(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    ids: list[str] = []
    for content_id, size in sizes.items():
        if ids and (len(ids) == FETCHED_IDS or size + sum(sizes[one] for one in ids) > FETCHED_BYTES):
            yield ids
            ids = []
        ids.append(content_id)
    if ids:
        yield ids


def _change(row: Row, contents: Mapping[str, bytes]) -> FileChange | None:
    """None when there is not all of the file: it was too large, or is a submodule, which has no contents."""
    after = _content(row, "after", contents)
    if row["truncated"] or (after is None and row["status"] != NO_AFTER):
        return None
    return FileChange(
        path=row["path"],
        previous_path=row["previous_path"],
        mode=row["mode"],
        before_id=_before_id(row),
        after=after,
    )


def _before_id(row: Row) -> str | None:
    if row["encoding"] == APART:
        before_id: str | None = row["before"]
        return before_id
    before = _content(row, "before", {})
    return None if before is None else blob_id(before)


def _content(row: Row, side: str, contents: Mapping[str, bytes]) -> bytes | None:
    text: str | None = row[side]
    if text is None:
        return None
    if row["encoding"] == APART:
        return contents.get(text)
    if row["encoding"] != "base64":
        return text.encode()
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:  # a secret was taken out of it, and now it is no base64 any more
        return None


def _bytea(text: str) -> bytes:
    """PostgREST writes bytes as PostgreSQL does: `\\x` and hexadecimal digits."""
    return bytes.fromhex(text[2:])
