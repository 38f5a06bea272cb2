"""The agents' drivers: pure code that knows how each program is started and what its output means.

The driver of an agent is `DRIVER` in the module of its name, so that no second list of agents has to be kept.
"""

from collections.abc import Mapping
from importlib import import_module

from functions.executor.agents.checkout import Checkout
from functions.executor.agents.driver import (
    AgentCommand,
    AgentDriver,
    AgentFailure,
    AgentResult,
    ReaderState,
)
from shared.domain.agents import AgentName


def _driver_of(name: AgentName) -> AgentDriver:
    driver: AgentDriver = import_module(f"{__name__}.{name}").DRIVER
    return driver


DRIVERS: Mapping[AgentName, AgentDriver] = {name: _driver_of(name) for name in AgentName}

__all__ = [
    "DRIVERS",
    "AgentCommand",
    "AgentDriver",
    "AgentFailure",
    "AgentResult",
    "Checkout",
    "ReaderState",
]
