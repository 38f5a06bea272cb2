"""The shape of what long runs cost, and the table in the documentation, which the simulation prints."""

from pathlib import Path

import pytest

from bench.simulated_runs import MEMORY_GB, THINKING_MIN, simulate, table

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def runs():
    return {minutes: simulate(minutes) for minutes in THINKING_MIN}


@pytest.mark.parametrize("minutes", THINKING_MIN)
def test_however_long_a_run_it_has_one_sandbox_and_one_end(runs, minutes):
    run = runs[minutes]

    assert (run.status, run.sandboxes, run.events.count("ended")) == ("completed", 1, 1)


@pytest.mark.parametrize("minutes", THINKING_MIN)
def test_every_message_is_a_step_and_every_step_sends_one_but_the_last(runs, minutes):
    run = runs[minutes]

    assert len(run.billed_s) == run.steps
    assert run.calls["queue"] == run.steps - 1
    assert run.sqs_requests == 3 * run.steps


def test_an_hour_takes_less_than_a_hundred_steps_and_20_billed_seconds(runs):
    assert 70 < runs[60].steps < 100
    assert sum(runs[60].billed_s) < 20


def test_ten_hours_take_two_steps_every_three_minutes(runs):
    assert runs[600].steps - runs[60].steps == pytest.approx(360, abs=5)


def test_the_work_is_saved_every_few_minutes(runs):
    assert runs[60].checkpoints >= 9
    assert runs[600].checkpoints >= 95


@pytest.mark.parametrize("minutes", THINKING_MIN)
def test_a_step_makes_few_calls(runs, minutes):
    calls = runs[minutes].calls

    checkpoints = runs[minutes].checkpoints

    assert calls["runs"] <= 3 * runs[minutes].steps + 2 * checkpoints + 10
    assert calls["sandboxes"] <= 2 * runs[minutes].steps + 5 * checkpoints + 30


@pytest.mark.parametrize("minutes", THINKING_MIN)
def test_the_end_of_the_agent_is_noticed_within_a_sixth_of_the_runs_age(runs, minutes):
    late_s = runs[minutes].took_s - 60 * minutes

    assert late_s < 10 * minutes + sum(runs[minutes].billed_s[:3]) + sum(runs[minutes].billed_s[-2:])
    assert late_s < 100


def test_the_longer_a_run_the_smaller_the_part_of_it_that_is_billed(runs):
    parts = [sum(runs[minutes].billed_s) / runs[minutes].took_s for minutes in THINKING_MIN]

    assert parts == sorted(parts, reverse=True)
    assert parts[-1] < 0.01


def test_the_prices_are_those_of_the_function_that_is_deployed():
    functions = (ROOT / "template.yaml").read_text().partition("\nGlobals:\n")[2].partition("\nResources:\n")[0]

    assert "Architectures: [arm64]" in functions
    assert f"MemorySize: {MEMORY_GB * 1024:.0f}\n" in functions


def test_the_documentation_has_the_table_that_the_simulation_prints(runs):
    documentation = (ROOT / "docs" / "architecture.md").read_text()

    assert table(runs.values()) in documentation, "python -m bench.simulated_runs prints the one that belongs there"
