"""While the agent works, what it has changed is saved every few minutes: a lost sandbox costs no more than that.

A checkpoint is a collection like the one at the end, detached as well: one look starts it, a later one saves what it
found. None of its failures is the run's: the next one tries again. What is saved stays the task's result until the run
ends with a better one.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple

from functions.executor.context import StepContext
from functions.executor.errors import SandboxGone
from functions.executor.work import collection
from functions.executor.work.jobs import RunFolder
from shared.domain.errors import AppError
from shared.domain.run import Event, Run
from shared.observability import get_logger

logger = get_logger("executor")

TOLD_FILES = 100  # paths in an event
RESULT_FILE = "checkpoint.json"  # one for all: each replaces the one before
# Nothing lies apart: of a file that is too large for a row, the patch has what was changed.
LIMITS = replace(collection.LIMITS, file_bytes=collection.LIMITS.row_bytes, total_bytes=collection.LIMITS.rows_bytes)
# Nobody waits for it, and the agent's own programs go first.
NICENESS = 10


class CheckpointLook(NamedTuple):
    """What a look comes to: the run's new `checkpoint`, empty where nothing has changed, and what to tell of it."""

    mark: Mapping[str, Any] = MappingProxyType({})
    events: tuple[Event, ...] = ()


def look(ctx: StepContext, folder: RunFolder) -> CheckpointLook:
    """Begin a checkpoint when it is time for one, or save the one that was begun.

    Raises SandboxGone, and nothing else that is foreseen.
    """
    mark, age_s = ctx.run.checkpoint, _age_s(ctx)
    try:
        if mark.get("running"):
            return _saved(ctx, folder)
        if age_s - mark.get("begun_s", 0) < ctx.settings.checkpoint_every_s:
            return CheckpointLook()
        number = mark.get("number", 0) + 1
        spec = collection.collector(ctx.run, _job(number), out=RESULT_FILE, limits=LIMITS, niceness=NICENESS)
        folder.install()  # the sandbox may be older than this executor, which would not understand each other
        folder.start(_job(number), spec, wait_s=0)
        logger.info("checkpoint.begun", extra={"number": number})
    except SandboxGone:
        raise
    except AppError as error:
        logger.warning("checkpoint.failed", extra=error.for_log())
        return CheckpointLook({**mark, "running": False, "begun_s": age_s})
    return CheckpointLook({**mark, "number": number, "begun_s": age_s, "running": True})


def kept(run: Run) -> str:
    """What a run that ends without a result says of its last checkpoint; "" where there is nothing to say."""
    if not run.checkpoint.get("files"):
        return ""
    return f" What the agent had changed by {_moment(run, run.checkpoint['saved_s']):%H:%M} UTC is kept."


def _age_s(ctx: StepContext) -> float:
    return (ctx.ports.now() - ctx.run.started_at).total_seconds() if ctx.run.started_at else 0.0


def _moment(run: Run, age_s: float) -> datetime:
    return (run.started_at or datetime.now(UTC)) + timedelta(seconds=age_s)


def _job(number: int) -> str:
    return f"checkpoint-{number}"


def _saved(ctx: StepContext, folder: RunFolder) -> CheckpointLook:
    mark = ctx.run.checkpoint
    state = folder.look(_job(mark["number"]))
    if not state.over and not state.absent:
        return CheckpointLook()
    ended = {**mark, "running": False}
    report = collection.report(state)
    if report.tree == mark.get("tree") or not (report.files or mark.get("files")):
        return CheckpointLook(ended)  # nothing is new
    found = collection.read_result(folder, RESULT_FILE, report)
    result = collection.result(ctx.run, found, checkpoint_at=_moment(ctx.run, mark["begun_s"]).isoformat())
    if not ctx.ports.runs.save_checkpoint(ctx.run, ctx.secrets.scrub_result(result)):
        return CheckpointLook()  # somebody else has the run, and this step will not be saved either
    logger.info("checkpoint.saved", extra={"number": mark["number"], "files": report.files})
    told = {"additions": found.additions, "deletions": found.deletions, "files": report.files}
    event = Event("changes", {**told, "changed_files": list(found.changed_files[:TOLD_FILES])})
    saved = {"tree": report.tree, "files": report.files, "saved_s": mark["begun_s"]}
    return CheckpointLook({**ended, **saved}, (event,))
