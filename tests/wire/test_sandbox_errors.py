"""Whatever the e2b library raises becomes something a step can act on: gone, failed for good, or try again."""

import httpx
import pytest
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from e2b import exceptions
from e2b.envd.api import format_envd_api_exception
from e2b.envd.rpc import handle_rpc_exception
from e2b.sandbox.commands.command_handle import CommandExitException

from functions.executor.e2b.errors import refused, speaking_of_a_sandbox, speaking_our_errors
from functions.executor.errors import InjectionUnavailable, SandboxGone
from shared.domain.errors import AppError, RunFailed, Unavailable

WRONG_KEY = "Invalid E2B API key. Please check your E2B_API_KEY environment variable."
QUOTA = "E2B sandbox quota exceeded. Please check your E2B account limits."

GONE, LATER = "sandbox_lost", "later"
# What becomes of each class while a sandbox is used: an error_code of the run, or a later attempt.
WHILE_USED = {
    "AuthenticationException": "sandbox_auth",
    "BuildException": LATER,
    "FileNotFoundException": "sandbox_file_missing",
    "FileUploadException": LATER,
    "GitAuthException": "sandbox_auth",
    "GitUpstreamException": LATER,
    "GuestUnresponsiveException": LATER,
    "InvalidArgumentException": "sandbox_refused",
    "NotEnoughSpaceException": "sandbox_full",
    "NotFoundException": LATER,
    "RateLimitException": LATER,
    "SandboxException": LATER,
    "SandboxNotFoundException": GONE,
    "SandboxNotRunningException": LATER,  # also said of a paused one: the next attach knows
    "SandboxUnreachableException": LATER,
    "SecretException": LATER,
    "SecretNotFoundException": LATER,
    "ServiceBusyException": LATER,
    "TemplateException": "sandbox_refused",
    "TimeoutException": LATER,
    "VolumeException": LATER,
    "VolumeNotFoundException": LATER,
    "VolumePathNotFoundException": LATER,
}
CLASSES = {
    name: each
    for name, each in vars(exceptions).items()
    if isinstance(each, type) and issubclass(each, BaseException) and each.__module__ == exceptions.__name__
}


def spoken(error, **how):
    """What comes out when `error` is raised inside; it must be one of ours, and say where it came from."""
    with pytest.raises(AppError) as raised, speaking_our_errors(**how):
        raise error
    assert raised.value.__cause__ is error
    return raised.value


def what_becomes_of(error, **how):
    ours = spoken(error, **how)
    assert ours.retryable is isinstance(ours, Unavailable)
    return LATER if isinstance(ours, Unavailable) else ours.error_code


def test_every_class_of_this_version_of_the_library_has_been_thought_of():
    assert set(CLASSES) == set(WHILE_USED)


@pytest.mark.parametrize("name", WHILE_USED)
def test_each_class_becomes_what_a_step_can_act_on(name):
    assert what_becomes_of(CLASSES[name]("boom")) == WHILE_USED[name]


def test_only_a_sandbox_the_control_plane_does_not_know_is_gone():
    gone = {name for name in CLASSES if isinstance(spoken(CLASSES[name]("boom")), SandboxGone)}

    assert gone == {"SandboxNotFoundException"}


@pytest.mark.parametrize(
    "error",
    [
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut off"),
        ConnectError(Code.INTERNAL, "broken"),
        ConnectionResetError("reset"),
        TimeoutError("slow"),
        Exception("Body of the request is None"),
        ValueError("not JSON"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_the_library_lets_through_is_tried_again(error):
    assert what_becomes_of(error) == LATER
    assert what_becomes_of(error, creating=True) == LATER


@pytest.mark.parametrize(
    ("status", "becomes"),
    [
        (None, LATER),
        (400, "sandbox_refused"),
        (402, "sandbox_refused"),
        (403, "sandbox_refused"),
        (404, "sandbox_refused"),  # no such template
        (408, LATER),
        (409, LATER),
        (429, LATER),
        (500, LATER),
        (502, LATER),
        (504, LATER),
    ],
)
def test_a_refusal_to_create_is_final_where_the_status_says_so(status, becomes):
    error = exceptions.SandboxException("no", status_code=status)

    assert what_becomes_of(error, creating=True) == becomes


@pytest.mark.parametrize("status", [400, 403, 404, 409, 429, 500])
def test_the_same_status_from_a_sandbox_in_use_is_tried_again(status):
    assert what_becomes_of(exceptions.SandboxException("no", status_code=status)) == LATER


NO_FOLDER = "error ensuring directories: failed to create directory: mkdir /root/runs/1: no space left on device"


@pytest.mark.parametrize(
    ("error", "becomes"),
    [
        (format_envd_api_exception(507, "not enough disk space available"), "sandbox_full"),
        (format_envd_api_exception(500, NO_FOLDER), "sandbox_full"),
        (format_envd_api_exception(500, "error opening file: open /root/x: no space left on device"), "sandbox_full"),
        (format_envd_api_exception(500, "error opening file: open /root/x: disk quota exceeded"), "sandbox_full"),
        (format_envd_api_exception(500, "error opening file: input/output error"), LATER),
        (handle_rpc_exception(ConnectError(Code.INTERNAL, "rename /a /b: no space left on device")), "sandbox_full"),
        (handle_rpc_exception(ConnectError(Code.INVALID_ARGUMENT, "mkdir: No space left on device")), "sandbox_full"),
        (handle_rpc_exception(ConnectError(Code.UNAVAILABLE, "the connection ended")), LATER),
    ],
)
def test_a_full_disk_is_known_by_what_envd_says_whatever_the_status(error, becomes):
    with pytest.raises(AppError) as raised, speaking_of_a_sandbox():
        raise error

    ours = raised.value
    assert (LATER if isinstance(ours, Unavailable) else ours.error_code) == becomes


def test_a_full_disk_of_the_service_itself_is_no_full_sandbox():
    assert what_becomes_of(exceptions.SandboxException("500: no space left on device", status_code=500)) == LATER


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (exceptions.SandboxException("403: Quota reached", status_code=403), "sandbox_quota", QUOTA),
        (exceptions.InvalidArgumentException("Your API key is odd"), "sandbox_auth", WRONG_KEY),
        (exceptions.AuthenticationException("401"), "sandbox_auth", WRONG_KEY),
        (
            exceptions.SandboxException("404: template not found", status_code=404),
            "sandbox_refused",
            "Failed to create E2B sandbox: 404: template not found",
        ),
    ],
)
def test_refusals_are_told_in_the_words_of_the_contract(error, code, text):
    ours = spoken(error, creating=True)

    assert isinstance(ours, RunFailed)
    assert (ours.error_code, str(ours)) == (code, text)


def test_a_refusal_of_a_sandbox_in_use_does_not_claim_that_it_could_not_be_created():
    ours = spoken(exceptions.InvalidArgumentException("Max instance length exceeded"))

    assert str(ours) == "The E2B sandbox refused a request: Max instance length exceeded"


@pytest.mark.parametrize(
    ("message", "becomes"),
    [
        ("403: Secrets are not available for your team.", "injection_unavailable"),
        ("400: No more secrets", "injection_unavailable"),
        ("404: not found", "injection_unavailable"),
        ("501: b''", LATER),
        ("409: A secret of this name exists", LATER),
        ("500: oops", LATER),
        ("Secret run-1-git not found", LATER),  # it was destroyed in between
    ],
)
def test_a_secret_that_is_refused_for_good_is_handed_over_in_the_other_way(message, becomes):
    ours = spoken(exceptions.SecretException(message), refusal=InjectionUnavailable)

    assert (LATER if isinstance(ours, Unavailable) else ours.code) == becomes


@pytest.mark.parametrize(
    ("status", "becomes"),
    [(400, InjectionUnavailable), (403, InjectionUnavailable), (429, Unavailable), (500, Unavailable)],
)
def test_rules_that_are_refused_for_good_likewise(status, becomes):
    error = exceptions.SandboxException(f"{status}: not available for your team", status_code=status)

    assert isinstance(spoken(error, refusal=InjectionUnavailable), becomes)


def test_a_network_that_is_refused_for_good_fails_the_run():
    ours = spoken(exceptions.SandboxException("400: invalid allowed address", status_code=400), refusal=refused)

    assert (ours.error_code, str(ours)) == (
        "sandbox_refused",
        "The E2B sandbox refused a request: 400: invalid allowed address",
    )


def test_a_command_that_exits_non_zero_and_our_own_errors_pass_untouched():
    for error in (CommandExitException("", "", 3, None), Unavailable("later"), SandboxGone()):
        with pytest.raises(type(error)) as raised, speaking_our_errors():
            raise error
        assert raised.value is error


def test_the_end_of_the_process_is_nobodys_to_catch():
    for error in (KeyboardInterrupt(), SystemExit()):
        with pytest.raises(type(error)), speaking_our_errors():
            raise error
