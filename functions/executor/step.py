"""The story of one step: look at a claimed run, take it one phase further, save, nudge."""

from dataclasses import replace
from datetime import timedelta

from functions.executor.errors import BrokenProgram
from functions.executor.phases import PHASES, agent
from functions.executor.ports import Ports
from functions.executor.step_secrets import StepSecrets
from functions.executor.work import checkpoint, secret_delivery
from shared.domain.errors import AppError, Forbidden, Misconfigured, NotAuthenticated, RunFailed
from shared.domain.messages import RunMessage
from shared.domain.ports import ClaimOutcome
from shared.domain.run import INTERNAL, Advance, Event, Finish, Outcome, Phase, Run, RunStatus
from shared.observability import get_logger

logger = get_logger("executor")

# Claims of one step before the run is given up: with the pauses below, more than half an hour of an outage.
MAX_ATTEMPTS = 40
MAX_BACKOFF_S = 60
# Attempts after which an unforeseen error, or a broken program in the sandbox, is a bug and no matter of the moment.
MAX_SURPRISES = 3
# After its deadline a run may still be stopped and collected; this long, then it ends without.
COLLECTION_GRACE = timedelta(minutes=10)
# The same of a run that has used up its steps: enough to read 200 MB of output to its end, and to collect.
COLLECTION_STEPS = 200
# A key of ours is refused, or a migration is missing: an operator may set that right while runs wait.
OURS_TO_MEND = (Misconfigured, NotAuthenticated, Forbidden)
GIVEN_UP = "The task could not be continued after many attempts. Start it again in some minutes."
OUR_FAULT = "Something went wrong on our side. Start the task again."
TIMED_OUT = "Task execution timed out. The operation took longer than expected."
TOO_MANY_STEPS = "The task took more steps than a run may have. Start it again, perhaps with a smaller prompt."


def on_message(message: RunMessage, ports: Ports) -> None:
    """Take one step of the run that the message names. Returning means that the message is done with.

    Raises only what nobody foresaw, and Unavailable when the database does not answer: SQS delivers again.
    """
    if message.replay:
        replay(message, ports)
        return
    claim = ports.runs.claim(message)
    logger.info("run.claim", extra={"outcome": claim.outcome, "seq": message.seq})
    match claim.outcome:
        case ClaimOutcome.CLAIMED if claim.run:
            step(claim.run, ports)
        case ClaimOutcome.WAITING | ClaimOutcome.BUSY if claim.retry_in_s is not None:
            nudge(message, ports, delay_s=claim.retry_in_s)
        case ClaimOutcome.OVERDUE if claim.seq is not None:
            nudge(replace(message, seq=claim.seq), ports)
        case _:
            pass  # it sleeps until it is woken, or it is stale, ended or unknown: there is nothing to do for it now


def replay(message: RunMessage, ports: Ports) -> None:
    """Have the run done again that was given up when this message was put aside, unless that has become needless."""
    successor = ports.runs.replay(message.run_id)
    logger.info("run.replay", extra={"as_run_id": successor.run_id if successor else None})
    if successor:
        nudge(successor, ports)


def step(run: Run, ports: Ports) -> None:
    """Work, one transaction, the next message: in this order, so that a crash anywhere costs at most this step."""
    secrets = StepSecrets(run, ports)
    outcome = secrets.scrub(take_step(run, ports, secrets))
    if isinstance(outcome, Finish):
        end_run(run, outcome, ports)
        return
    seq = ports.runs.advance(run, outcome)
    if seq is None:
        logger.warning("run.fence_lost", extra={"seq": run.seq})
        return
    if outcome.phase:
        logger.info("run.phase", extra={"phase": outcome.phase})
    nudge(_message(run, seq), ports, delay_s=outcome.check_in_s)


def take_step(run: Run, ports: Ports, secrets: StepSecrets) -> Outcome:
    """What becomes of the run now. Expected failures are outcomes too; surprises are raised at first."""
    try:
        outcome = _must_end(run, ports, secrets) or PHASES[run.phase](run, ports, secrets)
        secret_delivery.left(run, outcome, ports, secrets)
    except RunFailed as error:
        logger.warning("run.failed", extra={"error_code": error.error_code, **error.for_log()})
        return ended_early(run, error.error_code, str(error))
    except Exception as error:  # noqa: BLE001  (raised again, unless it has repeated itself)
        return _again_or_never(run, error)
    return _with_phase_event(outcome) if isinstance(outcome, Advance) else outcome


def _again_or_never(run: Run, error: Exception) -> Outcome:
    """Wait where waiting may help; raise what nobody foresaw, so that SQS delivers again, until it repeats itself.

    docs/reliability.md has the table of errors and attempts.
    """
    told = error.for_log() if isinstance(error, AppError) else {}
    attempts = _attempts_for(error)
    if run.attempt < attempts or attempts == MAX_ATTEMPTS:  # at the last one of those, `_must_end` ends the run
        logger.warning("run.step_retried", extra={"attempt": run.attempt, **told})
        return Advance(check_in_s=min(2**run.attempt, MAX_BACKOFF_S))
    if not attempts and run.attempt < MAX_SURPRISES:
        raise error
    logger.exception("run.given_up", extra={"attempt": run.attempt, **told})
    return ended_early(run, INTERNAL, OUR_FAULT)


def _attempts_for(error: Exception) -> int:
    """How many attempts a foreseen error is worth; 0 for one that nobody foresaw."""
    if isinstance(error, BrokenProgram):
        return MAX_SURPRISES
    if isinstance(error, AppError) and (error.retryable or isinstance(error, OURS_TO_MEND)):
        return MAX_ATTEMPTS
    return 0


def ended_early(run: Run, error_code: str, error: str) -> Finish:
    """The end of a run that has nothing to show: cancelled when that was asked for, else failed.

    Where the agent had already failed, that is the reason to tell. Its last checkpoint stays.
    """
    status = RunStatus.CANCELLED if run.cancel_requested else RunStatus.FAILED
    if run.cancel_requested:
        error_code, error = "cancelled", agent.CANCELLED
    else:
        error_code, error = run.error_code or error_code, run.error or error
    error += checkpoint.kept(run)
    ended = Event("ended", {"status": status, "error_code": error_code, "text": error})
    return Finish(status=status, error_code=error_code, error=error, events=(ended,))


def end_run(run: Run, end: Finish, ports: Ports) -> None:
    """Store the end, then pause or kill the sandbox. What a crash in between leaves running pauses when its lease ends,
    and is killed by the reaper once nobody needs it.

    Of a run that ends by our fault a message is put aside first, by which it can be done again. Raises Unavailable when
    that or the database does not work: nothing has ended then.
    """
    if end.error_code == INTERNAL:
        ports.replays.send(replace(_message(run, run.seq), replay=True))
    if not ports.runs.finish(run, end):
        logger.warning("run.fence_lost", extra={"seq": run.seq})
        return
    logger.info("run.ended", extra={"status": end.status, "error_code": end.error_code})
    try:
        secret_delivery.destroy(run, ports)
    except AppError as error:  # the reaper will
        logger.warning("secret.not_destroyed", extra=error.for_log())
    if run.sandbox_id:
        leave = ports.sandboxes.pause if end.keep_sandbox_s else ports.sandboxes.kill
        try:
            leave(run.sandbox_id)
        except AppError as error:
            logger.warning("sandbox.not_left", extra={"sandbox_id": run.sandbox_id, **error.for_log()})
    try:
        wake_waiting_runs(ports)
    except AppError as error:
        logger.warning("run.wake_failed", extra=error.for_log())


def wake_waiting_runs(ports: Ports) -> int:
    """Nudge the sleeping runs that sandboxes have become free for. Asked again by the reaper."""
    woken = ports.runs.wake()
    for message in woken:
        nudge(message, ports)
    return len(woken)


def nudge(message: RunMessage, ports: Ports, *, delay_s: int = 0) -> None:
    """Ask for the run's next step. A message that cannot be sent is only logged: the reaper finds overdue runs."""
    try:
        ports.queue.send(message, delay_s=delay_s)
    except AppError as error:
        logger.warning("run.nudge_failed", extra=error.for_log())


def _must_end(run: Run, ports: Ports, secrets: StepSecrets) -> Outcome | None:
    """The outcome of a run that was cancelled, is out of time or steps, or keeps failing; None when it may go on."""
    if run.attempt > MAX_ATTEMPTS:
        return ended_early(run, "step_failed", GIVEN_UP)
    late_by = ports.now() - run.deadline_at if run.deadline_at else timedelta()
    extra_steps = run.seq - ports.settings.max_steps
    too_late = ended_early(run, "timeout", TIMED_OUT)
    too_many = ended_early(run, "too_many_steps", TOO_MANY_STEPS)
    if late_by > COLLECTION_GRACE:
        return too_late
    if extra_steps >= COLLECTION_STEPS:
        return too_many
    over = too_late if late_by > timedelta() else too_many if extra_steps >= 0 else None
    if run.phase is Phase.COLLECTING or not (over or run.cancel_requested):
        return None
    if run.phase is Phase.AGENT:
        return agent.stopped(run, ports, secrets)
    return over or ended_early(run, "cancelled", agent.CANCELLED)


def _with_phase_event(outcome: Advance) -> Advance:
    """The step has done its work: its attempts are forgotten, and a new phase is told to whoever watches."""
    changes = {**outcome.changes, "attempt": 0}
    if outcome.phase is None:
        return replace(outcome, changes=changes)
    return replace(outcome, changes=changes, events=(*outcome.events, Event("phase", {"phase": outcome.phase})))


def _message(run: Run, seq: int) -> RunMessage:
    return RunMessage(task_id=run.task_id, run_id=run.id, seq=seq, user_id=run.user_id, trace_id=run.trace_id)
