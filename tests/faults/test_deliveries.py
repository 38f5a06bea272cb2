"""Messages that come twice, late, in any order, to two executors at once, or never to one that lives."""

from random import Random

import pytest

from tests.faults.faults import FirstCallOf, OncePerStage
from tests.faults.simulated_queue import Scenario
from tests.faults.stack import AGENTS

TEN_MINUTES_S = 600


class Always:
    """The fault at every call of one method."""

    def __init__(self, fault, call):
        self._fault, self._call = fault, call

    def __call__(self, place):
        return self._fault if place.call == self._call else None


@pytest.mark.parametrize("agent", AGENTS)
def test_every_message_comes_twice(outlive, agent):
    outlive(Scenario(agent), copies=2)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_message_comes_ten_minutes_late(outlive, agent):
    outlive(Scenario(agent), delay=lambda delay_s: delay_s + TEN_MINUTES_S)


@pytest.mark.parametrize("seed", range(4))
def test_messages_come_three_times_and_in_any_order(outlive, seed):
    dice = Random(seed)

    outlive(Scenario(AGENTS[seed % 2]), delay=lambda _: dice.uniform(0, 2 * TEN_MINUTES_S), copies=3)


@pytest.mark.parametrize("agent", AGENTS)
def test_two_executors_take_every_message_at_the_same_time(outlive, agent):
    outlive(Scenario(agent), executors=2)


@pytest.mark.parametrize("seed", range(2))
def test_two_executors_take_every_message_while_messages_come_twice_and_late(outlive, seed):
    dice = Random(seed)

    outlive(Scenario(AGENTS[seed]), delay=lambda delay_s: delay_s + dice.uniform(0, 300), copies=2, executors=2)


@pytest.mark.parametrize("agent", AGENTS)
def test_all_messages_of_a_run_come_again_after_its_end_and_change_nothing(lab, outlive, agent):
    world = outlive(Scenario(agent))
    before = world.run, world.task, world.events()

    world.replay()

    assert (world.run, world.task, world.events()) == before
    assert lab.boxes() == []


@pytest.mark.parametrize("nth", range(0, 9, 2))
def test_an_executor_stands_still_at_one_call_of_each_step_while_another_takes_the_step(outlive, nth):
    """Longer than its lease; then it goes on as if nothing had been."""
    world = outlive(Scenario(AGENTS[nth // 2 % 2]), OncePerStage(("stall before", "stall after")[nth % 4 // 2], nth))

    assert world.tripwire.injected


@pytest.mark.parametrize(
    ("fault", "call"),
    [("death before", "workbench.run_python"), ("death after", "sandboxes.attach"), ("death before", "runs.advance")],
)
def test_a_step_that_kills_its_executor_each_time_ends_the_run_and_its_sandbox(outlive, fault, call):
    world = outlive(Scenario("claude"), Always(fault, call), may_fail_as={"internal", "step_failed"})

    assert world.run["status"] == "failed"
    assert world.given_up or world.run["error_code"] == "step_failed"


def test_a_first_message_that_is_never_sent_is_sent_by_the_reaper(outlive):
    outlive(Scenario("claude"), meanwhile=lambda world: world.lose_messages())


@pytest.mark.parametrize("service", ["database", "sandboxes", "queue"])
def test_a_service_that_is_away_for_twenty_minutes_costs_that_time_and_nothing_else(outlive, service):
    outlive(Scenario("codex"), meanwhile=lambda world: world.cut_off(service, 2 * TEN_MINUTES_S))


def test_who_dies_with_the_sandbox_made_and_not_yet_saved_finds_it_again(lab, outlive):
    world = outlive(Scenario("claude"), FirstCallOf("death after", "sandboxes.create"))

    assert len(lab.census.born[world.run_id]) == 1
