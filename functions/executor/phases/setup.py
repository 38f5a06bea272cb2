"""The project's own setup script, run as the agent before the agent starts."""

from functions.executor.jobs import JobSpec, JobState
from functions.executor.phases.bench import WORK_TREE, folder_of
from functions.executor.phases.pace import check_in_s
from functions.executor.ports import Ports
from functions.executor.scrubbing import StepSecrets
from shared.domain.errors import RunFailed
from shared.domain.run import Advance, Event, Outcome, Phase, Run

JOB = "setup"
MAX_EVENT_CHARS = 8000  # of one look's output; a log that scrolls by is of no use in full


def step(run: Run, ports: Ports, _secrets: StepSecrets) -> Outcome:
    """Start the script, or turn its new output into events; when it has ended well, go on to the agent."""
    folder = folder_of(run, ports)
    state = folder.look(JOB, offset=run.output_offset)
    if state.absent:
        state = folder.start(JOB, _script(run, ports), wait_s=1)
    events = _output(state)
    if not state.over:
        return Advance(check_in_s=check_in_s(run, ports), changes={"output_offset": state.offset}, events=events)
    if state.more:
        return Advance(changes={"output_offset": state.offset}, events=events)
    if state.exit_code != 0:
        raise _failure(state, ports)
    return Advance(phase=Phase.AGENT, changes={"output_offset": 0}, events=events)


def _script(run: Run, ports: Ports) -> JobSpec:
    return JobSpec(
        # Not by stdin: a command in it that reads its own input would swallow the rest of the script.
        argv=("bash", "-e", "-o", "pipefail", "-c", run.setup_script or ""),
        user="agent",
        cwd=WORK_TREE,
        timeout_s=ports.settings.setup_timeout_s,
    )


def _output(state: JobState) -> tuple[Event, ...]:
    text = state.chunk.decode(errors="replace")[-MAX_EVENT_CHARS:]
    return (Event("setup_output", {"text": text}),) if text else ()


def _failure(state: JobState, ports: Ports) -> RunFailed:
    if state.ended_by == "timeout":
        text = f"The setup script timed out after {ports.settings.setup_timeout_s} seconds."
        return RunFailed(text, error_code="setup_timeout")
    tail = state.stderr_tail.strip()[-500:]
    ended = "was interrupted" if state.exit_code is None else f"failed with exit code {state.exit_code}"
    return RunFailed(
        f"The setup script {ended}." + (f" {tail}" if tail else ""),
        error_code="setup_failed",
    )
