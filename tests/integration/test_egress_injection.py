"""Secrets that never come into a sandbox: whole runs through the real SDK against the local E2B server.

It offers secrets and rules here, and writes down all that comes in. git and the agent are stand-ins: this server puts
headers into no request, so what they would ask for could not be answered.
"""

import base64
import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from e2b import Sandbox, SandboxException
from e2b import Secret as KeptSecret
from e2b.exceptions import SecretException

from functions.executor.e2b import sandboxes as executor_sandbox
from functions.executor.e2b.sandboxes import E2BSandboxes
from functions.executor.errors import InjectionUnavailable, SandboxGone
from functions.executor.ports import StoredSecret
from functions.executor.reaper import reap
from functions.executor.work.secret_delivery import STAND_IN
from local.services.e2b.isolation import agent_path
from shared.domain.network import HeaderRule, SandboxNetwork
from shared.domain.run import Phase
from shared.domain.secret import Secret
from tests.fakes.clock import FakeClock
from tests.fakes.executor import ANTHROPIC_KEY, GIT_TOKEN, SESSION, World
from tests.fakes.sandboxes import FakeSandboxes
from tests.integration.e2b_servers import API_KEY, LOCAL_SANDBOX, Server, speak_to

BASIC = base64.b64encode(f"x-access-token:{GIT_TOKEN}".encode()).decode()
LITERALS = (GIT_TOKEN, BASIC, ANTHROPIC_KEY, base64.b64encode(GIT_TOKEN.encode()).decode())
RULE = HeaderRule(host="github.com", header="Authorization", scheme="Basic ", secret="run-1-git")
# Like the real one, but for where https://github.com/o/r is.
GIT = """\
#!/bin/bash
for word in "$@"; do words+=("${word/#https:\\/\\/github.com\\/o\\/r/file://REPOSITORY}"); done
exec GIT -c protocol.file.allow=always "${words[@]}"
"""
LINES = (
    {"type": "system", "subtype": "init", "session_id": SESSION, "model": "m"},
    {"type": "result", "subtype": "success", "is_error": False, "result": "Done.", "session_id": SESSION},
)
AGENT = f"""\
#!/bin/bash
env > env.txt
[ "$(cat)" = slowly ] && sleep 60
echo '{json.dumps(LINES[0])}'
echo '{json.dumps(LINES[1])}'
"""


def make_programs(folder):
    """A folder for PATH with the two stand-ins, and the repository beside it."""
    git = subprocess.run(["which", "git"], check=True, capture_output=True, text=True).stdout.strip()
    repository, programs = folder / "repository", folder / "bin"
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run([git, "init", "-q", "-b", "main", str(repository)], check=True)
    commit = ("commit", "-q", "--allow-empty", "-m", "first")
    subprocess.run([git, "-C", str(repository), *identity, *commit], check=True)
    programs.mkdir()
    for name, text in (("git", GIT.replace("REPOSITORY", str(repository)).replace("GIT", git, 1)), ("claude", AGENT)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return programs


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory(prefix="egress-", dir="/var/tmp") as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def programs(folder):
    return make_programs(folder)


@pytest.fixture(scope="module")
def servers(programs, folder):
    """A team with secrets and rules, and one without."""
    isolated = ("--isolation", "process", "--extra-path", str(programs))
    servers = []
    for name, *options in (("with", "--injection"), ("without",)):
        (folder / name).mkdir()
        servers.append(Server(folder / name, *isolated, *options))
    yield servers
    for server in servers:
        server.stop()


@pytest.fixture(autouse=True)
def found_first(programs, monkeypatch):
    """The stand-ins are found before the real programs: by the agent's jobs, and by root's."""
    monkeypatch.setattr(executor_sandbox, "ROOT_PATH", f"{programs}:{executor_sandbox.ROOT_PATH}")
    monkeypatch.setitem(LOCAL_SANDBOX, "agent_path", agent_path([programs]))


@pytest.fixture
def server(servers, monkeypatch):
    """The one with secrets and rules, and with nothing in it."""
    speak_to(servers[0], monkeypatch)
    servers[0].begin_journal()
    yield servers[0]
    for sandbox in everything(Sandbox.list()):
        Sandbox.kill(sandbox.sandbox_id)
    for name in secrets_left():
        KeptSecret.destroy(name)


@pytest.fixture
def server_without(servers, monkeypatch):
    speak_to(servers[1], monkeypatch)
    return servers[1]


def e2b(deployment="test"):
    return E2BSandboxes(api_key=Secret(API_KEY), template="agents", deployment=deployment, lease_s=300, **LOCAL_SANDBOX)


def make_world(**settings):
    """The step machine with rows in memory and real sandboxes."""
    world = World()
    world.ports = replace(world.ports, sandboxes=e2b())
    world.set(clone_depth=1, **settings)
    return world


def everything(pages):
    found = []
    while pages.has_next:
        found += pages.next_items()
    return found


def secrets_left():
    return [secret.name for secret in everything(KeptSecret.list())]


def live_when_started(journal):
    """For each job of our supervisor, the headers that were put into requests when it was started."""
    live, jobs = {}, {}
    for entry in journal:
        match entry["kind"]:
            case "create":
                live[entry["sandbox_id"]] = entry["body"]["network"].get("rules")
            case "update_network":
                live[entry["sandbox_id"]] = entry["body"].get("rules")
            case "start" if "supervisor start " in entry["args"][-1]:
                job = entry["args"][-1].partition("supervisor start ")[2].split()[0].rpartition("/")[2]
                jobs.setdefault(job, []).append(headers_of(live[entry["sandbox_id"]]))
    return jobs


def headers_of(rules):
    return {host: of_host[0]["transform"]["headers"] for host, of_host in (rules or {}).items()}


# --- whole runs


def test_no_request_of_a_whole_run_holds_a_secret_and_each_is_in_use_for_its_own_phase_only(server):
    world = make_world()
    world.start(network=["db.example.org"], setup_script="true")
    world.run_to_end()

    run_id = world.run_row["id"]
    assert (world.run_row["status"], world.run_row["error"]) == ("completed", None)
    journal = server.journal()
    assert not [entry for entry in journal if any(literal in json.dumps(entry) for literal in LITERALS)]
    assert live_when_started(journal) == {
        "clone": [{"github.com": {"Authorization": f"Basic ${{e2b.secrets.run-{run_id}-git}}"}}],
        "setup": [{}],
        "agent": [{"api.anthropic.com": {"x-api-key": f"${{e2b.secrets.run-{run_id}-model}}"}}],
        "wipe_secrets": [{}],
        "collect": [{}],
    }
    assert f"ANTHROPIC_API_KEY={STAND_IN}" in world.task["git_diff"]  # what the agent found in its environment


def test_the_same_search_finds_the_secrets_where_they_come_as_files(server):
    world = make_world(sandbox_secrets="file")
    world.start()
    world.run_to_end()

    found = {literal for literal in LITERALS for entry in server.journal() if literal in json.dumps(entry)}
    assert found == {GIT_TOKEN, ANTHROPIC_KEY}
    starts = json.dumps([entry for entry in server.journal() if entry["kind"] != "upload"])
    assert not any(literal in starts for literal in LITERALS)


def test_secrets_exist_only_between_the_two_ends_of_their_phase_and_none_is_unknown_to_a_rule(server):
    world = make_world()
    world.start()
    world.run_to_end()

    run_id = world.run_row["id"]
    told = [entry for entry in server.journal() if entry["kind"] in {"secret_stored", "secret_destroyed"}]
    assert [(entry["kind"], entry["name"]) for entry in told] == [
        ("secret_stored", f"run-{run_id}-git"),
        ("secret_destroyed", f"run-{run_id}-git"),
        ("secret_stored", f"run-{run_id}-model"),
        ("secret_destroyed", f"run-{run_id}-model"),
    ]
    assert told[0]["metadata"] == {"app": "async-code", "deployment": "test", "run_id": run_id}
    assert not [entry for entry in server.journal() if entry["kind"] == "unknown_secrets"]
    assert secrets_left() == []


def test_every_network_of_a_run_denies_all_but_its_hosts(server):
    world = make_world()
    world.start(network=["db.example.org"])
    world.run_to_end()

    networks = [
        entry["body"] if entry["kind"] == "update_network" else entry["body"]["network"]
        for entry in server.journal()
        if entry["kind"] in {"create", "update_network"}
    ]
    assert len(networks) == 5
    assert all(network["denyOut"] == ["0.0.0.0/0"] for network in networks)
    assert all({"github.com", "api.anthropic.com", "db.example.org"} <= set(each["allowOut"]) for each in networks)


def test_a_follow_up_in_the_kept_sandbox_gets_its_key_anew_and_leaves_as_little(server):
    world = make_world()
    world.start()
    world.run_to_end()
    world.follow_up()
    world.run_to_end()

    assert world.run_row["status"] == "completed"
    journal = server.journal()
    agents = live_when_started(journal)["agent"]
    assert [list(headers) for headers in agents] == [["api.anthropic.com"], ["api.anthropic.com"]]
    assert agents[0] != agents[1]
    assert not [entry for entry in journal if any(literal in json.dumps(entry) for literal in LITERALS)]
    assert secrets_left() == []


def test_a_run_that_is_cancelled_while_its_agent_works_leaves_no_secret(server):
    world = make_world()
    world.start(prompt="slowly")
    world.until(Phase.AGENT)
    world.deliver()
    assert secrets_left() == [f"run-{world.run_row['id']}-model"]
    world.database.request_cancel(world.task["id"])
    world.run_to_end()

    assert world.run_row["status"] == "cancelled"
    assert secrets_left() == []


def test_where_the_team_lacks_it_a_run_ends_as_well_with_its_secrets_in_files(server_without):
    world = make_world()
    world.start()
    world.run_to_end()

    assert (world.run_row["status"], world.run_row["error"]) == ("completed", None)
    assert STAND_IN not in world.task["git_diff"]


def test_a_deployment_that_wants_no_files_fails_there_in_words(server_without):
    world = make_world(sandbox_secrets="egress")
    world.start()
    world.run_to_end()

    assert (world.run_row["status"], world.run_row["error_code"]) == ("failed", "injection_unavailable")


def test_the_reaper_destroys_what_ended_runs_have_left_and_nothing_of_another_deployment(server):
    world = make_world()
    world.start()
    world.until(Phase.CLONING)
    active = world.run_row["id"]
    for number in range(5):
        world.ports.sandboxes.store_secret(f"run-{number}-git", str(number), Secret("x"))
    world.ports.sandboxes.store_secret(f"run-{active}-git", active, Secret("x"))
    e2b("production").store_secret("run-9-git", "9", Secret("x"))
    KeptSecret.create("of-somebody-else", "x")

    assert reap(world.ports)["destroy_lost_secrets"] == 5

    assert secrets_left() == sorted(["of-somebody-else", "run-9-git", f"run-{active}-git"])


# --- the adapter, and the fake of it that the unit tests use


@pytest.fixture(params=["real", "fake"])
def sandboxes(request):
    """Sandboxes of a team with secrets and rules."""
    if request.param == "fake":
        return FakeSandboxes(FakeClock(), team_has={"secrets", "rules"})
    request.getfixturevalue("server")
    return e2b()


@pytest.fixture(params=["real", "fake"])
def sandboxes_without(request):
    """Those of a team without."""
    if request.param == "fake":
        return FakeSandboxes(FakeClock())
    request.getfixturevalue("server_without")
    return e2b()


def test_a_secret_that_is_there_already_is_replaced(sandboxes):
    sandboxes.store_secret("run-1-git", "1", Secret("old"))
    sandboxes.store_secret("run-1-git", "1", Secret("new"))

    assert list(sandboxes.list_secrets()) == [StoredSecret(name="run-1-git", run_id="1")]


def test_destroying_twice_is_as_good_as_once(sandboxes):
    sandboxes.store_secret("run-1-git", "1", Secret("x"))

    sandboxes.destroy_secret("run-1-git")
    sandboxes.destroy_secret("run-1-git")

    assert list(sandboxes.list_secrets()) == []


def test_a_sandbox_that_is_gone_has_no_network_to_set(sandboxes):
    for network in (SandboxNetwork(("github.com",)), SandboxNetwork(("github.com",), (RULE,))):
        with pytest.raises(SandboxGone):
            sandboxes.set_network("neverwas", network)

    sandboxes.store_secret("run-1-git", "1", Secret("x"))  # it says nothing of the team


def test_a_team_without_any_of_it_is_told_so_and_has_no_secrets(sandboxes_without):
    for _ in range(2):
        with pytest.raises(InjectionUnavailable):
            sandboxes_without.store_secret("run-1-git", "1", Secret("x"))
    sandboxes_without.destroy_secret("run-1-git")

    assert list(sandboxes_without.list_secrets()) == []


def test_a_rule_names_its_secret_and_is_gone_with_the_next_network(server):
    world = make_world()
    world.start()
    sandboxes = world.ports.sandboxes
    created = world.until(Phase.CLONING)["sandbox_id"]
    sandboxes.store_secret("run-1-git", "1", Secret("x"))

    sandboxes.set_network(created, SandboxNetwork(("github.com",), (RULE,)))
    [rule] = Sandbox.get_info(created).network["rules"]["github.com"]
    assert rule == {"transform": {"headers": {"Authorization": "Basic ${e2b.secrets.run-1-git}"}}}
    sandboxes.set_network(created, SandboxNetwork(("github.com",)))
    assert "rules" not in Sandbox.get_info(created).network


# --- the server itself


@pytest.mark.parametrize(
    ("network", "why"),
    [
        ({"allow_out": ["example.org"]}, "allowOut may hold domains only where"),
        ({"allow_out": ["example.org"], "deny_out": ["10.0.0.0/8"]}, "allowOut may hold domains only where"),
        ({"deny_out": ["example.org"]}, "denyOut may hold only IP addresses"),
        ({"rules": {f"h{n}.org": [] for n in range(11)}}, "at most 10 domains"),
        ({"rules": {"127.0.0.1": []}}, "A rule needs a domain"),
        ({"rules": {"*.example.org": []}}, "A rule needs a domain"),
        ({"rules": {"a.org": [{"transform": {"headers": {}}}] * 2}}, "one transform for a.org"),
        ({"rules": {"a.org": [{"transform": {"headers": dict.fromkeys(map(str, range(21)), "v")}}]}}, "at most 20"),
        ({"rules": {"a.org": [{"transform": {"headers": {"h": "v" * 2049}}}]}}, "at most 2048 characters"),
        ({"rules": {"a.org": [{"transform": {"headers": {"h": "v\r\nx: y"}}}]}}, "at most 2048 characters"),
    ],
)
def test_a_network_that_e2b_would_refuse_is_refused(server, network, why):
    with pytest.raises(SandboxException, match=why):
        Sandbox.create("base", network=network)
    with Sandbox.create("base") as sandbox, pytest.raises(SandboxException, match=why):
        sandbox.update_network(network)


def test_a_placeholder_without_its_secret_is_taken_and_written_down(server):
    rules = {"a.org": [{"transform": {"headers": {"h": KeptSecret.fill("unheard-of")}}}]}
    with Sandbox.create("base", network={"rules": rules}):
        pass

    assert [e["names"] for e in server.journal() if e["kind"] == "unknown_secrets"] == [["unheard-of"]]


def test_a_secret_is_shown_without_its_value_and_found_by_id_and_name(server):
    made = KeptSecret.create("A-Name", "hush", metadata={"a": "b"})

    assert made.name == "a-name"
    assert KeptSecret.get_info(made.secret_id) == KeptSecret.get_info("A-Name") == made
    assert KeptSecret.update("a-name", "hush2").metadata == {"a": "b"}
    assert "hush" not in json.dumps(server.journal())
    assert KeptSecret.exists("a-name")
    assert KeptSecret.destroy(made.secret_id)
    assert not KeptSecret.destroy("a-name")
    assert not KeptSecret.exists("a-name")


@pytest.mark.parametrize(("name", "why"), [("a name", "400"), ("x" * 129, "400"), ("taken", "409")])
def test_a_secret_needs_a_name_of_its_own(server, name, why):
    KeptSecret.create("taken", "x")

    with pytest.raises(SecretException, match=f"^{why}: "):
        KeptSecret.create(name, "x")


def test_a_server_that_offers_nothing_of_this_keeps_no_journal(server_without):
    with pytest.raises(httpx.HTTPStatusError, match="501"):
        server_without.journal()
