"""`make dev` prints what a person needs, and its lines work when they are pasted."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from tests.integration.runs.demos import PATIENCE_S, assert_nothing_is_left, read_until

LOGS = "logs, Ctrl-C stops everything"
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.fixture
def dev(demo):
    """A running `make dev` and what it said when it was ready."""
    process = demo(sys.executable, "-m", "local.dev")
    return process, read_until(process, LOGS)


def pasted(lines, **environment):
    script = "\n".join(lines)
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.stdout, done.stderr


def lines_to_paste(said):
    block = said.partition("Copy and paste\n")[2].rpartition("\n")[0]
    lines = block.splitlines()
    assert lines[0].startswith("export TOKEN="), said
    return lines


@needs_curl
def test_its_lines_work_when_they_are_pasted_and_ctrl_c_ends_it(dev, tmp_path):
    process, said = dev
    export, start, task_id, status, *_ = lines_to_paste(said)

    out, err = pasted([export, start, task_id, 'echo "task $TASK"', status], http_proxy="http://127.0.0.1:9")

    assert err == ""
    answer, task, asked = out.splitlines()
    assert task == f"task {json.loads(answer)['task_id']}"
    assert json.loads(asked)["task"]["id"] == json.loads(answer)["task_id"]

    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=PATIENCE_S)
    assert "Stopped. Nothing is left running." in rest
    assert process.returncode == 0
    assert_nothing_is_left(tmp_path)


@needs_curl
def test_a_line_that_fails_shows_the_error(dev):
    _, said = dev
    export, start, task_id, *_ = lines_to_paste(said)

    out, _ = pasted([re.sub("TOKEN=.", "TOKEN=x", export, count=1), start, task_id, 'echo "task $TASK"'])

    answer, task = out.splitlines()
    assert json.loads(answer)["error"]
    assert task == "task "


def test_it_names_the_token_for_the_frontends_settings(dev):
    _, said = dev
    (line,) = [line for line in said.splitlines() if line.strip().startswith("GitHub")]

    token = re.search(r"token for the frontend's settings: (\S+)\)", line)[1]
    assert f'"github_token": "{token}"' in said
