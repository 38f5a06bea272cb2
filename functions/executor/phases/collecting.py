"""What the agent changed, exactly, whatever it did to its repository; then the end of the run.

Before, its secrets are taken out of the sandbox, where that is to be kept for a follow-up.
"""

import hashlib
from dataclasses import replace
from typing import Any

from functions.executor.agents import ReaderState
from functions.executor.jobs import JobSpec, RunFolder, parsed
from functions.executor.phases import contents, wipe_secrets
from functions.executor.phases.bench import BASE_GIT, WORK_TREE, folder_of
from functions.executor.phases.pace import check_in_s
from functions.executor.phases.reports import RESTARTED, report_of
from functions.executor.ports import Ports
from functions.executor.scrubbing import StepSecrets
from sandbox.programs.protocol import (
    ChangedFile,
    Collected,
    CollectLimits,
    CollectReport,
    CollectRequest,
    Failure,
    JobReport,
    PossibleSecret,
    to_json,
    to_value,
)
from shared.domain.errors import RunFailed
from shared.domain.key_shapes import KEY_SHAPES
from shared.domain.run import Advance, Event, Finish, Outcome, Result, Run, RunStatus

JOB, JOB_AGAIN = "collect", "collect-2"
RESULT_FILE = "result.json"
START_WAIT_S = 3
TIMEOUT_S = 300  # for a work tree of some hundred thousand files on a slow disk
AUTHOR = ("AI Assistant", "ai-assistant@e2b.dev")  # as the old backend signed its commits
SUBJECT_CHARS = 50
LIMITS = CollectLimits()
# The frontend's side-by-side viewer: sentinels for a side that does not exist, and how much it is given in all.
NO_BEFORE, NO_AFTER = "FILE_NOT_EXISTS", "FILE_DELETED"
VIEWER_BYTES = 200_000  # the dashboard reads it with every row
NOTHING_CHANGED = "No files were changed."


def step(run: Run, ports: Ports, secrets: StepSecrets) -> Outcome:
    """Start the collector, or look whether it has ended; then store its result as the end of the run."""
    folder = folder_of(run, ports)
    wiped = wipe_secrets.look(run, ports, secrets, folder)
    if wiped is None:
        return Advance(check_in_s=check_in_s(run, ports))
    job, state = JOB, folder.look(JOB)
    if state.interrupted:  # the work is still there: once more
        if state.crashed:
            folder.stop(JOB)
        job, state = JOB_AGAIN, folder.look(JOB_AGAIN)
    if state.absent:
        folder.install()  # the sandbox may be older than this executor, which would not understand each other
        spec = collector(run, job, out=RESULT_FILE, apart=contents.FOLDER)
        state = folder.start(job, spec, wait_s=START_WAIT_S)
    if not state.over:
        return Advance(check_in_s=check_in_s(run, ports))
    if state.interrupted and job == JOB:
        return Advance()
    secrets.preferences()  # so that they are taken out of the diff, and of the collector's words
    found = report(state)
    secrets.git_token()  # so that it is taken out of the diff, should the agent have come by it
    collected = read_result(folder, RESULT_FILE, found)
    if not contents.stored(collected.contents, run, ports, secrets, folder):
        return Advance()
    return replace(_end(run, collected), keep_sandbox_s=ports.settings.follow_up_window_s if wiped else 0)


def collector(
    run: Run,
    job: str,
    *,
    out: str,
    apart: str | None = None,
    limits: CollectLimits = LIMITS,
    niceness: int = 0,
) -> JobSpec:
    """The job that writes all that has changed to the file `out` of the run's folder.

    `apart` is the folder for contents that are too large for that file; None: one of the file's own.
    """
    dots = "..." if len(run.prompt) > SUBJECT_CHARS else ""
    subject = " ".join(run.prompt[:SUBJECT_CHARS].split())
    request = CollectRequest(
        base_git=BASE_GIT,
        base_commit=run.base_commit or "",
        work_tree=WORK_TREE,
        message=f"AI: {subject}{dots}",
        author_name=AUTHOR[0],
        author_email=AUTHOR[1],
        limits=limits,
        out=out,
        contents_out=apart,
        secret_shapes=KEY_SHAPES,
    )
    return JobSpec(
        argv=("collect", f"{job}/spec.json"),
        user="root",
        niceness=niceness,
        timeout_s=TIMEOUT_S,
        files={"spec.json": to_json(request).encode()},
    )


def report(state: JobReport) -> CollectReport:
    """What collect.py reports. Raises RunFailed when it could not collect, and as `report_of` does."""
    found = report_of(state, CollectReport)
    if isinstance(found, CollectReport):
        return found
    interrupted = "it took too long" if state.ended_by == "timeout" else RESTARTED
    reason = found.message if isinstance(found, Failure) and found.message else interrupted
    raise RunFailed(f"The changes could not be collected: {reason}", error_code="collect_failed")


def read_result(folder: RunFolder, name: str, found: CollectReport) -> Collected:
    """The result that the report is about. Raises RunFailed when it is another by now."""
    raw = folder.read(name)
    if hashlib.sha256(raw).hexdigest() != found.sha256:
        raise RunFailed("The result was changed while it was read.", error_code="collect_failed")
    return parsed(Collected, raw)


def result(run: Run, collected: Collected, *, checkpoint_at: str | None = None) -> Result:
    """What collect.py found as it is stored; `checkpoint_at` when the agent was still at work then."""
    return Result(
        commit_hash=collected.commit,
        diff=collected.diff,
        patch=collected.patch,
        changed_files=collected.changed_files,
        files=tuple(map(to_value, collected.files)),
        metadata=_metadata(run, collected) | {"checkpoint_at": checkpoint_at},
    )


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
        result=result(run, collected),
        events=(*warnings, ended),
    )


def _possible_secret(place: PossibleSecret) -> Event:
    text = f"{place.path}, line {place.line}: this looks like {place.kind}. Check it before you merge."
    return Event("warning", {"code": "possible_secret", "text": text, **to_value(place)})


def _status(run: Run) -> RunStatus:
    if run.error_code is None:
        return RunStatus.COMPLETED
    return RunStatus.CANCELLED if run.error_code == "cancelled" else RunStatus.FAILED


def _metadata(run: Run, collected: Collected) -> dict[str, Any]:
    return {
        "base_commit": collected.base_commit,
        "base_tree": collected.base_tree,
        "tree": collected.tree,
        "additions": collected.additions,
        "deletions": collected.deletions,
        "diff_truncated": collected.diff_truncated,
        "patch_truncated": collected.patch_truncated,
        "warnings": list(collected.warnings),
        "usage": dict(run.usage),
        "file_changes": _file_changes(collected.files),
    }


def _file_changes(files: tuple[ChangedFile, ...]) -> list[dict[str, str]]:
    """Text files for the side-by-side viewer, as many as fit its budget."""
    changes: list[dict[str, str]] = []
    budget = VIEWER_BYTES
    for file in files:
        before = NO_BEFORE if file.status == "added" else file.before
        after = NO_AFTER if file.status == "deleted" else file.after
        if file.encoding != "utf-8" or before is None or after is None:
            continue
        budget -= len(before) + len(after)
        if budget < 0:
            break
        changes.append({"filename": file.path, "before": before, "after": after})
    return changes
