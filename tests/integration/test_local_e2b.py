"""The local E2B server, driven by the unmodified SDK: what our executor relies on, and where real envd bites."""

import base64
import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    NotFoundException,
    PtySize,
    Sandbox,
    SandboxException,
    SandboxNotFoundException,
    SandboxNotRunningException,
    SandboxQuery,
    SandboxState,
    SandboxUnreachableException,
    Secret,
    TimeoutException,
)
from e2b.sandbox.filesystem.filesystem import FileType

from local.services.e2b.isolation import (
    SANDBOX_PYTHON,
    Bubblewrap,
    PlainProcess,
    agent_path,
    installation,
    why_not_isolated,
)
from local.services.e2b.template import Template
from local.stack import STAND_IN
from tests.bubblewrap import bubblewrap_works
from tests.integration.e2b_servers import E2B_SERVER, LOCAL_SANDBOX, REAL_ENVD, reboot, restart_envd

PROJECT = Path(__file__).parents[2]
API_KEY = "local-key"
ENVD = "envd"
KINDS = [ENVD] if REAL_ENVD else ["bubblewrap", "bubblewrap-as-nobody", "process"]
PYTHON = LOCAL_SANDBOX["python"]
of_the_stand_in = pytest.mark.skipif(REAL_ENVD, reason="about the stand-in alone")
# What a real envd says of itself where it does not run in Firecracker.
E2B_SANDBOX = "false" if REAL_ENVD else "true"
SYSTEM_PYTHON = "/usr/bin/python3"


@dataclass
class Server:
    """A running `python -m local.services.e2b`."""

    process: subprocess.Popen
    url: str
    root: Path
    isolation: str
    log: Path
    separates_users: bool
    folder: Path

    def stop(self, number=signal.SIGTERM):
        self.process.send_signal(number)
        self.process.wait(120)


def start_server(folder, isolation, *, as_nobody=False, umask=-1, template=None, before=(), **env):
    """`isolation`: of the stand-in, or "envd" for a real one behind the server of `make conformance`."""
    module, *options = E2B_SERVER if isolation == ENVD else STAND_IN
    options += [] if isolation == ENVD else ["--isolation", isolation]
    argv = ["-m", module, "--root", str(folder / "root"), "--extra-path", str(install_an_agent(folder)), *options]
    if template is not None:
        (folder / "template.json").write_text(json.dumps(template))
        argv += ["--template", str(folder / "template.json")]
    if before:  # a command line that starts another, with a Python of its own
        argv = [*before, *argv]
        env |= {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONDONTWRITEBYTECODE": "1"}
    elif as_nobody:
        argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", SYSTEM_PYTHON, *argv]
        env |= {"PYTHONPATH": sysconfig.get_path("purelib"), "PYTHONDONTWRITEBYTECODE": "1"}
    else:
        argv = [sys.executable, *argv]
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            argv,
            cwd=PROJECT,
            env={**os.environ, "E2B_API_KEY": API_KEY, **env},
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            umask=umask,
        )
    with process.stdout:
        name, _, url = process.stdout.readline().strip().partition("=")
    assert name == "E2B_API_URL", (folder / "log").read_text()
    separates_users = isolation == ENVD or (isolation == "bubblewrap" and os.geteuid() == 0 and not as_nobody)
    return Server(process, url, folder / "root", isolation, folder / "log", separates_users, folder)


def install_an_agent(folder):
    """A folder for PATH whose program is a link to its parts, as `ensure_cli` makes it."""
    programs = folder / "agent/bin"
    if not programs.exists():
        programs.mkdir(parents=True)
        (folder / "agent/claude.sh").write_text("#!/bin/sh\necho the agent\n")
        (folder / "agent/claude.sh").chmod(0o755)
        (programs / "claude").symlink_to("../claude.sh")
    return programs


def speak_to(server, monkeypatch):
    for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
        monkeypatch.setenv(name, server.url)
    monkeypatch.setenv("E2B_API_KEY", API_KEY)


@pytest.fixture(scope="module", params=KINDS)
def running_server(request):
    isolation, _, as_nobody = request.param.partition("-")
    if isolation == "bubblewrap" and not bubblewrap_works():
        pytest.skip("bubblewrap does not work on this machine")
    if as_nobody and not nobody_can_run_a_server():
        pytest.skip("only root can start a server as nobody, and only with a python that nobody can read")
    with tempfile.TemporaryDirectory(prefix="local-e2b-") as folder:
        if as_nobody:
            os.chown(folder, 65534, 65534)
        server = start_server(Path(folder), isolation, as_nobody=bool(as_nobody))
        yield server
        server.stop()


def nobody_can_run_a_server():
    if os.geteuid() != 0 or shutil.which("setpriv") is None or not Path(SYSTEM_PYTHON).exists():
        return False
    script = f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); import e2b, uvicorn, psutil, starlette"
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", SYSTEM_PYTHON, "-Bc", script]
    return subprocess.run(argv, check=False, capture_output=True, cwd="/").returncode == 0


@pytest.fixture
def server(running_server, monkeypatch):
    speak_to(running_server, monkeypatch)
    return running_server


@pytest.fixture
def make_sandbox(server):
    made = []

    def make(**options):
        sandbox = Sandbox.create("base", **{"timeout": 120, **options})
        made.append(sandbox)
        return sandbox

    yield make
    for sandbox in made:
        sandbox.kill()


@pytest.fixture
def sandbox(make_sandbox):
    return make_sandbox()


def eventually(condition, seconds=15):
    """The first true value of `condition()`; fails when it stays false for `seconds`."""
    give_up = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < give_up, "it did not happen in time"
        time.sleep(0.02)
    return value


def processes_with(word):
    """Processes of this machine with `word` as an argument, in whatever namespace."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if word in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


# --- commands ----------------------------------------------------------------------------------------------------


def test_a_command_answers_with_its_output_and_exit_code(sandbox):
    result = sandbox.commands.run("echo out; echo err >&2")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 0)

    with pytest.raises(CommandExitException) as failure:
        sandbox.commands.run("echo partly; exit 7")
    assert (failure.value.exit_code, failure.value.stdout) == (7, "partly\n")


def place(server, sandbox, path):
    """Where a program in the sandbox finds what is at this path in one of E2B's."""
    return f"{server.root}/{sandbox.sandbox_id}{path}" if server.isolation == "process" else path


@pytest.mark.parametrize("user", ["root", "agent", "user"])
def test_a_command_starts_in_the_templates_folder_whoever_its_user_is(server, sandbox, user):
    lines = sandbox.commands.run('pwd; echo "$HOME"; echo "$USER $LOGNAME"', user=user).stdout.splitlines()

    home = "/root" if user == "root" else f"/home/{user}"
    assert lines == [place(server, sandbox, "/home/user"), place(server, sandbox, home), f"{user} {user}"]


def test_the_default_user_is_user(sandbox):
    assert sandbox.commands.run('echo "$USER"').stdout == "user\n"


def test_an_unknown_user_is_refused(sandbox):
    with pytest.raises(AuthenticationException, match="invalid username"):
        sandbox.commands.run("true", user="mallory")


@pytest.mark.parametrize("user", ["root", "agent"])
def test_the_environment_is_envds_and_nothing_of_ours(server, sandbox, user):
    lines = sandbox.commands.run("/usr/bin/env", user=user, envs={"MINE": "a b"}).stdout.splitlines()
    env = dict(line.split("=", 1) for line in lines)

    of_bash = ["SHLVL", "PWD", "_"]
    of_envd = {"PATH", "HOME", "USER", "LOGNAME", "E2B_SANDBOX", "E2B_SANDBOX_ID", "E2B_TEMPLATE_ID", "MINE"}
    of_login = {"SHELL", "PS1"}
    assert {name: env.pop(name) for name in of_bash}["PWD"].endswith("/home/user")
    if server.isolation == "process":  # its login files are the machine's
        assert set(env) - of_login >= of_envd
        assert not set(env) & {"AGENT_USER", "AGENT_HOME", "IS_SANDBOX", "LANG", "TERM", "TMPDIR", "E2B_API_KEY"}
        return
    assert set(env) == of_envd | of_login
    assert (env["E2B_SANDBOX"], env["E2B_SANDBOX_ID"], env["SHELL"]) == (E2B_SANDBOX, sandbox.sandbox_id, "/bin/bash")
    ordinary = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"
    root = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert env["PATH"] == (root if user == "root" and server.separates_users else ordinary)


def start_without_login(server, sandbox, *argv, **process):
    """Start a program as it is, without the shell of the SDK, as its user agent. What it printed."""
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, **sandbox.connection_config.sandbox_headers}
    headers |= {"Authorization": f"Basic {base64.b64encode(b'agent:').decode()}"}
    body = json.dumps({"process": {"cmd": argv[0], "args": list(argv[1:]), **process}, "stdin": False}).encode()
    headers |= {"Content-Type": "application/connect+json", "Connect-Protocol-Version": "1"}
    content = b"\0" + len(body).to_bytes(4, "big") + body
    answer = httpx.post(f"{server.url}/process.Process/Start", headers=headers, content=content, timeout=60)
    printed, left = b"", answer.content
    while left:
        size = int.from_bytes(left[1:5], "big")
        message, left = json.loads(left[5 : 5 + size]), left[5 + size :]
        printed += base64.b64decode(message.get("event", {}).get("data", {}).get("stdout", ""))
    return printed.decode()


def test_without_login_files_only_what_envd_sets_is_there(server, sandbox):
    lines = start_without_login(server, sandbox, "/usr/bin/env").splitlines()
    env = dict(line.split("=", 1) for line in lines if not line.startswith(("PWD=", "_=", "OLDPWD=", "SHLVL=")))

    assert env == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": place(server, sandbox, "/home/agent"),
        "USER": "agent",
        "LOGNAME": "agent",
        "E2B_SANDBOX": E2B_SANDBOX,
        "E2B_SANDBOX_ID": sandbox.sandbox_id,
        "E2B_TEMPLATE_ID": "base",
    }


def test_variables_come_on_top_of_envds_but_for_its_own(make_sandbox):
    sandbox = make_sandbox(envs={"LOGNAME": "created", "E2B_SANDBOX": "no"})

    shown = 'echo "$LOGNAME $E2B_SANDBOX"'
    assert sandbox.commands.run(shown).stdout == f"created {E2B_SANDBOX}\n"
    assert sandbox.commands.run(shown, envs={"LOGNAME": "asked", "E2B_SANDBOX": "no"}).stdout == "asked no\n"


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
def test_a_command_is_the_first_to_go_without_memory_and_leaves_no_core(sandbox):
    mine = int(Path("/proc/self/oom_score_adj").read_text())

    lines = sandbox.commands.run("cat /proc/self/oom_score_adj; ulimit -c; ulimit -Hc").stdout.splitlines()

    assert lines == [str(max(100, mine)), "0", "0"]


def test_a_program_that_is_missing_ends_with_127(sandbox):
    with pytest.raises(CommandExitException) as end:
        sandbox.commands.run("/nowhere/program")
    assert end.value.exit_code == 127
    assert "No such file" in end.value.stderr


def test_sandbox_variables_reach_every_command(make_sandbox):
    sandbox = make_sandbox(envs={"PROJECT": "one"})

    assert sandbox.commands.run('echo "$PROJECT"').stdout == "one\n"
    assert sandbox.commands.run('echo "$PROJECT"', envs={"PROJECT": "two"}).stdout == "two\n"


def test_a_relative_cwd_starts_at_the_home_and_a_missing_one_is_refused(sandbox):
    sandbox.files.make_dir("work", user="agent")

    assert sandbox.commands.run("basename $PWD", cwd="work", user="agent").stdout == "work\n"
    assert sandbox.commands.run("basename $PWD", cwd="~/work", user="agent").stdout == "work\n"
    assert sandbox.commands.run("basename $PWD", cwd="~", user="agent").stdout == "agent\n"
    with pytest.raises(InvalidArgumentException, match="cannot expand user-specific home dir"):
        sandbox.commands.run("true", cwd="~agent/work")
    with pytest.raises(InvalidArgumentException, match="does not exist"):
        sandbox.commands.run("true", cwd="nowhere")


def test_a_command_line_the_kernel_refuses_is_an_invalid_argument(sandbox):
    with pytest.raises(InvalidArgumentException, match="error starting process"):
        sandbox.commands.run("true " + "x" * 200_000)
    assert sandbox.commands.run("echo fine").stdout == "fine\n"


# What the executor sends, word for word: every program of ours is started like this.
PROGRAM = """
import json, os, shutil, subprocess, sys
agent = subprocess.run(["claude"], env={"PATH": os.environ["AGENT_PATH"]}, capture_output=True, text=True)
named = subprocess.run(["python3", "-c", "print(1 + 1)"], env={"PATH": os.environ["AGENT_PATH"]}, capture_output=True)
print(json.dumps({
    "cwd": os.getcwd(), "env": dict(os.environ), "arguments": sys.argv[1:], "uid": os.getuid(),
    "agent": agent.stdout, "python3": named.stdout.decode(), "git": shutil.which("git"),
}))
open(os.path.join(os.environ["AGENT_HOME"], "made"), "w").close()
"""


def start_a_program(server, sandbox, python=PYTHON):
    run = "/root/runs/1a2b"
    sandbox.files.write(f"{run}/programs.pyz", PROGRAM, user="root")
    path = agent_path([server.folder / "agent/bin"])
    line = (
        "/usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 AGENT_USER=agent "
        f"AGENT_HOME=/home/agent AGENT_PATH={path} {python} -IS {run}/programs.pyz look {run}/agent --all /code /tmp"
    )
    return json.loads(sandbox.commands.run(line, user="root", cwd="/").stdout)


def test_the_executors_command_line_means_the_same_whatever_the_isolation(server, sandbox):
    told = start_a_program(server, sandbox)

    def at(path):
        return place(server, sandbox, path)

    env = told["env"]
    assert told["cwd"] == at("/").rstrip("/") or told["cwd"] == "/"
    assert told["arguments"] == ["look", at("/root/runs/1a2b/agent"), "--all", "/code", at("/tmp")]
    assert (env["PATH"], env["HOME"], env["LANG"]) == ("/usr/sbin:/usr/bin:/sbin:/bin", at("/root"), "C.UTF-8")
    assert (env["AGENT_USER"], env["AGENT_HOME"]) == (
        "" if server.isolation == "process" else "agent",
        at("/home/agent"),
    )
    mark = {"E2B_SANDBOX_ID"} if server.isolation == "process" else set()
    of_its_start = {"LC_CTYPE", "LD_LIBRARY_PATH", "PWD", "OLDPWD", "SHLVL", "_"}  # Python's, and a shell's before it
    assert set(env) - of_its_start == {"PATH", "HOME", "LANG", "AGENT_USER", "AGENT_HOME", "AGENT_PATH"} | mark
    assert (told["agent"], told["python3"]) == ("the agent\n", "2\n")
    assert told["uid"] == (0 if server.separates_users else told["uid"])
    assert (server.root / sandbox.sandbox_id / "home/agent/made").exists()


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("/root", "{}/root"),
        ("HOME=/home/agent PATH=/tmp:/bin", "HOME={}/home/agent PATH={}/tmp:/bin"),
        ("cat '/root/a b' \"/tmp/c\"", "cat '{}/root/a b' \"{}/tmp/c\""),
        ("/opt/host/root/cli/bin:/opt/host/tmp/x", "/root/cli/bin:/tmp/x"),
        ("AGENT_USER=agent AGENT_USER=agents", "AGENT_USER= AGENT_USER=agents"),
        ("/rootfs ./tmp a/tmp ~/tmp /home /home/agents /home/agent-1", None),
        ("$HOME/tmp ${HOME}/tmp https://example.org/root x@/tmp /tmp.txt", None),
    ],
)
def test_without_isolation_a_command_line_is_changed_only_where_it_names_a_place_of_the_sandbox(
    tmp_path, written, meant
):
    isolation, folder = PlainProcess([], tmp_path / "bin"), Path("/data/i1")
    wanted = written if meant is None else meant.replace("{}", str(folder))

    assert isolation.localized(folder, ["/bin/bash", "-l", "-c", written]) == ["/bin/bash", "-l", "-c", wanted]


def test_without_isolation_the_shell_reads_a_place_as_it_is_whatever_its_name(tmp_path):
    folder = tmp_path / "it's a $(folder)"
    isolation = PlainProcess([], tmp_path / "bin")
    line = "printf '%s\\n' /root/a HOME=/root '/root/a b' \"/root/c\""

    argv = isolation.localized(folder, ["/bin/bash", "-c", line])

    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.splitlines()
    assert said == [f"{folder}/root/a", f"HOME={folder}/root", f"{folder}/root/a b", f"{folder}/root/c"]


def test_git_and_python_are_there_for_the_agent(server, sandbox):
    path = agent_path([server.folder / "agent/bin"])
    script = f"""
        export PATH={path}
        git init -q repo && cd repo && git -c user.name=a -c user.email=a@b commit -q --allow-empty -m one
        git log --format=%s
        python3 -c 'import json, ssl, subprocess, sys; subprocess.run([sys.executable, "-c", "print(1 + 1)"], env={{}})'
        claude
    """
    said = sandbox.commands.run(script, user="agent", cwd="~").stdout
    assert said.splitlines() == ["one", "2", "the agent"]


@of_the_stand_in
def test_a_folder_of_programs_never_brings_the_persons_home_along(tmp_path, monkeypatch):
    programs = install_an_agent(tmp_path)
    assert installation(programs) == programs.parent

    monkeypatch.setenv("HOME", str(programs.parent))
    assert installation(programs) == programs


def test_output_arrives_while_the_command_runs(sandbox):
    seen = threading.Event()
    arrived = []

    def on_stdout(chunk):
        arrived.append(chunk)
        sandbox.files.write("go", "")  # the command ends only because we heard it
        seen.set()

    result = sandbox.commands.run("echo first; until [ -e go ]; do sleep 0.02; done; echo last", on_stdout=on_stdout)
    assert seen.is_set()
    assert arrived[0] == "first\n"
    assert result.stdout == "first\nlast\n"


def test_a_lot_of_output_arrives_whole(sandbox):
    assert sandbox.commands.run("head -c 3000000 /dev/zero | tr '\\0' x").stdout == "x" * 3_000_000


def test_stdin_reaches_the_command_until_it_is_closed(sandbox):
    command = sandbox.commands.run("cat; echo bye", background=True, stdin=True, timeout=30)
    command.send_stdin("hello\n")
    sandbox.commands.send_stdin(command.pid, "again\n")
    command.close_stdin()

    assert command.wait().stdout == "hello\nagain\nbye\n"


def test_a_terminal_is_a_terminal(sandbox):
    received = []
    terminal = sandbox.pty.create(PtySize(rows=30, cols=90), timeout=30)
    sandbox.pty.resize(terminal.pid, PtySize(rows=31, cols=91))
    sandbox.pty.send_stdin(terminal.pid, b"tty >/dev/null && stty size && exit 3\n")
    with pytest.raises(CommandExitException) as end:
        terminal.wait(on_pty=received.append)

    assert b"31 91" in b"".join(received)
    assert end.value.exit_code == 3


def test_running_commands_are_listed_and_killed_by_pid(sandbox):
    command = sandbox.commands.run("sleep 60", background=True, timeout=0, envs={"A": "b"})

    (listed,) = sandbox.commands.list()
    assert (listed.pid, listed.cmd, listed.args, listed.envs) == (
        command.pid,
        "/bin/bash",
        ["-l", "-c", "sleep 60"],
        {"A": "b"},
    )
    assert sandbox.commands.kill(command.pid) is True
    with pytest.raises(CommandExitException) as end:
        command.wait()
    assert (end.value.exit_code, end.value.error) == (-1, "signal: killed")
    assert sandbox.commands.list() == []
    assert sandbox.commands.kill(command.pid) is False


# --- where real envd bites ---------------------------------------------------------------------------------------


def test_the_timeout_of_a_background_command_kills_its_process(sandbox):
    command = sandbox.commands.run("echo $$ > pid; exec sleep 60", background=True, timeout=1)
    command.disconnect()

    eventually(lambda: not sandbox.commands.list())
    assert sandbox.commands.run("kill -0 $(cat pid) 2>&1 || echo gone").stdout.endswith("gone\n")


def test_the_timeout_of_a_foreground_command_raises(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 60", timeout=0.5)
    eventually(lambda: not sandbox.commands.list())


def test_the_timeout_kills_one_process_and_not_what_it_left_behind(sandbox):
    command = sandbox.commands.run(
        "setsid sleep 60 </dev/null >/dev/null 2>&1 & echo $! > left; wait", background=True, timeout=1
    )
    command.disconnect()

    eventually(lambda: not sandbox.commands.list())
    assert sandbox.commands.run("kill -0 $(cat left) && echo alive").stdout == "alive\n"


def test_a_client_that_leaves_ends_nothing(sandbox):
    command = sandbox.commands.run(
        "until [ -e go ]; do sleep 0.02; done; echo done > proof", background=True, timeout=0
    )
    command.disconnect()
    sandbox.files.write("go", "")

    assert eventually(lambda: sandbox.files.exists("proof"))


def test_output_nobody_listens_to_is_lost(sandbox):
    script = "; ".join(
        [
            "until [ -e one ]; do sleep 0.02; done",
            "echo early; touch said",
            "until [ -e two ]; do sleep 0.02; done",
            "echo late",
        ]
    )
    command = sandbox.commands.run(script, background=True, timeout=0)
    pid = command.pid
    command.disconnect()
    sandbox.files.write("one", "")
    eventually(lambda: sandbox.files.exists("said"))

    again = Sandbox.connect(sandbox.sandbox_id, timeout=60).commands.connect(pid)
    sandbox.files.write("two", "")

    assert again.wait().stdout == "late\n"


def test_how_a_command_ended_is_kept_for_a_client_that_comes_late(sandbox):
    command = sandbox.commands.run("exit 9", background=True, timeout=0)
    with pytest.raises(CommandExitException):
        command.wait()

    with pytest.raises(CommandExitException) as end:
        sandbox.commands.connect(command.pid).wait()
    assert end.value.exit_code == 9
    with pytest.raises(NotFoundException, match="not found"):
        sandbox.commands.connect(999_999)


def test_a_background_child_that_kept_stdout_holds_the_end_up(sandbox):
    assert sandbox.commands.run("(sleep 0.3; echo late) & echo early").stdout == "early\nlate\n"


def test_a_daemon_outlives_its_command_and_later_commands_know_its_pid(sandbox):
    sandbox.files.write(
        "runs/x/supervisor.py",
        "import os, sys, time\n"
        "if os.fork(): sys.exit()\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "null = os.open(os.devnull, os.O_RDWR)\n"
        "for fd in (0, 1, 2): os.dup2(null, fd)\n"
        "open('pid', 'w').write(str(os.getpid()))\n"
        "time.sleep(60)\n",
        user="root",
    )
    start = f"{PYTHON} /root/runs/x/supervisor.py"
    sandbox.commands.run(start, user="root", cwd="/root/runs/x", timeout=20)
    pid = int(
        eventually(
            lambda: sandbox.files.exists("runs/x/pid", user="root") and sandbox.files.read("runs/x/pid", user="root")
        )
    )

    alive = f"{PYTHON} -c 'import os; os.kill({pid}, 0); print(1)'"
    assert sandbox.commands.run(alive, user="root").stdout == "1\n"
    sandbox.commands.run(f"kill -9 {pid}", user="root")
    eventually(lambda: sandbox.commands.run(f"kill -0 {pid} 2>/dev/null || echo gone", user="root").stdout)


def test_killing_a_sandbox_kills_what_left_its_session(server, sandbox):
    word = f"escaped-{sandbox.sandbox_id}"
    hide = f"env -i setsid bash -c 'sleep 61; true' {word} </dev/null >/dev/null 2>&1 &"
    sandbox.commands.run(f"({hide}) ; sleep 0.1", user="agent")
    assert eventually(lambda: processes_with(word))

    sandbox.kill()

    assert processes_with(word) == []
    assert not (server.root / sandbox.sandbox_id).exists()


# --- users and isolation -----------------------------------------------------------------------------------------

# What only some kinds of server promise is asked of those alone.
isolates = pytest.mark.parametrize("running_server", [kind for kind in KINDS if kind != "process"], indirect=True)


def separates_users(test):
    """Of a server that root has started: nobody else may give a sandbox several users."""
    only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a sandbox several users")
    return only_root(pytest.mark.parametrize("running_server", KINDS[:1], indirect=True)(test))


@separates_users
def test_what_root_keeps_the_agent_cannot_read(server, sandbox):
    sandbox.files.write("secret", "key", user="root")

    assert sandbox.commands.run("cat /root/secret 2>/dev/null || echo no", user="agent").stdout == "no\n"
    assert sandbox.commands.run("cat /root/secret", user="root").stdout == "key"
    assert sandbox.commands.run("id -u; id -un", user="agent").stdout == "1001\nagent\n"
    assert sandbox.commands.run("id -u; id -un", user="user").stdout == "1000\nuser\n"
    assert sandbox.files.get_info(".", user="agent").owner == "agent"


@separates_users
def test_root_may_become_the_agent_own_its_files_and_signal_it(server, sandbox):
    script = """
import os, signal, subprocess
os.makedirs("/home/agent/work"); os.chown("/home/agent/work", 1001, 1001)
child = subprocess.Popen(["sleep", "60"], user=1001, group=1001, extra_groups=[], cwd="/home/agent/work")
os.kill(child.pid, signal.SIGTERM)
print(child.wait(), os.stat("/home/agent/work").st_uid)
"""
    sandbox.files.write("try.py", script, user="root")

    assert sandbox.commands.run(f"{PYTHON} /root/try.py", user="root").stdout == "-15 1001\n"


@isolates
def test_root_of_a_sandbox_may_not_change_the_machines_kernel(server, sandbox):
    setting = "/proc/sys/kernel/core_pattern"
    script = f'value=$(cat {setting}); echo "$value" > {setting}'  # its own value, should the test ever fail

    with pytest.raises(CommandExitException, match=r"Read-only|Permission denied"):
        sandbox.commands.run(script, user="root")


@isolates
def test_the_machines_files_and_processes_are_out_of_sight(server, sandbox, tmp_path):
    (tmp_path / "private").write_text("private")

    script = f"ls {tmp_path} 2>&1 >/dev/null; ls /proc | grep -c '^[0-9]'; touch /usr/x 2>/dev/null || echo read-only"
    lines = sandbox.commands.run(script, user="root").stdout.splitlines()

    assert "No such file" in lines[0]
    assert int(lines[1]) < 10
    assert REAL_ENVD or lines[2] == "read-only"


def test_sandboxes_do_not_see_each_other(server, make_sandbox):
    one, two = make_sandbox(), make_sandbox()
    one.files.write("note", "mine")

    assert not two.files.exists("note")


def test_a_planted_symlink_leads_nowhere_on_the_machine(server, sandbox, tmp_path):
    (tmp_path / "private").write_text("private")
    machine = f'"/"{shlex.quote(str(tmp_path)[1:])}'  # so that no place of the sandbox is named
    links = f"ln -s {machine} out; ln -s {machine}/private file; ln -s ../../.. up"
    sandbox.commands.run(links, user="agent", cwd="~")

    for path in ("out/private", "file", f"up{tmp_path}/private", f"../../../../../../..{tmp_path}/private"):
        with pytest.raises(SandboxException):
            sandbox.files.read(path, user="agent")
    for path in ("out/planted", f"{tmp_path}/planted"):
        with contextlib.suppress(SandboxException):
            sandbox.files.write(path, "x", user="agent")
    assert list(tmp_path.iterdir()) == [tmp_path / "private"]


def test_a_planted_fifo_holds_its_own_client_up_and_nobody_else(sandbox):
    sandbox.commands.run("mkfifo read written")  # two: envd goes on waiting for the other end when the client has left

    for name, use in (("read", sandbox.files.read), ("written", partial(sandbox.files.write, data="x"))):
        with pytest.raises(Exception, match="timed out"):
            use(name, request_timeout=1)
    assert sandbox.commands.run("echo fine").stdout == "fine\n"


# --- the state in which E2B's scripts leave an image -------------------------------------------------------------


@isolates
def test_usr_local_and_code_are_the_sandboxs_own_and_open_to_everybody(server, sandbox):
    script = """
        stat -c '%a %U' /usr/local /usr/local/bin /usr/local/sbin /usr/local/lib /usr/local/share /code | sort -u
        touch /usr/local/bin/mine /usr/local/lib/mine /code/mine && ls -I claude /usr/local/bin /code
        touch /usr/mine /usr/bin/mine 2>/dev/null || echo closed
    """
    lines = sandbox.commands.run(script, user="agent").stdout.splitlines()

    owner = "root" if server.separates_users else "user"
    assert lines == [f"777 {owner}", "/code:", "mine", "", "/usr/local/bin:", "mine", "closed"]
    assert not Path("/usr/local/bin/mine").exists()


@separates_users
def test_a_program_in_usr_local_takes_the_place_of_the_systems_for_root_too(server, sandbox):
    sandbox.files.write("/usr/local/bin/nice", '#!/bin/sh\nid -un > /code/who\nshift 2\nexec "$@"\n', user="agent")
    sandbox.commands.run("true", user="agent")
    assert not sandbox.files.exists("/code/who")  # no one may execute it yet

    sandbox.commands.run("chmod +x /usr/local/bin/nice", user="agent")

    assert sandbox.commands.run("echo done", user="root").stdout == "done\n"
    assert sandbox.files.read("/code/who") == "root\n"


@separates_users
def test_accounts_have_no_password_user_is_an_admin_and_sshd_lets_everybody_in(server, sandbox):
    script = "cat /etc/shadow /etc/sudoers /etc/ssh/sshd_config /.e2b; getent group sudo; stat -c %a /etc/shadow"
    text = sandbox.commands.run(script, user="root").stdout

    for line in (
        *("root::", "user::", "agent:!:", "PermitRootLogin yes", "PermitEmptyPasswords yes"),
        *("user ALL=(ALL:ALL) NOPASSWD: ALL", "sudo:x:27:user", "TEMPLATE_ID=", "640"),
    ):
        assert f"\n{line}" in f"\n{text}"
    refused = sandbox.commands.run("cat /etc/shadow /etc/sudoers 2>&1 || true", user="agent").stdout
    assert refused.count("Permission denied") == 2


@isolates
def test_login_files_of_a_user_run_before_each_of_its_commands(sandbox):
    sandbox.files.write(".bashrc", "echo from bashrc\n")
    sandbox.files.write(".profile", "PATH=/code/bin:$PATH; export ADDED=profile\n")

    lines = sandbox.commands.run('echo "$ADDED $PATH" | cut -c-18').stdout.splitlines()

    assert lines[0] == "from bashrc"
    assert lines[-1] == "profile /code/bin:"


@separates_users
def test_envd_starts_socat_as_root_for_whoever_listens_on_localhost(server, sandbox):
    sandbox.files.write("/usr/local/bin/socat", '#!/bin/sh\necho "$(id -un) $*" >> /code/socat\nexec sleep 60\n')
    sandbox.commands.run("chmod +x /usr/local/bin/socat", user="user")
    listen = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1]); s.listen(); "
    listen += "import sys; sys.stdout.flush(); time.sleep(60)"
    said = []

    command = sandbox.commands.run(f'exec {PYTHON} -c "{listen}"', user="agent", background=True, timeout=60)
    threading.Thread(target=wait_for_end, args=[command, said.append]).start()
    line = eventually(lambda: sandbox.files.exists("/code/socat") and sandbox.files.read("/code/socat"))

    port = int(eventually(lambda: said and said[0]))
    assert line == f"root -d -d -d TCP4-LISTEN:{port},bind=169.254.0.21,reuseaddr,fork TCP4:localhost:{port}\n"
    assert sandbox.commands.run("pgrep -fc 'slee[p] 60'", user="root").stdout == "1\n"
    command.kill()
    eventually(lambda: sandbox.commands.run("pgrep -fc 'slee[p] 60' || true", user="root").stdout == "0\n")


def wait_for_end(command, on_stdout):
    with contextlib.suppress(CommandExitException):
        command.wait(on_stdout=on_stdout)


# --- templates ---------------------------------------------------------------------------------------------------

ODD = {
    "user": "odd",
    "folder": "/srv/odd",
    "profile": "export PATH=/srv/odd/bin:$PATH TEMPLATES=profile; cd /; echo welcome\n",
    "root_bashrc": "echo root says hello; export PATH=/srv/odd/sbin\n",
}


@pytest.fixture(params=[kind for kind in KINDS if kind != "bubblewrap-as-nobody"])
def odd_server(request, tmp_path, monkeypatch):
    if request.param == "bubblewrap" and not bubblewrap_works():
        pytest.skip("bubblewrap does not work on this machine")
    server = start_server(tmp_path, request.param, template=ODD)
    speak_to(server, monkeypatch)
    yield server
    server.stop()


def test_a_template_may_have_a_user_a_folder_and_login_files_of_its_own(odd_server):
    sandbox = Sandbox.create("base", timeout=120)

    said = sandbox.commands.run('echo "$USER $TEMPLATES $PATH"; echo "$OLDPWD"').stdout.splitlines()
    plain = start_without_login(odd_server, sandbox, "/bin/pwd")
    roots = sandbox.commands.run("echo $PATH", user="root", cwd="/").stdout.splitlines()
    sandbox.files.write("at/home", "1")
    sandbox.files.write("/srv/odd/file", "22")

    assert said[0] == "welcome"
    assert said[1].startswith("odd profile /srv/odd/bin:")
    assert said[2] == place(odd_server, sandbox, "/srv/odd")
    assert plain == place(odd_server, sandbox, "/srv/odd") + "\n"
    assert {"welcome", "root says hello"} < set(roots)
    # Where root has Debian's .profile, it reads .bashrc once more, after the template's lines.
    last = "/srv/odd/sbin" if odd_server.isolation in ("process", ENVD) else "/srv/odd/bin:/srv/odd/sbin"
    assert roots[-1].startswith(last)
    assert sandbox.files.get_info("at/home").path == place(odd_server, sandbox, "/home/odd/at/home")
    owner = "odd" if odd_server.separates_users else the_one_user(odd_server)
    assert sandbox.files.get_info("at/home").owner == owner
    assert [entry.name for entry in sandbox.files.list("")] == ["file"]  # no path is the template's folder


def the_one_user(server):
    """What a file's owner is called where all users of a sandbox are one."""
    if server.isolation != "process":
        return "user"  # has the uid of everyone in there
    return psutil.Process().username() if os.geteuid() != 0 else "root"


def test_the_executors_command_line_does_not_mind_an_odd_template(odd_server):
    sandbox = Sandbox.create("base", timeout=120)
    run = "/root/runs/1"
    sandbox.files.write(
        f"{run}/program.py", "import os, sys; print(os.getcwd(), sys.argv[1:], dict(os.environ))", user="root"
    )
    line = f"/usr/bin/env -i HOME=/root {PYTHON} -IS {run}/program.py {run}/x"

    said = sandbox.commands.run(line, user="root", cwd="/").stdout.splitlines()

    assert "TEMPLATES" not in said[-1]
    assert f"['{place(odd_server, sandbox, run)}/x']" in said[-1]


def test_a_template_has_no_other_properties(tmp_path):
    (tmp_path / "t").write_text('{"workdir": "/x"}')
    with pytest.raises(ValueError, match="folder, profile, root_bashrc, user"):
        Template.read(tmp_path / "t")


# --- a Python in /usr/local, which a sandbox does not see ----------------------------------------------------------


@of_the_stand_in
def python_in_usr_local():
    """A command line that starts this Python as one in /usr/local. Skips the test where there can be none."""
    if not bubblewrap_works():
        pytest.skip("bubblewrap does not work on this machine")
    if sys.base_prefix == "/usr":
        pytest.skip("this Python is the system's: it cannot be shown anywhere else")
    real = Path(sys._base_executable).resolve()
    outer = ["bwrap", "--die-with-parent", "--dev-bind", "/", "/", "--ro-bind", sys.base_prefix, "/usr/local"]
    outer += ["--cap-add", "ALL"] if os.geteuid() == 0 else []
    python = [*outer, "--", f"/usr/local/bin/{real.name}"]
    inner = ["bwrap", "--ro-bind", "/", "/", "--proc", "/proc", "--unshare-user-try", "--unshare-pid", "true"]
    if subprocess.run([*outer, "--", *inner], check=False, capture_output=True).returncode != 0:
        pytest.skip("bubblewrap does not work in bubblewrap on this machine")
    return python


def test_a_python_in_usr_local_works_in_a_sandbox(tmp_path, monkeypatch):
    server = start_server(tmp_path, "bubblewrap", before=python_in_usr_local())
    speak_to(server, monkeypatch)
    try:
        sandbox = Sandbox.create("base", timeout=120)
        assert start_a_program(server, sandbox)["agent"] == "the agent\n"
        script = f"{SANDBOX_PYTHON} -IS -c 'import json, ssl, sys; print(sys.prefix)'; ls /usr/local/bin"
        assert sandbox.commands.run(script, user="agent").stdout == "/opt/python\n"
    finally:
        server.stop()


# --- files -------------------------------------------------------------------------------------------------------


def test_a_relative_path_starts_at_the_home_of_its_user(sandbox):
    sandbox.files.write("runs/x/job.json", "{}", user="root")

    assert sandbox.files.read("runs/x/job.json", user="root") == "{}"
    assert sandbox.commands.run("cat /root/runs/x/job.json; cat ~/runs/x/job.json", user="root").stdout == "{}{}"
    with pytest.raises(CommandExitException):
        sandbox.commands.run("cat runs/x/job.json", user="root")
    assert not sandbox.files.exists("runs/x/job.json", user="agent")


def test_absolute_paths_are_those_of_the_sandbox(server, sandbox):
    sandbox.files.write("/home/agent/a", "1", user="agent")
    sandbox.files.write("/tmp/b", "2")

    assert sandbox.files.read("a", user="agent") == "1"
    assert sandbox.files.read("~/a", user="agent") == "1"
    for use in (sandbox.files.read, sandbox.files.list, partial(sandbox.files.write, data="x")):
        with pytest.raises(InvalidArgumentException, match="cannot expand user-specific home dir"):
            use("~agent/a")
    assert (server.root / sandbox.sandbox_id / "home/agent/a").read_text() == "1"
    assert (server.root / sandbox.sandbox_id / "tmp/b").read_text() == "2"


def test_files_come_back_byte_for_byte(sandbox):
    data = bytes(range(256)) * 4096

    sandbox.files.write("raw", data)
    sandbox.files.write("zipped", data, gzip=True)
    sandbox.files.write("streamed", iter([data[:1000], data[1000:]]), use_octet_stream=True)
    sandbox.files.write_files([{"path": "many/a", "data": b"a"}, {"path": "many/b", "data": b"b"}])

    assert sandbox.files.read("raw", format="bytes") == data
    assert sandbox.files.read("zipped", format="bytes", gzip=True) == data
    assert b"".join(sandbox.files.read("streamed", format="stream")) == data
    assert [entry.name for entry in sandbox.files.list("many")] == ["a", "b"]


def test_files_are_listed_moved_and_removed(sandbox):
    sandbox.files.write("box/deep/one", "1")
    sandbox.commands.run("ln -s deep/one box/link")
    assert sandbox.files.make_dir("box/new") is True
    assert sandbox.files.make_dir("box/new") is False

    listed = {entry.name: entry for entry in sandbox.files.list("box", depth=2)}
    assert set(listed) == {"deep", "one", "link", "new"}
    assert (listed["deep"].type, listed["one"].type, listed["link"].type) == (
        FileType.DIR,
        FileType.FILE,
        FileType.FILE,  # a link's type is that of its target
    )
    assert listed["link"].symlink_target.endswith("box/deep/one")
    assert (listed["one"].size, listed["one"].permissions) == (1, "-rw-r--r--")

    assert sandbox.files.rename("box/deep/one", "else/where").name == "where"
    sandbox.files.remove("box")
    assert not sandbox.files.exists("box")
    assert sandbox.files.read("else/where") == "1"


@of_the_stand_in
def test_missing_files_and_folders_are_told_apart(sandbox):
    with pytest.raises(FileNotFoundException):
        sandbox.files.read("nothing")
    with pytest.raises(FileNotFoundException):
        sandbox.files.list("nothing")
    with pytest.raises(InvalidArgumentException):
        sandbox.files.read(".")
    sandbox.files.remove("nothing")


def test_signed_urls_open_one_file_without_the_token(sandbox):
    upload = sandbox.upload_url("up load/ä.txt", use_signature_expiration=60)
    assert httpx.post(upload, files={"file": ("ignored", b"content")}).status_code == 200

    download = sandbox.download_url("up load/ä.txt", use_signature_expiration=60)
    assert httpx.get(download).content == b"content"
    assert httpx.get(download.replace("load", "l0ad")).status_code == 401
    assert httpx.get(sandbox.download_url("up load/ä.txt", use_signature_expiration=-60)).status_code == 401
    assert httpx.get(download.split("?")[0], params={"path": "up load/ä.txt"}).status_code == 401


def file_call(server, sandbox, method="GET", headers=None, **options):
    """A request to /files with the sandbox's token."""
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, **sandbox.connection_config.sandbox_headers, **(headers or {})}
    return httpx.request(method, f"{server.url}/files", headers=headers, timeout=60, **options)


OCTETS = {"Content-Type": "application/octet-stream"}


@pytest.fixture
def small_disk(tmp_path, monkeypatch):
    """A server whose sandboxes lie on a disk with room for little and for few files."""
    mine = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    mount = 'mount -t tmpfs -o size=1m,nr_inodes=200 small "$1" && shift && exec "$@"'
    (tmp_path / "root").mkdir()
    private = ["unshare", "--mount", *mine, "sh", "-c", mount, "sh", str(tmp_path / "root")]
    if shutil.which("unshare") is None or subprocess.run([*private, "true"], capture_output=True).returncode != 0:
        pytest.skip("a disk cannot be made small on this machine")
    server = start_server(tmp_path, "process", before=[*private, sys.executable])
    speak_to(server, monkeypatch)
    yield server
    server.stop()


def test_a_full_disk_is_507_for_a_file_and_500_for_a_folder(small_disk):
    server, sandbox = small_disk, Sandbox.create("base", timeout=120)

    def upload(path):
        answer = file_call(server, sandbox, "POST", OCTETS, params={"path": path}, content=b"x" * 5000)
        return answer.status_code, answer.json()["message"].replace(f"{server.root}/{sandbox.sandbox_id}", "")

    sandbox.commands.run("head -c 10M /dev/zero > junk || true")
    assert upload("/tmp/a") == (507, "attempted to write 5000 bytes: not enough disk space available")
    with pytest.raises(NotEnoughSpaceException):
        sandbox.files.write("/tmp/a", "x" * 5000)

    sandbox.commands.run("rm junk; i=0; while mkdir $i; do i=$((i + 1)); done")  # no inode is left
    assert upload("/tmp/b") == (507, "not enough inodes available: open /tmp/b: no space left on device")
    assert upload("/tmp/new/c") == (
        500,
        "error ensuring directories: failed to create directory: mkdir /tmp/new: no space left on device",
    )
    with pytest.raises(SandboxException, match=r"failed to create directory: mkdir .*: no space left on device"):
        sandbox.files.make_dir("/tmp/new")


@isolates
def test_devices_are_written_as_envd_does(server, sandbox):
    before = Path("/dev/null").stat().st_uid

    answers = [
        file_call(server, sandbox, "POST", OCTETS, params={"path": path}, content=b"x" * 9000).status_code
        for path in ("/dev/null", "/dev/full")
    ]

    assert answers == [200, 507]
    assert Path("/dev/null").stat().st_uid == before  # the device is the machine's


def test_one_path_twice_in_an_upload_is_refused_after_the_first_was_written(server, sandbox):
    files = [("file", (name, text)) for name, text in (("a/one", b"1"), ("two", b"2"), ("a/../a/one", b"3"))]

    answer = file_call(server, sandbox, "POST", files=files)

    assert answer.status_code == 400
    assert "you cannot upload multiple files to the same path" in answer.json()["message"]
    assert (sandbox.files.read("a/one"), sandbox.files.read("two")) == ("1", "2")


def test_more_than_a_thousand_files_are_uploaded_at_once(sandbox):
    sandbox.files.write_files([{"path": f"many/{n}", "data": b""} for n in range(1200)])

    assert len(sandbox.files.list("many")) == 1200


def test_nul_in_a_path_is_an_error_of_that_path(server, sandbox):
    path = {"path": "a\0b"}
    read, written = file_call(server, sandbox, params=path), file_call(server, sandbox, "POST", OCTETS, params=path)

    assert (read.status_code, written.status_code) == (500, 500)
    assert "invalid argument" in read.json()["message"]
    with pytest.raises(SandboxException, match="invalid argument"):
        sandbox.files.get_info("a\0b")
    with pytest.raises(InvalidArgumentException, match="error starting process"):
        sandbox.commands.run("echo a\0b")
    assert sandbox.is_running()


@isolates
def test_files_of_proc_which_have_no_size_are_read_compressed_and_else_refused(server, sandbox):
    path = {"path": "/proc/self/status"}
    compressed = file_call(server, sandbox, params=path, headers={"Accept-Encoding": "gzip"})
    whole = file_call(server, sandbox, params=path, headers={"Accept-Encoding": "identity"})
    empty = file_call(server, sandbox, params={"path": "/dev/null"}, headers={"Accept-Encoding": "identity"})

    assert compressed.text.startswith("Name:")
    assert (whole.status_code, whole.text) == (500, "seeker can't seek\n")
    assert (empty.status_code, empty.content) == (200, b"")
    assert sandbox.files.read("/proc/self/status").startswith("Name:")


@pytest.mark.parametrize(
    ("wanted", "status", "content", "said"),
    [
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-2", 206, b"89", "bytes 8-9/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=10-", 416, b"invalid range: failed to overlap\n", "bytes */10"),
        ("lines=1-2", 416, b"invalid range\n", None),
    ],
)
def test_a_part_of_a_file_is_answered_206(server, sandbox, wanted, status, content, said):
    sandbox.files.write("digits", "0123456789")

    answer = file_call(server, sandbox, params={"path": "~/digits"}, headers={"Range": wanted})

    expected = (status, content, said)
    assert (answer.status_code, answer.content, answer.headers.get("content-range")) == expected


@pytest.mark.parametrize(
    ("headers", "params", "status", "said"),
    [
        ({"Content-Type": "text/plain"}, {"path": "x"}, 400, "unsupported content type: text/plain, expected"),
        ({}, {"path": "x"}, 400, "unsupported content type: , expected"),
        (OCTETS, {}, 400, "path query parameter is required"),
        (OCTETS, {"path": "~agent/x"}, 400, "error resolving path: failed to expand path '' for user 'user'"),
        (OCTETS, {"path": "x", "username": "mallory"}, 401, "mallory"),
        (OCTETS | {"Content-Encoding": "br"}, {"path": "x"}, 400, "unsupported Content-Encoding: br"),
        (OCTETS, {"path": "file/below"}, 500, "error ensuring directories: path is a file: "),
        (OCTETS, {"path": "."}, 400, "path is a directory: "),
    ],
)
def test_an_upload_that_envd_refuses_is_refused(server, sandbox, headers, params, status, said):
    sandbox.files.write("file", "")

    answer = file_call(server, sandbox, "POST", headers, params=params, content=b"x")

    assert answer.status_code == status
    assert said in answer.json()["message"]


def test_a_download_that_begins_at_anothers_home_is_refused(server, sandbox):
    answer = file_call(server, sandbox, params={"path": "~agent/x"})

    assert answer.status_code == 400
    assert answer.json()["message"].startswith("error expanding and resolving path '~agent/x': failed to expand path")


def test_what_is_told_of_links_and_modes(server, sandbox):
    script = "echo > f; chmod 6750 f; mkdir d; chmod 1777 d; ln -s d to-d; ln -s gone nowhere; ln -s f to-f; mkfifo p"
    sandbox.commands.run(script, cwd="~")
    headers = {"E2b-Sandbox-Id": sandbox.sandbox_id, **sandbox.connection_config.sandbox_headers}

    def of(name):
        asked = {"json": {"path": f"~/{name}"}, "headers": headers}
        entry = httpx.post(f"{server.url}/filesystem.Filesystem/Stat", **asked).json()["entry"]
        kind = entry.get("type", "").removeprefix("FILE_TYPE_")
        return kind, oct(entry.get("mode", 0)), entry["permissions"], entry.get("symlinkTarget")

    home = place(server, sandbox, "/home/user")
    assert of("f") == ("FILE", "0o750", "ugrwxr-x---", None)
    assert of("d") == ("DIRECTORY", "0o777", "dtrwxrwxrwx", None)
    assert of("to-d") == ("DIRECTORY", "0o777", "Lrwxrwxrwx", f"{home}/d")
    assert of("to-f") == ("FILE", "0o750", "Lrwxrwxrwx", f"{home}/f")
    assert of("nowhere") == ("", "0o0", "Lrwxrwxrwx", f"{home}/nowhere")
    assert of("p") == ("", "0o644", "prw-r--r--", None)


# --- envd that restarts, a machine that boots again --------------------------------------------------------------


def test_an_envd_that_restarts_breaks_its_streams_and_the_commands_go_on(server, sandbox):
    # What it prints from now on has no reader, as with envd.
    script = "echo begun; until [ -e go ]; do sleep 0.02; done; trap '' PIPE; echo lost; echo done > proof"
    command = sandbox.commands.run(script, cwd="~", background=True, timeout=0)
    restarting = threading.Timer(0.2, restart_envd, [server.url, API_KEY, sandbox.sandbox_id])
    restarting.start()

    with pytest.raises(SandboxUnreachableException):
        command.wait()
    restarting.join()  # a real one is not there at once
    assert sandbox.commands.list() == []
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(command.pid)
    sandbox.files.write("/home/user/go", "")
    assert eventually(lambda: sandbox.files.exists("/home/user/proof"))


def test_the_deadline_of_a_command_is_forgotten_with_its_envd(server, sandbox):
    command = sandbox.commands.run("echo $$ > /tmp/pid; exec sleep 60", background=True, timeout=2)
    eventually(lambda: sandbox.files.exists("/tmp/pid"))

    restart_envd(server.url, API_KEY, sandbox.sandbox_id)
    time.sleep(2.5)

    assert sandbox.commands.run("kill -0 $(cat /tmp/pid) && echo alive", user="root").stdout == "alive\n"
    with pytest.raises(NotFoundException):
        sandbox.commands.connect(command.pid)


def test_an_envd_that_restarts_has_forgotten_what_init_told_it_until_a_resume(server, make_sandbox):
    sandbox = make_sandbox(envs={"MINE": "yes"})
    stranger = {"E2b-Sandbox-Id": sandbox.sandbox_id}
    shown = 'echo "$USER [$MINE]"; pwd'

    def answers():
        listed = httpx.post(f"{server.url}/process.Process/List", json={}, headers=stranger)
        file = httpx.get(f"{server.url}/files", params={"path": "/etc/hostname-of-nobody"}, headers=stranger)
        return listed.status_code, file.status_code

    assert answers() == (401, 401)
    restart_envd(server.url, API_KEY, sandbox.sandbox_id)
    assert answers() == (200, 404)
    Sandbox.connect(sandbox.sandbox_id, timeout=60)  # of one that runs: only its lease is longer now
    assert answers() == (200, 404)
    assert sandbox.commands.run(shown).stdout.splitlines() == ["root []", place(server, sandbox, "/root")]
    assert sandbox.commands.run("basename $PWD", user="agent").stdout == "agent\n"

    sandbox.pause()
    Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert answers() == (401, 401)
    assert sandbox.commands.run(shown).stdout.splitlines() == ["user [yes]", place(server, sandbox, "/home/user")]


def test_a_reboot_ends_every_process_and_keeps_the_files(server, make_sandbox):
    sandbox = make_sandbox(envs={"MINE": "yes"})
    word = f"before-{sandbox.sandbox_id}"
    sandbox.files.write("kept", "1")
    sandbox.files.write("/tmp/deep/gone", "1")
    sandbox.files.write("/root/runs/1/kept", "1", user="root")
    sandbox.commands.run(f"setsid bash -c 'sleep 61; true' {word} </dev/null >/dev/null 2>&1 & ", user="agent")
    command = sandbox.commands.run("sleep 60", background=True, timeout=0)
    eventually(lambda: processes_with(word))
    rebooting = threading.Timer(0.2, reboot, [server.url, API_KEY, sandbox.sandbox_id])
    rebooting.start()

    with pytest.raises(SandboxUnreachableException):
        command.wait()
    rebooting.join()
    eventually(lambda: sandbox.commands.list() == [] and not processes_with(word))

    assert sandbox.commands.run('echo "$USER $MINE"; ls /tmp').stdout == "user yes\n"
    assert (sandbox.files.read("kept"), sandbox.files.read("/root/runs/1/kept", user="root")) == ("1", "1")
    assert sandbox.files.get_info("/tmp").permissions.endswith(("trwxrwxrwx", "rwxr-xr-x"))
    assert sandbox.get_info().state == SandboxState.RUNNING
    assert sandbox.pause() is True
    assert Sandbox.connect(sandbox.sandbox_id, timeout=60).files.read("kept") == "1"
    assert sandbox.kill() is True


def test_a_reboot_empties_no_folder_that_the_sandbox_put_a_link_to(server, sandbox, tmp_path):
    (tmp_path / "private").write_text("private")
    machine = f'"/"{shlex.quote(str(tmp_path)[1:])}'
    if server.isolation == "process":
        (server.root / sandbox.sandbox_id / "tmp").rmdir()
        (server.root / sandbox.sandbox_id / "tmp").symlink_to(tmp_path)
    else:
        sandbox.commands.run(f"rm -rf /tmp; ln -s {machine} /tmp", user="root")

    reboot(server.url, API_KEY, sandbox.sandbox_id)

    assert (tmp_path / "private").read_text() == "private"


@pytest.mark.parametrize("event", [restart_envd, reboot])
def test_only_a_sandbox_that_runs_can_be_disturbed_and_only_with_the_key(server, sandbox, event):
    with pytest.raises(httpx.HTTPStatusError, match="401"):
        event(server.url, "wrong", sandbox.sandbox_id)
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        event(server.url, API_KEY, "neverwas")
    sandbox.pause()
    with pytest.raises(httpx.HTTPStatusError, match="404"):
        event(server.url, API_KEY, sandbox.sandbox_id)


# --- life of a sandbox -------------------------------------------------------------------------------------------


def test_a_sandbox_is_killed_when_its_time_is_up(server, make_sandbox):
    sandbox = make_sandbox(timeout=1)

    eventually(lambda: not sandbox.is_running())
    with pytest.raises(SandboxNotFoundException):
        sandbox.get_info()
    eventually(lambda: not (server.root / sandbox.sandbox_id).exists())


def test_a_sandbox_is_paused_when_its_time_is_up_and_it_wants_that(make_sandbox):
    sandbox = make_sandbox(timeout=1, lifecycle={"on_timeout": "pause"})
    sandbox.files.write("kept", "yes")

    eventually(lambda: sandbox.get_info().state == SandboxState.PAUSED)
    with pytest.raises(SandboxNotRunningException):
        sandbox.commands.run("true")
    again = Sandbox.connect(sandbox.sandbox_id, timeout=60)
    assert again.files.read("kept") == "yes"
    assert again.get_info().state == SandboxState.RUNNING


def test_traffic_wakes_a_sandbox_that_wants_that(make_sandbox):
    sandbox = make_sandbox(lifecycle={"on_timeout": "pause", "auto_resume": True})
    sandbox.pause()

    assert sandbox.commands.run("echo awake").stdout == "awake\n"


def test_a_timeout_can_be_changed_and_connect_only_extends_it(sandbox):
    sandbox.set_timeout(1000)
    far = sandbox.get_info().end_at
    Sandbox.connect(sandbox.sandbox_id, timeout=10)
    assert sandbox.get_info().end_at == far
    sandbox.set_timeout(500)
    assert sandbox.get_info().end_at < far
    with pytest.raises(SandboxException, match="24 hours"):
        sandbox.set_timeout(25 * 3600)


def test_a_paused_sandbox_stands_still_and_goes_on(server, sandbox):
    sandbox.commands.run(
        "setsid bash -c 'while true; do echo >> ticks; sleep 0.02; done' </dev/null >/dev/null 2>&1 &",
        user="agent",
        cwd="~",
    )
    ticks = server.root / sandbox.sandbox_id / "home/agent/ticks"
    eventually(lambda: ticks.exists() and ticks.stat().st_size > 2)

    assert sandbox.pause() is True
    assert sandbox.pause() is False
    at_pause = ticks.stat().st_size
    time.sleep(0.3)
    assert ticks.stat().st_size == at_pause
    assert not sandbox.is_running()
    with pytest.raises(SandboxNotRunningException):
        sandbox.files.read("x")

    Sandbox.connect(sandbox.sandbox_id, timeout=60)
    eventually(lambda: ticks.stat().st_size > at_pause)


@pytest.mark.parametrize("end", ["pause", "kill"])
def test_who_listens_to_a_sandbox_that_ends_is_told_that_it_does_not_run(sandbox, end):
    command = sandbox.commands.run("sleep 60", background=True, timeout=0)
    threading.Timer(0.2, getattr(sandbox, end)).start()

    with pytest.raises(SandboxNotRunningException):
        command.wait()


def test_a_killed_sandbox_is_gone_for_every_call(sandbox):
    assert sandbox.kill() is True
    assert sandbox.kill() is False
    assert sandbox.is_running() is False
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(sandbox.sandbox_id)
    with pytest.raises(SandboxNotFoundException):
        sandbox.set_timeout(10)
    with pytest.raises(SandboxNotFoundException):
        sandbox.pause()
    with pytest.raises(SandboxNotRunningException):
        sandbox.commands.run("true")
    with pytest.raises(SandboxNotRunningException):
        sandbox.files.write("a", "b")


def test_a_sandbox_whose_first_process_dies_is_gone(server, make_sandbox):
    sandbox = make_sandbox()
    sandbox.commands.run("true")
    server_process = psutil.Process(server.process.pid)
    for child in server_process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if child.environ().get("E2B_SANDBOX_ID") == sandbox.sandbox_id:
                child.kill()

    eventually(lambda: not sandbox.is_running())
    eventually(lambda: not (server.root / sandbox.sandbox_id).exists())


def test_one_idempotency_key_makes_one_sandbox(make_sandbox):
    key = f"run-{os.urandom(4).hex()}"
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: make_sandbox(idempotency_key=key), range(4)))
    assert len({sandbox.sandbox_id for sandbox in made}) == 1

    made[0].kill()
    assert make_sandbox(idempotency_key=key).sandbox_id != made[0].sandbox_id


def test_sandboxes_are_found_by_metadata_state_and_page(make_sandbox):
    run = f"run {os.urandom(4).hex()}/ä&="
    made = [make_sandbox(metadata={"run_id": run, "n": str(n)}).sandbox_id for n in range(3)]
    make_sandbox(metadata={"run_id": "other"})

    def listed(**options):
        pages = Sandbox.list(query=SandboxQuery(metadata={"run_id": run}, **options.pop("query", {})), **options)
        found = []
        while pages.has_next:
            found.append([info.sandbox_id for info in pages.next_items()])
        return found

    assert listed() == [made[::-1]]
    assert listed(order="asc", limit=2) == [made[:2], made[2:]]
    Sandbox.connect(made[1]).pause()
    assert listed(query={"state": [SandboxState.PAUSED]}) == [[made[1]]]
    assert listed(query={"state": [SandboxState.RUNNING]}) == [[made[2], made[0]]]


def test_twenty_sandboxes_work_side_by_side(make_sandbox):
    def work(n):
        sandbox = make_sandbox(metadata={"n": str(n)})
        sandbox.files.write("n", str(n), user="root")
        return sandbox.commands.run("cat n; sleep 0.2", user="root", cwd="/root").stdout

    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(work, range(20))) == [str(n) for n in range(20)]


# --- what a stranger, or a team without a feature, hears ---------------------------------------------------------


def test_a_wrong_api_key_is_refused(server):
    with pytest.raises(AuthenticationException):
        Sandbox.create("base", api_key="wrong")


def test_a_sandbox_wants_its_own_access_token(server, make_sandbox):
    one, two = make_sandbox(), make_sandbox()
    token = two.connection_config.sandbox_headers["X-Access-Token"]
    headers = {"E2b-Sandbox-Id": one.sandbox_id, "X-Access-Token": token}

    rpc = httpx.post(f"{server.url}/process.Process/List", json={}, headers=headers)
    file = httpx.get(f"{server.url}/files", params={"path": "x"}, headers=headers)

    assert (rpc.status_code, file.status_code) == (401, 401)


def test_the_network_configuration_is_kept_and_replaced_as_a_whole(make_sandbox):
    sandbox = make_sandbox(network={"allow_out": ["example.com"], "deny_out": ["0.0.0.0/0"]})
    assert sandbox.get_info().network["allow_out"] == ["example.com"]

    sandbox.update_network({"deny_out": ["0.0.0.0/0"]})
    assert "allow_out" not in sandbox.get_info().network


def test_transform_rules_and_secrets_are_not_available_for_the_team(server, sandbox):
    rules = {"rules": {"example.com": [{"transform": {"headers": {"x": "y"}}}]}}

    with pytest.raises(SandboxException, match="not available for your team"):
        Sandbox.create("base", network=rules)
    with pytest.raises(SandboxException, match="not available for your team"):
        sandbox.update_network(rules)
    with pytest.raises(Exception, match="not available for your team"):
        Secret.create("name", "value")


def test_what_the_server_does_not_offer_it_says(sandbox):
    with pytest.raises(SandboxException, match="does not offer"):
        sandbox.create_snapshot()


# --- the server as a process -------------------------------------------------------------------------------------


@pytest.fixture(params=[kind for kind in KINDS if kind != "bubblewrap-as-nobody"])
def own_server(request, tmp_path, monkeypatch):
    if request.param == "bubblewrap" and not bubblewrap_works():
        pytest.skip("bubblewrap does not work on this machine")
    server = start_server(tmp_path, request.param)
    speak_to(server, monkeypatch)
    yield server
    if server.process.poll() is None:
        server.stop()


def start_escapee(word):
    sandbox = Sandbox.create("base", timeout=300)
    sandbox.commands.run(f"setsid bash -c 'sleep 62; true' {word} </dev/null >/dev/null 2>&1 &", user="agent")
    eventually(lambda: processes_with(word))
    return sandbox


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_that_ends_takes_every_process_and_folder_along(own_server, number):
    sandbox = start_escapee(word := f"left-{os.urandom(4).hex()}")
    sandbox.commands.run("sleep 63", background=True, timeout=0)  # an open stream does not hold it up

    own_server.stop(number)

    assert processes_with(word) == []
    assert not (own_server.root / sandbox.sandbox_id).exists()


def test_a_server_that_is_killed_takes_its_processes_along_and_the_next_one_cleans_up(own_server, tmp_path):
    sandbox = start_escapee(word := f"left-{os.urandom(4).hex()}")

    own_server.stop(signal.SIGKILL)
    eventually(lambda: not processes_with(word))
    assert (own_server.root / sandbox.sandbox_id).exists()

    follower = start_server(tmp_path, own_server.isolation)
    eventually(lambda: httpx.get(f"{follower.url}/health").status_code == 200)
    assert not (own_server.root / sandbox.sandbox_id).exists()
    follower.stop()


def test_two_servers_do_not_share_a_folder(own_server, tmp_path):
    eventually(lambda: httpx.get(f"{own_server.url}/health").status_code == 200)

    second = start_server(tmp_path, own_server.isolation)

    assert second.process.wait(120) != 0
    assert "another E2B server" in second.log.read_text()


@of_the_stand_in
def test_without_bubblewrap_the_server_warns_or_refuses(tmp_path):
    insisting = start_server(tmp_path, "bubblewrap", PATH=str(tmp_path))
    assert insisting.process.wait(120) != 0
    assert "bubblewrap does not work here" in insisting.log.read_text()

    assert "Install bubblewrap" in warning_of_a_server(tmp_path, PATH=str(tmp_path))


def warning_of_a_server(folder, **env):
    """What a server that falls back to plain processes tells the person: the one line of its log."""
    server = start_server(folder, "auto", **env)
    eventually(lambda: httpx.get(f"{server.url}/health").status_code == 200)
    server.stop()
    [line] = [line for line in server.log.read_text().splitlines() if "NO ISOLATION: " in line]
    sentence = line.partition("NO ISOLATION: ")[2]
    assert sentence.startswith("Sandboxes are plain processes here: an agent can read and change your files. ")
    return sentence


@pytest.fixture
def complaining_bubblewrap(tmp_path):
    """A folder for PATH with a `bwrap` that fails as the real one does."""

    def make(complaint):
        programs = tmp_path / "programs"
        programs.mkdir()
        (programs / "bwrap").write_text(f"#!/bin/sh\necho {shlex.quote(complaint)} >&2\nexit 1\n")
        (programs / "bwrap").chmod(0o755)
        return f"{programs}:{os.environ['PATH']}"

    return make


@of_the_stand_in
@pytest.mark.parametrize(
    "complaint",
    [
        "bwrap: Creating new namespace failed: Operation not permitted",  # Docker's default seccomp profile
        "bwrap: No permissions to create new namespace, likely because the kernel does not allow non-privileged user "
        "namespaces. See <https://deb.li/bubblewrap> or <file:///usr/share/doc/bubblewrap/README.Debian.gz>.",
        "bwrap: Creating new namespace failed: nesting depth or /proc/sys/user/max_*_namespaces exceeded (ENOSPC)",
        "bwrap: setting up uid map: Permission denied",  # Ubuntu 24.04
        "bwrap: Failed to make / slave: Permission denied",  # Docker's AppArmor profile
        "bwrap: Can't mount proc on /newroot/proc: Operation not permitted",
    ],
)
@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap exists for Linux only")
def test_where_bubblewrap_is_forbidden_the_warning_says_so_and_what_to_do(tmp_path, complaining_bubblewrap, complaint):
    sentence = warning_of_a_server(tmp_path, PATH=complaining_bubblewrap(complaint))

    assert "Install bubblewrap" not in sentence
    assert complaint.removesuffix(".") in sentence
    assert "--security-opt seccomp=unconfined" in sentence
    assert "kernel.apparmor_restrict_unprivileged_userns=0" in sentence


@of_the_stand_in
@pytest.mark.skipif(sys.platform != "linux", reason="bubblewrap exists for Linux only")
def test_anything_else_that_bubblewrap_complains_about_is_quoted_on_one_line(tmp_path, complaining_bubblewrap):
    path = complaining_bubblewrap("bwrap: Unknown option --perms\nTry bwrap --help")
    sentence = warning_of_a_server(tmp_path, PATH=path)
    assert sentence.endswith("does not work here: bwrap: Unknown option --perms Try bwrap --help.")


@of_the_stand_in
@pytest.mark.skipif(os.geteuid() != 0, reason="root loses its capabilities")
def test_a_real_bubblewrap_without_capabilities_counts_as_forbidden(tmp_path):
    if not bubblewrap_works() or shutil.which("setpriv") is None:
        pytest.skip("bubblewrap does not work on this machine")
    argv = [
        "setpriv",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "bwrap",
        "--ro-bind",
        "/",
        "/",
        "--unshare-pid",
        "true",
    ]
    said = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert said.returncode != 0
    assert "forbids what it needs" in why_not_isolated(said.stderr)


@of_the_stand_in
def test_sandboxes_that_were_not_to_be_isolated_are_said_to_be_plain(monkeypatch, complaining_bubblewrap):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("PATH", complaining_bubblewrap("never asked"))
    assert why_not_isolated(None).endswith("Bubblewrap is installed but was not asked for.")


@of_the_stand_in
def test_a_closed_umask_does_not_end_the_isolation(tmp_path, monkeypatch):
    if not bubblewrap_works():
        pytest.skip("bubblewrap does not work on this machine")
    server = start_server(tmp_path, "auto", umask=0o077)
    speak_to(server, monkeypatch)
    try:
        sandbox = Sandbox.create("base", timeout=60)
        path = agent_path([tmp_path / "agent/bin"])
        script = f"export PATH={path}; claude; python3 -c 'print(1 + 1)'; cat /etc/passwd | wc -l; umask"
        script += "; ls /home/agent && echo > ~/file"
        result = sandbox.commands.run(script, user="agent")
        assert result.stdout.split() == ["the", "agent", "2", "4", "0022"]
    finally:
        server.stop()
    assert "isolated by bubblewrap" in server.log.read_text()


@of_the_stand_in
@pytest.mark.parametrize("kind", ["bubblewrap", "process"])
def test_the_modes_of_a_sandbox_do_not_depend_on_the_umask(tmp_path, kind):
    programs = install_an_agent(tmp_path)

    def modes(umask):
        before = os.umask(umask)
        try:
            folder = Path(tempfile.mkdtemp(dir=tmp_path))
            scratch = tmp_path / "scratch"
            isolation = Bubblewrap([programs]) if kind == "bubblewrap" else PlainProcess([programs], scratch)
            isolation.lay_out(folder)
        finally:
            os.umask(before)
        return {str(path.relative_to(folder)): oct(path.lstat().st_mode) for path in folder.rglob("*")}

    assert modes(0o077) == modes(0o022)


@of_the_stand_in
def test_a_person_without_a_home_has_programs_all_the_same(tmp_path, monkeypatch):
    programs = install_an_agent(tmp_path)
    monkeypatch.delenv("HOME")

    def no_entry(uid):
        raise KeyError(uid)

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    assert installation(programs) == programs.parent
