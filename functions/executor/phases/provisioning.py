"""One sandbox per task: the one that was kept of the run before, or a new one.

A new one is looked for first, since an earlier attempt may have made it and died.
"""

from collections.abc import Iterator

from functions.executor.agents import ReaderState
from functions.executor.context import StepContext
from functions.executor.decisions import may_resume
from functions.executor.errors import SandboxGone
from functions.executor.work import closing
from functions.executor.work.jobs import RunFolder
from functions.executor.work.model_access import model_access
from functions.executor.work.secret_delivery import network_of
from shared.domain.errors import RunFailed
from shared.domain.network import SandboxNetwork
from shared.domain.preferences import AgentPreferences, looks_secret
from shared.domain.run import Advance, Event, Outcome, Phase, RunChanges
from shared.observability import get_logger

logger = get_logger("executor")

MAX_WARNINGS = 10


def step(ctx: StepContext) -> Outcome:
    """Resume the sandbox that was kept, or find or create one; bring our programs into it, close it, save its id."""
    preferences, problems = ctx.secrets.preferences()
    # First of all: a run that cannot succeed costs no sandbox.
    model = model_access(ctx.run.agent, ctx.settings, preferences).model
    network = network_of(ctx)
    unsound = (*ctx.secrets.project_env()[1], *ctx.secrets.project_network()[1])
    warnings = (
        *_left_out("your preferences", problems),
        *_left_out("the project's settings", unsound),
        *_own_access(preferences),
    )
    events = tuple(Event("warning", {"text": text}) for text in warnings)
    if _resumed(ctx, network):
        before = ReaderState.from_json(ctx.run.reader_state)
        reader = ReaderState.start(
            workdir=before.workdir, real_workdir=before.real_workdir, model=ctx.run.model or model, previous=before
        )
        return Advance(phase=Phase.AGENT, changes={"reader_state": reader.to_json()}, events=events)
    sandbox_id = ctx.ports.sandboxes.find(ctx.run.id) or ctx.ports.sandboxes.create(ctx.run, network)
    _prepare(ctx, sandbox_id)
    changes: RunChanges = {"sandbox_id": sandbox_id, "agent_session_id": None, "reader_state": {}}
    return Advance(phase=Phase.CLONING, changes=changes, events=events)


def _prepare(ctx: StepContext, sandbox_id: str) -> None:
    """Bring our programs into the new sandbox and close it. One that cannot be closed is killed: raises RunFailed."""
    folder = RunFolder(ctx.ports.sandboxes.attach(sandbox_id), ctx.run.id)
    folder.install()
    try:
        closing.close(folder)
    except RunFailed:
        ctx.ports.sandboxes.kill(sandbox_id)
        raise


def _resumed(ctx: StepContext, network: SandboxNetwork) -> bool:
    """Whether the run goes on in the sandbox that was handed down to it; one that is of no use is killed."""
    if ctx.run.sandbox_id is None:
        return False
    if may_resume(ctx.run):
        try:
            folder = RunFolder(ctx.ports.sandboxes.attach(ctx.run.sandbox_id), ctx.run.id)
            folder.install()
            if closing.is_still_closed(folder):
                ctx.ports.sandboxes.set_network(ctx.run.sandbox_id, network)
                return True
        except SandboxGone:
            return False
        except RunFailed as error:
            if error.error_code != "sandbox_full":
                raise
            logger.warning("sandbox.too_full_to_resume", extra=error.for_log())
    ctx.ports.sandboxes.kill(ctx.run.sandbox_id)
    return False


def _left_out(of: str, problems: tuple[str, ...]) -> Iterator[str]:
    """What the user should know of their own wishes: told once, before the run has cost anything."""
    for problem in problems[:MAX_WARNINGS]:
        yield f"Left out of {of}: {problem}"
    if more := problems[MAX_WARNINGS:]:
        yield f"Left out of {of}: {len(more)} more."


def _own_access(preferences: AgentPreferences) -> Iterator[str]:
    """The same of an access to the model that may be meant, and may be a mistake."""
    if preferences.model_access and not any(map(looks_secret, preferences.model_access)):
        names = ", ".join(preferences.model_access[:MAX_WARNINGS])
        yield f"You choose how to reach the model yourself ({names}), so this run gets no key of this deployment."
