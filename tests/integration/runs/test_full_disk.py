"""Runs in sandboxes whose disk is really full, with the real agents: what was done by then is kept."""

import secrets
from contextlib import contextmanager

import pytest

from local.stack import Stack
from tests.integration.e2b_servers import E2B_SERVER
from tests.integration.runs.conftest import Lab, options_in
from tests.small_disks import small_disk

# The server's own template lies on the disk, too: a real envd and its image take 60 MB and some thousand files.
BYTES = ("size=200m", "head -c 1G /dev/zero > ../junk || true")
INODES = ("size=1g,nr_inodes=20000", "mkdir ../junk; for i in $(seq 20000); do : > ../junk/$i || break; done")


@contextmanager
def lab_on(options, folder, agent):
    """A stack whose sandboxes lie on a disk of their own, which tmpfs makes with these options."""
    stack = Stack(options_in(folder, agent, e2b_server=E2B_SERVER))
    stack.sandboxes_root.parent.mkdir(parents=True)
    with small_disk(stack.sandboxes_root, options), stack:
        yield Lab(stack, folder)


@pytest.mark.parametrize("agent", ["claude", "codex"])
@pytest.mark.parametrize(("disk", "fills"), [BYTES, INODES], ids=["bytes", "inodes"])
def test_what_an_agent_wrote_before_it_filled_the_disk_is_kept(tmp_path, agent, disk, fills):
    """Whether the agent then finds an end of its own depends on the program."""
    with lab_on(disk, tmp_path, agent) as lab:
        path, url = lab.repository()

        task = lab.run(f"@write a.txt: a\n@run {fills}\n@say Done.", url, agent=agent)

        assert error_code_of(lab, task) in (None, "agent_failed", "agent_no_result"), task["error"]
        assert task["changed_files"] == ["a.txt"]
        lab.assert_patch_makes(task, path)


def test_a_repository_that_is_larger_than_the_disk_fails_as_that(tmp_path):
    with lab_on("size=200m", tmp_path, "claude") as lab:
        _, url = lab.repository({"large.txt": secrets.token_hex(60 * 2**20)})

        task = lab.run("@write a.txt: a", url)

        assert (task["status"], error_code_of(lab, task)) == ("failed", "sandbox_full")


def error_code_of(lab, task):
    [(code,)] = lab.sql("select error_code from runs where task_id = %s", task["id"])
    return code
