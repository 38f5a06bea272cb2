"""The launcher of the embedded PostgreSQL, and what it makes of an empty database."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from local.postgres import MigrationError, Postgres, PostgresError, prepare
from local.postgres.account import Account, programs_for

ROOT = Path(__file__).parents[2]
MIGRATIONS = ROOT / "supabase" / "migrations"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run PostgreSQL as somebody else")


@pytest.fixture
def data_dir():
    """A new folder that everybody may enter; pytest's own are private to the user."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        yield Path(folder)


@pytest.fixture
def private_dir(tmp_path):
    """A folder below one that only we may enter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    yield closed / "data"
    link = closed / "data" / "moved-to"
    if link.is_symlink():
        shutil.rmtree(link.readlink())


@pytest.fixture
def migrations(tmp_path):
    folder = tmp_path / "migrations"
    folder.mkdir()
    return folder


def ask(dsn, question, *values):
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(question, values)
        return cursor.fetchall() if cursor.description else None


def remember(dsn, word):
    ask(dsn, "create table memory (word text)")
    ask(dsn, "insert into memory values (%s)", word)


def postmaster_of(data_dir):
    return int((data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()[0])


@contextmanager
def launched(data_dir):
    """`python -m local.postgres` as a supervisor runs it."""
    argv = [sys.executable, "-m", "local.postgres", "--data-dir", str(data_dir)]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            line = launcher.stdout.readline()
            assert "accepts connections on 127.0.0.1:" in line, launcher.stderr.read()
            yield launcher, int(line.rpartition(":")[2])
        finally:
            launcher.kill()


def wait_until_gone(pid):
    deadline = time.monotonic() + 15
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_data_is_kept_between_two_starts(data_dir):
    with Postgres(data_dir) as server:
        remember(server.dsn, "kept")
    with Postgres(data_dir) as server:
        assert ask(server.dsn, "select word from memory") == [("kept",)]


def test_the_port_is_the_one_asked_for(data_dir):
    with Postgres(data_dir) as server:
        port = server.port
    with Postgres(data_dir, port) as server:
        assert ask(server.dsn, "show port") == [(str(port),)]


def test_nobody_gets_in_without_the_password(data_dir):
    with Postgres(data_dir) as server:
        for guess in ("", "postgres"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(f"postgresql://postgres:{guess}@127.0.0.1:{server.port}/postgres")


def test_the_database_sees_nothing_of_our_environment(data_dir, monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-not-for-the-database")
    with Postgres(data_dir):
        environment = psutil.Process(postmaster_of(data_dir)).environ()
    assert "PATH" in environment
    assert "ANTHROPIC_API_KEY" not in environment


def test_two_launchers_cannot_share_a_folder(data_dir):
    with Postgres(data_dir), pytest.raises(PostgresError, match="Another process already serves"):
        Postgres(data_dir).start()


def test_a_taken_port_is_an_error_with_the_servers_own_words(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PostgresError, match="Address already in use"):
        Postgres(data_dir, taken.getsockname()[1]).start()


def test_a_killed_server_leaves_nothing_that_blocks_the_next_start(data_dir):
    server = Postgres(data_dir)
    server.start()
    remember(server.dsn, "survived")
    os.kill(postmaster_of(data_dir), signal.SIGKILL)
    server.stop()

    with Postgres(data_dir) as server:
        assert ask(server.dsn, "select word from memory") == [("survived",)]


def test_a_pid_file_that_names_a_living_stranger_does_not_block_the_start(data_dir):
    with Postgres(data_dir):
        lines = (data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()
    (data_dir / "pgdata" / "postmaster.pid").write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    with Postgres(data_dir) as server:
        assert ask(server.dsn, "select 1") == [(1,)]


def test_a_server_whose_launcher_was_killed_is_replaced(data_dir):
    with launched(data_dir) as (launcher, _port):
        orphan = postmaster_of(data_dir)
        launcher.kill()
        launcher.wait(10)
    assert psutil.pid_exists(orphan)

    with Postgres(data_dir) as server:
        assert ask(server.dsn, "select 1") == [(1,)]
        wait_until_gone(orphan)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_program_stops_the_server_when_told_to_stop(data_dir, number):
    with launched(data_dir) as (launcher, _port):
        postmaster = postmaster_of(data_dir)
        launcher.send_signal(number)
        assert launcher.wait(15) == 0
        assert launcher.stderr.read() == ""
    wait_until_gone(postmaster)
    assert not (data_dir / "pgdata" / "postmaster.pid").exists(), "a clean stop removes it"


def test_the_program_ends_when_the_server_does(data_dir):
    with launched(data_dir) as (launcher, _port):
        os.kill(postmaster_of(data_dir), signal.SIGKILL)
        assert launcher.wait(15) == 1
        assert "PostgreSQL has ended" in launcher.stderr.read()


@as_root
def test_below_a_private_folder_the_data_is_placed_elsewhere_and_kept(private_dir):
    with Postgres(private_dir) as server:
        remember(server.dsn, "kept")
    with Postgres(private_dir) as server:
        assert ask(server.dsn, "select word from memory") == [("kept",)]
    assert private_dir.parent.stat().st_mode & 0o777 == 0o700, "folders of others stay as they are"


@as_root
def test_deleting_the_data_folder_starts_afresh_even_when_the_data_was_elsewhere(private_dir):
    with Postgres(private_dir) as server:
        remember(server.dsn, "forgotten")
    shutil.rmtree(private_dir)
    with Postgres(private_dir) as server:
        assert ask(server.dsn, "select to_regclass('memory')") == [(None,)]


@as_root
def test_what_stood_in_for_a_deleted_data_folder_is_removed_by_the_next_start(private_dir):
    with Postgres(private_dir / "first"):
        forgotten = (private_dir / "first" / "moved-to").readlink()
    shutil.rmtree(private_dir / "first")
    with Postgres(private_dir):
        assert not forgotten.exists()


@as_root
def test_a_folder_that_somebody_else_put_in_our_place_is_refused(private_dir):
    with Postgres(private_dir):
        place = (private_dir / "moved-to").readlink()
    os.chown(place, 65534, 65534)
    with pytest.raises(PostgresError, match="not a folder of ours"):
        Postgres(private_dir).start()


@as_root
def test_programs_below_a_private_folder_are_copied_to_where_they_can_run(private_dir, monkeypatch):
    account = Account.current(private_dir)
    shutil.copytree(programs_for(account).parent, private_dir)
    monkeypatch.setenv("EMBEDDED_PG_BIN", str(private_dir / "bin"))

    programs = programs_for(account)

    try:
        assert programs_for(account) == programs, "one copy serves all later starts"
        version = subprocess.run(
            [programs / "postgres", "--version"], cwd="/", capture_output=True, text=True, **account.as_process_user()
        )
        assert version.stdout.startswith("postgres (PostgreSQL)")
    finally:
        shutil.rmtree(programs.parent)


@pytest.fixture
def database(fresh_database):
    return fresh_database()


def test_migrations_are_applied_once_and_in_the_order_of_their_names(database, migrations):
    (migrations / "20990101000001_add_row.sql").write_text("insert into public.steps values ('second');")
    (migrations / "20990101000000_create_steps.sql").write_text(
        "create table public.steps (name text); insert into public.steps values ('first');"
    )

    assert prepare(database, migrations) == ["20990101000000", "20990101000001"]
    assert prepare(database, migrations) == []

    assert ask(database, "select name from public.steps") == [("first",), ("second",)]


def test_a_migration_that_changed_after_it_was_applied_is_an_error(database, migrations):
    file = migrations / "20990101000000_create_steps.sql"
    file.write_text("create table public.steps (name text);")
    prepare(database, migrations)
    file.write_text("create table public.steps (name text, at timestamptz);")

    with pytest.raises(MigrationError, match=r"20990101000000_create_steps\.sql has changed .* delete the data folder"):
        prepare(database, migrations)


def test_a_failing_migration_leaves_nothing_behind(database, migrations):
    (migrations / "20990101000000_half.sql").write_text("create table public.half (a int); select 1/0;")

    with pytest.raises(MigrationError, match=r"20990101000000_half\.sql failed: division by zero"):
        prepare(database, migrations)

    assert ask(database, "select to_regclass('public.half')") == [(None,)]
    assert ask(database, "select max(version) < '2099' from supabase_migrations.schema_migrations") == [(True,)]


def test_the_projects_own_migrations_are_all_applied(database):
    versions = [file.name.partition("_")[0] for file in sorted(MIGRATIONS.glob("*.sql"))]
    assert ask(database, "select version from supabase_migrations.schema_migrations order by version") == [
        (version,) for version in versions
    ]


def test_a_new_table_is_open_to_the_api_roles_as_on_hosted_supabase(database):
    ask(database, "create table public.open_by_default (id int)")
    for role in ("anon", "authenticated", "service_role"):
        assert ask(database, "select has_table_privilege(%s, 'public.open_by_default', 'insert')", role) == [(True,)]


def test_the_secret_key_alone_bypasses_row_level_security(database):
    roles = ask(database, "select rolname from pg_roles where rolbypassrls and not rolsuper")
    assert roles == [("service_role",)]


def test_auth_functions_read_the_claims_of_the_request(database):
    user = "6b0c3a3e-5f0e-4c3b-9a53-0d4d8a7f0001"
    with psycopg.connect(database) as connection:
        assert connection.execute("select auth.uid(), auth.role()").fetchone() == (None, None)
        claims = f'{{"sub": "{user}", "role": "authenticated", "email": "ada@example.com"}}'
        connection.execute("select set_config('request.jwt.claims', %s, true)", (claims,))
        answer = connection.execute(
            "select auth.uid()::text, auth.role(), auth.email(), auth.jwt() ->> 'sub'"
        ).fetchone()
    assert answer == (user, "authenticated", "ada@example.com", user)
