"""Jobs in a sandbox: the real supervisor in a folder, and the fake that the unit tests stand on, alike.

In `make conformance` in a sandbox with a real envd, too.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import pytest

from functions.executor.e2b.sandboxes import E2BSandboxes
from functions.executor.errors import BrokenProgram, failed_command
from functions.executor.work.jobs import (
    LOOK_BYTES,
    RUNS,
    JobSpec,
    RunFolder,
)
from sandbox import archive
from sandbox.programs.protocol import TAKEN_AT_START, TAKEN_BY_THE_JOB, LookRequest, UsageLog, to_json
from shared.domain.errors import RunFailed
from shared.domain.network import OPEN_NETWORK
from shared.domain.run import Phase
from shared.domain.secret import Secret
from tests.fakes.clock import FakeClock
from tests.fakes.executor import World
from tests.fakes.new_run import new_run
from tests.fakes.sandboxes import (
    FakeSandbox,
    FakeSandboxConnection,
    FakeSandboxes,
    Script,
)
from tests.integration.e2b_servers import API_KEY, LOCAL_SANDBOX, REAL_ENVD, Server, speak_to
from tests.sandbox_programs import with_modules

RUN = "11111111-2222-3333-4444-555555555555"
SPEC = JobSpec(argv=("true",), user="agent", timeout_s=60)
PATIENCE_S = 50


@dataclass
class FolderSandboxConnection:
    """A folder in the place of root's home, and this machine in the place of the sandbox."""

    root: Path

    def upload(self, files):
        for path, data in files.items():
            target = self._inside(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)

    def read(self, path):
        return self._inside(path).read_bytes()

    def run_python(self, *command, timeout_s):
        env = {"PATH": os.environ["PATH"], "AGENT_USER": "", "AGENT_HOME": str(self.root)}
        argv = [
            sys.executable,
            "-I",
            "-S",
            *(str(self._inside(word)) if word.startswith(RUNS) else word for word in command),
        ]
        done = subprocess.run(argv, cwd="/", env=env, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode:
            raise failed_command(done.returncode, done.stderr)
        return done.stdout

    def has(self, path):
        return self._inside(path).exists()

    def _inside(self, path):
        return self.root / Path(path).relative_to("/")

    def let_pass(self, seconds):
        time.sleep(seconds)

    def kill_supervisor(self, folder):
        os.kill(supervisor_of(folder), signal.SIGKILL)


class SandboxBench:
    """A sandbox with a real envd: in `make conformance` only, where it costs a server."""

    def __init__(self, workbench):
        self.upload, self.read, self.run_python = workbench.upload, workbench.read, workbench.run_python

    def has(self, path):
        try:
            self.read(path)
        except RunFailed:
            return False
        return True

    def let_pass(self, seconds):
        time.sleep(seconds)

    def kill_supervisor(self, folder):
        self.upload({f"{RUNS}/kill.py": f"import os; os.kill({supervisor_of(folder)}, 9)".encode()})
        self.run_python(f"{RUNS}/kill.py", timeout_s=60)


def supervisor_of(folder):
    """The pid of the job's supervisor, where the job runs."""
    return json.loads(folder.read("job", "state", "supervisor.json"))["pid"]


class FakeBench(FakeSandboxConnection):
    def has(self, path):
        return path in self._box.files

    def let_pass(self, seconds):
        self.sandboxes.now.pass_(seconds)

    def kill_supervisor(self, folder):
        """The job's script says when it dies."""


class Jobs:
    """A run's folder in one of the two, with a job to start: as a shell command there, as a script here."""

    def __init__(self, bench, scripts):
        self.bench = bench
        self.scripts = scripts
        self.folder = RunFolder(bench, RUN)

    def define(self, command, script, **limits):
        self.scripts["job"] = script
        return replace(SPEC, argv=("sh", "-c", command), **limits)

    def start(self, *definition, wait_s=PATIENCE_S, **limits):
        return self.folder.start("job", self.define(*definition, **limits), wait_s=wait_s)

    def look(self, **options):
        return self.folder.look("job", **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("e2b"))
    yield server
    server.stop()


@pytest.fixture
def sandbox_bench(server, monkeypatch):
    speak_to(server, monkeypatch)
    options = {"api_key": Secret(API_KEY), "template": "agents", "deployment": "test", "lease_s": 900}
    sandboxes = E2BSandboxes(**options, **LOCAL_SANDBOX)
    sandbox_id = sandboxes.create(new_run(), OPEN_NETWORK)
    yield SandboxBench(sandboxes.attach(sandbox_id))
    sandboxes.kill(sandbox_id)


@pytest.fixture(params=["fake", "real", *(["sandbox"] if REAL_ENVD else [])])
def jobs(request, tmp_path):
    if request.param == "sandbox":
        jobs = Jobs(request.getfixturevalue("sandbox_bench"), {})
    elif request.param == "real":
        jobs = Jobs(FolderSandboxConnection(tmp_path), {})
    else:
        clock, scripts = FakeClock(), {}
        box = FakeSandbox("sbx1", RUN, clock(), scripts, clock)
        jobs = Jobs(FakeBench(FakeSandboxes(clock, scripts, {"sbx1": box}), "sbx1"), scripts)
    jobs.folder.install()
    yield jobs
    jobs.folder.stop("job")


def without_ages(report):
    return replace(report, heartbeat_age_s=None, idle_s=None)


SLEEPER = ("sleep 60", Script(ends_at=60))
HELLO = ("echo hello; echo bad >&2; exit 3", Script(output=((0, b"hello\n"),), stderr="bad\n", exit_code=3))


def test_our_programs_are_brought_into_the_runs_folder(jobs):
    assert jobs.bench.read(jobs.folder.path(archive.NAME)) == archive.archive()


def test_programs_that_a_look_has_found_are_not_brought_again_and_others_are(jobs):
    programs = jobs.folder.path(archive.NAME)
    brought = []
    with patch.object(jobs.bench, "upload", lambda files: brought.extend(files)):
        jobs.look()
        jobs.folder.install()
        assert brought == []
        RunFolder(jobs.bench, RUN).install()
        assert brought == [programs]
    jobs.bench.upload({programs: with_modules(archive.archive(), {"collect": "# an older one"})})
    jobs.look()

    jobs.folder.install()

    assert jobs.bench.read(programs) == archive.archive()


def test_secrets_that_came_with_a_start_which_broke_off_are_gone_after_a_look(jobs):
    names = [jobs.folder.path("job", name) for name in (*TAKEN_AT_START, *TAKEN_BY_THE_JOB)]
    jobs.bench.upload(dict.fromkeys(names, b'{"KEY": "s3cret"}'))

    assert jobs.look().absent
    assert not any(map(jobs.bench.has, names))


def test_a_job_whose_supervisor_died_says_that_it_crashed_also_once_it_was_stopped(jobs):
    jobs.start("sleep 60", Script(ends_at=60, crashes_at=1), wait_s=1)
    jobs.bench.kill_supervisor(jobs.folder)
    crashed = jobs.look(wait_s=PATIENCE_S)

    assert (crashed.state, crashed.ended_by, crashed.interrupted, crashed.over) == ("crashed", "crash", True, True)
    stopped = jobs.folder.stop("job")
    assert (stopped.state, stopped.ended_by, stopped.exit_code) == ("ended", "crash", None)
    assert stopped.interrupted


def test_without_our_programs_a_look_fails(jobs):
    with pytest.raises(BrokenProgram):
        RunFolder(jobs.bench, "another-run").look("job")


def test_a_job_that_nobody_started_is_absent(jobs):
    state = jobs.look(wait_s=5)

    assert (state.absent, state.over, state.more) == (True, False, False)
    assert (state.offset, state.chunk, state.output_bytes) == (0, b"", 0)


def test_a_look_finds_the_last_line_of_the_usage_log_that_a_program_keeps_below_its_home(jobs):
    write = "mkdir -p .x/a; printf 'count 1\\nother\\ncount 2\\nother\\ncount' > .x/a/log-1; sleep 60"
    log = UsageLog(".x/*/log-*", "count")
    lines = ((0, "count 1"), (0, "other"), (0, "count 2"), (0, "other"))
    assert jobs.look(usage_log=log).usage_line is None
    jobs.start(write, Script(ends_at=60, usage_log=lines), wait_s=1)

    assert jobs.look(usage_log=log).usage_line == "count 2"
    assert jobs.look(usage_log=UsageLog(".x/*/log-*", "unheard")).usage_line is None
    assert jobs.look().usage_line is None


@pytest.mark.parametrize(
    "plant",
    [
        "ln -s ../secret .x/log-1",
        "mkfifo .x/log-1",
        "mkdir .x/log-1",
        "echo count > .x/log-1; chmod 0 .x/log-1; rm .x/log-1",
        "head -c 3000000 /dev/zero > .x/log-1",
        "for n in $(seq 300); do ln -s ../secret .x/log-$n; done",
    ],
)
def test_whatever_an_agent_plants_in_the_place_of_its_usage_log_is_not_read(tmp_path, plant):
    (tmp_path / "secret").write_text("count of root\n")
    jobs = Jobs(FolderSandboxConnection(tmp_path), {})
    jobs.folder.install()
    jobs.start(f"mkdir .x; {plant}", Script())

    assert jobs.look(usage_log=UsageLog(".x/log-*", "count")).usage_line is None


def test_a_job_that_ended_tells_how(jobs):
    state = jobs.start(*HELLO)

    assert (state.state, state.ended_by, state.exit_code) == ("ended", "exit", 3)
    assert (state.chunk, state.offset, state.output_bytes) == (b"hello\n", 6, 6)
    assert (state.stderr_tail, state.over, state.more) == ("bad\n", True, False)


def test_a_job_starts_once_however_often_it_is_started(jobs):
    first = jobs.start(*HELLO)
    again = jobs.start("echo something else", Script(output=((0, b"something else\n"),)))

    assert without_ages(again) == without_ages(first)


def test_a_running_job_is_looked_at_without_waiting_for_its_end(jobs):
    state = jobs.start(*SLEEPER, wait_s=0.1)

    assert (state.state, state.over, state.exit_code, state.ended_by) == ("running", False, None, None)


def test_output_is_read_from_where_the_last_look_ended(jobs):
    jobs.start("printf 'one\\ntwo\\n'", Script(output=((0, b"one\ntwo\n"),)))

    state = jobs.look(offset=4)

    assert (state.chunk, state.offset, state.output_bytes) == (b"two\n", 8, 8)
    assert jobs.look(offset=8).chunk == b""
    assert not jobs.look(offset=8).more


def test_half_a_line_is_kept_back_while_the_job_runs_and_given_when_it_has_ended(jobs):
    command = "printf 'one\\ntw'; sleep 60"
    running = jobs.start(command, Script(output=((0, b"one\ntw"),), ends_at=60), wait_s=0.5)
    stopped = jobs.folder.stop("job")

    assert (running.chunk, running.offset, running.output_bytes, running.more) == (b"one\n", 4, 6, True)
    assert jobs.look(offset=4).chunk == b"tw"
    assert stopped.over


def test_a_look_reads_so_much_and_says_that_there_is_more(jobs):
    line = b"x" * 999 + b"\n"
    command = "head -c 999 /dev/zero | tr '\\0' x > line; echo >> line; for i in $(seq 300); do cat line; done"
    jobs.start(command, Script(output=((0, line * 300),)))

    first = jobs.look()
    second = jobs.look(offset=first.offset)

    assert (first.offset, first.more) == (LOOK_BYTES // 1000 * 1000, True)  # whole lines
    assert (second.offset, second.more) == (300_000, False)
    assert first.chunk + second.chunk == line * 300


@pytest.mark.parametrize(
    ("command", "script", "limits", "ended_by"),
    [
        ("sleep 60", Script(ends_at=60), {"timeout_s": 1}, "timeout"),
        ("echo x; sleep 60", Script(ends_at=60, output=((0, b"x\n"),)), {"idle_timeout_s": 1}, "idle"),
    ],
)
def test_a_job_that_exceeds_a_limit_is_ended(jobs, command, script, limits, ended_by):
    state = jobs.start(command, script, **limits)

    assert (state.state, state.ended_by, state.exit_code) == ("ended", ended_by, 128 + 15)


def test_a_job_that_prints_too_much_is_ended(jobs, monkeypatch):
    monkeypatch.setattr("functions.executor.work.jobs.MAX_OUTPUT_BYTES", 100)

    state = jobs.start("seq 100; sleep 60", Script(ends_at=60, output=((0, b"1234567890\n" * 20),)))

    assert (state.state, state.ended_by) == ("ended", "output_limit")


def test_a_job_that_is_killed_says_so(jobs):
    state = jobs.start("kill -9 $$", Script(ended_by="signal", exit_code=137))

    assert (state.ended_by, state.exit_code) == ("signal", 137)


def test_stopping_ends_a_job_and_stopping_again_changes_nothing(jobs):
    jobs.start(*SLEEPER, wait_s=0.1)

    first = jobs.folder.stop("job")

    assert (first.state, first.ended_by) == ("ended", "stop")
    assert without_ages(jobs.folder.stop("job")) == without_ages(first)


def test_a_job_that_was_stopped_before_it_began_never_starts(jobs):
    stopped = jobs.folder.stop("job")
    started = jobs.start(*HELLO)

    assert (stopped.state, stopped.ended_by, stopped.exit_code) == ("ended", "stop", None)
    assert (started.state, started.chunk) == ("ended", b"")


def test_stopping_a_job_that_has_ended_leaves_its_end_as_it_was(jobs):
    jobs.start(*HELLO)

    state = jobs.folder.stop("job")

    assert (state.ended_by, state.exit_code) == ("exit", 3)


def test_the_secret_environment_is_gone_once_the_job_runs(jobs):
    secret = {"API_KEY": Secret("the-key-itself")}

    state = jobs.start('test "${#API_KEY}" = 14', Script(), secret_env=secret)

    assert state.exit_code == 0
    assert not jobs.bench.has(jobs.folder.path("job", "secret_env.json"))
    assert b"the-key-itself" not in jobs.bench.read(jobs.folder.path("job", "job.json"))


def test_a_secret_file_is_in_the_jobs_home_and_no_longer_where_it_came_in(jobs):
    secret = {".login/file": Secret("the-login-itself")}

    state = jobs.start('test "$(wc -c < ~/.login/file)" -eq 16', Script(), home_files=secret)

    assert state.exit_code == 0
    assert not jobs.bench.has(jobs.folder.path("job", "secret_home.json"))
    assert b"the-login-itself" not in jobs.bench.read(jobs.folder.path("job", "job.json"))


def test_stdin_and_further_files_stand_in_the_jobs_folder(jobs):
    jobs.start("cat", Script(output=((0, b"what to do"),)), stdin="what to do", files={"spec.json": b"{}"})

    assert jobs.look().chunk == b"what to do"
    assert jobs.folder.read("job", "spec.json") == b"{}"


def test_a_setup_script_whose_commands_read_their_input_is_run_to_its_end(tmp_path):
    """What the executor uploads for it, under the real supervisor."""
    world = World()
    world.start(setup_script="cat\necho after cat\nfalse | true\necho never")
    world.until(Phase.SETUP)
    world.deliver()
    bench = FolderSandboxConnection(tmp_path)
    bench.upload(dict(world.sandboxes.last.uploads))
    (tmp_path / "repo").mkdir()

    run_id = world.run_row["id"]
    run = f"{RUNS}/{run_id}"
    look = to_json(LookRequest(wait_s=PATIENCE_S))
    bench.run_python(f"{run}/{archive.NAME}", "supervisor", "start", f"{run}/setup", look, timeout_s=60)

    state = RunFolder(bench, run_id).look("setup")
    assert (state.exit_code, state.chunk) == (1, b"after cat\n")  # 1: bash -e, with pipefail
