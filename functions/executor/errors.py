"""How a sandbox fails a run."""

from shared.domain.errors import AppError, RunFailed


class SandboxGone(RunFailed):
    """The sandbox has been killed or has expired: what was only in it is lost. Never raised for one out of reach."""

    def __init__(self, **context: object) -> None:
        super().__init__(
            "The sandbox was lost before the task could finish. Start the task again.",
            error_code="sandbox_lost",
            **context,
        )


class CommandFailed(AppError):
    """One of our own programs in the sandbox exited non-zero: it was killed where memory is short, for instance."""

    code = "sandbox_command_failed"
    retryable = True

    def __init__(self, exit_code: int, stderr: str) -> None:
        super().__init__("A program in the sandbox failed.", exit_code=exit_code, stderr=stderr[-2000:])


class InjectionUnavailable(AppError):
    """The E2B team lacks secrets, or rules that put them into requests: hand over as files instead."""

    code = "injection_unavailable"

    def __init__(self, reason: str) -> None:
        super().__init__("E2B does not offer egress injection to this team.", reason=reason)
