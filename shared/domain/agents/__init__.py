"""The agents that can work on a task, and the profile of each. docs/how-to/agent.md says how to add one."""

from collections.abc import Mapping
from enum import StrEnum
from typing import assert_never

from shared.domain.agents import claude, codex
from shared.domain.agents.profile import AgentProfile


# The names stand in requests and in the database; functions/executor/agents has a module of each.
class AgentName(StrEnum):  # no docstring: it would be a text of docs/openapi.json
    CLAUDE = "claude"
    CODEX = "codex"

    @property
    def profile(self) -> AgentProfile:
        return PROFILES[self]


def _profile_of(name: AgentName) -> AgentProfile:
    match name:  # mypy names the agent that is missing here
        case AgentName.CLAUDE:
            return claude.PROFILE
        case AgentName.CODEX:
            return codex.PROFILE
        case _:
            assert_never(name)


PROFILES: Mapping[AgentName, AgentProfile] = {name: _profile_of(name) for name in AgentName}
DEFAULT_AGENT = AgentName.CLAUDE  # where a request or an old task names none
