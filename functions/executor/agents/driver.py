"""What the executor needs of an agent's driver: the command that starts it, and what its output says."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol

from functions.executor.agents.checkout import Checkout
from sandbox.programs.protocol import UsageLog
from shared.domain.preferences import NO_PREFERENCES, AgentPreferences
from shared.domain.run import Event
from shared.domain.secret import Secret


class AgentFailure(StrEnum):
    """Why an agent gave up: the `error_code` of its run."""

    AUTH = "agent_auth"  # the provider refuses the key
    RATE_LIMITED = "agent_rate_limited"
    OVERLOADED = "agent_overloaded"  # the provider's servers are busy or broken
    CREDIT = "agent_credit"  # the account has no money left
    CONTEXT_TOO_LONG = "agent_context_too_long"
    BUDGET_EXCEEDED = "agent_budget_exceeded"  # our own limit of the run's cost
    MAX_TURNS = "agent_max_turns"  # our own limit of the run's length
    FAILED = "agent_failed"  # anything else


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentCommand:
    """A program to start in the repository's folder, with the prompt as its standard input.

    `env` is safe to log. `secret_env` names the variables that hold the deployment's model key, where it is given.
    `own_env` and `home_files` (paths below the home) are the user's own: secrets, all of them.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    secret_env: tuple[str, ...]
    own_env: Mapping[str, Secret] = field(default_factory=dict)
    home_files: Mapping[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentResult:
    """How the agent says it ended. `text` is its last message, or the provider's message about the failure."""

    ok: bool
    text: str
    error_code: str | None = None
    turns: int | None = None  # None: the agent does not count them
    usage: Mapping[str, int] = field(default_factory=dict)  # tokens of this run, by the names in shared/domain/usage.py
    cost_usd: float | None = None  # None: the model's price is not known
    duration_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderState:
    """What must be remembered between two looks at an agent's output; `to_json` makes plain JSON of it."""

    workdir: str = ""  # the checkout, so that events can name its files as the repository does
    real_workdir: str = ""  # the same without symbolic links, where there are any on the way
    model: str | None = None
    cli_version: str | None = None
    session_id: str | None = None
    last_text: str = ""
    last_error: str = ""  # what the agent said went wrong, while it has not ended yet
    open_tools: tuple[str, ...] = ()  # ids that were announced and have no result yet
    result: AgentResult | None = None  # set: the agent is done, even where its process hangs on
    usage: Mapping[str, int] = field(default_factory=dict)  # tokens of this run so far
    cost_usd: float | None = 0.0  # what they cost; None as soon as a model's price is not known
    counted: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # tokens of the last messages, by id
    last_reported: Mapping[str, float] = field(
        default_factory=dict
    )  # of `usage` and `cost_usd`, in the last event; see spending.py
    totals: Mapping[str, float] = field(default_factory=dict)  # numbers the agent counts over a whole session
    totals_before: Mapping[str, float] = field(default_factory=dict)  # the same at the start of this run
    unfinished_line: str = ""  # base64: a half line may end inside a character
    skipping_line: bool = False  # the rest of an over-long line is still to come
    warnings: int = 0  # warnings given about unreadable lines

    @classmethod
    def start(
        cls,
        *,
        workdir: str,
        real_workdir: str = "",
        model: str | None = None,
        previous: "ReaderState | None" = None,
    ) -> "ReaderState":
        """The state before a run's first output. `previous` is the last state of the run it resumes."""
        totals = (previous.totals or previous.totals_before) if previous else {}
        return cls(workdir=workdir, real_workdir=real_workdir, model=model, totals_before=totals)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "ReaderState":
        """The state that `to_json` gave. It may lack fields, and have some that no longer exist."""
        known = {each.name: stored[each.name] for each in fields(cls) if each.name in stored}
        if known.get("result"):
            known["result"] = AgentResult(**known["result"])
        return cls(**known | {"open_tools": tuple(known.get("open_tools", ()))})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def checkout(self) -> Checkout:
        """Where the agent works."""
        return _checkout(self.workdir, self.real_workdir)

    def spent(self, tokens: Mapping[str, int], cost_usd: float | None) -> "ReaderState":
        """The state with these tokens added to those of the run."""
        usage = {name: self.usage.get(name, 0) + count for name, count in tokens.items()}
        if self.cost_usd is None or cost_usd is None:
            return replace(self, usage=usage, cost_usd=None)
        return replace(self, usage=usage, cost_usd=round(self.cost_usd + cost_usd, 6))

    def ended(self, result: AgentResult) -> "tuple[list[Event], ReaderState]":
        """The event and the state of an agent that has ended; its own count of tokens and cost replaces ours."""
        ended = replace(self, result=result, usage=result.usage, cost_usd=result.cost_usd)
        return [Event("result", asdict(result))], ended


@lru_cache(maxsize=16)  # each line needs it, and it compiles a pattern
def _checkout(workdir: str, real_workdir: str) -> Checkout:
    return Checkout.at(workdir, real_workdir)


class AgentDriver(Protocol):
    """How one agent's program is started, and what its output means. Its module has it as `DRIVER`."""

    def command(
        self,
        *,
        model: str | None = None,
        base_url: str | None = None,
        max_turns: int | None = None,
        max_cost_usd: float | None = None,
        resume: str | None = None,
        preferences: AgentPreferences = NO_PREFERENCES,
    ) -> AgentCommand:
        """How to start it. None leaves the choice to the program; `resume` is the `session_id` to continue.

        There must be no `base_url` where `preferences` bring access to a model.
        """
        ...

    def read(self, chunk: bytes, state: ReaderState) -> tuple[list[Event], ReaderState]:
        """The events in the next bytes of its standard output. Never raises, whatever they are."""
        ...

    def usage_log(self, state: ReaderState) -> UsageLog | None:
        """Where its program counts tokens while it works; None where its output does."""
        ...

    def read_usage_line(self, line: str, state: ReaderState) -> ReaderState:
        """The state with the tokens of this line of the usage log. Never raises, whatever the line is."""
        ...
