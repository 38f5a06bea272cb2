"""How a sandbox fails a run."""

import builtins
import re

from shared.domain.errors import AppError, RunFailed

# Exit codes of a shell and of Python for a program that is missing, cannot be run, or is used in a wrong way.
FAULTS = frozenset({2, 126, 127})
# What errno says where the disk has no room: bytes, inodes or a quota. envd writes it in small letters.
NO_ROOM = re.compile(r"no space left on device|disk quota exceeded", re.IGNORECASE)
# What errno says where the machine lacks something that others may give back.
SHORT_OF_RESOURCES = re.compile(
    r"^MemoryError|Cannot allocate memory|Resource temporarily unavailable|Too many open files", re.MULTILINE
)
LAST_WORDS = 2000  # of stderr, for the operator


class SandboxGone(RunFailed):
    """The sandbox has been killed or has expired: what was only in it is lost. Never raised for one out of reach."""

    def __init__(self, **context: object) -> None:
        super().__init__(
            "The sandbox was lost before the task could finish. Start the task again.",
            error_code="sandbox_lost",
            **context,
        )


class CommandFailed(AppError):
    """A program of the executor in the sandbox failed, and may succeed later: it was killed where memory is short."""

    code = "sandbox_command_failed"
    retryable = True

    def __init__(self, exit_code: int, stderr: str) -> None:
        super().__init__("A program in the sandbox failed.", exit_code=exit_code, stderr=stderr[-LAST_WORDS:])


class BrokenProgram(AppError):
    """A program of the executor in the sandbox is missing, cannot run, or answers nonsense: more attempts rarely help.

    What it said is for the operator's log only.
    """

    code = "sandbox_program_broken"

    def __init__(self, exit_code: int | None, said: str) -> None:
        super().__init__("A program in the sandbox is broken.", exit_code=exit_code, stderr=said[-LAST_WORDS:])


class InjectionUnavailable(AppError):
    """The E2B team lacks secrets, or rules that put them into requests: hand over as files instead."""

    code = "injection_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__("E2B does not offer egress injection to this team.", reason=reason)


def disk_full() -> RunFailed:
    """Another attempt would not help: what the agent has written stays there."""
    return RunFailed("The disk of the sandbox is full.", error_code="sandbox_full")


def says_disk_full(text: str) -> bool:
    """Whether the words of a program, or of envd, are about a disk without room, whatever status came along."""
    return NO_ROOM.search(text) is not None


def may_pass(exit_code: int | None, stderr: str) -> bool:
    """Whether the program failed for want of something: it was killed, or the machine was short of memory for it."""
    killed = exit_code is not None and not 0 <= exit_code < 128
    return killed or SHORT_OF_RESOURCES.search(stderr) is not None


def failed_command(exit_code: int, stderr: str) -> AppError:
    """What a non-zero exit of a program of the executor means for the step that ran it."""
    if says_disk_full(stderr):
        return disk_full()
    if not may_pass(exit_code, stderr) and (exit_code in FAULTS or _is_bug(stderr)):
        return BrokenProgram(exit_code, stderr)
    return CommandFailed(exit_code, stderr)


def _is_bug(stderr: str) -> bool:
    """Whether the last line ends a traceback with anything but the system's refusal of a call."""
    *traceback, last = stderr.strip().splitlines() or [""]
    raised = getattr(builtins, last.partition(":")[0], None) if traceback else None
    return isinstance(raised, type) and issubclass(raised, Exception) and not issubclass(raised, OSError)
