"""What the e2b library raises, as something a step can act on."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from e2b.exceptions import (
    AuthenticationException,
    FileNotFoundException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    SandboxException,
    SandboxNotFoundException,
    SecretException,
    TemplateException,
)
from e2b.sandbox.commands.command_handle import CommandExitException

from functions.executor.errors import SandboxGone, disk_full, says_disk_full
from shared.domain.errors import AppError, RunFailed, Unavailable

MAY_PASS = frozenset({None, 408, 409, 429})


@contextmanager
def speaking_our_errors(*, creating: bool = False, refusal: Callable[[str], AppError] | None = None) -> Iterator[None]:
    """What the SDK raises, sorted by what a step can do about it: nothing, fail the run, or try again later.

    Only the control plane knows that a sandbox is gone. The proxy before it says "not running" of a paused one too;
    the next step attaches again and will hear. Everything that may pass is Unavailable, also what the SDK did not
    foresee (it lets plain Exceptions out): the step's attempts are bounded. Where a refusal by the control plane is
    final, it becomes what `refusal` makes of its words.
    """
    if creating:
        refusal = _not_created
    try:
        yield
    except (CommandExitException, AppError):
        raise
    except SandboxNotFoundException as error:
        raise SandboxGone(reason=str(error)) from error
    except FileNotFoundException as error:
        raise RunFailed("A file is missing in the sandbox.", error_code="sandbox_file_missing") from error
    except NotEnoughSpaceException as error:
        raise disk_full() from error
    except AuthenticationException as error:
        raise RunFailed(
            "Invalid E2B API key. Please check your E2B_API_KEY environment variable.", error_code="sandbox_auth"
        ) from error
    except (InvalidArgumentException, TemplateException) as error:
        raise (refusal or refused)(str(error)) from error
    except (SandboxException, SecretException) as error:
        if refusal and is_final(status_of(error)):
            raise refusal(str(error)) from error
        raise Unavailable("The sandbox is not responding.", reason=str(error)) from error
    except Exception as error:
        raise Unavailable("The sandbox service is not responding.", reason=type(error).__name__) from error


@contextmanager
def speaking_of_a_sandbox() -> Iterator[None]:
    """The same for what envd answers. A full disk is known by its words: it is 507 for a file, 500 for its folder."""
    with speaking_our_errors():
        try:
            yield
        except CommandExitException:
            raise
        except SandboxException as error:
            if says_disk_full(str(error)):
                raise disk_full() from error
            raise


def status_of(error: SandboxException | SecretException) -> int | None:
    """The HTTP status; the SDK gives a secret's only as the first word of its message."""
    if isinstance(error, SandboxException):
        return error.status_code
    status = re.match(r"(\d{3}):", str(error))
    return int(status[1]) if status else None


def is_final(status: int | None) -> bool:
    """Whether the same request would be refused again."""
    return status not in MAY_PASS and (status or 0) < 500


def refused(reason: str, *, failure: str = "The E2B sandbox refused a request") -> RunFailed:
    """E2B does not want what was asked of it; `reason` are its words."""
    lowered = reason.lower()
    if "quota" in lowered:
        return RunFailed(
            "E2B sandbox quota exceeded. Please check your E2B account limits.", error_code="sandbox_quota"
        )
    if "api key" in lowered:
        return RunFailed(
            "Invalid E2B API key. Please check your E2B_API_KEY environment variable.", error_code="sandbox_auth"
        )
    return RunFailed(f"{failure}: {reason}", error_code="sandbox_refused")


def _not_created(reason: str) -> RunFailed:
    return refused(reason, failure="Failed to create E2B sandbox")
