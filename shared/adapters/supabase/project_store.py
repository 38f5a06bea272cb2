"""Projects as one signed-in user sees them: every request carries that user's token, and the database decides."""

from typing import Any

from postgrest import SyncPostgrestClient

from shared.adapters.supabase.postgrest_client import call, speaking_our_errors
from shared.adapters.supabase.task_store import MAX_ID
from shared.domain.errors import Conflict, NotFound
from shared.domain.ports import Row

NO_TASKS = {"task_count": 0, "completed_tasks": 0, "active_tasks": 0}


class SupabaseProjectStore:
    """Rows of `projects`, with the numbers of their tasks. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def list_all(self, *, owner_id: str) -> list[Row]:
        """Newest first."""
        return self._counted({}, owner_id)

    def get(self, project_id: int, *, owner_id: str) -> Row:
        """Raises NotFound, also when it is somebody else's."""
        return _only(self._counted({"p_id": _existing(project_id)}, owner_id))

    def create(self, columns: Row, *, owner_id: str) -> Row:
        """`columns`: name, repo_url, repo_owner, repo_name, and any of description, settings, is_active.

        Raises Conflict (code `project_exists`) when there is a project of this repository already, and names it.
        """
        query = self._table.insert({**columns, "user_id": owner_id})
        return _only(self._written(query, columns, owner_id)) | NO_TASKS

    def update(self, project_id: int, changes: Row, *, owner_id: str) -> Row:
        """The row after the `changes`, of which there may be none. Raises NotFound, Conflict as `create` does."""
        if changes:
            query = self._table.update(changes).eq("id", _existing(project_id)).eq("user_id", owner_id)
            _only(self._written(query, changes, owner_id))
        return self.get(project_id, owner_id=owner_id)

    def delete(self, project_id: int, *, owner_id: str) -> None:
        """Its tasks go with it. Raises NotFound."""
        with speaking_our_errors():
            _only(self._table.delete().eq("id", _existing(project_id)).eq("user_id", owner_id).execute().data)

    @property
    def _table(self) -> Any:  # the library types rows as any JSON value
        return self._client.table("projects")

    def _counted(self, arguments: Row, owner_id: str) -> list[Row]:
        with speaking_our_errors():
            rows: list[Row] = call(self._client, "list_projects", arguments)
        return [row for row in rows if row["user_id"] == owner_id]  # the function has asked whose token it is

    def _written(self, query: Any, columns: Row, owner_id: str) -> list[Row]:
        try:
            with speaking_our_errors():
                rows: list[Row] = query.execute().data
                return rows
        except Conflict:
            raise self._exists(columns["repo_owner"], columns["repo_name"], owner_id) from None

    def _exists(self, repo_owner: str, repo_name: str, owner_id: str) -> Conflict:
        query = self._table.select("id,name").eq("user_id", owner_id)
        query = query.ilike("repo_owner", _literally(repo_owner)).ilike("repo_name", _literally(repo_name))
        with speaking_our_errors():
            return project_exists(f"{repo_owner}/{repo_name}", query.execute().data)


def project_exists(full_name: str, known: list[Row]) -> Conflict:
    """`known`: id and name of the projects of `owner/name`: one, unless it is on two hosts or was deleted just now."""
    sentence = f"You already have a project for {full_name}"
    if len(known) != 1:
        return Conflict(f"{sentence}.", code="project_exists")
    return Conflict(f"{sentence}: {known[0]['name']}", code="project_exists", shown={"project_id": known[0]["id"]})


def _existing(project_id: int) -> int:
    if project_id > MAX_ID:
        raise NotFound("Project not found")
    return project_id


def _only(rows: list[Row]) -> Row:
    if not rows:
        raise NotFound("Project not found")
    return rows[0]


def _literally(text: str) -> str:
    """For LIKE, in which `_` stands for any character. Owners and names have none of the others that mean something."""
    return text.replace("_", r"\_")
