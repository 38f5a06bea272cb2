"""The phases of a run: for each, what one step does."""

from collections.abc import Callable

from functions.executor.phases import agent, cloning, collecting, provisioning, setup
from functions.executor.ports import Ports
from functions.executor.step_secrets import StepSecrets
from shared.domain.run import Outcome, Phase, Run

PHASES: dict[Phase, Callable[[Run, Ports, StepSecrets], Outcome]] = {
    Phase.PROVISIONING: provisioning.step,
    Phase.CLONING: cloning.step,
    Phase.SETUP: setup.step,
    Phase.AGENT: agent.step,
    Phase.COLLECTING: collecting.step,
}
