"""Every fact about an agent, but for how its command is built and its output read (functions/executor/agents).

Names of variables may be patterns of fnmatch where a field says so. Paths are relative to the agent's home.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCloud:
    """A cloud account of a user that serves the model instead of the provider."""

    hosts: tuple[str, ...]  # `{}` is the region or resource
    variables: tuple[str, ...]  # that name the region or resource; the first that is set counts
    default: str  # the region or resource where none is set


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """The agent's program as the embedded stack runs it: a wheel on PyPI, installed without its dependencies."""

    package: str
    version: str
    program: str  # path in the unpacked wheel; helper programs lie where it expects them
    size_mb: int  # of the wheel for Linux x86-64
    model: str | None = None  # to name to the program, where its output does not say which model it takes by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentProfile:
    """One agent. Who needs a fact about an agent reads it here, by `AgentName.profile`."""

    title: str  # in pull requests and on the terminal: "Claude Code: Fix the test"
    short_title: str  # in the sentences of `task.error`: "Claude agent failed: …"

    provider: str  # of its model: the word for CLOUD
    provider_title: str
    base_url: str  # the provider's own, as the program takes it
    key_header: tuple[str, str]  # where the program puts the key: the header, and what stands in it before the key
    program_key_variable: str  # where the program looks for the key
    key_shape: tuple[str, str]  # "an Anthropic key", and a regular expression: a warning names such keys in a diff
    redacted_shape: str  # a regular expression of all such keys: none is stored in an event or a log

    # Variables of this deployment (template.yaml, .env.example). Without a key, only users with their own have runs.
    key_variable: str
    base_url_variable: str
    model_variable: str

    section: str  # of users.preferences
    env: Mapping[str, str] = field(default_factory=dict)  # for every run; users cannot set these
    reserved_variables: Mapping[str, str] = field(default_factory=dict)  # a pattern, and why users cannot set it
    # Patterns of variables by which users bring their own access to the model, also those still to come. With any of
    # them the run does not get the deployment's key, but for those that only choose a model.
    access_variables: tuple[str, ...] = ()
    model_choice_variables: tuple[str, ...] = ()
    credentials_file: str | None = None  # where the `credentials` of the section are written; None: it has none
    other_secret_files: tuple[str, ...] = ()
    # A user's login: patterns of variables, and the hosts that renew it
    login_variables: tuple[str, ...] = ()
    login_hosts: tuple[str, ...] = ()
    user_clouds: Mapping[str, UserCloud] = field(default_factory=dict)  # by the variable that chooses one

    wheel: Wheel

    @property
    def secret_files(self) -> tuple[str, ...]:
        """The files that may hold secrets of the user."""
        credentials = () if self.credentials_file is None else (self.credentials_file,)
        return (*credentials, *self.other_secret_files)
