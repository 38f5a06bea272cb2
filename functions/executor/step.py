"""The story of one step: look at a claimed run, take it one phase further, save, nudge."""

from dataclasses import replace

from functions.executor.context import StepContext
from functions.executor.decisions import (
    CANCELLED,
    MAX_ATTEMPTS,
    MAX_SURPRISES,
    attempts_for,
    backoff_s,
    must_stop,
    over_at_once,
)
from functions.executor.phases import PHASES, agent
from functions.executor.ports import Ports
from functions.executor.work import checkpoint, secret_delivery
from shared.domain.errors import AppError, RunFailed
from shared.domain.messages import RunMessage
from shared.domain.ports import ClaimOutcome
from shared.domain.run import INTERNAL, Advance, Event, Finish, Outcome, Phase, Run, RunChanges, RunStatus
from shared.observability import get_logger

logger = get_logger("executor")

OUR_FAULT = "Something went wrong on our side. Start the task again."


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
            step(StepContext.of(claim.run, ports))
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


def step(ctx: StepContext) -> None:
    """Work, one transaction, the next message: in this order, so that a crash anywhere costs at most this step."""
    outcome = take_step(ctx)
    if isinstance(outcome, Finish):
        end_run(ctx, outcome)
        return
    seq = ctx.ports.runs.advance(ctx.run, outcome)
    if seq is None:
        logger.warning("run.fence_lost", extra={"seq": ctx.run.seq})
        return
    if outcome.phase:
        logger.info("run.phase", extra={"phase": outcome.phase})
    nudge(_message(ctx.run, seq), ctx.ports, delay_s=outcome.check_in_s)


def take_step(ctx: StepContext) -> Outcome:
    """What becomes of the run now, free of secrets. Expected failures are outcomes, surprises are raised at first."""
    try:
        outcome = _must_end(ctx) or PHASES[ctx.run.phase](ctx)
        secret_delivery.left(ctx, outcome)
        return ctx.secrets.scrub(_with_phase_event(outcome) if isinstance(outcome, Advance) else outcome)
    except RunFailed as error:
        return _failed(ctx, error)
    except Exception as error:  # noqa: BLE001  (raised again, unless it has repeated itself)
        return _again_or_never(ctx.run, error)


def _failed(ctx: StepContext, error: RunFailed) -> Outcome:
    """The end of a run that failed. Where its secrets cannot be opened, that is the reason: the other may hold one."""
    try:
        end = ctx.secrets.scrub(ended_early(ctx.run, error.error_code, str(error)))
    except RunFailed as unreadable:
        error, end = unreadable, ended_early(ctx.run, unreadable.error_code, str(unreadable))
    except Exception as unforeseen:  # noqa: BLE001  (raised again, unless it has repeated itself)
        return _again_or_never(ctx.run, unforeseen)
    # Only now: the log leaves out the secrets that have been opened.
    logger.warning("run.failed", extra={"error_code": error.error_code, **error.for_log()})
    return end


def _again_or_never(run: Run, error: Exception) -> Outcome:
    """Wait where waiting may help; raise an unforeseen error, so that SQS delivers again, until it repeats itself."""
    told = error.for_log() if isinstance(error, AppError) else {}
    attempts = attempts_for(error)
    if run.attempt < attempts or attempts == MAX_ATTEMPTS:  # at the last one of those, `_must_end` ends the run
        logger.warning("run.step_retried", extra={"attempt": run.attempt, **told})
        return Advance(check_in_s=backoff_s(run.attempt))
    if not attempts and run.attempt < MAX_SURPRISES:
        raise error
    logger.exception("run.given_up", extra={"attempt": run.attempt, **told})
    return ended_early(run, INTERNAL, OUR_FAULT)


def ended_early(run: Run, error_code: str, error: str) -> Finish:
    """The end of a run that has nothing to show: cancelled when that was asked for, else failed.

    Where the agent had already failed, that is the reason to tell. Its last checkpoint stays.
    """
    status = RunStatus.CANCELLED if run.cancel_requested else RunStatus.FAILED
    if run.cancel_requested:
        error_code, error = "cancelled", CANCELLED
    else:
        error_code, error = run.error_code or error_code, run.error or error
    error += checkpoint.kept(run)
    ended = Event("ended", {"status": status, "error_code": error_code, "text": error})
    return Finish(status=status, error_code=error_code, error=error, events=(ended,))


def end_run(ctx: StepContext, end: Finish) -> None:
    """Store the end, then pause or kill the sandbox. What a crash in between leaves running pauses when its lease ends,
    and is killed by the reaper once nobody needs it.

    Of a run that ends by our fault a message is put aside first, by which it can be done again. Raises Unavailable when
    that or the database does not work: nothing has ended then.
    """
    if end.error_code == INTERNAL:
        ctx.ports.replays.send(replace(_message(ctx.run, ctx.run.seq), replay=True))
    if not ctx.ports.runs.finish(ctx.run, end):
        logger.warning("run.fence_lost", extra={"seq": ctx.run.seq})
        return
    logger.info("run.ended", extra={"status": end.status, "error_code": end.error_code})
    try:
        secret_delivery.destroy(ctx)
    except AppError as error:  # the reaper will
        logger.warning("secret.not_destroyed", extra=error.for_log())
    if ctx.run.sandbox_id:
        leave = ctx.ports.sandboxes.pause if end.keep_sandbox_s else ctx.ports.sandboxes.kill
        try:
            leave(ctx.run.sandbox_id)
        except AppError as error:
            logger.warning("sandbox.not_left", extra={"sandbox_id": ctx.run.sandbox_id, **error.for_log()})
    try:
        wake_waiting_runs(ctx.ports)
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


def _must_end(ctx: StepContext) -> Outcome | None:
    """The outcome of a run that was cancelled, is out of time or steps, or keeps failing; None when it may go on."""
    run = ctx.run
    if reason := over_at_once(run, late_by=ctx.late_by, max_steps=ctx.settings.max_steps):
        return ended_early(run, *reason)
    reason = must_stop(run, late_by=ctx.late_by, max_steps=ctx.settings.max_steps)
    if reason is None or run.phase is Phase.COLLECTING:
        return None
    return agent.stopped(ctx) if run.phase is Phase.AGENT else ended_early(run, *reason)


def _with_phase_event(outcome: Advance) -> Advance:
    """The step has done its work: its attempts are forgotten, and a new phase is told to whoever watches."""
    changes: RunChanges = {**outcome.changes, "attempt": 0}
    if outcome.phase is None:
        return replace(outcome, changes=changes)
    return replace(outcome, changes=changes, events=(*outcome.events, Event("phase", {"phase": outcome.phase})))


def _message(run: Run, seq: int) -> RunMessage:
    return RunMessage(task_id=run.task_id, run_id=run.id, seq=seq, user_id=run.user_id, trace_id=run.trace_id)
