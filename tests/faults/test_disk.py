"""The sandbox's disk is full: really, on a small one. What the agent had done by then is kept all the same."""

from secrets import token_hex
from unittest.mock import patch

import pytest

from tests.bubblewrap import bubblewrap_works
from tests.faults.faults import EveryPlaceOnce
from tests.faults.promises import tree_of
from tests.faults.simulated_queue import Scenario, World
from tests.faults.small_disk import FewInodes, SmallDisk
from tests.faults.stack import Lab
from tests.faults.test_output import stand_in
from tests.small_disks import small_disk

FILL = """
import errno

def fill(path):
    with open(path, "wb", buffering=0) as junk:
        try:
            while True:
                junk.write(os.urandom(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC

def use_up_inodes(path):
    path.mkdir()
    try:
        for number in range(10 ** 6):
            (path / str(number)).touch()
    except OSError as error:
        assert error.errno == errno.ENOSPC

put(says("I begin."))
"""
ALL_FILES = "use_up_inodes(Path.home() / 'junk')\nput(result)"
FOR_A_WHILE = "fill(Path.home() / 'junk')\ntime.sleep(3)\n(Path.home() / 'junk').unlink()\nput(result)"
TO_ITS_END = "fill(Path.home() / 'junk')\nput(result)"
IN_THE_REPOSITORY = "fill('junk')\nPath('junk').unlink()\nfill('../junk')\nput(result)"
BY_WHAT_IT_SAYS = """
for _ in range(40):
    put(line("user", message={"content": [{"type": "tool_result", "tool_use_id": "t", "content": "y" * 999_900}]}))
"""


@pytest.fixture(scope="module")
def bubblewrap():
    """Whether it works is asked without our own code: a lab that falls back to plain processes all the same fails."""
    if not bubblewrap_works():
        pytest.skip("a disk can be made small only where bubblewrap works")


@pytest.fixture(scope="module")
def lab(bubblewrap, tmp_path_factory):
    with patch("local.services.e2b.sandboxes.Bubblewrap", SmallDisk), Lab(tmp_path_factory.mktemp("lab")) as lab:
        assert lab.isolation == SmallDisk.name
        yield lab


@pytest.mark.parametrize("fault", [None, "death after"])
@pytest.mark.parametrize("fills", [FOR_A_WHILE, TO_ITS_END, IN_THE_REPOSITORY])
def test_an_agent_that_fills_the_disk_keeps_its_work(outlive, fills, fault):
    outlive(stand_in(FILL + fills), EveryPlaceOnce(fault))


def test_an_agent_whose_own_words_fill_the_disk_fails_soon_and_keeps_its_work(outlive):
    world = outlive(stand_in(FILL + BY_WHAT_IT_SAYS, says="I begin."), may_fail_as={"agent_failed"})

    assert (world.run["error_code"], world.task["changed_files"]) == ("agent_failed", ["made.txt"])


@pytest.mark.parametrize("agent", ["claude", "codex"])
def test_a_real_agent_on_a_disk_that_fills_up_keeps_what_it_wrote_before(lab, agent):
    """What it then says depends on the program; its work is there, and the run has ended."""
    fills = "@write a.txt: a\n@run head -c 100M /dev/zero > ../junk || true\n@say Done."
    world = World(lab, Scenario(agent, prompt=fills)).live()

    assert world.run["error_code"] in (None, "agent_failed", "agent_no_result")
    assert world.task["changed_files"] == ["a.txt"]
    assert tree_of(world, world.task["git_patch"])
    assert lab.boxes() == []


def test_a_repository_that_is_larger_than_the_disk_is_a_failed_clone(lab):
    world = World(lab, Scenario("claude", base={"README.md": "one\n", "large.txt": noise(30)})).live()

    assert world.run["error_code"] == "sandbox_full"
    assert lab.boxes() == []


@pytest.fixture(scope="module")
def lab_with_few_inodes(bubblewrap, tmp_path_factory):
    folder = tmp_path_factory.mktemp("few")
    with (
        small_disk(folder / "disk", "size=200m,nr_inodes=6000") as disk,
        patch.object(FewInodes, "disk", disk, create=True),
        patch("local.services.e2b.sandboxes.Bubblewrap", FewInodes),
        Lab(folder / "lab") as lab,
    ):
        yield lab


def test_an_agent_that_uses_up_all_files_of_the_disk_keeps_its_work(lab_with_few_inodes):
    world = World(lab_with_few_inodes, stand_in(FILL + ALL_FILES)).live()

    assert lab_with_few_inodes.isolation == FewInodes.name
    assert (world.run["error_code"], world.task["changed_files"]) == (None, ["made.txt"])
    assert tree_of(world, world.task["git_patch"])
    assert lab_with_few_inodes.boxes() == []


def noise(megabytes):
    """Text that git cannot make much smaller."""
    return token_hex(megabytes * 2**19)
