"""How a program fails: with a code and a message that the executor understands, in its report."""

from __future__ import annotations

import errno
import subprocess

from sandbox.programs.protocol import DISK_FULL, FAILED, Failure

MESSAGE_CHARS = 2000


class ProgramFailed(Exception):
    """The program could not do its work; `error` is one of the codes in protocol.py."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class UsageError(ProgramFailed):
    """The caller asked for something that cannot be done; the text says what."""

    def __init__(self, message: str) -> None:
        super().__init__(FAILED, message)


# What a program reports as a failure. Anything else is a bug: a traceback and exit code 1.
REPORTED = (ProgramFailed, OSError, TypeError, ValueError, subprocess.TimeoutExpired)


def failure_of(error: Exception) -> Failure:
    """The report of one of the REPORTED errors."""
    if isinstance(error, ProgramFailed):
        return Failure(error=error.error, message=str(error))
    is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    message = f"{type(error).__name__}: {error}"[:MESSAGE_CHARS]
    return Failure(error=DISK_FULL if is_full else FAILED, message=message)
