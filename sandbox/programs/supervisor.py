"""Runs one detached job and tells what became of it.

A job is one folder, readable by root only (see job_folder.py). The executor writes `job.json` into it and calls

    supervisor start JOB_DIR [LOOK]    start it, once; then like `look`
    supervisor look  JOB_DIR [LOOK]
    supervisor stop  JOB_DIR [LOOK]    end it and everything it started; then like `look`

`job.json` is a JobRequest and LOOK a LookRequest, as JSON. Each prints one line, a JobReport, and exits 0; bad usage
is exit 2 and a sentence on stderr. Every call may be repeated: the folder `state` is the lock, so a job starts at most
once.

Nothing of the agent's user outlives a job of the agent: where that user has a uid of its own, every process of it is
ended with the job, so two such jobs must not run at the same time.

Linux and macOS.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sandbox.programs.daemon import StartError, start
from sandbox.programs.failures import UsageError
from sandbox.programs.job_folder import JobFolder
from sandbox.programs.look import look
from sandbox.programs.protocol import JobReport, LookRequest, ProtocolError, from_json, to_json
from sandbox.programs.stop import stop

VERBS = ("start", "look", "stop")


def main(arguments: list[str]) -> int:
    """The program: its exit code."""
    try:
        print(to_json(run(arguments)))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run(arguments: list[str]) -> JobReport:
    """Do what was asked; the job's report. Raises UsageError and StartError."""
    if len(arguments) not in (2, 3) or arguments[0] not in VERBS:
        raise UsageError("Usage: supervisor start|look|stop JOB_DIR [LOOK]")
    verb, job_dir, *options = arguments
    try:
        request = from_json(LookRequest, options[0], "LOOK") if options else LookRequest()
    except ProtocolError as error:
        raise UsageError(str(error)) from None
    folder = JobFolder(Path(job_dir))
    if verb == "start":
        start(folder)
    elif verb == "stop":
        stop(folder)
    return look(folder, request)
