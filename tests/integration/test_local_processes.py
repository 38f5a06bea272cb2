import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import psutil
import pytest

from local.listening import listen, listen_near, port_of
from local.processes import PROJECT_ROOT, ProcessError, ProcessGroup, has_said

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs a child subreaper")

# Writes its pid to the file given, then sleeps.
SLEEPER = "import os, pathlib, sys, time; pathlib.Path(sys.argv[1]).write_text(str(os.getpid())); time.sleep(600)"

# Starts a daemon (double fork, setsid) that writes its pid, then sleeps itself.
DAEMON_STARTER = f"""
import os, subprocess, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", {SLEEPER!r}, sys.argv[1]])
    os._exit(0)
time.sleep(600)
"""

DRIVER = f"""
import os, pathlib, sys, time
from local.listening import listen, listen_near, port_of
from local.processes import ProcessGroup
folder = pathlib.Path(sys.argv[1])
with ProcessGroup(folder / "logs", grace_s=1) as group:
    for name, program in [("plain", {SLEEPER!r}), ("daemon", {DAEMON_STARTER!r})]:
        pid_file = folder / f"{{name}}.pid"
        argv = [sys.executable, "-c", program, str(pid_file)]
        group.start(name, argv, env=os.environ, ready=lambda _: pid_file.exists())
    (folder / "started").touch()
    time.sleep(600)
"""


@pytest.fixture
def group(tmp_path):
    with ProcessGroup(tmp_path / "logs", grace_s=1) as group:
        yield group


def python(program, *arguments):
    return [sys.executable, "-c", program, *map(str, arguments)]


def pid_in(file):
    wait_for(lambda: file.exists() and file.read_text())
    return int(file.read_text())


def is_running(pid):
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for(condition, timeout_s=120):
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, "it did not happen in time"
        time.sleep(0.02)


# Serves HTTP on the socket that it is handed; says so when it is ready.
SERVER = """
import argparse, http.server, os, socket, sys, time
from local.listening import add_port_arguments, announce, listener_of
parser = argparse.ArgumentParser()
add_port_arguments(parser)
listener = listener_of(parser.parse_args())
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
server.socket = listener
announce(listener)
server.serve_forever()
"""


def answer_of(url):
    with httpx.Client(trust_env=False) as client:
        return client.get(url, timeout=120).text


def refuses(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == errno.ECONNREFUSED


def test_a_child_serves_on_the_socket_that_it_is_handed_and_frees_the_port_when_it_ends(group):
    listener = listen()
    port = port_of(listener)

    child = group.start("web", python(SERVER), env=os.environ, listener=listener)

    assert child.url == f"http://127.0.0.1:{port}"
    assert int(answer_of(child.url)) in {each.pid for each in psutil.Process(child.guard.pid).children()}
    assert group.alive() == ["web"]

    group.stop("web")

    assert refuses(port)
    assert group.alive() == []


def test_a_request_that_comes_before_the_child_serves_is_answered_by_it(group):
    listener = listen()
    url = f"http://127.0.0.1:{port_of(listener)}"
    slow = SERVER.replace("announce(listener)", "time.sleep(1); announce(listener)")

    with ThreadPoolExecutor(1) as pool:
        early = pool.submit(answer_of, url)
        child = group.start("web", python(slow), env=os.environ, listener=listener)

        assert int(early.result()) in {each.pid for each in psutil.Process(child.guard.pid).children()}


def test_the_port_is_free_as_soon_as_the_program_is_killed(group):
    """Neither this process nor the guard keeps the socket open: a request is refused, and does not wait for ever."""
    child = group.start("web", python(SERVER), env=os.environ, listener=listen())
    (program,) = psutil.Process(child.guard.pid).children()

    program.kill()

    wait_for(lambda: refuses(int(child.url.rpartition(":")[2])))


def test_a_restarted_child_has_the_port_that_it_had(group):
    child = group.start("web", python(SERVER), env=os.environ, listener=listen())
    before = answer_of(child.url)

    again = group.restart("web")

    assert again.url == child.url
    assert answer_of(again.url) != before


def test_a_restart_says_who_is_in_the_way_when_the_port_is_taken_meanwhile(group):
    child = group.start("web", python(SERVER), env=os.environ, listener=listen())
    group.stop("web")

    port = int(child.url.rpartition(":")[2])
    with listen(port), pytest.raises(ProcessError, match=f"another program uses its port {port} now"):
        group.restart("web")


def test_a_child_that_never_serves_is_not_taken_for_ready_because_its_port_answers(group):
    """The socket accepts connections from the start; what counts is what the child says."""
    program = python("import time; time.sleep(600)")

    with pytest.raises(ProcessError, match="was not ready"):
        group.start("web", program, env=os.environ, listener=listen(), ready_timeout_s=0.5)


def test_a_child_gets_exactly_the_given_environment(group, tmp_path):
    done = tmp_path / "done"
    program = "import json, os, pathlib, sys; pathlib.Path(sys.argv[1]).write_text(json.dumps(dict(os.environ)))"

    group.start(
        "env",
        python(f"{program}; import time; time.sleep(600)", done),
        env={"ONLY": "this"},
        ready=lambda _: done.exists(),
    )

    wait_for(done.read_text)
    assert json.loads(done.read_text()).items() >= {"ONLY": "this"}.items()
    assert json.loads(done.read_text()).keys() <= {"ONLY", "LC_CTYPE"}  # Python itself coerces the locale


def test_a_child_that_dies_early_is_quoted(group):
    program = "import sys; print('line one'); sys.exit('no database here')"

    with pytest.raises(ProcessError) as error:
        group.start("broken", python(program), env=os.environ, ready=lambda _: False)

    assert "broken ended with exit code 1" in str(error.value)
    assert "line one" in str(error.value)
    assert "no database here" in str(error.value)


def test_a_program_that_does_not_exist_is_named(group):
    with pytest.raises(ProcessError, match="cannot start no-such-program"):
        group.start("broken", ["no-such-program"], env=os.environ, ready=lambda _: False)


def test_a_child_that_is_never_ready_is_stopped(group, tmp_path):
    pid_file = tmp_path / "pid"

    with pytest.raises(ProcessError, match=r"was not ready after 0\.5 s"):
        group.start("slow", python(SLEEPER, pid_file), env=os.environ, ready=lambda _: False, ready_timeout_s=0.5)

    assert group.alive() == []
    assert not is_running(pid_in(pid_file))


def test_a_name_can_run_only_once(group, tmp_path):
    group.start("one", python(SLEEPER, tmp_path / "pid"), env=os.environ)

    with pytest.raises(ProcessError, match="running already"):
        group.start("one", python(SLEEPER, tmp_path / "pid2"), env=os.environ)


def test_a_restarted_child_is_new_and_keeps_its_log(group, tmp_path):
    pid_file = tmp_path / "pid"
    program = f"print('started', flush=True); {SLEEPER}"
    first = group.start("one", python(program, pid_file), env=os.environ, ready=has_said("started"))
    before = pid_in(pid_file)
    pid_file.unlink()

    second = group.restart("one")

    assert pid_in(pid_file) != before
    assert not is_running(before)
    assert group.alive() == ["one"]
    assert first.log.read_text().split() == ["started", "started"]
    assert second.output().split() == ["started"]


def test_children_stop_in_reverse_order(tmp_path):
    order = tmp_path / "order"
    program = """
import pathlib, signal, sys, time
def leave(*_):
    with open(sys.argv[1], "a") as file:
        file.write(sys.argv[2])
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
pathlib.Path(sys.argv[3]).touch()
time.sleep(600)
"""
    with ProcessGroup(tmp_path / "logs") as group:
        for name in "abc":
            ready = tmp_path / name
            group.start(
                name, python(program, order, name, ready), env=os.environ, ready=lambda _, file=ready: file.exists()
            )

    assert order.read_text() == "cba"


def test_programs_can_be_started_at_the_same_time(group):
    names = [f"program-{n}" for n in range(6)]
    sleeper = python("import time; print('up', flush=True); time.sleep(600)")

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: group.start(name, sleeper, env=os.environ, ready=has_said("up")), names))

    assert sorted(group.alive()) == names


def test_an_exception_leaves_no_child(tmp_path):
    pid_file = tmp_path / "pid"

    with pytest.raises(RuntimeError), ProcessGroup(tmp_path / "logs") as group:  # noqa: PT012
        group.start("one", python(SLEEPER, pid_file), env=os.environ, ready=lambda _: pid_file.exists())
        raise RuntimeError

    assert not is_running(pid_in(pid_file))


def test_a_child_that_ignores_sigterm_is_killed(group, tmp_path):
    pid_file = tmp_path / "pid"
    program = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEPER}"
    group.start("deaf", python(program, pid_file), env=os.environ, ready=lambda _: pid_file.exists())

    group.stop("deaf")

    assert not is_running(pid_in(pid_file))


@linux_only
def test_a_daemon_ends_with_the_child_that_started_it(group, tmp_path):
    pid_file = tmp_path / "pid"
    group.start("parent", python(DAEMON_STARTER, pid_file), env=os.environ, ready=lambda _: pid_file.exists())
    daemon = pid_in(pid_file)
    assert is_running(daemon)

    group.stop("parent")

    assert not is_running(daemon)


@linux_only
def test_a_child_that_is_killed_takes_its_daemons_along(group, tmp_path):
    pid_file = tmp_path / "pid"
    child = group.start("parent", python(DAEMON_STARTER, pid_file), env=os.environ, ready=lambda _: pid_file.exists())
    daemon = pid_in(pid_file)
    (program,) = [p for p in psutil.Process(child.guard.pid).children() if p.pid != daemon]

    program.kill()

    wait_for(lambda: not child.is_alive())
    assert child.guard.returncode == 128 + signal.SIGKILL
    assert not is_running(daemon)


@linux_only
def test_a_killed_guard_takes_its_program_along(group, tmp_path):
    pid_file = tmp_path / "pid"
    child = group.start("one", python(SLEEPER, pid_file), env=os.environ, ready=lambda _: pid_file.exists())

    child.guard.kill()

    wait_for(lambda: not is_running(pid_in(pid_file)))
    assert group.alive() == []


def test_sigterm_to_a_guard_ends_its_program(group, tmp_path):
    pid_file = tmp_path / "pid"
    child = group.start("one", python(SLEEPER, pid_file), env=os.environ, ready=lambda _: pid_file.exists())

    child.guard.terminate()

    wait_for(lambda: not child.is_alive())
    assert not is_running(pid_in(pid_file))


@linux_only
def as_in_a_terminal():
    """A shell starts its background jobs with Ctrl-C ignored, and whoever runs these tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_parent_ended_by_a_signal_leaves_no_process(tmp_path, number):
    driver = subprocess.Popen(
        python(DRIVER, tmp_path),
        cwd=PROJECT_ROOT,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=as_in_a_terminal,
    )
    wait_for((tmp_path / "started").exists)
    family = psutil.Process(driver.pid).children(recursive=True)
    assert {pid_in(tmp_path / "plain.pid"), pid_in(tmp_path / "daemon.pid")} < {p.pid for p in family}

    driver.send_signal(number)
    driver.wait(120)

    _, alive = psutil.wait_procs(family, timeout=120)
    assert alive == []


def test_a_preferred_port_is_given_when_it_is_free():
    with listen() as first:
        port = port_of(first)

    with listen_near(port) as second:
        assert port_of(second) == port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_not_given(host):
    with listen(host=host) as taken, listen_near(port_of(taken)) as other:
        assert port_of(other) not in (0, port_of(taken))


def test_of_many_who_want_the_same_port_at_the_same_time_one_gets_it():
    with listen() as first:
        port = port_of(first)

    with ThreadPoolExecutor(16) as pool:
        listeners = list(pool.map(lambda _: listen_near(port), range(16)))

    with ExitStack() as exit_:
        for listener in listeners:
            exit_.enter_context(listener)
        ports = [port_of(listener) for listener in listeners]
    assert len(set(ports)) == 16
    assert ports.count(port) <= 1  # another program of this machine may have had it


def test_a_program_started_by_hand_says_that_its_port_is_taken():
    with listen() as taken:
        argv = [sys.executable, "-m", "local.services.aws", "--port", str(port_of(taken))]
        done = subprocess.run(argv, cwd=PROJECT_ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(f"Port {argv[-1]} of 127.0.0.1 cannot be used")
    assert "Traceback" not in done.stderr
