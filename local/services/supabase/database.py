"""The connections of the gateway: every request is one transaction in the role of its caller."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from local.services.supabase.catalog import Catalog, read_catalog

POOL_SIZE = 10
POOL_TIMEOUT_S = 10.0  # PostgREST's db-pool-acquisition-timeout
STATEMENT_TIMEOUT = "8s"  # what hosted Supabase grants the role `authenticated`

Connection = AsyncConnection[TupleRow]

# One round trip. `role` comes last: afterwards the caller's rights apply.
_BEGIN_AS = """
select set_config('search_path', %s, true), set_config('statement_timeout', %s, true),
    set_config('transaction_read_only', %s, true), set_config('request.jwt.claims', %s, true),
    set_config('request.headers', %s, true), set_config('request.method', %s, true),
    set_config('request.path', %s, true), set_config('role', %s, true)
"""


class Database:
    """A pool of superuser connections, and what the schema contains."""

    def __init__(self, dsn: str) -> None:
        self._pool = AsyncConnectionPool(
            dsn,
            min_size=1,
            max_size=POOL_SIZE,
            timeout=POOL_TIMEOUT_S,
            open=False,
            # Prepared plans outlive a migration ("cached plan must not change result type"), so none are kept.
            kwargs={"prepare_threshold": None, "options": "-c timezone=UTC", "application_name": "supabase-gateway"},
        )
        self._catalog: Catalog | None = None
        self._catalog_lock = asyncio.Lock()

    async def open(self) -> None:
        """Connect. Raises psycopg_pool.PoolTimeout when PostgreSQL does not answer."""
        await self._pool.open(wait=True, timeout=POOL_TIMEOUT_S)

    async def close(self) -> None:
        await self._pool.close()

    async def catalog(self) -> Catalog:
        """What the schema contains; read once, and again after `forget_catalog`."""
        if self._catalog is None:
            async with self._catalog_lock:
                if self._catalog is None:
                    async with self._pool.connection() as connection:
                        self._catalog = await read_catalog(connection)
        return self._catalog

    def forget_catalog(self) -> None:
        self._catalog = None

    @asynccontextmanager
    async def transaction(
        self,
        role: str,
        *,
        search_path: str = "public, extensions",
        read_only: bool = False,
        claims: str = "",
        headers: str = "",
        method: str = "",
        path: str = "",
    ) -> AsyncIterator[Connection]:
        """A transaction with the rights of `role`; committed at the end, rolled back by an exception.

        Statements are sent without waiting for the one before (a pipeline), until a result is fetched:
        measured, that takes a third off a simple request.
        """
        async with self._pool.connection() as connection:
            settings = (search_path, STATEMENT_TIMEOUT, "on" if read_only else "off", claims, headers, method, path)
            async with connection.pipeline():
                await connection.execute(_BEGIN_AS, (*settings, role))
                yield connection
