"""What a run of one agent goes through: at every call that the executor makes, each fault in turn.

In one run, the fault happens at each place that the run comes by for the first time: the same call is then made anew
and succeeds, until the next place. So each run meets some seventy faults of one kind, and still has to end as if
nothing had been.
"""

import pytest

from tests.faults.faults import EveryCallOnce, EveryPlaceOnce, FirstCallOf, OncePerStage
from tests.faults.promises import learn, violations
from tests.faults.simulated_queue import LAST_LOOK, Scenario, World

# Of these a run knows nothing afterwards.
PASSING = (
    "death before",
    "death after",
    "429",
    "503",
    "timeout before",
    "timeout after",
    "reset before",
    "reset after",
    "answer cut",
    "sandbox paused",
    "stall before",
    "stall after",
    "sandboxes out of reach for a minute",
    "database down for a minute",
    "queue down for a minute",
)
# Where a sandbox can be lost: the stage, and the how-manieth call of it. It is made by the fourth call of the first.
LOSSES = (("queued", 4), ("cloning", 0), ("cloning", 4), *((f"agent {look}", 3) for look in range(LAST_LOOK + 1)))
LOSSES += (("collecting", 0), ("collecting", 6))
# A kind of credential that the provider refuses is no passing trouble: the run says so, and ends.
REFUSABLE = (
    ("sandboxes.find", ""),
    ("sandboxes.create", ""),
    ("sandboxes.attach", ""),
    ("workbench.upload", ""),
    ("workbench.run_python", ""),
    ("workbench.read", "collecting"),
)
# While the agent works, its sandbox is read, and something saved, for checkpoints only.
TROUBLES_OF_A_CHECKPOINT = (
    *(("workbench.read", fault) for fault in ("401", "503", "answer cut")),
    *(
        ("runs.save_checkpoint", fault)
        for fault in ("401", "429", "503", "timeout after", "reset before", "reset after", "answer cut")
    ),
)


class EveryCall:
    agent: str

    @pytest.fixture
    def scenario(self):
        return Scenario(self.agent)

    @pytest.mark.parametrize("fault", PASSING)
    def test_a_fault_at_every_call_changes_neither_the_end_nor_leaves_anything(self, lab, outlive, scenario, fault):
        # An executor that stands still at each of its calls may come back long after the run's end: it finds its fence
        # gone, but may have made one more sandbox by then, which the reaper kills.
        world = outlive(scenario, EveryPlaceOnce(fault), sandboxes=2 if fault.startswith("stall") else 1)

        met, calls = {place.call for place, _ in world.tripwire.injected}, learn(lab, scenario).tripwire.calls
        # Who dies with the end stored never comes to leave the sandbox; it is the reaper's then. A checkpoint that is
        # in trouble is given up until the next one, so that none may come to its end; that has a test of its own.
        missed = set(calls) - met
        assert missed <= {"sandboxes.pause", "runs.save_checkpoint"}, missed
        assert len(world.tripwire.injected) >= calls.total() / 2

    @pytest.mark.parametrize(("call", "stage"), REFUSABLE)
    def test_a_refused_key_of_the_sandbox_service_ends_the_run_with_that_reason(self, outlive, scenario, call, stage):
        world = outlive(scenario, FirstCallOf("401", call, stage), may_fail_as={"sandbox_auth"})

        assert [fault for _, fault in world.tripwire.injected] == ["401"]
        assert world.run["error_code"] == "sandbox_auth"

    @pytest.mark.parametrize(("call", "fault"), TROUBLES_OF_A_CHECKPOINT)
    def test_trouble_with_a_checkpoint_does_the_run_no_harm(self, outlive, scenario, call, fault):
        world = outlive(scenario, FirstCallOf(fault, call, "agent"))

        assert [happened for _, happened in world.tripwire.injected] == [fault]

    @pytest.mark.parametrize("calls", ["runs.", "queue."])
    def test_a_key_that_is_refused_once_by_the_database_or_the_queue_is_tried_again(self, outlive, scenario, calls):
        world = outlive(scenario, EveryCallOnce("401", calls=calls))

        assert world.tripwire.injected

    @pytest.mark.parametrize("fault", ["supervisor killed", "sandbox rebooted"])
    def test_an_agent_that_is_interrupted_says_so_and_its_work_is_collected(self, lab, scenario, fault):
        learn(lab, scenario)
        world = World(lab, scenario, FirstCallOf(fault, "workbench.run_python", "agent 2")).live()

        assert [happened for _, happened in world.tripwire.injected] == [fault]
        assert (world.run["error_code"], world.task["changed_files"]) == ("agent_interrupted", ["src/new.txt"])
        # What was told before belongs to the whole story; the agent's last word is not among it.
        broken = violations(world, may_fail_as={"agent_interrupted"})
        assert [sentence for sentence in broken if "live log" not in sentence] == []

    @pytest.mark.parametrize(("stage", "nth"), LOSSES)
    def test_a_sandbox_that_is_lost_in_any_step_ends_the_run_with_that_reason(self, outlive, scenario, stage, nth):
        world = outlive(scenario, OncePerStage("sandbox lost", nth, stage=stage), may_fail_as={"sandbox_lost"})

        assert [fault for _, fault in world.tripwire.injected] == ["sandbox lost"]
        assert world.run["error_code"] == "sandbox_lost"
