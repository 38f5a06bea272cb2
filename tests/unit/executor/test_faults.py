"""What a step does about sandboxes that do not answer, are gone, or refuse; about cancelling and the deadline."""

import pytest

from functions.executor.errors import CommandFailed
from functions.executor.step import MAX_ATTEMPTS
from shared.domain.errors import Misconfigured, NotAuthenticated, RunFailed, TooMany, Unavailable
from shared.domain.run import Phase, RunStatus
from tests.fakes.executor import CLAUDE_INIT, Script, claude_result, claude_says, collected, collects, prints

UNREACHABLE = Unavailable("The sandbox does not answer now.")
IN_A_SANDBOX = [Phase.CLONING, Phase.SETUP, Phase.AGENT, Phase.COLLECTING]
LOST = "The sandbox was lost before the task could finish. Start the task again."


@pytest.fixture
def started(world):
    """A world and a run that goes through every phase."""
    world.start(setup_script="make")
    return world


# --- it does not answer


@pytest.mark.parametrize(
    "error",
    [
        UNREACHABLE,
        TooMany("Slow down."),
        CommandFailed(137, "Killed"),
        NotAuthenticated("The session has expired."),
        Misconfigured("The database lacks a function."),
    ],
)
@pytest.mark.parametrize("phase", IN_A_SANDBOX)
def test_a_transient_error_leaves_the_run_where_it_is_and_asks_again_later(started, phase, error):
    started.until(phase)
    events = len(started.events)
    started.sandboxes.down = error

    started.deliver()

    row = started.run_row
    assert (row["phase"], row["status"], row["attempt"]) == (phase, RunStatus.RUNNING, 1)
    assert row["lease_until"] is None
    assert len(started.events) == events
    started.sandboxes.down = None
    started.run()
    assert started.task["status"] == "completed"


def test_the_pause_before_the_next_attempt_doubles_up_to_a_minute(started):
    started.until(Phase.AGENT)
    started.sandboxes.down = UNREACHABLE
    pauses = []
    for _ in range(9):
        before = started.clock.now
        started.deliver()
        pauses.append((started.waiting[0][0] - max(before, started.clock.now)).total_seconds())

    assert pauses == [2, 4, 8, 16, 32, 60, 60, 60, 60]


def test_after_a_step_that_worked_attempts_are_counted_anew(started):
    started.until(Phase.AGENT)
    started.sandboxes.down = UNREACHABLE
    for _ in range(5):
        started.deliver()
    started.sandboxes.down = None
    started.deliver()

    assert started.run_row["attempt"] == 0


@pytest.mark.parametrize("phase", IN_A_SANDBOX)
def test_a_run_is_given_up_after_too_many_attempts_and_only_then(started, phase):
    started.until(phase)
    started.run_row["deadline_at"] = started.clock.later(10**6)
    started.sandboxes.down = UNREACHABLE
    for _ in range(MAX_ATTEMPTS):
        started.deliver()
        assert started.task["status"] == "running"

    started.deliver()

    assert (started.task["status"], started.run_row["error_code"]) == ("failed", "step_failed")
    assert "many attempts" in started.task["error"]


def test_a_sandbox_out_of_reach_is_never_taken_for_gone(started):
    started.until(Phase.AGENT)
    started.sandboxes.down = UNREACHABLE
    started.run_row["deadline_at"] = started.clock.later(10**6)
    for _ in range(MAX_ATTEMPTS + 1):
        started.deliver()

    assert started.run_row["error_code"] != "sandbox_lost"
    assert list(started.sandboxes.boxes) == ["sbx1"]  # the kill did not get through, either
    started.sandboxes.down = None
    started.run()
    assert started.sandboxes.killed == ["sbx1"]


def test_no_sandbox_is_made_while_e2b_is_down_and_one_when_it_is_back(world):
    world.start()
    world.sandboxes.down = UNREACHABLE
    for _ in range(4):
        world.deliver()
    world.sandboxes.down = None

    world.run()

    assert world.sandboxes.created == ["sbx1"]
    assert world.task["status"] == "completed"


def test_a_sandbox_made_by_an_attempt_that_died_is_found_again(world):
    world.start()
    upload, world.sandboxes.attach = world.sandboxes.attach, lambda _: (_ for _ in ()).throw(UNREACHABLE)
    world.deliver()
    assert world.run_row["sandbox_id"] is None
    world.sandboxes.attach = upload

    world.run()

    assert world.sandboxes.created == ["sbx1"]
    assert world.task["status"] == "completed"


# --- it is gone, or refuses


@pytest.mark.parametrize("phase", IN_A_SANDBOX)
def test_a_run_whose_sandbox_is_gone_fails_once_and_says_so(started, phase):
    started.until(phase)
    started.sandboxes.boxes.clear()

    started.run()

    assert (started.task["status"], started.task["error"]) == ("failed", LOST)
    assert started.run_row["error_code"] == "sandbox_lost"
    assert started.kinds().count("ended") == 1
    assert started.sandboxes.created == ["sbx1"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RunFailed("Invalid E2B API key.", error_code="sandbox_auth"), "sandbox_auth"),
        (RunFailed("E2B sandbox quota exceeded.", error_code="sandbox_quota"), "sandbox_quota"),
    ],
)
def test_what_e2b_refuses_for_good_fails_the_run_with_its_sentence(world, error, code):
    world.start()
    world.sandboxes.down = error

    world.deliver()

    assert (world.task["status"], world.task["error"], world.run_row["error_code"]) == ("failed", str(error), code)


@pytest.mark.parametrize(
    ("agent", "setting", "variable"),
    [("claude", "anthropic_api_key", "ANTHROPIC_API_KEY"), ("codex", "openai_api_key", "OPENAI_API_KEY")],
)
def test_a_run_without_a_model_key_costs_no_sandbox(world, agent, setting, variable):
    world.set(**{setting: None})
    world.start(agent=agent)

    world.run()

    assert world.task["error"] == f"Missing required environment variables: {variable}"
    assert world.run_row["error_code"] == "model_key_missing"
    assert world.sandboxes.created == []


def test_a_kill_that_fails_is_made_up_for_by_the_reaper(started):
    started.until(Phase.COLLECTING)
    kill = started.sandboxes.kill

    def fails(_):
        started.sandboxes.kill = kill
        raise UNREACHABLE

    started.sandboxes.kill = fails
    started.deliver()
    assert started.task["status"] == "completed"

    started.run()

    assert started.sandboxes.boxes == {}


def test_where_the_agent_had_failed_already_that_is_told_and_not_that_collecting_failed_too(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result("No money left", is_error=True), exit_code=1)
    world.start()
    world.until(Phase.COLLECTING)
    world.sandboxes.boxes.clear()

    world.run()

    assert world.run_row["error_code"] == "agent_failed"
    assert world.task["error"] == "Claude agent failed: No money left"


# --- the user cancels


@pytest.mark.parametrize("phase", [Phase.QUEUED, Phase.CLONING, Phase.SETUP])
def test_cancelling_before_the_agent_ends_the_run_and_its_sandbox(started, phase):
    started.until(phase)
    started.database.request_cancel(started.task["id"])

    started.deliver()

    assert (started.task["status"], started.task["error"]) == ("cancelled", "The task was cancelled.")
    assert started.run_row["error_code"] == "cancelled"
    assert started.sandboxes.boxes == {}
    assert started.kinds()[-1] == "ended"


def test_cancelling_the_agent_stops_it_and_keeps_what_it_has_done(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("Half done."), at=2, ends_at=None)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.database.request_cancel(world.task["id"])

    world.deliver()
    stopped = world.sandboxes.last.commands[-2:]
    world.run()

    assert any(argv[2] == "stop" and argv[3].endswith("/agent") for argv in stopped)
    assert (world.task["status"], world.run_row["error_code"]) == ("cancelled", "cancelled")
    assert world.task["changed_files"] == ["new.txt"]
    assert world.payloads("agent_message") == [{"text": "Half done."}]
    assert world.task["chat_messages"][-1]["content"] == "Half done."
    assert world.payloads("phase")[-1] == {"phase": "collecting"}


def test_cancelling_before_the_agent_was_started_means_that_it_never_starts(world):
    world.start()
    world.until(Phase.AGENT)
    world.database.request_cancel(world.task["id"])

    world.run()

    box = world.sandboxes.last
    assert not any(path.endswith("agent/job.json") for path, _ in box.uploads)
    assert world.task["status"] == "cancelled"


def test_cancelling_while_the_result_is_collected_is_too_late(world):
    world.start()
    world.until(Phase.COLLECTING)
    world.database.request_cancel(world.task["id"])

    world.run()

    assert world.task["status"] == "completed"


@pytest.mark.parametrize("phase", [Phase.AGENT, Phase.COLLECTING])
def test_a_cancelled_run_whose_sandbox_is_gone_is_cancelled_not_failed(started, phase):
    started.until(phase)
    started.database.request_cancel(started.task["id"])
    started.sandboxes.boxes.clear()

    started.run()

    assert started.task["status"] == "cancelled"


# --- time is up


@pytest.mark.parametrize("phase", [Phase.CLONING, Phase.SETUP])
def test_at_the_deadline_a_run_without_an_agent_yet_fails(started, phase):
    started.until(phase)
    started.clock.now = started.run_row["deadline_at"]
    started.clock.pass_(1)

    started.deliver()

    assert started.run_row["error_code"] == "timeout"
    assert started.task["error"] == "Task execution timed out. The operation took longer than expected."
    assert started.sandboxes.boxes == {}


def test_at_the_deadline_the_agent_is_stopped_and_its_work_kept(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("Still at it."), at=2, ends_at=None)
    world.set(agent_idle_timeout_s=100_000)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.now = world.run_row["deadline_at"]
    world.clock.pass_(1)

    world.run()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "timeout")
    assert world.task["error"] == "Claude agent timed out after 3601 seconds"
    assert world.task["changed_files"] == ["new.txt"]


def test_an_agent_that_its_own_supervisor_would_still_let_work_is_stopped_at_the_deadline(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("Still at it."), at=2, ends_at=None)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.run_row["deadline_at"] = world.clock.later(20)

    world.run()

    assert world.run_row["error_code"] == "timeout"
    assert world.task["error"].startswith("Claude agent timed out after 2")
    assert any(argv[2] == "stop" for argv in world.sandboxes.last.commands)


def test_an_agent_that_ended_well_before_the_deadline_is_not_called_late_for_the_look_that_was(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=60)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.now = world.run_row["deadline_at"]
    world.clock.pass_(5)

    world.run()

    assert (world.task["status"], world.task["error"]) == ("completed", None)
    assert world.run_row["usage"]["cost_usd"] == 0.25


def test_a_stopped_agents_output_is_read_to_its_end_over_several_steps(world):
    lines = prints(CLAUDE_INIT, *[claude_says(f"{n} " + "x" * 15_000) for n in range(300)], at=310, ends_at=None)
    world.scripts["agent"] = lines
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.pass_(400)
    world.database.request_cancel(world.task["id"])

    world.run()

    assert len(world.payloads("agent_message")) == 300
    assert world.task["status"] == "cancelled"


def test_collecting_may_go_on_past_the_deadline_but_not_for_ever(world):
    world.scripts["collect"] = Script(ends_at=None)
    world.start()
    world.until(Phase.COLLECTING)
    world.clock.now = world.run_row["deadline_at"]
    world.clock.pass_(1)
    world.deliver()
    assert world.task["status"] == "running"
    world.clock.pass_(600)

    world.deliver()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "timeout")


def test_a_waiting_run_has_no_deadline_yet(world):
    world.database.limits["running_in_all"] = 1
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=3000)
    world.scripts["collect"] = collects(collected())
    world.set(agent_idle_timeout_s=5000)
    world.start()
    world.deliver()
    world.start()

    world.run()

    assert [task["status"] for task in world.database.tasks.values()] == ["completed", "completed"]


# --- how often it looks


def test_a_step_looks_often_while_a_run_is_young_and_rarely_when_it_has_become_long(world):
    world.scripts["agent"] = Script(ends_at=3000, output=tuple((s, b"\n") for s in range(0, 3000, 100)))
    world.start()
    world.until(Phase.AGENT)
    pauses = {}
    while world.run_row["phase"] is Phase.AGENT:
        world.deliver()
        age = (world.clock.now - world.run_row["started_at"]).total_seconds()
        pause = (world.run_row["next_check_at"] - world.clock.now).total_seconds()
        pauses.setdefault(pause, []).append(age)

    assert sorted(pauses) == [0, 2, 5, 10, 30, 60, 90]  # 0: on to collecting
    assert max(pauses[2]) < 30 <= min(pauses[5])
    assert max(pauses[5]) < 60 <= min(pauses[10])
    assert max(pauses[10]) < 180 <= min(pauses[30])
    assert max(pauses[30]) < 600 <= min(pauses[60])
    assert max(pauses[60]) < 1200 <= min(pauses[90])
