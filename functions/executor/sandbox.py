"""Sandboxes at E2B. The only module that imports e2b."""

import errno
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from e2b import Sandbox, SandboxQuery
from e2b.exceptions import (
    AuthenticationException,
    FileNotFoundException,
    InvalidArgumentException,
    NotEnoughSpaceException,
    SandboxException,
    SandboxNotFoundException,
    TemplateException,
)
from e2b.sandbox.commands.command_handle import CommandExitException
from e2b.sandbox.filesystem.filesystem import WriteEntry

from functions.executor.errors import CommandFailed, SandboxGone
from functions.executor.ports import SandboxInfo
from shared.domain.errors import AppError, RunFailed, Unavailable
from shared.domain.run import Run
from shared.domain.secret import Secret

APP = "async-code"
REQUEST_TIMEOUT_S = 20  # the control plane answers in well under a second; a step has 120 s in all
FILE_TIMEOUT_S = 60  # a result of 50 MB over a slow line
USER = "root"
DISK_FULL = os.strerror(errno.ENOSPC)  # in the last words of a program of ours: another attempt would not help


class E2BSandboxes:
    """The sandboxes of one deployment: `deployment` keeps two that share an E2B team apart, for the reaper above all.

    `lease_s`: how long a sandbox lives after the last look at it. Then it pauses, and a late step resumes it.
    """

    def __init__(self, *, api_key: Secret, template: str, deployment: str, lease_s: int) -> None:
        self._api_key = api_key
        self._template = template
        self._deployment = deployment
        self._lease_s = lease_s

    def find(self, run_id: str) -> str | None:
        """The id of the run's sandbox, running or paused."""
        return next((found.id for found in self._list({"run_id": run_id})), None)

    def create(self, run: Run) -> str:
        """A new sandbox for the run. Repeating the call for the same run gives the same sandbox."""
        with _speaking_our_errors(creating=True):
            sandbox = Sandbox.create(
                template=self._template,
                timeout=self._lease_s,
                metadata=self._ours({"run_id": run.id, "task_id": str(run.task_id), "user_id": run.user_id}),
                lifecycle={"on_timeout": "pause", "auto_resume": False},
                network={"allow_public_traffic": False},
                idempotency_key=run.id,
                api_key=self._api_key.reveal(),
                request_timeout=REQUEST_TIMEOUT_S,
            )
        return sandbox.sandbox_id

    def attach(self, sandbox_id: str) -> "E2BWorkbench":
        """The running sandbox, with at least `lease_s` to live; a paused one is resumed."""
        with _speaking_our_errors():
            sandbox = Sandbox.connect(
                sandbox_id,
                timeout=self._lease_s,
                api_key=self._api_key.reveal(),
                request_timeout=REQUEST_TIMEOUT_S,
            )
        return E2BWorkbench(sandbox)

    def kill(self, sandbox_id: str) -> None:
        """End it; it may be gone already."""
        with _speaking_our_errors():
            Sandbox.kill(sandbox_id, api_key=self._api_key.reveal(), request_timeout=REQUEST_TIMEOUT_S)

    def pause(self, sandbox_id: str) -> None:
        """Let it stand still, all it holds kept, until somebody attaches or kills it. It may be paused already."""
        with _speaking_our_errors():
            Sandbox.pause(sandbox_id, api_key=self._api_key.reveal(), request_timeout=REQUEST_TIMEOUT_S)

    def list_ours(self) -> Iterator[SandboxInfo]:
        """Every sandbox of this deployment, running or paused."""
        return self._list({})

    def _ours(self, metadata: Mapping[str, str]) -> dict[str, str]:
        return {"app": APP, "deployment": self._deployment, **metadata}

    def _list(self, metadata: Mapping[str, str]) -> Iterator[SandboxInfo]:
        with _speaking_our_errors():
            pages = Sandbox.list(
                SandboxQuery(metadata=self._ours(metadata)),
                api_key=self._api_key.reveal(),
                request_timeout=REQUEST_TIMEOUT_S,
            )
            while pages.has_next:
                for info in pages.next_items():
                    yield SandboxInfo(
                        id=info.sandbox_id, run_id=info.metadata.get("run_id", ""), started_at=info.started_at
                    )


class E2BWorkbench:
    """One running sandbox. Each command has a finite timeout: the SDK's streams have none of their own."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox

    def upload(self, files: Mapping[str, bytes]) -> None:
        """Write files as root; folders are made. Contents do not pass through envd's logs, as arguments would."""
        entries = [WriteEntry(path=path, data=data) for path, data in files.items()]
        with _speaking_our_errors():
            self._sandbox.files.write_files(entries, user=USER, request_timeout=FILE_TIMEOUT_S)

    def read(self, path: str) -> bytes:
        """The file's bytes. Raises RunFailed when there is none."""
        with _speaking_our_errors():
            return bytes(self._sandbox.files.read(path, format="bytes", user=USER, request_timeout=FILE_TIMEOUT_S))

    def run(self, argv: list[str], *, timeout_s: int) -> str:
        """What the program printed. Raises CommandFailed when it exits non-zero. No secret may be in `argv`."""
        try:
            with _speaking_our_errors():
                return self._sandbox.commands.run(shlex.join(argv), user=USER, timeout=timeout_s).stdout
        except CommandExitException as error:
            if DISK_FULL in error.stderr:
                raise _full() from error
            raise CommandFailed(error.exit_code, error.stderr) from error


@contextmanager
def _speaking_our_errors(*, creating: bool = False) -> Iterator[None]:
    """What the SDK raises, sorted by what a step can do about it: nothing, fail the run, or try again later.

    Only the control plane knows that a sandbox is gone. The proxy before it says "not running" of a paused one too;
    the next step attaches again and will hear. Everything that may pass is Unavailable, also what the SDK did not
    foresee (it lets plain Exceptions out): the step's attempts are bounded.
    """
    try:
        yield
    except (CommandExitException, AppError):
        raise
    except SandboxNotFoundException as error:
        raise SandboxGone(reason=str(error)) from error
    except FileNotFoundException as error:
        raise RunFailed("A file is missing in the sandbox.", error_code="sandbox_file_missing") from error
    except NotEnoughSpaceException as error:
        raise _full() from error
    except AuthenticationException as error:
        raise RunFailed(
            "Invalid E2B API key. Please check your E2B_API_KEY environment variable.", error_code="sandbox_auth"
        ) from error
    except (InvalidArgumentException, TemplateException) as error:
        raise _refused(str(error), creating=creating) from error
    except SandboxException as error:
        if creating and (error.status_code or 0) < 500 and error.status_code not in {None, 408, 409, 429}:
            raise _refused(str(error), creating=creating) from error
        raise Unavailable("The sandbox does not answer now.", reason=str(error)) from error
    except Exception as error:
        raise Unavailable("The sandbox service does not answer now.", reason=type(error).__name__) from error


def _full() -> RunFailed:
    return RunFailed("The disk of the sandbox is full.", error_code="sandbox_full")


def _refused(reason: str, *, creating: bool) -> RunFailed:
    lowered = reason.lower()
    if "quota" in lowered:
        return RunFailed(
            "E2B sandbox quota exceeded. Please check your E2B account limits.", error_code="sandbox_quota"
        )
    if "api key" in lowered:
        return RunFailed(
            "Invalid E2B API key. Please check your E2B_API_KEY environment variable.", error_code="sandbox_auth"
        )
    failure = "Failed to create E2B sandbox" if creating else "The E2B sandbox refused a request"
    return RunFailed(f"{failure}: {reason}", error_code="sandbox_refused")
