"""Lambda entry of the schedule: what was lost is found again. Each of its duties stands alone."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.executor.ports import Ports
from functions.executor.step import logger, nudge, wake_waiting_runs
from functions.executor.wiring import ports
from shared.domain.errors import AppError, RunFailed

DUE_RUNS = 500  # per minute; the rest are due again at the next
# A sandbox younger than this may belong to a run whose step has not been saved yet.
SANDBOX_GRACE = timedelta(minutes=5)
PER_QUERY = 100
# A run whose step ended so long ago has a sandbox that E2B's list shows.
LIST_GRACE_S = 120
ORPHANED = "This task is no longer running. Start it again."


@logger.inject_lambda_context(clear_state=True)
def handler(_event: dict[str, Any], _context: LambdaContext) -> dict[str, int]:
    """How much each duty found to do. Raises when one could not be done."""
    return reap(ports())


def reap(ports: Ports) -> dict[str, int]:
    """All duties; a failure of one does not keep the others from being done."""
    done: dict[str, int] = {}
    failures: list[AppError] = []
    for duty in DUTIES:
        try:
            done[duty.__name__] = duty(ports)
        except AppError as error:
            logger.error("reaper.duty_failed", extra={"duty": duty.__name__, **error.for_log()})
            failures.append(error)
    logger.info("reaper.done", extra=done)
    if failures:
        raise failures[0]
    return done


def nudge_due_runs(ports: Ports) -> int:
    """Send the message again for runs that are overdue and held by nobody."""
    due = ports.runs.due(grace_s=ports.settings.reaper_grace_s, limit=DUE_RUNS)
    for message in due:
        nudge(message, ports)
    return len(due)


def kill_lost_sandboxes(ports: Ports) -> int:
    """Kill sandboxes of ours that no run needs: it has ended and nobody may go on in it, or it was deleted."""
    born_before = ports.now() - SANDBOX_GRACE
    old = {each.id: each.run_id for each in ports.sandboxes.list_ours() if each.started_at < born_before}
    return _remove_unneeded("sandbox", old, ports.sandboxes.kill, ports)


def destroy_lost_secrets(ports: Ports) -> int:
    """Destroy secrets that E2B keeps for runs of ours that have ended, or were deleted."""
    # A secret is needed while its run is active, as the run's sandbox is.
    stored = {each.name: each.run_id for each in ports.sandboxes.list_secrets()}
    return _remove_unneeded("secret", stored, ports.sandboxes.destroy_secret, ports)


def nudge_runs_without_sandbox(ports: Ports) -> int:
    """The other way round: have runs looked at whose sandbox E2B does not list. Their step hears whether it is gone."""
    listed = [sandbox.id for sandbox in ports.sandboxes.list_ours()]
    lost = ports.runs.without_sandbox(listed, grace_s=LIST_GRACE_S)
    for message in lost:
        logger.warning("run.sandbox_missing", extra={"run_id": message.run_id})
        nudge(message, ports)
    return len(lost)


def end_stuck_tasks(ports: Ports) -> int:
    """End runs that got no sandbox in all the time that a task may wait, and tasks whose run is gone."""
    hours = ports.settings.queue_timeout_s / 3600
    text = f"No sandbox became free for the task within {hours:g} hours. Start it again, or cancel other tasks first."
    waited = RunFailed(text, error_code="queue_timeout")
    return ports.runs.end_stuck(waited_s=ports.settings.queue_timeout_s, waited=waited, orphaned=ORPHANED)


def _remove_unneeded(what: str, run_ids: Mapping[str, str], remove: Callable[[str], None], ports: Ports) -> int:
    """Remove those that no run needs; `run_ids` says for which run each was made. How many."""
    removed = 0
    everything = list(run_ids)
    for start in range(0, len(everything), PER_QUERY):
        names = everything[start : start + PER_QUERY]
        needed = ports.runs.needed({name: run_ids[name] for name in names})
        removed += sum(_removed(what, name, run_ids[name], remove) for name in names if name not in needed)
    return removed


def _removed(what: str, name: str, run_id: str, remove: Callable[[str], None]) -> bool:
    """One that cannot be removed now is no reason to let the others live; the next minute tries again."""
    lost = {what: name, "run_id": run_id}
    try:
        remove(name)
    except AppError as error:
        logger.error(f"{what}.reap_failed", extra={**lost, **error.for_log()})
        return False
    logger.warning(f"{what}.reaped", extra=lost)
    return True


def expire_credentials(ports: Ports) -> int:
    """Delete sealed secrets that nobody needs any more."""
    return ports.runs.expire_credentials()


DUTIES = (
    nudge_due_runs,
    wake_waiting_runs,
    kill_lost_sandboxes,
    destroy_lost_secrets,
    nudge_runs_without_sandbox,
    end_stuck_tasks,
    expire_credentials,
)
