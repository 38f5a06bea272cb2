"""`make demo` as a person meets it, and what it leaves behind however it ends: nothing."""

import re
import signal
import subprocess
import sys

import pytest

from shared.domain.agents import AgentName
from tests.bubblewrap import bubblewrap_works
from tests.integration.runs.conftest import git
from tests.integration.runs.demos import (
    PATIENCE_S,
    assert_nothing_is_left,
    processes_of,
    read_until,
)

AS_USER_1000 = ("unshare", "--user", "--map-user=1000", "--map-group=1000")


def can_be_somebody_else():
    try:
        return subprocess.run([*AS_USER_1000, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:  # not on Linux
        return False


@pytest.mark.parametrize("agent", AgentName)
def test_the_demo_prints_the_stored_diff_of_a_real_agent(demo, tmp_path, agent):
    process = demo(AGENT=agent)
    output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, output
    assert "API ready" in output
    assert "a scripted model plays the model's part" in output
    assert "● collecting" in output
    assert "diff --git a/README.md b/README.md" in output
    assert "+> Add a short section to the README that explains how to run the tests." in output
    assert "completed" in output
    assert "make demo PR=1" in output
    assert_nothing_is_left(tmp_path)


@pytest.mark.parametrize("agent", ["claude", "codex"])
@pytest.mark.skipif(not can_be_somebody_else(), reason="a user of its own takes a user namespace")
def test_the_demo_works_for_an_ordinary_user_too(demo, tmp_path, agent):
    """One that owns the files of whoever runs the tests, and has none of root's rights."""
    process = demo(*AS_USER_1000, sys.executable, "-m", "local.demo", AGENT=agent)
    output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, output
    assert "diff --git a/README.md b/README.md" in output
    assert ("Sandboxes are plain processes here" in output) == (not bubblewrap_works(*AS_USER_1000))
    assert_nothing_is_left(tmp_path)


def test_the_demo_goes_on_to_a_merged_pull_request_when_it_is_told_to(demo, tmp_path):
    """Through make, which has to hand it on."""
    process = demo("make", "demo", "PR=1", "PROMPT=@write new.txt: it's new")
    output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, output
    assert "Pull request 1 of claude-code-1, 1 file: http://127.0.0.1:" in output
    history = output.partition("git log --stat main")[2]
    assert "Merge pull request #1 from local/claude-code-1" in history
    assert "Claude Code: @write new.txt: it's new" in history
    assert "new.txt | 1 +" in history
    assert "which ends with this demo" in history
    assert re.search(r"start `make dev`, then\n    open http://127\.0\.0\.1:\d+/local/pocketbook/pull/1\n", history)
    assert "make demo PR=1" not in output
    assert_nothing_is_left(tmp_path)


def test_the_demo_takes_a_folder_and_a_prompt_with_every_odd_character(demo, tmp_path):
    repository = tmp_path / "my project"
    repository.mkdir()
    git(repository, "init", "-q", "-b", "trunk")
    (repository / "a.txt").write_text("a\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", "base")
    text = 'it\'s "quoted", $HOME, $(id), `id`, %s and ünïcode'

    process = demo(REPO=str(repository), PROMPT=f"@append a.txt: {text}\n@say Done.")
    output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 0, output
    assert "branch trunk, 1 files" in output
    assert f"+{text}" in output
    assert (repository / "a.txt").read_text() == "a\n"


def test_a_demo_of_something_that_is_no_repository_says_so(demo, tmp_path):
    process = demo(REPO=str(tmp_path))
    output, _ = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 1
    assert "is not a git repository" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)])
def test_a_demo_that_is_ended_in_the_middle_leaves_no_process_behind(demo, tmp_path, how, code):
    process = demo(PROMPT="@write a.txt: a\n@hang")
    read_until(process, "● agent")
    pids = processes_of(tmp_path)
    assert len(pids) > 5

    process.send_signal(how)
    process.wait(timeout=30)

    assert process.returncode == code
    assert_nothing_is_left(tmp_path, pids)
