"""What is decided about a run, as pure functions: no call, no clock, no setting but what the caller passes."""

from datetime import timedelta

from functions.executor.agents import AgentFailure, AgentResult
from functions.executor.errors import BrokenProgram
from sandbox.programs.protocol import JobReport
from shared.domain.errors import AppError, Forbidden, Misconfigured, NotAuthenticated
from shared.domain.run import Run, RunKind

# Claims of one step before the run is given up: with the pauses below, more than half an hour of an outage.
MAX_ATTEMPTS = 40
MAX_BACKOFF_S = 60
# Attempts after which an unforeseen error, or a broken program in the sandbox, is a bug and not a matter of the moment.
MAX_SURPRISES = 3
# Attempts at a sandbox that was kept and cannot be resumed: then it is given up, its changes are stored.
MAX_RESUMES = 3
# After its deadline a run may still be stopped and collected; this long, then it ends without.
COLLECTION_GRACE = timedelta(minutes=10)
# The same of a run that has used up its steps: enough to read 200 MB of output to its end, and to collect.
COLLECTION_STEPS = 200
# What an agent leaves of the time until the deadline, so that its changes are collected by then: afterwards E2B's plan
# may end the sandbox. The next look is at most a minute later, and most collections take seconds.
COLLECTION_RESERVE = timedelta(minutes=2)
# A key of the deployment is refused, or a migration is missing: an operator may fix it while runs wait.
FIXED_BY_OPERATOR = (Misconfigured, NotAuthenticated, Forbidden)

GIVEN_UP = "The task could not be continued after many attempts. Start it again in some minutes."
TIMED_OUT = "Task execution timed out. The operation took longer than expected."
TOO_MANY_STEPS = "The task took more steps than a run may have. Start it again, perhaps with a smaller prompt."
CANCELLED = "The task was cancelled."
RESTARTED = "the sandbox was restarted or ran out of memory"
COST_LIMIT = "cost_limit"

Reason = tuple[str, str]  # the error code of a run that does not complete, and the sentence

_POLL_DELAYS = (
    (timedelta(seconds=30), 2),
    (timedelta(minutes=1), 5),
    (timedelta(minutes=3), 10),
    (timedelta(minutes=10), 30),
    (timedelta(minutes=20), 60),
)
_LONGEST_POLL_DELAY_S = 90


def next_poll_delay_s(age: timedelta) -> int:
    """Seconds until the next look at a run of this age: 2, 5, 10, 30, 60, then 90.

    A look costs an invocation and some calls; a pause costs latency, half of it on average, until the end of an agent
    is noticed and what it said is in the live log. So a pause grows with the run: after the first seconds it is at most
    a sixth of the run's age, from ten minutes on a tenth, and never more than a minute and a half, well below a
    sandbox's lease. An agent that works for an hour is then looked at less than a hundred times
    (`python -m bench.simulated_runs`); with pauses of at most 30 s it would be 180 times.
    """
    return next((delay_s for younger_than, delay_s in _POLL_DELAYS if age < younger_than), _LONGEST_POLL_DELAY_S)


def backoff_s(attempt: int) -> int:
    """Seconds until a step that failed is tried again: doubled with each attempt, at most a minute."""
    return int(min(2**attempt, MAX_BACKOFF_S))


def attempts_for(error: Exception) -> int:
    """How many attempts a foreseen error is worth; 0 for an unforeseen one. docs/reliability.md has the table."""
    if isinstance(error, BrokenProgram):
        return MAX_SURPRISES
    if isinstance(error, AppError) and (error.retryable or isinstance(error, FIXED_BY_OPERATOR)):
        return MAX_ATTEMPTS
    return 0


def over_at_once(run: Run, *, late_by: timedelta, max_steps: int) -> Reason | None:
    """Why the run ends now, without a collection; None when there is a chance to stop and collect."""
    if run.attempt > MAX_ATTEMPTS:
        return "step_failed", GIVEN_UP
    if late_by > COLLECTION_GRACE:
        return "timeout", TIMED_OUT
    if run.seq >= max_steps + COLLECTION_STEPS:
        return "too_many_steps", TOO_MANY_STEPS
    return None


def must_stop(run: Run, *, late_by: timedelta, max_steps: int) -> Reason | None:
    """Why the run does not go on, for its deadline, its steps or its user; None when it may."""
    if late_by > timedelta():
        return "timeout", TIMED_OUT
    if run.seq >= max_steps:
        return "too_many_steps", TOO_MANY_STEPS
    return ("cancelled", CANCELLED) if run.cancel_requested else None


def may_resume(run: Run) -> bool:
    """Whether the sandbox that was handed down to the run is tried; otherwise the run gets a new one."""
    return run.kind is RunKind.FOLLOW_UP and run.attempt <= MAX_RESUMES


def agent_time_s(*, left: timedelta, whole: timedelta) -> int:
    """Seconds that the agent may work, of the time that is left and the whole time of its run. At least one."""
    return max(1, int((left - min(COLLECTION_RESERVE, whole / 10)).total_seconds()))


def agent_verdict(
    run: Run,
    job: JobReport,
    result: AgentResult | None,
    *,
    over_budget: str | None,
    max_steps: int,
    idle_timeout_s: int,
    ran_for: timedelta,
    stderr: str,
) -> Reason | None:
    """Why the run fails after its agent has ended; None when the agent did its work.

    `job` is how the agent's program ended, `result` its own last word, `over_budget` the sentence for a spent budget.
    """
    if result is not None and result.ok:
        return None
    title = f"{run.agent.profile.short_title} agent"
    by_its_own_limit = result is not None and result.error_code == AgentFailure.BUDGET_EXCEEDED
    if over_budget and (by_its_own_limit or job.ended_by == "stop"):
        return COST_LIMIT, over_budget
    timed_out = "timeout", f"{title} timed out after {int(ran_for.total_seconds())} seconds"
    match job.ended_by:
        case "timeout":
            return timed_out
        case "idle":
            return "agent_idle", f"{title} was stopped: it printed nothing for {idle_timeout_s} seconds."
        case "crash" if result is None:
            again = "Retry the task, or send a follow-up to continue."
            return "agent_interrupted", f"{title} was interrupted: {RESTARTED}. {again}"
        case "output_limit":
            return "agent_output_limit", f"{title} was stopped: it printed too much."
        case "stop" if result is None and run.seq >= max_steps:
            return "too_many_steps", f"{title} was stopped: the task took {run.seq} steps."
        case "stop" if result is None:  # by the executor, at the deadline
            return timed_out
    if result is not None:
        return result.error_code or "agent_failed", f"{title} failed: {result.text or 'Unknown error'}"
    if job.exit_code == 0:
        return "agent_no_result", f"{title} failed: it ended without a result."
    return "agent_failed", f"{title} failed: {stderr[-1000:] or _silent_end(job)}"


def _silent_end(job: JobReport) -> str:
    if job.ended_by == "signal" and job.exit_code:
        return f"it was killed by signal {job.exit_code - 128}"
    return "Unknown error"
