"""The agents: pure code that knows how each is started and what its output means."""

from functions.executor.agents.agent import (
    Agent,
    AgentCommand,
    AgentFailure,
    AgentResult,
    ReaderState,
)
from functions.executor.agents.checkout import Checkout
from functions.executor.agents.claude import Claude
from functions.executor.agents.codex import Codex
from shared.domain.run import AgentName

AGENTS: dict[AgentName, Agent] = {AgentName.CLAUDE: Claude(), AgentName.CODEX: Codex()}

__all__ = ["AGENTS", "Agent", "AgentCommand", "AgentFailure", "AgentResult", "Checkout", "ReaderState"]
