"""Brings a database to the state of a hosted Supabase project with our migrations applied."""

from pathlib import Path

import psycopg

BOOTSTRAP = Path(__file__).with_name("bootstrap.sql")

# The table in which the Supabase CLI records what it has applied.
HISTORY = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
    version text primary key, statements text[], name text
);
"""


class MigrationError(Exception):
    """The database cannot follow the migrations; the text names the file and what to do."""


def prepare(dsn: str, migrations_dir: Path) -> list[str]:
    """Make the database look like Supabase, then apply each new `<version>_<name>.sql` in name order.

    Every file is one transaction and is applied once; returns the versions applied now. Raises
    MigrationError when a file fails, or when one that was applied earlier has changed since.
    """
    with psycopg.connect(dsn, autocommit=True, options="-c client_min_messages=warning") as connection:
        connection.execute(BOOTSTRAP.read_bytes())
        connection.execute(HISTORY.encode())
        return [
            version
            for file in sorted(migrations_dir.glob("*.sql"))
            if (version := _apply(connection, file)) is not None
        ]


def _apply(connection: psycopg.Connection, file: Path) -> str | None:
    """Apply one file; None if that had been done before."""
    version, _, name = file.stem.partition("_")
    text = file.read_text(encoding="utf-8")
    with connection.transaction():
        # One at a time, should two programs prepare the same database.
        connection.execute("lock table supabase_migrations.schema_migrations in exclusive mode")
        row = connection.execute(
            "select statements from supabase_migrations.schema_migrations where version = %s", (version,)
        ).fetchone()
        if row is not None:
            if row[0] != [text]:
                raise MigrationError(
                    f"{file.name} has changed since it was applied to this local database. "
                    "Migrations are never edited once merged; while you are still writing one, delete the "
                    "data folder of the local stack and start again."
                )
            return None
        try:
            connection.execute(text.encode())
        except psycopg.Error as error:
            raise MigrationError(f"{file.name} failed: {error}") from error
        connection.execute(
            "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)",
            (version, [text], name),
        )
        return version
