"""What is decided about a run, over the whole range of what can be: no fake, no clock."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from functions.executor.agents import AgentFailure, AgentResult
from functions.executor.decisions import (
    COLLECTION_GRACE,
    COLLECTION_STEPS,
    COST_LIMIT,
    MAX_ATTEMPTS,
    MAX_BACKOFF_S,
    MAX_RESUMES,
    agent_time_s,
    agent_verdict,
    attempts_for,
    backoff_s,
    may_resume,
    must_stop,
    next_poll_delay_s,
    over_at_once,
)
from functions.executor.errors import BrokenProgram, CommandFailed
from sandbox.programs.protocol import JobReport
from shared.domain.errors import Forbidden, Misconfigured, NotAuthenticated, Unavailable
from shared.domain.run import Phase, RunKind
from tests.fakes.new_run import new_run

LEASE_S = 900  # of a sandbox, the default of SANDBOX_LEASE_S
RUN = new_run(phase=Phase.AGENT, seq=5)
ages = st.timedeltas(timedelta(), timedelta(days=1))
ENDINGS = ("exit", "signal", "timeout", "idle", "output_limit", "stop", "crash")


@given(ages, ages)
def test_an_older_run_is_never_looked_at_more_often_and_never_more_rarely_than_its_lease_allows(one, other):
    younger, older = sorted((one, other))

    assert 2 <= next_poll_delay_s(younger) <= next_poll_delay_s(older) <= 90 < LEASE_S / 2


@given(ages)
def test_after_half_a_minute_a_pause_costs_at_most_a_sixth_of_the_time_so_far(age):
    assert next_poll_delay_s(age) <= max(2, age.total_seconds() / 6)


@given(st.integers(1, 10_000))
def test_a_pause_after_a_failure_grows_up_to_a_minute(attempt):
    assert 1 < backoff_s(attempt) <= backoff_s(attempt + 1) <= MAX_BACKOFF_S


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (Unavailable("E2B is not responding."), MAX_ATTEMPTS),
        (CommandFailed(137, ""), MAX_ATTEMPTS),
        (Misconfigured("X is not set"), MAX_ATTEMPTS),
        (NotAuthenticated("no"), MAX_ATTEMPTS),
        (Forbidden("no"), MAX_ATTEMPTS),
        (BrokenProgram(2, ""), 3),
        (ValueError("unforeseen"), 0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_is_worth_attempts_where_another_one_can_help(error, attempts):
    assert attempts_for(error) == attempts


@given(
    late_s=st.integers(-86_400, 86_400),
    seq=st.integers(0, 6000),
    attempt=st.integers(1, MAX_ATTEMPTS + 2),
    cancelled=st.booleans(),
)
def test_a_run_that_must_stop_is_collected_unless_the_time_for_that_is_over_too(late_s, seq, attempt, cancelled):
    run = replace(RUN, seq=seq, attempt=attempt, cancel_requested=cancelled)
    late_by = timedelta(seconds=late_s)

    at_once = over_at_once(run, late_by=late_by, max_steps=5000)
    stop = must_stop(run, late_by=late_by, max_steps=5000)

    assert (at_once is not None) == (
        attempt > MAX_ATTEMPTS or late_by > COLLECTION_GRACE or seq >= 5000 + COLLECTION_STEPS
    )
    assert (stop is not None) == (late_s > 0 or seq >= 5000 or cancelled)
    if stop and late_s <= 0 and seq < 5000:
        assert stop[0] == "cancelled"


@pytest.mark.parametrize("kind", RunKind)
@pytest.mark.parametrize("attempt", [1, MAX_RESUMES, MAX_RESUMES + 1])
def test_only_a_follow_up_resumes_a_sandbox_and_not_for_ever(kind, attempt):
    run = replace(RUN, kind=kind, attempt=attempt)

    assert may_resume(run) == (kind is RunKind.FOLLOW_UP and attempt <= MAX_RESUMES)


@given(st.timedeltas(timedelta(days=-1), timedelta(days=1)), st.timedeltas(timedelta(seconds=30), timedelta(days=1)))
def test_an_agent_leaves_time_to_collect_its_changes_and_never_has_none(left, whole):
    seconds = agent_time_s(left=left, whole=whole)

    assert seconds >= 1
    assert seconds == 1 or seconds <= (left - min(timedelta(minutes=2), whole / 10)).total_seconds()


def verdict(job, result=None, *, over_budget=None, seq=5, stderr=""):
    return agent_verdict(
        replace(RUN, seq=seq),
        job,
        result,
        over_budget=over_budget,
        max_steps=100,
        idle_timeout_s=60,
        ran_for=timedelta(seconds=90),
        stderr=stderr,
    )


def ended(by, exit_code=1):
    return JobReport(state="crashed" if by == "crash" else "ended", exit_code=exit_code, ended_by=by)


@pytest.mark.parametrize("by", ENDINGS)
def test_an_agent_that_said_it_succeeded_did_however_its_program_ended(by):
    assert verdict(ended(by), AgentResult(ok=True, text="Done.")) is None


@pytest.mark.parametrize("by", ENDINGS)
def test_an_agent_without_a_result_never_succeeded(by):
    code, text = verdict(ended(by, 0 if by == "exit" else 1))

    assert code
    assert text.startswith("Claude agent ")


@pytest.mark.parametrize(
    ("job", "change", "expected"),
    [
        (ended("timeout"), {}, ("timeout", "Claude agent timed out after 90 seconds")),
        (ended("stop"), {}, ("timeout", "Claude agent timed out after 90 seconds")),
        (ended("stop"), {"seq": 100}, ("too_many_steps", "Claude agent was stopped: the task took 100 steps.")),
        (ended("stop"), {"over_budget": "It cost too much."}, (COST_LIMIT, "It cost too much.")),
        (ended("exit"), {"stderr": "no such model"}, ("agent_failed", "Claude agent failed: no such model")),
        (ended("exit", 0), {}, ("agent_no_result", "Claude agent failed: it ended without a result.")),
        (ended("signal", 137), {}, ("agent_failed", "Claude agent failed: it was killed by signal 9")),
        (ended("exit"), {}, ("agent_failed", "Claude agent failed: Unknown error")),
    ],
)
def test_an_agent_that_failed_says_why(job, change, expected):
    assert verdict(job, **change) == expected


def test_a_budget_that_the_program_itself_kept_is_told_as_the_budget_of_the_run():
    result = AgentResult(ok=False, text="no", error_code=AgentFailure.BUDGET_EXCEEDED)

    assert verdict(ended("exit"), result, over_budget="It cost too much.") == (COST_LIMIT, "It cost too much.")
    assert verdict(ended("exit"), result) == (AgentFailure.BUDGET_EXCEEDED, "Claude agent failed: no")
