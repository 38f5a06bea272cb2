"""The agent works, detached. A step looks at it for a second, turns its new output into events, and leaves."""

from datetime import timedelta
from typing import Any

from functions.executor.agents import DRIVERS, AgentFailure, ReaderState
from functions.executor.polling import next_poll_delay_s
from functions.executor.ports import Ports
from functions.executor.step_secrets import StepSecrets
from functions.executor.work import checkpoint, secret_delivery
from functions.executor.work.cost import COST_LIMIT, limit_usd, tell, too_dear, usage_of
from functions.executor.work.job_reports import RESTARTED
from functions.executor.work.jobs import JobSpec, RunFolder
from functions.executor.work.model_access import model_access
from functions.executor.work.workspace import AGENT_JOB, WORK_TREE, open_workspace
from sandbox.programs.protocol import JobReport, UsageLog
from shared.domain.preferences import AgentPreferences
from shared.domain.run import Advance, Event, Outcome, Phase, Run

JOB = AGENT_JOB
CANCELLED = "The task was cancelled."
END_WAIT_S = 2  # an agent that has said its last word ends within it, and the step need not be taken again
DRAIN_LOOKS = 8  # looks in one step at an agent that prints faster than it is read: 2 MB
# What an agent leaves of the time until the deadline, so that its changes are collected by then: afterwards E2B's plan
# may end the sandbox. The next look is at most a minute later, and most collections take seconds.
COLLECTION_RESERVE = timedelta(minutes=2)


def step(run: Run, ports: Ports, secrets: StepSecrets) -> Outcome:
    """Start the agent, or read what it has printed since; when it has ended, go on to collect its changes."""
    preferences, _ = secrets.preferences()
    folder = open_workspace(run, ports)
    state = folder.look(JOB, offset=run.output_offset, usage_log=_usage_log(run))
    if state.absent:
        state = folder.start(JOB, _job(run, ports, secrets, preferences))
    seen = _Seen(run, ports, state)
    seen.drain(folder)
    if not (seen.reader.result or seen.state.over) and too_dear(run, usage_of(seen.reader), ports.settings):
        return stopped(run, ports, secrets)
    if seen.reader.result and not seen.state.over:
        seen.look(folder, wait_s=END_WAIT_S)
    if seen.state.over and not seen.state.more:
        if seen.state.crashed:
            folder.stop(JOB)  # its supervisor died: what it had started may still be at work
        return seen.collect(*_verdict(run, seen, ports))
    if seen.reader.result and ReaderState.from_json(run.reader_state).result:
        # It said its last word before the previous look and still has not gone: some versions hang there.
        folder.stop(JOB)
        return seen.collect(*_verdict(run, seen, ports))
    if seen.state.more:
        return seen.carry_on(0)
    return seen.carry_on(next_poll_delay_s(run, ports), checkpoint.look(run, ports, secrets, folder))


def stopped(run: Run, ports: Ports, secrets: StepSecrets) -> Outcome:
    """Stop the agent, with everything it started, and go on to collect what it has done so far."""
    secrets.preferences()  # so that they are taken out of what it has said
    folder = open_workspace(run, ports)
    folder.stop(JOB)
    seen = _Seen(run, ports, folder.look(JOB, offset=run.output_offset, usage_log=_usage_log(run)))
    seen.drain(folder)
    if seen.state.more:
        return seen.carry_on(0)
    if run.cancel_requested:
        return seen.collect("cancelled", CANCELLED)
    return seen.collect(*_verdict(run, seen, ports))  # it may have ended by itself since the last look


class _Seen:
    """What one step has read of the agent's output."""

    def __init__(self, run: Run, ports: Ports, state: JobReport) -> None:
        self._run = run
        self._now = ports.now
        self._events: list[Event] = []
        self.reader = ReaderState.from_json(run.reader_state)
        self._take(state)

    def drain(self, folder: RunFolder) -> None:
        """Read on while there is more, within bounds: the next step reads the rest."""
        for _ in range(DRAIN_LOOKS):
            if not self.state.more:
                return
            self.look(folder)

    def look(self, folder: RunFolder, *, wait_s: float = 0) -> None:
        """Read on from where the last look ended."""
        self._take(folder.look(JOB, offset=self.state.offset, wait_s=wait_s))

    def carry_on(self, check_in_s: int, looked: checkpoint.Looked | None = None) -> Advance:
        """Look again later. `looked`: what this step has done about a checkpoint."""
        mark, events = looked or checkpoint.Looked()
        changes = self._changes() | ({"checkpoint": dict(mark)} if mark else {})
        return Advance(check_in_s=check_in_s, changes=changes, events=(*self._events, *events))

    def collect(self, error_code: str | None, error: str | None) -> Advance:
        """The agent is done, well or not: its changes are collected in any case."""
        by_itself = self.state.ended_by in {"exit", "signal"}  # else the number only says how we ended it
        exit_code = self.state.exit_code if by_itself else None
        changes = self._changes() | {"exit_code": exit_code, "error_code": error_code, "error": error}
        return Advance(phase=Phase.COLLECTING, changes=changes, events=tuple(self._events))

    def _take(self, state: JobReport) -> None:
        self.state = state
        driver = DRIVERS[self._run.agent]
        if state.usage_line is not None:
            self.reader = driver.read_usage_line(state.usage_line, self.reader)
        events, self.reader = driver.read(state.chunk, self.reader)
        self._events += events

    def _changes(self) -> dict[str, Any]:
        events, self.reader = tell(self.reader, self._now())
        self._events += events
        changes = {
            "output_offset": self.state.offset,
            "reader_state": self.reader.to_json(),
            "agent_session_id": self.reader.session_id or self._run.agent_session_id,
        }
        return changes | {"usage": usage_of(self.reader)} if self.reader.usage or self.reader.result else changes


def _usage_log(run: Run) -> UsageLog | None:
    return DRIVERS[run.agent].usage_log(ReaderState.from_json(run.reader_state))


def _job(run: Run, ports: Ports, secrets: StepSecrets, preferences: AgentPreferences) -> JobSpec:
    settings = ports.settings
    access = model_access(run.agent, settings, preferences)
    command = DRIVERS[run.agent].command(
        model=run.model or access.model,
        base_url=access.base_url,
        max_turns=settings.max_turns,
        max_cost_usd=limit_usd(run, settings),
        resume=run.agent_session_id,
        preferences=preferences,
    )
    key_env, secret_key_env = secret_delivery.model_key(run, access.key, command.secret_env, ports, secrets)
    return JobSpec(
        argv=command.argv,
        env={**command.env, **key_env},
        secret_env={**command.own_env, **secret_key_env},
        home_files=command.home_files,
        stdin=run.prompt,
        user="agent",
        cwd=WORK_TREE,
        timeout_s=_seconds_left(run, ports),
        idle_timeout_s=settings.agent_idle_timeout_s,
    )


def _seconds_left(run: Run, ports: Ports) -> int:
    whole = timedelta(seconds=ports.settings.run_timeout_s)
    if run.deadline_at and run.started_at:
        whole = run.deadline_at - run.started_at
    left = run.deadline_at - ports.now() if run.deadline_at else whole
    return max(1, int((left - min(COLLECTION_RESERVE, whole / 10)).total_seconds()))


def _verdict(run: Run, seen: _Seen, ports: Ports) -> tuple[str | None, str | None]:
    """Why the run fails, as code and sentence; two None when the agent did its work."""
    title = run.agent.profile.short_title
    result = seen.reader.result
    if result is not None and result.ok:
        return None, None
    by_its_own_limit = result is not None and result.error_code == AgentFailure.BUDGET_EXCEEDED
    dear = too_dear(run, usage_of(seen.reader), ports.settings)
    if dear and (by_its_own_limit or seen.state.ended_by == "stop"):
        return COST_LIMIT, dear
    match seen.state.ended_by:
        case "timeout":
            return "timeout", _timed_out(run, ports)
        case "idle":
            idle_s = ports.settings.agent_idle_timeout_s
            return "agent_idle", f"{title} agent was stopped: it printed nothing for {idle_s} seconds."
        case "crash" if result is None:
            again = "Retry the task, or send a follow-up to continue."
            return "agent_interrupted", f"{title} agent was interrupted: {RESTARTED}. {again}"
        case "output_limit":
            return "agent_output_limit", f"{title} agent was stopped: it printed too much."
        case "stop" if result is None and run.seq >= ports.settings.max_steps:
            return "too_many_steps", f"{title} agent was stopped: the task took {run.seq} steps."
        case "stop" if result is None:  # by us, at the deadline
            return "timeout", _timed_out(run, ports)
    if result is not None:
        return result.error_code or "agent_failed", f"{title} agent failed: {result.text or 'Unknown error'}"
    if seen.state.exit_code == 0:
        return "agent_no_result", f"{title} agent failed: it ended without a result."
    reason = seen.reader.checkout.text(seen.state.stderr_tail.strip())[-1000:] or _unsaid(seen.state)
    return "agent_failed", f"{title} agent failed: {reason}"


def _unsaid(state: JobReport) -> str:
    if state.ended_by == "signal" and state.exit_code:
        return f"it was killed by signal {state.exit_code - 128}"
    return "Unknown error"


def _timed_out(run: Run, ports: Ports) -> str:
    ran_for = ports.now() - run.started_at if run.started_at else timedelta()
    return f"{run.agent.profile.short_title} agent timed out after {int(ran_for.total_seconds())} seconds"
