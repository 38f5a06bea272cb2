"""What a signed-in user has spent: every request carries that user's token, and the database decides."""

from datetime import datetime

from postgrest import SyncPostgrestClient

from shared.adapters.supabase.postgrest_client import call, speaking_our_errors
from shared.domain.ports import Row

MAX_ID = 2**63 - 1  # of a bigint; PostgreSQL answers a larger number with an error


class SupabaseUsageStore:
    """The function `usage_totals`. `client` must carry the user's own token."""

    def __init__(self, client: SyncPostgrestClient) -> None:
        self._client = client

    def totals(self, *, start: datetime, end: datetime | None, project_id: int | None) -> Row:
        """See shared/domain/ports.py. Raises Unavailable."""
        arguments = {
            "p_from": start.isoformat(),
            "p_to": end and end.isoformat(),
            "p_project_id": min(project_id, MAX_ID) if project_id is not None else None,
        }
        with speaking_our_errors():
            found: Row = call(self._client, "usage_totals", arguments)
        return found
