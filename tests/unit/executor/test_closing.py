"""A sandbox is closed before anything runs in it; one that is open gets no secret and no agent."""

from tests.fakes.executor import GIT_TOKEN

OPEN = "/usr/local/bin is writable for others than root."


def test_a_new_sandbox_is_closed_before_any_job_is_started(world):
    world.start()
    world.run_to_end()

    box = world.sandboxes.ever[0]
    assert box.checks == ["close"]
    assert world.task["status"] == "completed"


def test_a_sandbox_that_cannot_be_closed_gets_no_job_and_no_secret_and_is_killed(world):
    world.sandboxes.problems = [OPEN]
    world.start()
    world.run_to_end()

    box = world.sandboxes.ever[0]
    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "sandbox_unsafe")
    assert "build the sandbox template again" in world.task["error"]
    assert OPEN not in world.task["error"]  # it is for the operator's log
    assert (box.jobs, world.sandboxes.boxes, world.sandboxes.killed) == ({}, {}, [box.id])
    assert len(world.sandboxes.created) == 1  # another one of the same template would be open too
    assert not any(GIT_TOKEN.encode() in data for _, data in box.uploads)


def test_a_sandbox_that_was_kept_is_checked_again_before_a_secret_comes_into_it(world):
    world.start()
    world.run_to_end()
    world.follow_up("and now this")
    world.run_to_end()

    [box] = world.sandboxes.ever
    assert box.checks == ["close", "check"]
    assert world.task["status"] == "completed"


def test_a_sandbox_that_is_open_by_now_is_replaced_by_a_new_one_with_the_saved_changes(world):
    world.start()
    world.run_to_end()
    old = world.sandboxes.last
    old.problems = ["/usr/bin/python3.11 runs with uid 0 and was not there before."]
    started = len(old.started)

    world.follow_up("and now this")
    world.run_to_end()

    new = world.sandboxes.last
    assert world.task["status"] == "completed"
    assert (old.checks, new.checks) == (["close", "check"], ["close"])
    assert old.id in world.sandboxes.killed
    assert len(old.started) == started
    assert new.uploaded("clone", "patch")
