"""What the programs that run as jobs in a sandbox report: one line of JSON each."""

from typing import TypeVar

from functions.executor.errors import BrokenProgram, disk_full, may_pass, says_disk_full
from functions.executor.work.jobs import broken
from sandbox.programs.protocol import DISK_FULL, Failure, JobReport, ProtocolError, parse, report_from_value

T = TypeVar("T")


def report_of(state: JobReport, kind: type[T]) -> T | Failure | None:
    """The report of a job that is over; None for one that was interrupted, ran out of time or lacked memory.

    Raises RunFailed for a full disk, and BrokenProgram where a job ended by itself without a report of this kind.
    """
    try:
        printed = parse(state.chunk)
    except ProtocolError:
        printed = None
    if isinstance(printed, dict):
        try:
            report = report_from_value(kind, printed)
        except ProtocolError as error:
            raise broken(error, state.chunk) from None
        if isinstance(report, Failure) and report.error == DISK_FULL:
            raise disk_full()
        return report
    if says_disk_full(state.stderr_tail):
        raise disk_full()
    if state.ended_by == "exit" and not may_pass(state.exit_code, state.stderr_tail):
        raise BrokenProgram(state.exit_code, state.stderr_tail)
    return None
