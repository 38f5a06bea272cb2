"""E2BSandboxes through the real SDK against the local E2B server: what the executor's steps build on."""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from e2b import Sandbox, SandboxState

from functions.executor.e2b.sandboxes import E2BSandboxes
from functions.executor.errors import BrokenProgram, CommandFailed, InjectionUnavailable, SandboxGone
from functions.executor.work.jobs import JobSpec, RunFolder
from shared.domain.errors import RunFailed, Unavailable
from shared.domain.network import OPEN_NETWORK, HeaderRule, SandboxNetwork
from shared.domain.secret import Secret
from tests.fakes.new_run import new_run
from tests.integration.e2b_servers import API_KEY, LOCAL_SANDBOX, Server, speak_to
from tests.waiting import wait_for

DEPLOYMENT = "test"
LEASE_S = 300
PATIENCE_S = 60


@pytest.fixture(scope="module")
def running_server():
    with tempfile.TemporaryDirectory(prefix="e2b-") as folder:
        server = Server(folder)
        yield server
        server.stop()


@pytest.fixture
def server(running_server, monkeypatch):
    speak_to(running_server, monkeypatch)
    yield running_server
    for sandbox in all_sandboxes():
        Sandbox.kill(sandbox.sandbox_id)


def all_sandboxes():
    pages, found = Sandbox.list(), []
    while pages.has_next:
        found += pages.next_items()
    return found


def e2b(**changes):
    options = {"api_key": Secret(API_KEY), "template": "agents", "deployment": DEPLOYMENT, "lease_s": LEASE_S}
    return E2BSandboxes(**options | LOCAL_SANDBOX | changes)


def run(bench, program, *arguments, timeout_s=PATIENCE_S):
    """The last line that a program of this text prints in the sandbox."""
    bench.upload({"/root/program.py": program.encode()})
    return bench.run_python("/root/program.py", *arguments, timeout_s=timeout_s)


@pytest.fixture
def sandboxes(server):
    return e2b()


@pytest.fixture
def bench(sandboxes):
    return sandboxes.attach(sandboxes.create(new_run(), OPEN_NETWORK))


# --- one sandbox per run


def test_creating_twice_for_the_same_run_gives_the_same_sandbox(sandboxes):
    run = new_run()

    assert sandboxes.create(run, OPEN_NETWORK) == sandboxes.create(run, OPEN_NETWORK)
    assert len(all_sandboxes()) == 1
    assert sandboxes.create(new_run(), OPEN_NETWORK) != sandboxes.find(run.id)


def test_a_runs_sandbox_is_found_by_the_run(sandboxes):
    run = new_run()
    assert sandboxes.find(run.id) is None

    created = sandboxes.create(run, OPEN_NETWORK)

    assert sandboxes.find(run.id) == created


def test_a_sandbox_says_whose_it_is_and_outlives_the_call(sandboxes):
    run = new_run()
    info = Sandbox.get_info(sandboxes.create(run, OPEN_NETWORK))

    assert info.metadata == {
        "app": "async-code",
        "deployment": DEPLOYMENT,
        "run_id": run.id,
        "task_id": "1",
        "user_id": run.user_id,
    }
    assert info.template_id == "agents"
    assert 0 < (info.end_at - info.started_at).total_seconds() <= LEASE_S + 5


def test_a_sandbox_whose_lease_is_over_pauses_instead_of_dying(sandboxes):
    info = Sandbox.get_info(sandboxes.create(new_run(), OPEN_NETWORK))

    assert dict(info.lifecycle) == {"on_timeout": "pause", "auto_resume": False}


# --- attaching


def test_attaching_extends_the_lease(sandboxes):
    created = e2b(lease_s=60).create(new_run(), OPEN_NETWORK)
    before = Sandbox.get_info(created).end_at

    sandboxes.attach(created)

    assert (Sandbox.get_info(created).end_at - before).total_seconds() > LEASE_S / 2


def test_a_sandbox_that_is_looked_at_outlives_its_lease_and_one_that_is_not_pauses(server):
    looked_at = e2b(lease_s=8).create(new_run(), OPEN_NETWORK)
    created = Sandbox.get_info(looked_at)
    e2b(lease_s=LEASE_S).attach(looked_at)
    forgotten = e2b(lease_s=1).create(new_run(), OPEN_NETWORK)

    wait_for(lambda: Sandbox.get_info(forgotten).state == SandboxState.PAUSED)
    wait_for(lambda: datetime.now(UTC) > created.end_at)

    assert {info.sandbox_id: info.state for info in all_sandboxes()} == {
        looked_at: SandboxState.RUNNING,
        forgotten: SandboxState.PAUSED,
    }
    assert Sandbox.get_info(looked_at).started_at == created.started_at  # it has not been resumed in between


def test_a_paused_sandbox_is_found_and_resumed_by_attaching(sandboxes):
    run = new_run()
    created = sandboxes.create(run, OPEN_NETWORK)
    sandboxes.attach(created).upload({"kept": b"still here"})
    Sandbox.pause(created)
    assert sandboxes.find(run.id) == created

    assert sandboxes.attach(created).read("kept") == b"still here"


def test_pausing_twice_is_as_good_as_once_and_one_that_is_gone_cannot_be(sandboxes):
    run = new_run()
    created = sandboxes.create(run, OPEN_NETWORK)

    sandboxes.pause(created)
    sandboxes.pause(created)
    assert sandboxes.find(run.id) == created
    sandboxes.kill(created)
    with pytest.raises(SandboxGone):
        sandboxes.pause(created)


def test_a_sandbox_that_was_killed_is_gone(sandboxes):
    created = sandboxes.create(new_run(), OPEN_NETWORK)
    sandboxes.kill(created)

    with pytest.raises(SandboxGone, match="The sandbox was lost"):
        sandboxes.attach(created)


def test_killing_twice_is_as_good_as_once(sandboxes):
    run = new_run()
    created = sandboxes.create(run, OPEN_NETWORK)

    sandboxes.kill(created)
    sandboxes.kill(created)
    sandboxes.kill("neverwas")

    assert sandboxes.find(run.id) is None


def test_one_that_is_killed_while_it_is_used_is_not_taken_for_gone_until_attaching_says_so(sandboxes):
    created = sandboxes.create(new_run(), OPEN_NETWORK)
    bench = sandboxes.attach(created)
    sandboxes.kill(created)

    for use in (lambda: run(bench, "pass"), lambda: bench.read("/x"), lambda: bench.upload({"/x": b""})):
        with pytest.raises(Unavailable):
            use()
    with pytest.raises(SandboxGone):
        sandboxes.attach(created)


def test_one_that_is_paused_while_it_is_used_goes_on_with_the_next_step(sandboxes):
    created = sandboxes.create(new_run(), OPEN_NETWORK)
    bench = sandboxes.attach(created)
    Sandbox.pause(created)

    for _ in range(2):
        with pytest.raises(Unavailable):
            run(bench, "pass")
    assert run(sandboxes.attach(created), "print('awake')") == "awake"
    for use in (lambda: run(bench, "pass"), lambda: bench.upload({"/x": b""}), lambda: bench.read("/x")):
        with pytest.raises(Unavailable):  # it runs again, and is not believed before it was attached again
            use()


# --- working in it


def test_files_come_back_byte_for_byte_and_folders_are_made(bench):
    files = {"/root/1/a.bin": bytes(range(256)), "/root/1/deep/er/empty": b"", "/root/1/big": b"x" * 3_000_000}

    bench.upload(files)

    assert {path: bench.read(path) for path in files} == files


def test_a_file_that_is_not_there_fails_the_run_and_not_the_attempt(bench):
    with pytest.raises(RunFailed) as failure:
        bench.read("/nothing/here")
    assert failure.value.error_code == "sandbox_file_missing"


def test_a_program_has_roots_environment_and_nothing_else(bench):
    shown = json.loads(run(bench, "import json, os; print(json.dumps([dict(os.environ), os.getcwd()]))"))
    env, folder = shown

    assert (env["USER"], env["LOGNAME"], env["PATH"]) == ("root", "root", "/usr/sbin:/usr/bin:/sbin:/bin")
    assert env["HOME"].endswith("/root")
    # What the stand-in adds: its wrapper of the interpreter, and its mark on plain processes
    allowed = {"PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR", "AGENT_USER", "AGENT_HOME", "AGENT_PATH"}
    assert set(env) - {"LD_LIBRARY_PATH", "E2B_SANDBOX_ID", "LC_CTYPE", "PWD", "SHLVL", "_"} == allowed
    assert folder in ("/", str(Path(env["HOME"]).parent))


def test_arguments_arrive_as_they_are_whatever_the_shell_thinks_of_them(bench):
    words = ["a b", "$HOME", "`id`", "'\"", "*", "é", "-n", "\n"]

    assert json.loads(run(bench, "import json, sys; print(json.dumps(sys.argv[1:]))", *words)) == words


def test_a_program_that_exits_non_zero_is_told_with_its_stderr(bench):
    with pytest.raises(CommandFailed) as failure:
        run(bench, "import sys; sys.stderr.write('why\\n'); sys.exit(7)")

    assert failure.value.context == {"exit_code": 7, "stderr": "why\n"}
    assert failure.value.retryable


@pytest.mark.parametrize("exit_code", [2, 126, 127])
def test_a_program_that_is_missing_or_misused_is_a_fault_of_ours(bench, exit_code):
    with pytest.raises(BrokenProgram) as failure:
        run(bench, f"import sys; sys.stderr.write('why\\n'); sys.exit({exit_code})")

    assert failure.value.context == {"exit_code": exit_code, "stderr": "why\n"}
    assert not failure.value.retryable


def test_a_command_for_which_the_disk_has_no_room_fails_the_run_and_not_the_attempt(bench):
    with pytest.raises(RunFailed) as failure:
        run(bench, "with open('/dev/full', 'w') as full: full.write('x')")

    assert failure.value.error_code == "sandbox_full"


def test_a_command_that_does_not_end_is_given_up(bench):
    with pytest.raises(Unavailable):
        run(bench, "import time; time.sleep(60)", timeout_s=1)


def test_a_job_runs_on_between_two_attachments(sandboxes):
    run = new_run()
    created = sandboxes.create(run, OPEN_NETWORK)
    folder = RunFolder(sandboxes.attach(created), run.id)
    folder.install()
    spec = JobSpec(argv=("sh", "-c", "echo one; sleep 1; echo two"), user="agent", timeout_s=60)
    folder.start("job", spec, wait_s=0)

    state = RunFolder(sandboxes.attach(created), run.id).look("job", wait_s=PATIENCE_S)

    assert (state.state, state.exit_code, state.chunk) == ("ended", 0, b"one\ntwo\n")


# --- listing


def test_all_of_this_deployments_sandboxes_are_listed_over_all_pages_and_nobody_elses(sandboxes):
    runs = [new_run() for _ in range(5)]
    ours = {sandboxes.create(run, OPEN_NETWORK): run.id for run in runs}
    e2b(deployment="production").create(new_run(), OPEN_NETWORK)
    Sandbox.create("agents", metadata={"app": "somebody-elses", "deployment": DEPLOYMENT})
    Sandbox.create("agents")
    Sandbox.pause(next(iter(ours)))

    listed = list(sandboxes.list_ours())

    assert {info.id: info.run_id for info in listed} == ours
    assert all(info.started_at.tzinfo for info in listed)


def test_another_deployments_sandbox_of_the_same_run_is_not_found(sandboxes):
    run = new_run()
    e2b(deployment="production").create(run, OPEN_NETWORK)

    assert sandboxes.find(run.id) is None


# --- when E2B does not answer, or does not know us


@pytest.fixture
def nobody_there(monkeypatch):
    """An address where nothing listens."""
    monkeypatch.setenv("E2B_API_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("E2B_SANDBOX_URL", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    "use",
    [
        lambda sandboxes: sandboxes.find("x"),
        lambda sandboxes: sandboxes.create(new_run(), OPEN_NETWORK),
        lambda sandboxes: sandboxes.attach("x"),
        lambda sandboxes: sandboxes.kill("x"),
        lambda sandboxes: list(sandboxes.list_ours()),
    ],
    ids=["find", "create", "attach", "kill", "list"],
)
def test_a_server_that_is_down_is_unavailable_whatever_it_is_asked(nobody_there, use):
    with pytest.raises(Unavailable):
        use(e2b())


def test_a_server_that_goes_down_under_an_attached_sandbox_is_unavailable(monkeypatch):
    with tempfile.TemporaryDirectory(prefix="e2b-") as folder:
        server = Server(folder)
        speak_to(server, monkeypatch)
        bench = e2b().attach(e2b().create(new_run(), OPEN_NETWORK))
        server.stop()

        with pytest.raises(Unavailable):
            run(bench, "pass", timeout_s=5)
        with pytest.raises(Unavailable):
            bench.read("/x")


@pytest.mark.parametrize(
    "use", [lambda s: s.find("x"), lambda s: s.create(new_run(), OPEN_NETWORK), lambda s: s.attach("x")]
)
def test_a_wrong_key_fails_the_run_in_the_words_of_the_contract(server, use):
    with pytest.raises(RunFailed) as failure:
        use(e2b(api_key=Secret("e2b_wrong")))

    assert str(failure.value) == "Invalid E2B API key. Please check your E2B_API_KEY environment variable."
    assert failure.value.error_code == "sandbox_auth"
    assert "e2b_wrong" not in str(failure.value.for_log())


# --- the network, and a team without secrets and rules (with them: test_egress_injection.py)

RULE = HeaderRule(host="github.com", header="Authorization", scheme="Basic ", secret="run-1-git")


def test_a_sandbox_may_reach_what_it_was_made_for_and_is_reached_by_nobody(sandboxes):
    network = SandboxNetwork(("github.com", "*.example.org", "127.0.0.1"))

    info = Sandbox.get_info(sandboxes.create(new_run(), network))

    assert info.network["allow_out"] == list(network.hosts)
    assert info.network["deny_out"] == ["0.0.0.0/0"]
    assert info.network["allow_public_traffic"] is False
    assert "rules" not in info.network


def test_an_open_network_has_no_limits(sandboxes):
    assert Sandbox.get_info(sandboxes.create(new_run(), OPEN_NETWORK)).network == {"allow_public_traffic": False}


def test_a_network_takes_the_place_of_the_one_before(sandboxes):
    created = sandboxes.create(new_run(), SandboxNetwork(("github.com",)))

    sandboxes.set_network(created, SandboxNetwork(("example.org",)))
    assert Sandbox.get_info(created).network["allow_out"] == ["example.org"]
    sandboxes.set_network(created, OPEN_NETWORK)
    assert "allow_out" not in (Sandbox.get_info(created).network or {})


def test_the_network_of_a_sandbox_that_is_gone_cannot_be_set(sandboxes):
    with pytest.raises(SandboxGone):
        sandboxes.set_network("neverwas", SandboxNetwork(("github.com",)))


def test_a_team_without_secrets_is_told_so_and_asked_once(sandboxes, monkeypatch):
    with pytest.raises(InjectionUnavailable) as first:
        sandboxes.store_secret("run-1-git", "1", Secret("hush"))
    assert "not available for your team" in first.value.context["reason"]

    with monkeypatch.context() as patch:
        patch.setenv("E2B_API_URL", "http://127.0.0.1:9")  # where nobody answers
        with pytest.raises(InjectionUnavailable):
            sandboxes.store_secret("run-1-git", "1", Secret("hush"))


def test_a_team_without_rules_is_told_so_and_stores_no_more_secrets(sandboxes):
    created = sandboxes.create(new_run(), OPEN_NETWORK)

    with pytest.raises(InjectionUnavailable):
        sandboxes.set_network(created, SandboxNetwork(("github.com",), (RULE,)))
    with pytest.raises(InjectionUnavailable, match="does not offer"):
        sandboxes.store_secret("run-1-git", "1", Secret("hush"))


def test_a_team_without_secrets_has_none_to_destroy(sandboxes):
    sandboxes.destroy_secret("run-1-git")

    assert list(sandboxes.list_secrets()) == []
