"""Runs that outlive every lease, and the two bounds that end the ones that would go on for ever: time and steps."""

import json

import pytest

from shared.config import ExecutorSettings
from shared.domain.errors import Misconfigured, Unavailable
from shared.domain.run import Phase
from tests.fakes.executor import (
    CLAUDE_INIT,
    SETTINGS,
    Script,
    World,
    claude_result,
    claude_says,
    json_lines,
    prints,
)
from tests.fakes.recording_environment import variables_of

HOUR = 3600
DAY = 24 * HOUR


def agent_that_works(seconds):
    """It says something every five minutes."""
    said = tuple((at, json_lines(claude_says(f"Minute {at // 60}"))) for at in range(300, seconds, 300))
    last = (seconds, json_lines(claude_result()))
    return Script(output=((0, json_lines(CLAUDE_INIT)), *said, last), ends_at=seconds)


def endless(**changes):
    return prints(CLAUDE_INIT, claude_says("Still at it."), at=2, ends_at=None, **changes)


@pytest.fixture
def patient_world():
    """One in which a day may pass."""
    world = World(patience=10_000)
    world.store.run_timeout_s = DAY
    world.set(run_timeout_s=DAY)
    return world


# --- the sandbox's lease


def test_a_run_of_many_leases_completes_in_one_sandbox_that_never_fell_asleep(patient_world):
    world = patient_world
    world.scripts["agent"] = agent_that_works(23 * HOUR)
    world.start()

    world.run()

    assert world.task["status"] == "completed"
    assert len(world.payloads("agent_message")) == 23 * 12 - 1
    assert world.sandboxes.created == world.sandboxes.killed == ["sbx1"]
    assert world.sandboxes.last.slept.total_seconds() == 0


def test_without_looks_its_sandbox_falls_asleep_so_the_test_above_can_fail(patient_world):
    world = patient_world
    world.scripts["agent"] = agent_that_works(HOUR)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.pass_(2 * HOUR)

    world.run()

    assert world.sandboxes.last.slept.total_seconds() > HOUR
    assert world.task["status"] == "completed"
    assert len(world.payloads("agent_message")) == 11


def test_when_everything_of_ours_is_down_the_sandbox_lives_no_longer_than_its_lease(world):
    world.scripts["agent"] = agent_that_works(HOUR)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()

    left = world.sandboxes.last.lease_until - world.clock.now

    assert left.total_seconds() <= SETTINGS.sandbox_lease_s


# --- the deadline


@pytest.mark.parametrize(("timeout_s", "agents_s"), [(HOUR, HOUR - 120), (DAY, DAY - 120), (100, 90)])
def test_an_agent_leaves_time_to_collect_its_changes_before_the_deadline(world, timeout_s, agents_s):
    world.store.run_timeout_s = timeout_s
    world.set(run_timeout_s=timeout_s)
    world.scripts["agent"] = endless()
    world.start()
    world.until(Phase.AGENT)
    before_s = (world.clock.now - world.run_row["started_at"]).total_seconds()
    world.deliver()

    job = json.loads(world.sandboxes.last.file("agent", "job.json"))

    assert job["timeout_s"] == int(agents_s - before_s)


def test_a_run_that_uses_its_hour_up_has_ended_within_it_as_e2bs_free_plan_wants(world):
    world.scripts["agent"] = endless()
    world.set(agent_idle_timeout_s=DAY)
    world.start()

    world.run()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "timeout")
    assert world.task["changed_files"] == ["new.txt"]
    assert HOUR - 120 < (world.run_row["finished_at"] - world.run_row["started_at"]).total_seconds() < HOUR


@pytest.mark.parametrize(
    ("name", "value", "sound"),
    [
        ("RUN_TIMEOUT_S", "86400", True),
        ("RUN_TIMEOUT_S", "86401", False),
        ("RUN_TIMEOUT_S", "29", False),
        ("MAX_STEPS", "100", True),
        ("MAX_STEPS", "99", False),
    ],
)
def test_the_bounds_have_bounds(name, value, sound):
    env = dict.fromkeys(variables_of(ExecutorSettings)[1], "https://example.com/a-value-of-32-bytes-or-more")

    if sound:
        ExecutorSettings.from_env(env | {name: value})
    else:
        with pytest.raises(Misconfigured, match=name):
            ExecutorSettings.from_env(env | {name: value})


# --- the number of steps


def test_a_day_at_the_slowest_pace_with_a_retry_of_every_step_stays_below_the_default(patient_world):
    world = patient_world
    world.scripts["agent"] = agent_that_works(DAY - 600)
    world.start()
    silent = [False]

    def answer_every_other_time():
        silent[0] = not silent[0]
        world.sandboxes.down = Unavailable("The sandbox is not responding.") if silent[0] else None

    world.run(after_each=answer_every_other_time)

    assert world.task["status"] == "completed"
    assert world.run_row["seq"] < SETTINGS.max_steps / 2


def test_a_run_that_has_used_its_steps_up_fails_with_its_work_collected(world):
    world.set(max_steps=20, agent_idle_timeout_s=DAY)
    world.scripts["agent"] = endless()
    world.start()

    world.run()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "too_many_steps")
    assert world.task["error"] == "Claude agent was stopped: the task took 20 steps."
    assert world.task["changed_files"] == ["new.txt"]
    assert world.sandboxes.killed == ["sbx1"]
    assert world.run_row["seq"] == 20 + 2  # the one that stopped the agent, and the one that collected


def test_an_agent_that_had_done_its_work_by_its_last_step_has_done_it(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=30)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.pass_(60)
    world.set(max_steps=world.run_row["seq"])

    world.run()

    assert (world.task["status"], world.task["error"]) == ("completed", None)


@pytest.mark.parametrize("phase", [Phase.CLONING, Phase.SETUP])
def test_before_there_is_an_agent_too_many_steps_end_the_run_at_once(world, phase):
    world.start(setup_script="make")
    world.until(phase)
    world.set(max_steps=world.run_row["seq"])

    world.deliver()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "too_many_steps")
    assert world.sandboxes.boxes == {}


def test_a_collection_may_take_further_steps_but_not_for_ever(world):
    world.scripts["collect"] = Script(ends_at=None)
    world.start()
    world.until(Phase.COLLECTING)
    world.set(max_steps=world.run_row["seq"] - 1)
    world.deliver()
    assert world.task["status"] == "running"
    world.run_row["seq"] += 200

    world.run()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "too_many_steps")


def test_a_run_that_was_cancelled_is_cancelled_whatever_bound_it_has_reached(world):
    world.scripts["agent"] = endless()
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.set(max_steps=world.run_row["seq"])
    world.database.request_cancel(world.task["id"])

    world.run()

    assert (world.task["status"], world.run_row["error_code"]) == ("cancelled", "cancelled")


def test_a_run_that_waits_in_the_queue_uses_no_steps_up(world):
    world.database.limits["running_in_all"] = 1
    world.scripts["agent"] = agent_that_works(600)
    world.start()
    world.deliver()
    waiting = world.start()

    for _ in range(20):
        world.deliver()

    assert world.database.runs[waiting.run_id]["seq"] == 0
