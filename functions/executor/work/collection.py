"""A collection: the job that finds what has changed, and its result as it is stored; at the end or as a checkpoint."""

import hashlib
from typing import Any

from functions.executor.decisions import RESTARTED
from functions.executor.work.job_reports import report_of
from functions.executor.work.jobs import JobSpec, RunFolder, parsed
from functions.executor.work.workspace import BASE_GIT, WORK_TREE
from sandbox.programs.protocol import (
    ChangedFile,
    Collected,
    CollectLimits,
    CollectReport,
    CollectRequest,
    Failure,
    JobReport,
    to_json,
    to_value,
)
from shared.domain.errors import RunFailed
from shared.domain.key_shapes import KEY_SHAPES
from shared.domain.run import Result, Run

TIMEOUT_S = 300  # for a work tree of some hundred thousand files on a slow disk
AUTHOR = ("AI Assistant", "ai-assistant@e2b.dev")  # as the old backend signed its commits
SUBJECT_CHARS = 50
LIMITS = CollectLimits()
# The frontend's side-by-side viewer: sentinels for a side that does not exist, and how much it is given in all.
NO_BEFORE, NO_AFTER = "FILE_NOT_EXISTS", "FILE_DELETED"
VIEWER_BYTES = 200_000  # the dashboard reads it with every row


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
