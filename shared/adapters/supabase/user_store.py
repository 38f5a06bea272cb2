"""Who exists, what they say of themselves, and their keys for programs. Row-level security decides who sees what."""

from datetime import datetime
from typing import Any

from postgrest import CountMethod, ReturnMethod, SyncPostgrestClient

from shared.adapters.supabase.postgrest_client import call, speaking_our_errors
from shared.domain.errors import NotFound
from shared.domain.ports import Row

# Of the own row: without github_token, in which nothing can stand.
PROFILE_COLUMNS = (
    "id,email,full_name,avatar_url,github_username,preferences,created_at,updated_at,is_test_user,expires_at"
)
API_KEY_COLUMNS = "id,name,hint,created_at,expires_at,last_used_at"


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


class SupabaseTestUserDirectory:
    """Rows of `users` that are test users'. `client` must act as the service, which sees everybody's."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def list_all(self) -> list[Row]:
        """Newest first, at most 1,000, which is PostgREST's own cap for one answer."""
        with speaking_our_errors():
            rows = self._rows(PROFILE_COLUMNS).order("created_at", desc=True).order("id").execute().data
        return [_profile(row) for row in rows]

    def get(self, user_id: str) -> Row:
        """Raises NotFound, also for a user who is no test user."""
        with speaking_our_errors():
            rows = self._rows(PROFILE_COLUMNS).eq("id", user_id).execute().data
        if not rows:
            raise NotFound("Test user not found")
        return _profile(rows[0])

    def expired(self, now: datetime, *, limit: int) -> list[str]:
        """The ids of those whose time was over at `now`, longest ago first."""
        with speaking_our_errors():
            ended = self._rows("id").lte("expires_at", now.isoformat()).order("expires_at").limit(limit).execute()
        return [row["id"] for row in ended.data]

    def _rows(self, columns: str) -> Any:  # the library types rows as any JSON value
        return self._client.table("users").select(columns).is_("is_test_user", True)


class SupabaseProfileStore:
    """The own row of `users`. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def get(self, *, owner_id: str) -> Row:
        """Raises NotFound."""
        with speaking_our_errors():
            rows: Any = self._client.table("users").select(PROFILE_COLUMNS).eq("id", owner_id).execute().data
        return _profile(rows[0] if rows else None)

    def update(self, changes: Row, *, owner_id: str) -> Row:
        """The row after the changes; see update_profile in supabase/schemas. Raises NotFound."""
        with speaking_our_errors({"23514": "All preferences together are too long."}):
            row = call(self._client, "update_profile", {"p_changes": changes})
        return _profile(row if row and row["id"] == owner_id else None)


class SupabaseApiKeyStore:
    """Rows of `api_keys`. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def create(self, *, name: str, key_hash: str, hint: str, expires_at: datetime | None) -> Row:
        """Raises Conflict beyond 50 keys."""
        arguments = {
            "p_name": name,
            "p_key_hash": key_hash,
            "p_hint": hint,
            "p_expires_at": expires_at.isoformat() if expires_at else None,
        }
        with speaking_our_errors({"PT409": "You have 50 API keys, the maximum. Revoke one first."}):
            row: Row = call(self._client, "create_api_key", arguments)
            return row

    def list_all(self, *, owner_id: str) -> list[Row]:
        """Newest first."""
        query = self._client.table("api_keys").select(API_KEY_COLUMNS).eq("user_id", owner_id)
        with speaking_our_errors():
            return query.order("created_at", desc=True).order("id").execute().data  # type: ignore[return-value]

    def revoke(self, key_id: str, *, owner_id: str) -> None:
        """Raises NotFound."""
        # Counted, not returned: the deleted row has a hash, which nobody may read.
        query = self._client.table("api_keys").delete(count=CountMethod.exact, returning=ReturnMethod.minimal)
        with speaking_our_errors():
            revoked = query.eq("id", key_id).eq("user_id", owner_id).execute().count
        if not revoked:
            raise NotFound("API key not found")


class SupabaseApiKeyDirectory:
    """Whose an API key is. `client` acts as nobody in particular."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def user_of(self, key_hash: str) -> str | None:
        """Whose valid key has this SHA-256; it then counts as used. Raises Unavailable."""
        with speaking_our_errors():
            user_id: str | None = call(self._client, "user_of_api_key", {"p_key_hash": key_hash})
            return user_id


def _profile(row: Row | None) -> Row:
    """Two columns may be null in a row that is older than we are."""
    if row is None:
        raise NotFound("User not found")
    return row | {"preferences": row["preferences"] or {}, "is_test_user": bool(row["is_test_user"])}
