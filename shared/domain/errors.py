"""Expected failures. Each has a sentence that is safe to show and a stable code that a program can act on."""

from collections.abc import Mapping
from typing import ClassVar


class AppError(Exception):
    """An expected failure. `str(error)` is safe to show, and so is `shown`; `context` is for logs only.

    `code` makes the kind's own code more precise; `shown` are further facts for the caller, such as a limit.
    """

    code: str = "internal"
    retryable: ClassVar[bool] = False  # True when the same request can succeed later

    def __init__(
        self, message: str, *, code: str | None = None, shown: Mapping[str, object] | None = None, **context: object
    ) -> None:
        super().__init__(message)
        self.code = code or type(self).code
        self.shown = dict(shown or {})
        self.context = context

    def for_log(self) -> dict[str, object]:
        return {"code": self.code, "retryable": self.retryable, "context": self.context}


class InvalidInput(AppError):
    """The request is invalid; nothing was changed."""

    code = "invalid_input"


class NotAuthenticated(AppError):
    """The caller is not authenticated."""

    code = "not_authenticated"


class Forbidden(AppError):
    """The caller may not do this."""

    code = "forbidden"


class NotFound(AppError):
    """The resource does not exist or belongs to another user: the two look the same."""

    code = "not_found"


class Conflict(AppError):
    """The resource has changed, or its state does not allow this."""

    code = "conflict"


class TooMany(AppError):
    """A limit is reached; the same request may be accepted after `retry_after_s` seconds."""

    code = "too_many"
    retryable = True

    def __init__(
        self,
        message: str,
        *,
        retry_after_s: int = 30,
        code: str | None = None,
        shown: Mapping[str, object] | None = None,
        **context: object,
    ) -> None:
        super().__init__(message, code=code, shown=shown, **context)
        self.retry_after_s = retry_after_s


class Unavailable(AppError):
    """A required service is not responding."""

    code = "unavailable"
    retryable = True


class Misconfigured(AppError):
    """The deployment lacks something that only its operator can fix."""

    code = "misconfigured"


class IllegalTransition(Conflict):
    """The state machine of tasks or runs does not allow this transition."""

    code = "illegal_transition"


class CannotOpen(AppError):
    """A sealed value was sealed for another owner, or by an unknown key."""

    code = "cannot_open"


class RunFailed(AppError):
    """A run that can no longer succeed. `error_code` is stored with it, `str(error)` is shown to its owner."""

    code = "run_failed"

    def __init__(self, message: str, *, error_code: str, **context: object) -> None:
        super().__init__(message)
        self.context = context
        self.error_code = error_code
