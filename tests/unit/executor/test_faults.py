"""What a step does about sandboxes that do not answer, are gone, or refuse; about cancelling and the deadline."""

from functools import cache
from io import StringIO

import pytest

from functions.executor.decisions import MAX_ATTEMPTS, MAX_SURPRISES
from functions.executor.errors import BrokenProgram, CommandFailed, disk_full, failed_command
from functions.executor.step import OUR_FAULT, logger
from functions.executor.work.jobs import RunFolder
from shared.domain.agents import AgentName
from shared.domain.errors import Misconfigured, NotAuthenticated, RunFailed, TooMany, Unavailable
from shared.domain.run import Phase, RunStatus
from tests.fakes.executor import CLAUDE_INIT, Script, World, claude_result, claude_says, collected, collects, prints

UNREACHABLE = Unavailable("The sandbox is not responding.")
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


# --- a call into it breaks off


def trouble_at(call, side, error):
    return {call: (error, None) if side == "before" else (None, error)}


@cache
def calls_of_a_run(setup_script="make"):
    """How many calls into its sandbox a run makes that meets no trouble."""
    world = World()
    world.start(setup_script=setup_script)
    world.run()
    assert world.task["status"] == "completed"
    return world.sandboxes.asked


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("call", range(1, calls_of_a_run() + 1))
def test_after_a_call_that_broke_off_nothing_is_believed_before_the_next_attach(started, call, side):
    started.sandboxes.trouble = trouble_at(call, side, UNREACHABLE)

    started.run()

    assert started.task["status"] == "completed"
    assert started.sandboxes.asked > call
    assert started.sandboxes.asked_after_loss == 0


@pytest.mark.parametrize("side", ["before", "after"])
@pytest.mark.parametrize("call", range(1, calls_of_a_run() + 1))
def test_secrets_of_a_start_that_broke_off_are_gone_after_the_next_word(started, call, side):
    started.sandboxes.trouble = trouble_at(call, side, UNREACHABLE)
    left = []

    def look():
        """The files of secrets that lie in the sandbox after a step, but for that of the trouble."""
        box = started.sandboxes.last
        if box and box.id in started.sandboxes.boxes and started.run_row["attempt"] == 0:
            left.extend(path for path in box.files if path.endswith(("secret_env.json", "_home.json", "git_token")))

    started.run(after_each=look)

    assert set(left) <= {f"runs/{started.run_row['id']}/clone/git_token"}  # the fake clone.py takes no token
    assert not [path for path in started.sandboxes.last.files if path.endswith("secret_env.json")]


def test_a_cancelled_start_that_broke_off_leaves_no_secret(started):
    started.until(Phase.AGENT)
    started.sandboxes.trouble = trouble_at(started.sandboxes.asked + 3, "before", UNREACHABLE)  # look, upload, start
    started.deliver()
    box = started.sandboxes.last
    assert box.has_file("agent", "secret_env.json")
    started.database.request_cancel(started.task["id"])

    started.deliver()

    assert not box.has_file("agent", "secret_env.json")


# --- its disk is full


@pytest.mark.parametrize("call", range(1, calls_of_a_run() + 1))
def test_a_full_disk_ends_the_run_at_once_in_every_phase(started, call):
    started.sandboxes.trouble = trouble_at(call, "before", disk_full())

    started.run()

    assert (started.task["status"], started.run_row["error_code"]) == ("failed", "sandbox_full")
    assert started.run_row["attempt"] <= 1
    assert started.sandboxes.boxes == {}


def test_a_checkpoint_for_which_there_is_no_room_costs_neither_the_run_nor_its_programs(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("I begin."), claude_result(), at=900)
    world.set(checkpoint_every_s=60, agent_idle_timeout_s=5000)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    installed = len([path for path, _ in world.sandboxes.last.uploads if path.endswith("/programs.pyz")])

    world.run()

    uploads = [path for path, _ in world.sandboxes.last.uploads]
    assert any("/checkpoint-1/" in path for path in uploads)
    assert len([path for path in uploads if path.endswith("/programs.pyz")]) == installed == 1
    assert world.task["status"] == "completed"


def test_programs_of_another_executor_are_replaced_before_a_collection(world):
    world.start()
    world.until(Phase.COLLECTING)
    path = f"/root/runs/{world.run_row['id']}/programs.pyz"
    world.sandboxes.last.files[path] = b"an older one"

    world.run()

    assert dict(world.sandboxes.last.uploads)[path] == world.sandboxes.last.files[path] != b"an older one"


def test_a_kept_sandbox_that_is_full_is_given_up_for_a_new_one_with_the_saved_changes(world):
    world.start()
    world.run_to_end()
    world.sandboxes.trouble = trouble_at(world.sandboxes.asked + 1, "before", disk_full())

    world.follow_up()
    world.run_to_end()

    assert world.task["status"] == "completed"
    assert world.sandboxes.created == ["sbx1", "sbx2"]
    assert "sbx1" in world.sandboxes.killed


# --- a program of ours is broken


@pytest.mark.parametrize("phase", IN_A_SANDBOX)
def test_a_broken_program_is_tried_a_few_times_and_is_our_fault(started, phase, monkeypatch):
    started.until(phase)
    written = StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", written)
    began, asked = started.clock.now, started.sandboxes.asked
    error = BrokenProgram(2, "python3: can't open file '/root/runs/x/programs.pyz'")
    started.sandboxes.trouble = {asked + n: (error, None) for n in range(1, 20)}

    for _ in range(MAX_SURPRISES):
        assert started.task["status"] == "running"
        started.deliver()

    assert (started.task["status"], started.run_row["error_code"]) == ("failed", "internal")
    assert started.task["error"] == OUR_FAULT
    assert (started.clock.now - began).total_seconds() < 120
    assert "can't open file" in written.getvalue()
    assert "can't open file" not in str(started.task) + str(started.events)
    assert len(started.replays.sent) == 1


def test_a_broken_program_that_works_again_costs_the_run_nothing(started):
    started.until(Phase.AGENT)
    started.sandboxes.trouble = trouble_at(started.sandboxes.asked + 1, "before", BrokenProgram(2, "secret: gone"))

    started.run()

    assert started.task["status"] == "completed"


def test_a_program_that_answers_no_json_is_broken(started):
    started.until(Phase.AGENT)
    supervisor = RunFolder(Silent(), started.run_row["id"])

    with pytest.raises(BrokenProgram):
        supervisor.look("agent")


class Silent:
    """A sandbox in which an empty file lies in the place of the programs."""

    def run_python(self, program, *arguments, timeout_s):
        return ""


@pytest.mark.parametrize(
    ("exit_code", "stderr", "becomes"),
    [
        (2, "python3: can't open file", BrokenProgram),
        (126, "Permission denied", BrokenProgram),
        (127, "python3: command not found", BrokenProgram),
        (1, "Traceback (most recent call last):\n  x\nTypeError: no", BrokenProgram),
        (1, "Traceback (most recent call last):\n  x\nPermissionError: no", CommandFailed),
        (1, "Traceback (most recent call last):\n  x\nMemoryError", CommandFailed),
        (126, "bash: fork: Cannot allocate memory", CommandFailed),
        (1, "The job could not be started: [Errno 11] Resource temporarily unavailable", CommandFailed),
        (-1, "signal: killed", CommandFailed),
        (137, "Killed", CommandFailed),
        (137, "", CommandFailed),
        (7, "why", CommandFailed),
        (1, "OSError: [Errno 28] No space left on device: '/root/x'", RunFailed),
        (1, "dd: error writing: Disk quota exceeded", RunFailed),
        (2, "mkdir: no space left on device", RunFailed),
    ],
)
def test_what_an_exit_of_a_program_means(exit_code, stderr, becomes):
    error = failed_command(exit_code, stderr)

    assert type(error) is becomes
    assert error.retryable is (becomes is CommandFailed)
    assert not isinstance(error, RunFailed) or error.error_code == "sandbox_full"


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


@pytest.mark.parametrize("agent", AgentName)
def test_a_run_without_a_model_key_costs_no_sandbox(world, agent):
    world.set_model(agent, key=None)
    world.start(agent=agent)

    world.run()

    assert world.task["error"] == f"Missing required environment variables: {agent.profile.key_variable}"
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
