"""The phases of a run: for each, what one step does. No phase knows another."""

from collections.abc import Callable

from functions.executor.context import StepContext
from functions.executor.phases import agent, cloning, collecting, provisioning, setup
from shared.domain.run import Outcome, Phase

PHASES: dict[Phase, Callable[[StepContext], Outcome]] = {
    Phase.PROVISIONING: provisioning.step,
    Phase.CLONING: cloning.step,
    Phase.SETUP: setup.step,
    Phase.AGENT: agent.step,
    Phase.COLLECTING: collecting.step,
}
