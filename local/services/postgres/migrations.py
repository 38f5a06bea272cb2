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
    """A migration failed; the text names the file."""


class OtherHistory(MigrationError):
    """The database was made by migrations that are not the first ones of the folder; the text names one of them."""


def prepare(dsn: str, migrations_dir: Path) -> list[str]:
    """Make the database look like Supabase, then apply each new `<version>_<name>.sql` in name order.

    Every file is one transaction and is applied once; returns the versions applied now. Raises MigrationError when a
    file fails, and OtherHistory, before anything is changed, when the applied migrations are not the first of the
    folder with the text that they have there.
    """
    files = sorted(migrations_dir.glob("*.sql"))
    with psycopg.connect(dsn, autocommit=True, options="-c client_min_messages=warning") as connection:
        _check_history(connection, files)
        connection.execute(BOOTSTRAP.read_bytes())
        connection.execute(HISTORY.encode())
        return [_version(file) for file in files if _apply(connection, file)]


def _check_history(connection: psycopg.Connection, files: list[Path]) -> None:
    for number, (version, name, text) in enumerate(_applied(connection)):
        applied = f"{version}_{name}.sql"
        if number >= len(files) or _version(files[number]) != version:
            known = any(_version(file) == version for file in files)
            reason = "comes later in this version of the project" if known else "is not in this version of the project"
            raise OtherHistory(f"{applied} was applied to this local database and {reason}.")
        if text != files[number].read_text(encoding="utf-8"):
            raise OtherHistory(f"{applied} has changed since it was applied to this local database.")


def _applied(connection: psycopg.Connection) -> list[tuple[str, str, str]]:
    """Version, name and text of each applied migration, in their order; none in a new database."""
    found = connection.execute("select to_regclass('supabase_migrations.schema_migrations')").fetchone()
    if found is None or found[0] is None:
        return []
    rows = connection.execute(
        "select version, name, array_to_string(statements, '') from supabase_migrations.schema_migrations "
        'order by version collate "C"'
    )
    return list(rows)


def _version(file: Path) -> str:
    return file.stem.partition("_")[0]


def _apply(connection: psycopg.Connection, file: Path) -> bool:
    """Apply one file; False if that had been done before."""
    version, _, name = file.stem.partition("_")
    text = file.read_text(encoding="utf-8")
    with connection.transaction():
        # One at a time, should two programs prepare the same database.
        connection.execute("lock table supabase_migrations.schema_migrations in exclusive mode")
        done = "select from supabase_migrations.schema_migrations where version = %s"
        if connection.execute(done, (version,)).fetchone() is not None:
            return False
        try:
            connection.execute(text.encode())
        except psycopg.Error as error:
            raise MigrationError(f"{file.name} failed: {error}") from error
        connection.execute(
            "insert into supabase_migrations.schema_migrations (version, statements, name) values (%s, %s, %s)",
            (version, [text], name),
        )
        return True
