"""What the agent changed, exactly, whatever it did to its repository; then the end of the run.

Before, its secrets are taken out of the sandbox, where that is to be kept for a follow-up.
"""

from dataclasses import replace

from functions.executor.agents import ReaderState
from functions.executor.context import StepContext
from functions.executor.work import collection, large_contents, wipe_secrets
from functions.executor.work.workspace import open_workspace
from sandbox.programs.protocol import (
    Collected,
    PossibleSecret,
    to_value,
)
from shared.domain.run import Advance, Event, Finish, Outcome, Run, RunStatus

JOB, JOB_AGAIN = "collect", "collect-2"
RESULT_FILE = "result.json"
START_WAIT_S = 3
NOTHING_CHANGED = "No files were changed."


def step(ctx: StepContext) -> Outcome:
    """Start the collector, or look whether it has ended; then store its result as the end of the run."""
    folder = open_workspace(ctx)
    wiped = wipe_secrets.look(ctx, folder)
    if wiped is None:
        return Advance(check_in_s=ctx.poll_delay_s)
    job, state = JOB, folder.look(JOB)
    if state.interrupted:  # the work is still there: once more
        if state.crashed:
            folder.stop(JOB)
        job, state = JOB_AGAIN, folder.look(JOB_AGAIN)
    if state.absent:
        folder.install()  # the sandbox may be older than this executor, which would not understand each other
        spec = collection.collector(ctx.run, job, out=RESULT_FILE, apart=large_contents.FOLDER)
        state = folder.start(job, spec, wait_s=START_WAIT_S)
    if not state.over:
        return Advance(check_in_s=ctx.poll_delay_s)
    if state.interrupted and job == JOB:
        return Advance()
    found = collection.report(state)
    collected = collection.read_result(folder, RESULT_FILE, found)
    if not large_contents.stored(ctx, collected.contents, folder):
        return Advance()
    return replace(_end(ctx.run, collected), keep_sandbox_s=ctx.settings.follow_up_window_s if wiped else 0)


def _end(run: Run, collected: Collected) -> Finish:
    status = _status(run)
    reader = ReaderState.from_json(run.reader_state)
    text = reader.result.text if reader.result and reader.result.ok else reader.last_text
    if collected.commit is None:
        text = f"{text}\n\n{NOTHING_CHANGED}".strip()
    ended = Event(
        "ended",
        {
            "status": status,
            "error_code": run.error_code,
            "text": run.error,
            "files": len(collected.changed_files),
            "additions": collected.additions,
            "deletions": collected.deletions,
        },
    )
    warnings = [Event("warning", {"text": text}) for text in collected.warnings]
    warnings += [_possible_secret(place) for place in collected.possible_secrets]
    return Finish(
        status=status,
        error_code=run.error_code,
        error=run.error,
        message=text,
        result=collection.result(run, collected),
        events=(*warnings, ended),
    )


def _possible_secret(place: PossibleSecret) -> Event:
    text = f"{place.path}, line {place.line}: this looks like {place.kind}. Check it before you merge."
    return Event("warning", {"code": "possible_secret", "text": text, **to_value(place)})


def _status(run: Run) -> RunStatus:
    if run.error_code is None:
        return RunStatus.COMPLETED
    return RunStatus.CANCELLED if run.error_code == "cancelled" else RunStatus.FAILED
