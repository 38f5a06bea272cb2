"""What prepares the work tree, run as the agent before it starts: the project's script, then the repository's own.

The repository's is `.asynccode/setup.sh` of the commit that was cloned, whatever the work tree has become since. Each
has SETUP_TIMEOUT_S. They get the project's variables, and neither the user's preferences nor anything of ours.
What they leave in the work tree is a part of the result like anything else that differs from the commit there, unless
the repository ignores it.
"""

from functions.executor.agents import Checkout, ReaderState
from functions.executor.context import StepContext
from functions.executor.decisions import RESTARTED
from functions.executor.work.jobs import JobSpec, parsed
from functions.executor.work.setup_scripts import Script, scripts
from functions.executor.work.workspace import CLONE_JOB, WORK_TREE, open_workspace
from sandbox.programs.protocol import CloneReport, JobReport
from shared.domain.errors import RunFailed
from shared.domain.run import Advance, Event, Outcome, Phase, RunChanges

MAX_EVENT_CHARS = 8000  # of one look's output; a log that scrolls by is of no use in full
SCRIPTS_DONE = "setup_scripts_done"  # in the reader's state, which is nobody's before the agent starts


def step(ctx: StepContext) -> Outcome:
    """Start a script, or turn its new output into events; when it has ended well, go on to the next, then the agent."""
    env, _ = ctx.secrets.project_env()
    folder = open_workspace(ctx)
    todo = scripts(ctx.run, parsed(CloneReport, folder.look(CLONE_JOB).chunk))
    done = ctx.run.reader_state.get(SCRIPTS_DONE, 0)
    script = todo[done]
    state = folder.look(script.job, offset=ctx.run.output_offset)
    if state.absent:
        spec = JobSpec(
            # Not by stdin: a command in it that reads its own input would swallow the rest of the script.
            argv=("bash", "-e", "-o", "pipefail", "-c", script.text, script.name),
            secret_env=env,
            user="agent",
            cwd=WORK_TREE,
            timeout_s=ctx.settings.setup_timeout_s,
        )
        state = folder.start(script.job, spec, wait_s=1)
    checkout = ReaderState.from_json(ctx.run.reader_state).checkout
    events = _output(state, checkout)
    if not state.over:
        return Advance(check_in_s=ctx.poll_delay_s, changes={"output_offset": state.offset}, events=events)
    failed = state.exit_code != 0
    if state.more or (failed and events):  # what it said is told before that it failed
        return Advance(changes={"output_offset": state.offset}, events=events)
    if failed:
        raise _failure(ctx, script, state, checkout)
    if done + 1 < len(todo):
        changes: RunChanges = {"output_offset": 0, "reader_state": {**ctx.run.reader_state, SCRIPTS_DONE: done + 1}}
        return Advance(changes=changes, events=events)
    return Advance(phase=Phase.AGENT, changes={"output_offset": 0}, events=events)


def _output(state: JobReport, checkout: Checkout) -> tuple[Event, ...]:
    text = checkout.text(state.chunk.decode(errors="replace"))[-MAX_EVENT_CHARS:]
    return (Event("setup_output", {"text": text}),) if text else ()


def _failure(ctx: StepContext, script: Script, state: JobReport, checkout: Checkout) -> RunFailed:
    if state.ended_by == "timeout":
        text = f"{script.title} timed out after {ctx.settings.setup_timeout_s} seconds."
        return RunFailed(text + _tail(state, checkout), error_code="setup_timeout")
    if state.ended_by == "crash":
        text = f"{script.title} was interrupted: {RESTARTED}. Retry the task."
        return RunFailed(text, error_code="setup_interrupted")
    text = f"{script.title} failed with exit code {state.exit_code}."
    return RunFailed(text + _tail(state, checkout), error_code="setup_failed")


def _tail(state: JobReport, checkout: Checkout) -> str:
    said = checkout.text(state.stderr_tail.strip())[-500:]
    return f" {said}" if said else ""
