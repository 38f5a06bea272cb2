"""The schedule's duties: overdue runs, lost sandboxes, old secrets."""

import uuid
from dataclasses import replace

import pytest

from functions.executor import reaper
from functions.executor.reaper import PER_QUERY, reap
from shared.domain.errors import Unavailable
from shared.domain.run import Phase
from tests.fakes.sandboxes import FakeSandbox, Script

GRACE_S = 5 * 60
NOTHING_DONE = {
    "nudge_due_runs": 0,
    "wake_waiting_runs": 0,
    "kill_lost_sandboxes": 0,
    "destroy_lost_secrets": 0,
    "nudge_runs_without_sandbox": 0,
    "end_stuck_tasks": 0,
    "expire_credentials": 0,
}


def stray(world, sandbox_id, run_id, age_s=GRACE_S + 1):
    """A sandbox of ours that was started so long ago."""
    world.sandboxes.boxes[sandbox_id] = FakeSandbox(sandbox_id, run_id, world.clock.later(-age_s), {}, world.clock)


def test_nothing_to_do_is_nothing_done(world):
    assert reap(world.ports) == NOTHING_DONE


def test_a_run_whose_message_was_lost_is_nudged_once_per_grace_period(world):
    message = world.start()
    world.queue.sent.clear()
    world.clock.pass_(world.ports.settings.reaper_grace_s + 1)

    assert reap(world.ports)["nudge_due_runs"] == 1
    assert reap(world.ports)["nudge_due_runs"] == 0
    assert world.queue.sent == [(message, 0)]


def test_a_run_that_is_looked_at_in_time_is_left_alone(world):
    world.start()
    world.until(Phase.AGENT)
    world.clock.pass_(world.ports.settings.reaper_grace_s - 1)

    assert reap(world.ports)["nudge_due_runs"] == 0


@pytest.mark.parametrize(
    ("run_id", "age_s", "killed"),
    [
        ("of an ended run", GRACE_S + 1, True),
        ("of an ended run", GRACE_S - 1, False),
        ("of a live run", 10**6, False),
        ("of nobody", GRACE_S + 1, True),
        ("", GRACE_S + 1, True),
    ],
)
def test_a_sandbox_is_killed_once_it_is_old_enough_and_no_live_run_owns_it(world, run_id, age_s, killed):
    ended = world.start()
    world.run()
    live = world.start()
    ids = {"of an ended run": ended.run_id, "of a live run": live.run_id, "of nobody": str(uuid.uuid4()), "": ""}
    stray(world, "stray", ids[run_id], age_s)

    assert reap(world.ports)["kill_lost_sandboxes"] == int(killed)
    assert ("stray" in world.sandboxes.killed) is killed


def test_many_lost_sandboxes_are_all_asked_for_and_killed(world):
    for n in range(PER_QUERY * 2 + 1):
        stray(world, f"s{n}", str(uuid.uuid4()))
    asked, needed = [], world.ports.runs.needed

    def counting(sandboxes):
        asked.append(len(sandboxes))
        return needed(sandboxes)

    world.store.needed = counting

    assert reap(world.ports)["kill_lost_sandboxes"] == PER_QUERY * 2 + 1
    assert asked == [PER_QUERY, PER_QUERY, 1]


def test_a_sandbox_that_cannot_be_killed_does_not_save_the_others(world):
    for name in ("a", "b", "c"):
        stray(world, name, str(uuid.uuid4()))
    kill = world.sandboxes.kill

    def picky(sandbox_id):
        if sandbox_id == "a":
            raise Unavailable("Not this one.")
        kill(sandbox_id)

    world.sandboxes.kill = picky

    assert reap(world.ports)["kill_lost_sandboxes"] == 2
    assert list(world.sandboxes.boxes) == ["a"]


def working(world):
    """A run in whose sandbox an agent is at work; its message is not delivered again."""
    world.scripts["agent"] = Script(ends_at=None)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.waiting.clear()
    world.queue.sent.clear()
    return world.run_row


def test_a_run_whose_sandbox_e2b_does_not_list_is_looked_at_now(world):
    row = working(world)
    world.sandboxes.boxes.clear()
    world.clock.pass_(reaper.LIST_GRACE_S + 1)

    assert reap(replace(world.ports, settings=replace(world.ports.settings, reaper_grace_s=10_000))) == {
        **NOTHING_DONE,
        "nudge_runs_without_sandbox": 1,
    }

    [(message, delay_s)] = world.queue.sent
    assert (message.run_id, message.seq, delay_s) == (row["id"], row["seq"], 0)
    world.run()
    assert world.run_row["error_code"] == "sandbox_lost"


def test_a_run_whose_sandbox_is_listed_or_may_be_too_new_for_the_list_is_left_alone(world):
    working(world)

    world.clock.pass_(reaper.LIST_GRACE_S + 1)
    assert reap(world.ports)["nudge_runs_without_sandbox"] == 0
    world.run_row["updated_at"] = world.clock.now
    world.sandboxes.boxes.clear()
    assert reap(world.ports)["nudge_runs_without_sandbox"] == 0


def test_a_task_that_got_no_sandbox_in_a_day_ends_and_says_so(world):
    world.database.limits["running_in_all"] = 0
    world.start()
    world.deliver()
    world.clock.pass_(world.ports.settings.queue_timeout_s - 1)
    assert reap(world.ports)["end_stuck_tasks"] == 0
    world.clock.pass_(2)

    assert reap(world.ports)["end_stuck_tasks"] == 1

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "queue_timeout")
    assert world.task["error"].startswith("No sandbox became free for the task within 24 hours.")
    assert world.kinds().count("ended") == 1
    assert world.database.credentials == {}
    assert reap(world.ports) == NOTHING_DONE


def test_secrets_whose_time_is_over_are_deleted(world):
    world.start()
    for row in world.database.credentials.values():
        row["expires_at"] = world.clock.later(-1)

    assert reap(world.ports)["expire_credentials"] == 1
    assert world.database.credentials == {}


@pytest.mark.parametrize("broken", ["due", "needed", "expire_credentials"])
def test_a_duty_that_fails_is_reported_after_the_others_were_done(world, broken):
    world.start()
    world.queue.sent.clear()
    world.clock.pass_(3600)
    for row in world.database.credentials.values():
        row["expires_at"] = world.clock.later(-1)
    stray(world, "stray", str(uuid.uuid4()))

    def down(*_, **__):
        raise Unavailable("The database is not responding.")

    setattr(world.store, broken, down)

    with pytest.raises(Unavailable):
        reap(world.ports)

    assert len(world.queue.sent) == (0 if broken == "due" else 1)
    assert (world.sandboxes.killed == []) is (broken == "needed")
    assert (world.database.credentials == {}) is (broken != "expire_credentials")


def test_when_e2b_is_down_runs_are_nudged_all_the_same(world):
    world.start()
    world.queue.sent.clear()
    world.clock.pass_(3600)
    world.sandboxes.down = Unavailable("The sandbox service is not responding.")

    with pytest.raises(Unavailable):
        reap(world.ports)

    assert len(world.queue.sent) == 1


def test_the_lambda_entry_answers_what_was_done(world, monkeypatch):
    monkeypatch.setattr(reaper, "ports", lambda: replace(world.ports))

    class Context:
        function_name = memory_limit_in_mb = invoked_function_arn = aws_request_id = "x"

    assert reaper.handler({}, Context()) == NOTHING_DONE
