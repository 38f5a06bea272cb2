"""`make demo` as a process of its own, and what it must not leave behind."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from local.processes import PROJECT_ROOT

PATIENCE_S = 600


def as_in_a_terminal():
    """A shell starts its background jobs with Ctrl-C ignored, and whoever runs these tests may be one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def demo(tmp_path):
    """Starts a demo with its own data folder; ends whatever is left of it."""
    started = []

    def start(*command, **environment):
        ours = {"LOCAL_DATA": str(tmp_path / "data"), "LOCAL_DOTENV": os.devnull}  # and not the developer's
        env = {**os.environ, **ours, **environment}
        process = subprocess.Popen(
            command or [sys.executable, "-m", "local.demo"],
            cwd=PROJECT_ROOT,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            preexec_fn=as_in_a_terminal,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


def processes_of(folder):
    """Everything that runs with this data folder in its arguments or below such a process."""
    found = set()
    for process in psutil.process_iter():
        try:
            if any(str(folder) in word for word in process.cmdline()):
                found |= {process.pid, *(child.pid for child in process.children(recursive=True))}
        except psutil.Error:
            continue
    return found


def assert_nothing_is_left(folder, pids=()):
    give_up_at = time.monotonic() + 20
    while left := processes_of(folder) | {pid for pid in pids if psutil.pid_exists(pid)}:
        assert time.monotonic() < give_up_at, [psutil.Process(pid).cmdline() for pid in left]
        time.sleep(0.1)


def read_until(process, text):
    seen = ""
    while text not in seen:
        line = process.stdout.readline()
        assert line, seen
        seen += line
    return seen
