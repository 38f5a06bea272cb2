"""One sandbox per run: look for it first, since an earlier attempt may have made it and died."""

from functions.executor.jobs import RunFolder
from functions.executor.phases.agent import model_access
from functions.executor.ports import Ports
from functions.executor.scrubbing import StepSecrets
from shared.domain.run import Advance, Outcome, Phase, Run


def step(run: Run, ports: Ports, _secrets: StepSecrets) -> Outcome:
    """Find or create the run's sandbox, bring our programs into it, and save its id."""
    model_access(run.agent, ports.settings)  # a run that cannot succeed costs no sandbox
    sandbox_id = ports.sandboxes.find(run.id) or ports.sandboxes.create(run)
    RunFolder(ports.sandboxes.attach(sandbox_id), run.id).install()
    return Advance(phase=Phase.CLONING, changes={"sandbox_id": sandbox_id})
