"""The agent works, detached. A step looks at it for a second, turns its new output into events, and leaves."""

from datetime import timedelta

from functions.executor.agents import DRIVERS, ReaderState
from functions.executor.context import StepContext
from functions.executor.decisions import CANCELLED, Reason, agent_time_s, agent_verdict
from functions.executor.work import checkpoint, secret_delivery
from functions.executor.work.cost import limit_usd, over_budget_reason, usage_event_if_due, usage_of
from functions.executor.work.jobs import JobSpec, RunFolder
from functions.executor.work.model_access import model_access
from functions.executor.work.workspace import AGENT_JOB, WORK_TREE, open_workspace
from sandbox.programs.protocol import JobReport, UsageLog
from shared.domain.run import Advance, Event, Outcome, Phase, Run, RunChanges

JOB = AGENT_JOB
END_WAIT_S = 2  # an agent that has said its last word ends within it, and the step need not be taken again
DRAIN_LOOKS = 8  # looks in one step at an agent that prints faster than it is read: 2 MB


def step(ctx: StepContext) -> Outcome:
    """Start the agent, or read what it has printed since; when it has ended, go on to collect its changes."""
    folder = open_workspace(ctx)
    state = folder.look(JOB, offset=ctx.run.output_offset, usage_log=_usage_log(ctx.run))
    if state.absent:
        state = folder.start(JOB, _job(ctx))
    seen = _AgentOutput(ctx, state)
    seen.drain(folder)
    if not (seen.reader.result or seen.state.over) and over_budget_reason(ctx.run, usage_of(seen.reader), ctx.settings):
        return stopped(ctx)
    if seen.reader.result and not seen.state.over:
        seen.look(folder, wait_s=END_WAIT_S)
    if seen.state.over and not seen.state.more:
        if seen.state.crashed:
            folder.stop(JOB)  # its supervisor died: what it had started may still be at work
        return seen.collect(_verdict(ctx, seen))
    if seen.reader.result and ReaderState.from_json(ctx.run.reader_state).result:
        # It said its last word before the previous look and still has not gone: some versions hang there.
        folder.stop(JOB)
        return seen.collect(_verdict(ctx, seen))
    if seen.state.more:
        return seen.carry_on(0)
    return seen.carry_on(ctx.poll_delay_s, checkpoint.look(ctx, folder))


def stopped(ctx: StepContext) -> Outcome:
    """Stop the agent, with everything it started, and go on to collect what it has done so far."""
    folder = open_workspace(ctx)
    folder.stop(JOB)
    seen = _AgentOutput(ctx, folder.look(JOB, offset=ctx.run.output_offset, usage_log=_usage_log(ctx.run)))
    seen.drain(folder)
    if seen.state.more:
        return seen.carry_on(0)
    if ctx.run.cancel_requested:
        return seen.collect(("cancelled", CANCELLED))
    return seen.collect(_verdict(ctx, seen))  # it may have ended by itself since the last look


class _AgentOutput:
    """What one step has read of the agent's output."""

    def __init__(self, ctx: StepContext, state: JobReport) -> None:
        self._run = ctx.run
        self._now = ctx.ports.now
        self._events: list[Event] = []
        self.reader = ReaderState.from_json(ctx.run.reader_state)
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

    def carry_on(self, check_in_s: int, looked: checkpoint.CheckpointLook | None = None) -> Advance:
        """Look again later. `looked`: what this step has done about a checkpoint."""
        mark, events = looked or checkpoint.CheckpointLook()
        changes = self._changes()
        if mark:
            changes["checkpoint"] = dict(mark)
        return Advance(check_in_s=check_in_s, changes=changes, events=(*self._events, *events))

    def collect(self, failure: Reason | None) -> Advance:
        """The agent is done, well or not: its changes are collected in any case."""
        by_itself = self.state.ended_by in {"exit", "signal"}  # else the number only says how we ended it
        exit_code = self.state.exit_code if by_itself else None
        error_code, error = failure or (None, None)
        changes: RunChanges = {**self._changes(), "exit_code": exit_code, "error_code": error_code, "error": error}
        return Advance(phase=Phase.COLLECTING, changes=changes, events=tuple(self._events))

    def _take(self, state: JobReport) -> None:
        self.state = state
        driver = DRIVERS[self._run.agent]
        if state.usage_line is not None:
            self.reader = driver.read_usage_line(state.usage_line, self.reader)
        events, self.reader = driver.read(state.chunk, self.reader)
        self._events += events

    def _changes(self) -> RunChanges:
        events, self.reader = usage_event_if_due(self.reader, self._now())
        self._events += events
        changes: RunChanges = {
            "output_offset": self.state.offset,
            "reader_state": self.reader.to_json(),
            "agent_session_id": self.reader.session_id or self._run.agent_session_id,
        }
        if self.reader.usage or self.reader.result:
            changes["usage"] = usage_of(self.reader)
        return changes


def _usage_log(run: Run) -> UsageLog | None:
    return DRIVERS[run.agent].usage_log(ReaderState.from_json(run.reader_state))


def _job(ctx: StepContext) -> JobSpec:
    settings = ctx.settings
    preferences, _ = ctx.secrets.preferences()
    access = model_access(ctx.run.agent, settings, preferences)
    command = DRIVERS[ctx.run.agent].command(
        model=ctx.run.model or access.model,
        base_url=access.base_url,
        max_turns=settings.max_turns,
        max_cost_usd=limit_usd(ctx.run, settings),
        resume=ctx.run.agent_session_id,
        preferences=preferences,
    )
    key_env, secret_key_env = secret_delivery.model_key(ctx, access.key, command.secret_env)
    return JobSpec(
        argv=command.argv,
        env={**command.env, **key_env},
        secret_env={**command.own_env, **secret_key_env},
        home_files=command.home_files,
        stdin=ctx.run.prompt,
        user="agent",
        cwd=WORK_TREE,
        timeout_s=_seconds_left(ctx),
        idle_timeout_s=settings.agent_idle_timeout_s,
    )


def _seconds_left(ctx: StepContext) -> int:
    run, whole = ctx.run, timedelta(seconds=ctx.settings.run_timeout_s)
    if run.deadline_at and run.started_at:
        whole = run.deadline_at - run.started_at
    return agent_time_s(left=-ctx.late_by if run.deadline_at else whole, whole=whole)


def _verdict(ctx: StepContext, seen: _AgentOutput) -> Reason | None:
    return agent_verdict(
        ctx.run,
        seen.state,
        seen.reader.result,
        over_budget=over_budget_reason(ctx.run, usage_of(seen.reader), ctx.settings),
        max_steps=ctx.settings.max_steps,
        idle_timeout_s=ctx.settings.agent_idle_timeout_s,
        ran_for=ctx.age,
        stderr=seen.reader.checkout.text(seen.state.stderr_tail.strip()),
    )
