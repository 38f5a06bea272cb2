"""What is known of a job: its state, its new output, and the last line of its usage log."""

from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

from sandbox.programs import run_folder
from sandbox.programs.account import become
from sandbox.programs.job import account_of
from sandbox.programs.job_folder import JobFolder, age_of, size_of
from sandbox.programs.protocol import STDERR_TAIL_BYTES, TAKEN_BY_THE_JOB, JobPhase, JobReport, LookRequest, UsageLog
from sandbox.programs.safe_files import open_regular

USAGE_LOG_TAIL_BYTES = 1024 * 1024  # between two lines that count lies what one tool has printed
MAX_USAGE_LOGS = 100  # files looked at; there is one, unless the agent made more on purpose


def look(folder: JobFolder, request: LookRequest) -> JobReport:
    """The report. Secrets that came with a start which failed, or was not needed, are removed.

    A usage log is read last: this process then has the rights of the job's user only.
    """
    wait_for_end(folder, request.wait_s)
    state = folder.phase()  # before the output, so that an ended job's output is complete
    exited, child = folder.exited() if state == "ended" else None, folder.child()
    chunk = _chunk(folder.stdout, request, is_over=state in ("ended", "crashed"))
    ages = [age for age in map(age_of, (folder.stdout, folder.stderr)) if age is not None]
    _discard_leftovers(folder, state)
    return JobReport(
        state=state,
        exit_code=exited.exit_code if exited else None,
        ended_by=exited.ended_by if exited else "crash" if state == "crashed" else None,
        started_at=exited.started_at if exited else child.at if child else None,
        ended_at=exited.ended_at if exited else None,
        heartbeat_age_s=age_of(folder.heartbeat),
        idle_s=min(ages, default=None),
        output_bytes=size_of(folder.stdout),
        offset=request.offset + len(chunk),
        chunk=chunk,
        stderr_tail=_tail(folder.stderr),
        programs=run_folder.digest_of_programs(),
        usage_line=_usage_line(folder, request.usage_log) if request.usage_log and state != "absent" else None,
    )


def wait_for_end(folder: JobFolder, seconds: float) -> None:
    """Return when the job is over, at the latest after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.02
    while time.monotonic() < deadline and not folder.exit.exists():
        time.sleep(min(pause, max(0.0, deadline - time.monotonic())))
        pause = min(pause * 1.5, 0.25)
        if folder.phase() in ("absent", "crashed"):
            return


def _discard_leftovers(folder: JobFolder, state: JobPhase) -> None:
    """Not those that a start is taking now."""
    if state == "starting" and folder.supervisor() is None:
        return
    folder.discard_secrets(but=TAKEN_BY_THE_JOB if state in ("starting", "running") else ())


def _chunk(path: Path, request: LookRequest, *, is_over: bool) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(request.offset)
            data = file.read(request.max_bytes)
    except FileNotFoundError:
        return b""
    is_full = len(data) == request.max_bytes
    whole_lines = data[: data.rfind(b"\n") + 1]
    if is_over and not is_full:
        return data
    return whole_lines or (data if is_full else b"")


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, size_of(path) - STDERR_TAIL_BYTES))
            return file.read(STDERR_TAIL_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _usage_line(folder: JobFolder, log: UsageLog) -> str | None:
    """The last line with the word in the newest file that matches, below the home of the job's user.

    That user may have put anything there: only plain files are read, and none is waited for. This process gives up
    root's rights before, for good, so that a link leads to nothing that the user could not read. Raises UsageError for
    a job without a user, and OSError when the rights cannot be given up: then nothing is read.
    """
    account = account_of(folder.job())
    become(account)
    try:
        found = itertools.islice(account.home.glob(log.pattern), MAX_USAGE_LOGS)
        newest = max((path for path in found if path.is_file()), key=lambda path: path.stat().st_mtime, default=None)
        if newest is None:
            return None
        with os.fdopen(open_regular(newest), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - USAGE_LOG_TAIL_BYTES))
            *lines, _unfinished = file.read(USAGE_LOG_TAIL_BYTES).split(b"\n")
    except OSError:  # the user has removed or replaced it meanwhile, or made it unreadable: as if there were none
        return None
    counted = (line for line in reversed(lines) if log.word.encode() in line)
    return next((line.decode("utf-8", "replace") for line in counted), None)
