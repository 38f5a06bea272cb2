"""supervisor.py with real processes: one detached job in one folder, started once, ended for certain."""

import base64
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from tests.process_table import command_of
from tests.sandbox_programs import command, install
from tests.small_disks import NO_ROOM, small_disk
from tests.waiting import wait_for

IS_ROOT = os.getuid() == 0
WAIT_S = 45
JOB = {
    "argv": ["true"],
    "user": "agent",
    "cwd": "",
    "timeout_s": 60,
    "max_output_bytes": 10_000_000,
    "stop_grace_s": 5,
}


class Job:
    """A job's folder and the three commands."""

    def __init__(self, folder, home, programs=None, **environment):
        self.folder = folder
        self.programs = programs or install(folder.parent)
        self.environment = {
            "PATH": os.environ["PATH"],
            "AGENT_USER": "",
            "AGENT_HOME": str(home),
            "HOME": str(home),
            **environment,
        }

    def write(self, *argv, **changes):
        self.folder.mkdir(mode=0o700, exist_ok=True)
        (self.folder / "job.json").write_text(json.dumps({**JOB, "argv": argv, **changes}))
        return self

    def command(self, verb, folder=None, **look):
        return command(self.programs, "supervisor", verb, folder or self.folder, json.dumps(look))

    def call(self, verb, cwd="/", **look):
        return subprocess.run(
            self.command(verb, **look),
            env=self.environment,
            cwd=cwd,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def ask(self, verb, **look):
        done = self.call(verb, **look)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == 1
        answer = json.loads(done.stdout)
        answer["text"] = base64.b64decode(answer.pop("chunk")).decode()
        return answer

    def start(self, **look):
        return self.ask("start", **look)

    def run(self):
        """Start it and wait for its end."""
        answer = self.start(wait_s=WAIT_S)
        assert answer["state"] == "ended", answer
        return answer

    def look(self, **look):
        return self.ask("look", **look)

    def stop(self):
        return self.ask("stop")

    def supervisor(self):
        return json.loads((self.folder / "state" / "supervisor.json").read_text())["pid"]


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def job(tmp_path, home):
    job = Job(tmp_path / "job", home)
    yield job
    if job.folder.exists():
        job.stop()


@pytest.fixture
def own_program(tmp_path, home):
    """A factory of jobs of root: what a program in the place of `clone` does, and its arguments."""
    job = Job(tmp_path / "job", home)

    def write(text, *arguments):
        install(tmp_path, clone="def main(arguments):\n" + textwrap.indent(text, "    "))
        return job.write("clone", *arguments, user="root", cwd="/")

    yield write
    if job.folder.exists():
        job.stop()


def number_in(path):
    return wait_for(lambda: path.exists() and path.read_text().strip() and int(path.read_text()))


def is_gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return True


# --- start and look ---------------------------------------------------------------------------------------


def test_a_job_runs_to_its_end_and_leaves_output_and_exit_code(job):
    answer = job.write("sh", "-c", "echo out; echo err >&2; exit 3").run()

    assert (answer["exit_code"], answer["ended_by"]) == (3, "exit")
    assert (answer["text"], answer["stderr_tail"]) == ("out\n", "err\n")
    assert (answer["output_bytes"], answer["offset"]) == (4, 4)
    assert answer["started_at"] <= answer["ended_at"]
    assert answer["heartbeat_age_s"] >= 0
    assert answer["idle_s"] >= 0


def test_starting_returns_while_the_job_runs_and_a_second_start_changes_nothing(job, home):
    job.write("sh", "-c", "echo $$ >> pids; sleep 60")
    first = job.start()
    number_in(home / "pids")
    second = job.start()

    assert (first["state"], second["state"]) == ("running", "running")
    assert first["started_at"] == second["started_at"]
    assert len((home / "pids").read_text().split()) == 1


def test_many_starts_at_once_start_it_once(job, home):
    job.write("sh", "-c", "echo $$ >> pids")
    line = job.command("start", wait_s=WAIT_S)
    starts = [subprocess.Popen(line, env=job.environment, stdout=subprocess.PIPE) for _ in range(6)]

    assert {json.loads(start.communicate(timeout=120)[0])["state"] for start in starts} == {"ended"}
    assert len((home / "pids").read_text().split()) == 1


def test_a_job_nobody_started_is_absent(job):
    assert job.look()["state"] == "absent"
    assert job.write("true").look()["state"] == "absent"


@pytest.mark.parametrize(
    ("argv", "changes", "code"),
    [
        (["no-such-program"], {}, 127),
        (["/etc/passwd"], {}, 126),
        (["true"], {"cwd": "no/such/folder"}, 127),
    ],
)
def test_what_cannot_be_run_ends_like_in_a_shell_and_says_why(job, argv, changes, code):
    answer = job.write(*argv, **changes).run()

    assert (answer["exit_code"], answer["ended_by"]) == (code, "exit")
    assert argv[0] in answer["stderr_tail"]


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": []},
        {"argv": "true"},
        {"user": "somebody"},
        {"env": {"A": 1}},
        {"timeout_s": None},
        {"stop_grace_s": -1},
        {"stdin": "../secret"},
        {"stdin": "missing-is-fine-until-start", "secret_env_file": "missing"},
    ],
)
def test_a_job_that_makes_no_sense_is_refused_and_not_locked(job, changes):
    job.write("true", **changes)
    done = job.call("start")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.strip()
    assert job.look()["state"] == "absent"


def test_bad_usage_is_exit_2(job):
    assert job.call("dance").returncode == 2
    assert job.write("true").call("look", offset=-1).returncode == 2
    assert job.call("look", max_bytes=0).returncode == 2
    assert job.call("look", since=1).returncode == 2
    (job.folder / "job.json").write_text("{")
    assert job.call("start").stderr == "job.json is not JSON.\n"


def test_it_works_from_any_folder_and_with_a_relative_path(job):
    job.write("pwd")
    done = subprocess.run(
        job.command("start", "job", wait_s=WAIT_S),
        cwd=job.folder.parent,
        env=job.environment,
        capture_output=True,
        timeout=120,
    )

    assert json.loads(done.stdout)["state"] == "ended"
    assert job.look()["text"].strip() == job.environment["AGENT_HOME"]


def test_output_is_read_from_an_offset_in_whole_lines(job, home):
    job.write("sh", "-c", "printf 'one\\ntwo\\nthr'; until test -e go; do sleep 0.05; done; printf 'ee\\nend'")
    job.start()
    wait_for(lambda: job.look()["output_bytes"] == 11)

    first = job.look()
    assert (first["text"], first["offset"], first["output_bytes"]) == ("one\ntwo\n", 8, 11)
    assert job.look(offset=8)["text"] == ""
    assert job.look(max_bytes=6)["text"] == "one\n"
    assert job.look(max_bytes=2)["text"] == "on"
    (home / "go").touch()

    last = job.look(offset=8, wait_s=WAIT_S)
    assert (last["state"], last["text"], last["offset"]) == ("ended", "three\nend", 17)
    assert job.look(max_bytes=5)["text"] == "one\n"
    assert job.look(offset=99)["offset"] == 99


def test_a_look_waits_for_the_end_and_no_longer(job, home):
    job.write("sh", "-c", "until test -e go; do sleep 0.05; done")
    job.start()

    assert job.look(wait_s=0.2)["state"] == "running"
    (home / "go").touch()
    assert job.look(wait_s=WAIT_S)["state"] == "ended"


# --- what the job gets ------------------------------------------------------------------------------------


def test_the_environment_is_clean_and_files_are_closed(job, home):
    job.environment["AWS_SECRET_ACCESS_KEY"] = "ours"
    job.write(
        sys.executable,
        "-c",
        "import os,json;print(json.dumps([dict(os.environ),os.listdir('/dev/fd')]))",
        env={"A": "b"},
    )

    environment, files = json.loads(job.run()["text"])

    assert environment.pop("USER") == environment.pop("LOGNAME")
    assert environment.pop("SHELL").startswith("/bin/")
    environment.pop("LC_CTYPE", None)  # Python's own
    assert environment == {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "IS_SANDBOX": "1",
        "SANDBOX_JOB": str(job.folder),
        "A": "b",
    }
    assert set(files) <= {"0", "1", "2", "3"}  # 3 lists the folder


def test_roots_own_jobs_know_for_whom_they_work(own_program, home):
    job = own_program("import os\nprint([os.environ['AGENT_USER']], os.environ['AGENT_HOME'], os.getcwd())")

    assert job.run()["text"] == f"[''] {home} /\n"


def test_root_runs_programs_of_ours_only_isolated_from_what_else_python_imports(own_program):
    job = own_program("import sys; print(sys.flags.isolated, sys.flags.no_site, arguments)", "a", "b")

    assert job.run()["text"] == "1 1 ['a', 'b']\n"
    for program in ("sh", "/bin/sh", "../home/other.py", "protocol"):
        other = Job(job.folder.with_name("other"), job.folder, programs=job.programs)
        answer = other.write(program, "-c", "echo ran", user="root", cwd="/").run()
        assert (answer["text"], answer["exit_code"]) == ("", 2), program
        shutil.rmtree(other.folder)


def test_the_agent_has_a_path_of_its_own(job):
    job.environment |= {"PATH": "/usr/bin:/bin", "AGENT_PATH": "/opt/agents/bin:/usr/bin:/bin"}

    assert job.write("sh", "-c", "echo $PATH").run()["text"] == "/opt/agents/bin:/usr/bin:/bin\n"


def test_secrets_reach_the_job_and_nothing_else(job, home):
    job.write("sh", "-c", "echo $KEY; ls $SANDBOX_JOB; until test -e go; do sleep 0.05; done", secret_env_file="secret")
    (job.folder / "secret").write_text('{"KEY": "s3cret-value"}')
    (job.folder / "secret").chmod(0o600)
    answer = job.start()
    assert not (job.folder / "secret").exists()
    (home / "go").touch()
    answer = job.look(wait_s=WAIT_S)

    assert answer["text"].split() == ["s3cret-value", "job.json", "state", "stderr", "stdout"]
    kept = [path for path in job.folder.rglob("*") if path.is_file() and path.name != "stdout"]
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]


def test_secrets_that_come_with_a_second_start_are_removed(job):
    job.write("sleep", "60", secret_env_file="secret", stop_grace_s=1)
    for _ in range(2):
        (job.folder / "secret").write_text('{"KEY": "s3cret-value"}')
        assert job.start()["state"] == "running"
        assert not (job.folder / "secret").exists()


def test_a_broken_secret_file_is_removed_and_never_shown(job):
    job.write("true", secret_env_file="secret")
    (job.folder / "secret").write_text('{"KEY": "s3cret-value"')
    done = job.call("start")

    assert (done.returncode, done.stderr) == (2, "secret is not JSON.\n")
    assert not (job.folder / "secret").exists()


# --- secret files in its home ------------------------------------------------------------------------------

LOGIN = ".agent/logins/login.json"


def write_with_login(job, *argv, text="s3cret-login", path=LOGIN, **changes):
    job.write(*argv, secret_home_file="home", **changes)
    (job.folder / "home").write_text(json.dumps({path: text}))
    return job


def test_a_secret_file_stands_in_the_jobs_home_for_itself_alone_and_nowhere_else(job, home):
    answer = write_with_login(job, "sh", "-c", f"cat {LOGIN}; ls $SANDBOX_JOB", text="s3cret-ä\n").run()

    assert answer["text"].split() == ["s3cret-ä", "job.json", "state", "stderr", "stdout"]
    assert (home / LOGIN).stat().st_mode & 0o777 == 0o600
    assert (home / LOGIN).parent.stat().st_mode & 0o777 == 0o700
    kept = [path for path in job.folder.rglob("*") if path.is_file() and path.name != "stdout"]
    assert not [path for path in kept if b"s3cret" in path.read_bytes()]


def plant_older_file(target, elsewhere):
    target.write_text("a longer text than the new one")
    target.chmod(0o644)


def plant_link(target, elsewhere):
    target.symlink_to(elsewhere)


def plant_hard_link(target, elsewhere):
    target.hardlink_to(elsewhere)


def plant_pipe(target, elsewhere):
    os.mkfifo(target)


@pytest.mark.parametrize("plant", [plant_older_file, plant_link, plant_hard_link, plant_pipe])
def test_what_stands_in_a_secret_files_place_is_replaced_and_never_followed(job, home, plant):
    (home / LOGIN).parent.mkdir(parents=True)
    (home / "elsewhere").write_text("untouched")
    plant(home / LOGIN, home / "elsewhere")

    assert write_with_login(job, "cat", LOGIN).run()["text"] == "s3cret-login"

    assert (home / LOGIN).is_file()
    assert not (home / LOGIN).is_symlink()
    assert (home / LOGIN).stat().st_mode & 0o777 == 0o600
    assert (home / "elsewhere").read_text() == "untouched"


def test_a_secret_file_does_not_follow_a_folder_that_leads_away(job, home):
    (home / "repo").mkdir()
    (home / ".agent").symlink_to("repo")

    answer = write_with_login(job, "touch", "ran").run()

    assert (answer["exit_code"], answer["ended_by"]) == (126, "exit")
    assert answer["stderr_tail"] == f"Cannot run touch in home: {LOGIN}: Not a directory\n"
    assert list((home / "repo").iterdir()) == []
    assert not (home / "ran").exists()


def test_secret_files_that_come_with_a_second_start_are_removed_and_not_written(job, home):
    write_with_login(job, "sleep", "60", stop_grace_s=1).start()
    (job.folder / "home").write_text(json.dumps({LOGIN: "another"}))

    assert job.start()["state"] == "running"
    assert not (job.folder / "home").exists()
    assert (home / LOGIN).read_text() == "s3cret-login"


def test_when_one_of_the_secrets_is_broken_both_are_removed_and_neither_is_shown(job, home):
    for broken in ("secret", "home"):
        write_with_login(job, "true", secret_env_file="secret")
        (job.folder / "secret").write_text('{"KEY": "s3cret-value"}')
        (job.folder / broken).write_text('{"x": "s3cret-value"')
        done = job.call("start")

        assert (done.returncode, done.stderr) == (2, f"{broken} is not JSON.\n")
        assert sorted(path.name for path in job.folder.iterdir()) == ["job.json"]
    assert list(home.iterdir()) == []


def test_stopping_a_job_that_never_started_removes_its_secret_files(job, home):
    write_with_login(job, "true").stop()

    assert not (job.folder / "home").exists()
    assert list(home.iterdir()) == []


# --- how its program starts ---------------------------------------------------------------------------------


def test_stdin_is_a_file_of_the_job_or_empty(job, tmp_path, home):
    job.write("cat", stdin="prompt.txt")
    (job.folder / "prompt.txt").write_text("do 'it' $(now)\n")
    assert job.run()["text"] == "do 'it' $(now)\n"

    other = Job(tmp_path / "other", home)
    assert other.write("cat").run()["text"] == ""


def test_programs_find_the_usual_umask_and_signals(job):
    script = "umask; trap - PIPE; yes | head -n 1; kill -TERM $$"
    answer = job.write("bash", "-c", script).run()

    assert (answer["text"], answer["exit_code"], answer["ended_by"]) == ("0022\ny\n", 128 + signal.SIGTERM, "signal")


# --- how it ends ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "limits", "reason"),
    [
        ("while :; do echo x; sleep 0.1; done", {"timeout_s": 1}, "timeout"),
        ("echo x; sleep 60", {"idle_timeout_s": 1}, "idle"),
        ("yes", {"max_output_bytes": 10_000}, "output_limit"),
        ("yes >&2", {"max_output_bytes": 10_000}, "output_limit"),
    ],
)
def test_a_job_over_its_limit_is_ended_with_the_reason(job, script, limits, reason):
    answer = job.write("bash", "-c", script, **limits).run()

    assert (answer["ended_by"], answer["exit_code"]) == (reason, 128 + signal.SIGTERM)


def test_stop_is_polite_first_and_may_be_repeated(job):
    job.write("bash", "-c", "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done")
    job.start()
    wait_for(lambda: job.look()["output_bytes"])

    answer = job.stop()

    assert (answer["state"], answer["ended_by"], answer["exit_code"]) == ("ended", "stop", 7)
    assert answer["text"] == "ready\nbye\n"
    again = job.stop()
    assert {key: again[key] for key in ("state", "ended_by", "ended_at")} == {
        key: answer[key] for key in ("state", "ended_by", "ended_at")
    }


def test_stop_ends_for_certain_what_does_not_listen(job):
    job.write("bash", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done", stop_grace_s=0.2)
    job.start()
    wait_for(lambda: job.look()["output_bytes"])

    answer = job.stop()

    assert (answer["ended_by"], answer["exit_code"]) == ("stop", 128 + signal.SIGKILL)


ESCAPE = (
    "import os,sys,time\n"
    "if os.fork(): sys.exit()\n"
    "os.setsid()\n"
    "if os.fork(): os._exit(0)\n"
    "open('escaped','w').write(str(os.getpid()))\n"
    "time.sleep(120)\n"
)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere only the process group is ended")
@pytest.mark.parametrize("main_part", ["until test -s escaped; do sleep 0.02; done", "sleep 120"])
def test_whoever_escapes_from_the_process_group_is_ended_before_the_job_counts_as_ended(job, home, main_part):
    (home / "escape.py").write_text(ESCAPE)
    job.write("sh", "-c", f"{sys.executable} escape.py; {main_part}", stop_grace_s=1)
    job.start()
    escaped = number_in(home / "escaped")

    answer = job.stop() if main_part == "sleep 120" else job.look(wait_s=WAIT_S)

    assert answer["state"] == "ended"
    assert is_gone(escaped)


def test_what_runs_in_the_background_ends_with_the_job(job, home):
    answer = job.write("sh", "-c", "sleep 120 & echo $! > background; exit 5", stop_grace_s=1).run()

    assert (answer["exit_code"], answer["ended_by"]) == (5, "exit")
    assert is_gone(number_in(home / "background"))


def test_a_stopped_job_that_never_started_can_never_start(job, home):
    job.write("touch", "ran", secret_env_file="secret")
    (job.folder / "secret").write_text('{"KEY": "s3cret-value"}')

    assert job.stop()["ended_by"] == "stop"
    assert job.start(wait_s=0.3)["state"] == "ended"
    assert not (home / "ran").exists()
    assert not (job.folder / "secret").exists()


def test_a_job_stopped_before_anybody_wrote_it_can_never_start(job):
    answer = job.stop()

    assert (answer["state"], answer["exit_code"], answer["started_at"]) == ("ended", None, None)
    assert job.write("true").start()["ended_by"] == "stop"


# --- when the supervisor dies -----------------------------------------------------------------------------


def test_a_dead_supervisor_is_a_crash_and_stop_tidies_up(job, home):
    (home / "escape.py").write_text(ESCAPE)
    job.write("sh", "-c", f"{sys.executable} escape.py; echo $$ > main; sleep 120", stop_grace_s=1)
    job.start()
    main, escaped = number_in(home / "main"), number_in(home / "escaped")
    os.kill(job.supervisor(), signal.SIGKILL)
    wait_for(lambda: job.look()["state"] == "crashed")
    assert not is_gone(main)

    answer = job.stop()

    assert (answer["state"], answer["ended_by"], answer["exit_code"]) == ("ended", "crash", None)
    assert is_gone(main)
    assert is_gone(escaped)


def test_another_process_with_the_number_of_the_supervisor_fools_nobody(job):
    job.write("sleep", "120", stop_grace_s=1)
    job.start()
    dead = job.supervisor()
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: is_gone(dead))
    record = job.folder / "state" / "supervisor.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "pid": os.getpid()}))

    assert job.look()["state"] == "crashed"
    assert job.stop()["state"] == "ended"


def test_a_start_that_died_early_is_a_crash_after_ten_seconds(job):
    job.write("true")
    state = job.folder / "state"
    state.mkdir()
    assert job.look()["state"] == "starting"

    long_ago = time.time() - 11
    os.utime(state, (long_ago, long_ago))

    assert job.look()["state"] == "crashed"
    assert job.look(wait_s=WAIT_S)["state"] == "crashed"


def test_a_terminated_supervisor_ends_its_job(job, home):
    job.write("sh", "-c", "echo $$ > main; sleep 120", stop_grace_s=1)
    job.start()
    main = number_in(home / "main")
    os.kill(job.supervisor(), signal.SIGTERM)

    assert job.look(wait_s=WAIT_S)["ended_by"] == "stop"
    assert is_gone(main)


# --- when the sandbox is rebooted -------------------------------------------------------------------------


def as_after_a_reboot(job, **numbers):
    """The records of a job as they are after a reboot: of another boot, with numbers that strangers may have now."""
    state = job.folder / "state"
    for name in ("supervisor.json", "child.json"):
        if (state / name).exists():
            record = json.loads((state / name).read_text())
            born = f"00000000-0000-4000-8000-000000000000 {record['birth'].split()[-1]}"
            (state / name).write_text(json.dumps({**record, "birth": born, **numbers}))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells one boot from another")
def test_a_job_of_before_a_reboot_has_crashed_and_stop_leaves_strangers_alone(job):
    job.write("sleep", "120", stop_grace_s=1)
    job.start()
    dead = job.supervisor()
    os.kill(dead, signal.SIGKILL)
    wait_for(lambda: is_gone(dead))
    stranger = subprocess.Popen(["sleep", "120"], start_new_session=True)
    try:
        as_after_a_reboot(job, pid=stranger.pid)

        assert job.look()["state"] == "crashed"
        assert job.look(wait_s=WAIT_S)["state"] == "crashed"
        assert job.start()["state"] == "crashed"  # at most once, also after a reboot
        assert (job.stop()["ended_by"], job.look()["state"]) == ("crash", "ended")
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("clock", [-3600, 3600])
def test_a_start_that_a_reboot_interrupted_is_a_crash_wherever_the_clock_stands_then(job, clock):
    job.write("true")
    state = job.folder / "state"
    state.mkdir()
    os.utime(state, (time.time() + clock, time.time() + clock))

    assert job.look()["state"] == "crashed"
    assert job.stop()["ended_by"] == "crash"


# --- secrets of a start that failed -----------------------------------------------------------------------


SECRET_FILES = ("secret_env.json", "secret_home.json", "git_token")


def bring_secrets(job):
    """What an executor uploads before it says `start`."""
    job.folder.mkdir(mode=0o700, exist_ok=True)
    for name in SECRET_FILES:
        (job.folder / name).write_text('{"KEY": "s3cret"}')


def secrets_left(job):
    return [name for name in SECRET_FILES if (job.folder / name).exists()]


@pytest.mark.parametrize("written", [True, False], ids=["with job.json", "without job.json"])
@pytest.mark.parametrize("command", ["look", "stop"])
def test_secrets_of_a_start_that_was_never_made_are_gone_after_the_next_word(job, command, written):
    bring_secrets(job)
    if written:
        job.write("true", secret_env_file="secret_env.json", secret_home_file="secret_home.json")

    job.ask(command)

    assert secrets_left(job) == []


def test_a_start_that_is_refused_leaves_no_secrets(job):
    bring_secrets(job)
    job.write("true", user="somebody")

    assert job.call("start").returncode == 2
    assert secrets_left(job) == []


def test_a_token_waits_for_the_job_that_takes_it_and_no_longer(job, home):
    job.write("sh", "-c", "until test -e go; do sleep 0.02; done")
    job.start()
    bring_secrets(job)

    job.look()
    assert secrets_left(job) == ["git_token"]
    (home / "go").touch()
    job.look(wait_s=WAIT_S)

    assert secrets_left(job) == []


def test_what_a_start_is_taking_is_not_taken_from_it(job):
    bring_secrets(job)
    job.write("true", secret_env_file="secret_env.json")
    (job.folder / "state").mkdir()

    assert job.look()["state"] == "starting"
    assert secrets_left(job) == list(SECRET_FILES)


def test_secrets_do_not_outlive_a_supervisor_that_died(job):
    job.write("sleep", "60", stop_grace_s=0).start()
    bring_secrets(job)
    os.kill(job.supervisor(), signal.SIGKILL)
    wait_for(lambda: job.look()["state"] == "crashed")

    assert secrets_left(job) == []


# --- a full disk ------------------------------------------------------------------------------------------


def test_an_agents_job_leaves_some_of_the_disk_which_is_free_again_once_it_has_ended(job, home):
    script = "cd ../job/state/reserve; stat -c %b bytes; stat -c %a bytes .; ls | wc -l"
    job.write("sh", "-c", script, cwd=str(home)).run()

    blocks, *modes, files = job.look()["text"].split()
    assert int(blocks) > 0
    assert modes == ["600", "700"]
    assert int(files) > (500 if os.statvfs(home).f_files else 0)
    assert not (job.folder / "state" / "reserve").exists()


def test_a_crashed_agents_share_of_the_disk_is_free_again_once_it_was_stopped(job):
    job.write("sleep", "60").start()
    os.kill(job.supervisor(), signal.SIGKILL)
    wait_for(lambda: job.look()["state"] == "crashed")
    assert (job.folder / "state" / "reserve" / "bytes").stat().st_size > 0

    job.stop()

    assert not (job.folder / "state" / "reserve").exists()


def test_our_own_jobs_may_have_the_whole_disk(own_program):
    job = own_program("import time; time.sleep(60)")
    job.start()

    assert not (job.folder / "state" / "reserve").exists()


# A program that fills its disk. It says why it could not go on, where that has room.
FILL_BYTES = """
with open("junk", "wb", buffering=0) as junk:
    try:
        while True:
            junk.write(bytes(4096))
    except OSError as error:
        why = error.strerror
print(why)
"""
FILL_INODES = """
import itertools, os
os.mkdir("junk")
try:
    for number in itertools.count():
        open(f"junk/{number}", "w").close()
except OSError as error:
    why = error.strerror
print(why)
"""


@pytest.fixture(params=[("size=8m", FILL_BYTES), ("size=64m,nr_inodes=4000", FILL_INODES)], ids=["bytes", "inodes"])
def full_job(request, tmp_path):
    """A job on a disk of its own, which its program fills; `rest` is what it does then."""
    options, fill = request.param
    (tmp_path / "fill.py").write_text(fill)
    with small_disk(tmp_path / "disk", options) as disk:
        (disk / "home").mkdir()
        job = Job(disk / "job", disk / "home")
        job.fill = [sys.executable, str(tmp_path / "fill.py")]
        yield job
        job.stop()


def free_of(job):
    """What is left of the disk: bytes, inodes."""
    disk = os.statvfs(job.folder)
    return disk.f_bfree * disk.f_frsize, disk.f_ffree


def test_a_job_that_fills_its_disk_ends_like_any_other_and_leaves_room(full_job):
    full_job.write("sh", "-c", f"{' '.join(full_job.fill)} > /dev/null")

    answer = full_job.start(wait_s=WAIT_S)

    assert (answer["state"], answer["ended_by"], answer["exit_code"]) == ("ended", "exit", 0)
    free, inodes = free_of(full_job)
    assert free > 1_000_000
    assert inodes > 500


def test_a_job_can_be_stopped_while_its_disk_is_full(full_job):
    full_job.write("sh", "-c", f"{' '.join(full_job.fill)}; exec sleep 120", stop_grace_s=1).start()
    wait_for(lambda: min(free_of(full_job)) == 0)

    assert full_job.stop()["ended_by"] == "stop"
    assert min(free_of(full_job)) > 500


def test_what_a_dead_supervisor_kept_is_given_back_on_a_full_disk(full_job):
    full_job.write("sh", "-c", f"{' '.join(full_job.fill)}; exec sleep 120", stop_grace_s=1).start()
    wait_for(lambda: min(free_of(full_job)) == 0)
    os.kill(full_job.supervisor(), signal.SIGKILL)
    wait_for(lambda: full_job.look()["state"] == "crashed")
    assert min(free_of(full_job)) < 500

    assert full_job.stop()["ended_by"] == "crash"
    assert min(free_of(full_job)) > 500


def test_a_job_for_which_a_full_disk_has_no_room_says_so_and_may_be_started_later(full_job):
    full_job.write("echo", "hello")
    fill = subprocess.run(full_job.fill, cwd=full_job.environment["HOME"], capture_output=True, text=True, check=True)
    assert fill.stdout == f"{NO_ROOM}\n"

    done = full_job.call("start")

    assert done.returncode != 0
    assert NO_ROOM in done.stderr
    subprocess.run(["rm", "-rf", f"{full_job.environment['HOME']}/junk"], check=True)
    assert full_job.run()["text"] == "hello\n"


# --- as another user --------------------------------------------------------------------------------------


# Run as the first process of a namespace: a bystander of the agent's user, then the job, then what is left.
ALONE = """
import json, os, pwd, signal, subprocess, sys, time
programs, folder, ends = sys.argv[1:]
user = pwd.getpwnam("games")

def call(verb, **look):
    line = [sys.executable, "-I", "-S", programs, "supervisor", verb, folder, json.dumps(look)]
    return json.loads(subprocess.check_output(line))

def alive():
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            facts = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status") if ":" in line)
        except OSError:
            continue
        if str(user.pw_uid) in facts["Uid"].split() and facts["State"].split()[0] != "Z":
            found.append(facts["Name"].strip())
    return found

bystander = subprocess.Popen(["sleep", "3600"], user=user.pw_uid, env={}, start_new_session=True)
before = len(alive())
state = call("start", wait_s=45 if ends == "by itself" else 0)
if ends != "by itself":
    while not call("look")["output_bytes"]:
        time.sleep(0.02)
if ends == "its supervisor dies":
    who = json.load(open(f"{folder}/state/supervisor.json"))["pid"]
    os.kill(who, signal.SIGKILL)
    while call("look")["state"] != "crashed":
        time.sleep(0.02)
    os.kill(json.load(open(f"{folder}/state/child.json"))["pid"], signal.SIGKILL)
    time.sleep(0.1)
    before = len(alive())
if ends != "by itself":
    call("stop")
print(json.dumps({"before": before, "state": call("look")["state"], "left": alive()}))
"""


@pytest.mark.skipif(not IS_ROOT, reason="only root can be somebody else")
class TestAsAnotherUser:
    @pytest.fixture
    def job(self, tmp_path):
        """`nobody` is the agent, at home in a folder it may write to."""
        home = Path("/tmp") / f"supervisor-{os.getpid()}-{tmp_path.name}"
        home.mkdir(mode=0o755)
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
        job = Job(tmp_path / "job", home, AGENT_USER="nobody")
        yield job
        if job.folder.exists():
            job.stop()
        subprocess.run(["rm", "-rf", home], check=True)

    @pytest.fixture
    def own_pids(self, tmp_path):
        """Has a job live and end among processes of its own, where all of a user's can be ended: what became of it."""
        probe = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
        if "games" not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("no user to spare")
        if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
            pytest.skip("processes of its own take the right to make a namespace")

        def live(job, ends):
            (tmp_path / "alone.py").write_text(ALONE)
            argv = [*probe[:-1], sys.executable, tmp_path / "alone.py", job.programs, job.folder, ends]
            done = subprocess.run(argv, env=job.environment, capture_output=True, text=True, check=False, timeout=120)
            assert done.returncode == 0, done.stderr
            return json.loads(done.stdout)

        return live

    def test_the_agent_has_no_powers(self, job):
        script = "id -un; id -Gn; grep -E 'NoNewPrivs|CapEff|CapPrm' /proc/self/status; echo $HOME $USER; touch mine"
        answer = job.write("sh", "-c", script).run()

        name, groups, *status, mine = answer["text"].splitlines()
        assert name == "nobody"
        assert "root" not in groups.split()
        assert [line.split()[1].strip("0") for line in status] == ["", "", "1"]
        assert mine == f"{job.environment['AGENT_HOME']} nobody"
        assert (Path(job.environment["AGENT_HOME"]) / "mine").owner() == "nobody"

    def test_a_secret_file_is_the_agents_own_and_not_written_where_only_root_could(self, job, tmp_path):
        home = Path(job.environment["AGENT_HOME"])
        roots = tmp_path / "roots"
        roots.mkdir(mode=0o700)
        tmp_path.chmod(0o755)

        assert write_with_login(job, "cat", LOGIN).run()["text"] == "s3cret-login"
        for path in ((home / LOGIN), (home / LOGIN).parent):
            assert path.owner() == "nobody"

        other = Job(tmp_path / "other", home, AGENT_USER="nobody")
        answer = write_with_login(other, "true", path=f"../{os.path.relpath(roots, home.parent)}/login").run()
        assert answer["exit_code"] == 126
        assert list(roots.iterdir()) == []

    def test_the_agent_cannot_touch_the_state(self, job):
        state = job.folder / "state" / "exit.json"
        script = f"echo '{{}}' > {state}; echo > /proc/self/fd/1; kill -9 $PPID; cat {job.folder}/job.json; echo end"
        answer = job.write("sh", "-c", script).run()

        assert (answer["text"], answer["ended_by"], answer["exit_code"]) == ("end\n", "exit", 0)
        for path in (job.folder / "stdout", job.folder / "stderr", state):
            assert (path.owner(), path.stat().st_mode & 0o777) == ("root", 0o600)

    def test_stop_ends_the_agents_processes(self, job):
        job.write("sh", "-c", "echo $$ > main; (setsid sleep 120 & echo $! > background); sleep 120", stop_grace_s=1)
        job.start()
        home = Path(job.environment["AGENT_HOME"])
        pids = [number_in(home / "main"), number_in(home / "background")]

        assert job.stop()["ended_by"] == "stop"
        assert all(is_gone(pid) for pid in pids)

    @pytest.mark.skipif("games" not in {entry.pw_name for entry in pwd.getpwall()}, reason="no user to spare")
    def test_nobody_is_quick_enough_to_flee(self, job):
        flee = "import os\nfor _ in range(6): os.fork()\nwhile True:\n if os.fork(): os._exit(0)\n os.setsid()"
        job.environment["AGENT_USER"] = "games"  # all processes of the user may be killed: not `nobody`'s
        mark = f"fleeing from {job.folder}"  # an argument: the environment is closed to other users, even to some roots
        job.write("python3", "-c", f"import os\nos.fork() or exec({flee!r})\nos.wait()", mark, stop_grace_s=0.2)
        answer = job.start(wait_s=WAIT_S)

        assert answer["state"] == "ended"
        assert [process for process in psutil.process_iter() if mark in command_of(process)] == []

    @pytest.mark.parametrize("ends", ["by itself", "stopped", "its supervisor dies"])
    def test_nothing_of_the_agents_user_outlives_its_job(self, job, own_pids, ends):
        """Not what has left its session with an empty environment, nor what never was a descendant of the job."""
        home = Path(job.environment["AGENT_HOME"])
        entry = pwd.getpwnam("games")
        os.chown(home, entry.pw_uid, entry.pw_gid)
        job.environment["AGENT_USER"] = "games"
        fled = f"setsid env -i /bin/sh -c 'echo $$ > {home}/fled; exec sleep 3600' &"
        rest = "until test -s fled; do sleep 0.02; done; echo ready; test -e go || exec sleep 3600"
        if ends == "by itself":
            (home / "go").touch()
        job.write("sh", "-c", f"{fled} {rest}", stop_grace_s=0.2)

        told = own_pids(job, ends)

        assert told["before"] == (2 if ends == "its supervisor dies" else 1)
        assert told["state"] == "ended"
        assert told["left"] == []

    def test_a_usage_log_is_read_with_the_rights_of_the_agent(self, job, tmp_path):
        home, roots = Path(job.environment["AGENT_HOME"]), tmp_path / "roots"
        roots.mkdir(mode=0o700)
        tmp_path.chmod(0o755)
        job.write("sh", "-c", f"mkdir -p logs/own && echo 'count: 1' > logs/own/log-0 && ln -s {roots} logs/roots")
        assert job.run()["exit_code"] == 0
        (roots / "log-1").write_text("count: a secret of root\n")  # the newest

        answer = job.look(usage_log={"pattern": "logs/*/log-*", "word": "count"})

        assert answer["usage_line"] == "count: 1"
        assert (home / "logs/roots").resolve() == roots

    def test_a_usage_log_whose_reader_cannot_be_the_agent_is_an_error_and_not_an_empty_log(self, job):
        assert job.write("sh", "-c", "echo 'count: 1' > log").run()["exit_code"] == 0
        job.environment["AGENT_USER"] = "no-such-user"

        done = job.call("look", usage_log={"pattern": "log", "word": "count"})

        assert (done.returncode, done.stdout) == (2, "")
        assert "no-such-user" in done.stderr

    def test_a_job_of_root_stays_root(self, job, tmp_path):
        install(tmp_path, clone="import os\ndef main(_): print(os.getuid())")
        assert job.write("clone", user="root", cwd="/").run()["text"] == "0\n"

    @pytest.mark.parametrize("user", ["no-such-user", "root"])
    def test_a_user_that_does_not_exist_or_is_root_is_refused(self, job, user):
        job.environment["AGENT_USER"] = user
        done = job.write("true").call("start")

        assert done.returncode == 2
        assert user in done.stderr
        assert job.look()["state"] == "absent"
