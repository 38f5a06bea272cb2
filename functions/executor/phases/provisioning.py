"""One sandbox per run: look for it first, since an earlier attempt may have made it and died."""

from collections.abc import Iterator

from functions.executor.jobs import RunFolder
from functions.executor.phases.agent import model_access
from functions.executor.ports import Ports
from functions.executor.scrubbing import StepSecrets
from shared.domain.preferences import AgentPreferences, looks_secret
from shared.domain.run import Advance, Event, Outcome, Phase, Run

MAX_WARNINGS = 10


def step(run: Run, ports: Ports, secrets: StepSecrets) -> Outcome:
    """Find or create the run's sandbox, bring our programs into it, and save its id."""
    preferences, problems = secrets.preferences()
    model_access(run.agent, ports.settings, preferences)  # a run that cannot succeed costs no sandbox
    sandbox_id = ports.sandboxes.find(run.id) or ports.sandboxes.create(run)
    RunFolder(ports.sandboxes.attach(sandbox_id), run.id).install()
    events = tuple(Event("warning", {"text": text}) for text in _warnings(preferences, problems))
    return Advance(phase=Phase.CLONING, changes={"sandbox_id": sandbox_id}, events=events)


def _warnings(preferences: AgentPreferences, problems: tuple[str, ...]) -> Iterator[str]:
    """What the user should know of their own preferences: told once, before the run has cost anything."""
    for problem in problems[:MAX_WARNINGS]:
        yield f"Left out of your preferences: {problem}"
    if more := problems[MAX_WARNINGS:]:
        yield f"Left out of your preferences: {len(more)} more."
    if preferences.model_access and not any(map(looks_secret, preferences.model_access)):
        names = ", ".join(preferences.model_access[:MAX_WARNINGS])
        yield f"Your preferences choose how to reach the model ({names}), so this run gets no key of this deployment."
