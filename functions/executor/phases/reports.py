"""What the programs that run as jobs in a sandbox report: one line of JSON each."""

import json
from typing import Any

from functions.executor.errors import BrokenProgram, disk_full, may_pass, says_disk_full
from functions.executor.jobs import JobState

RESTARTED = "the sandbox was restarted or ran out of memory"


def report_of(state: JobState) -> dict[str, Any] | None:
    """The report of a job that is over; None for one that was interrupted, ran out of time or lacked memory.

    Raises RunFailed for a full disk, and BrokenProgram where a job ended by itself without a report.
    """
    try:
        report = json.loads(state.chunk)
    except ValueError:
        report = None
    if isinstance(report, dict):
        if report.get("error") == "disk_full":
            raise disk_full()
        return report
    if says_disk_full(state.stderr_tail):
        raise disk_full()
    if state.ended_by == "exit" and not may_pass(state.exit_code, state.stderr_tail):
        raise BrokenProgram(state.exit_code, state.stderr_tail)
    return None
