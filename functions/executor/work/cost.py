"""What a run's agent has cost so far: stored with every look, reported from time to time, and bounded."""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from functions.executor.agents import ReaderState
from shared.config import ExecutorSettings
from shared.domain.run import Event, Run

# The live log shows a cent at once, and less once a minute.
REPORT_USD = 0.01
REPORT_EVERY_S = 60


def usage_of(reader: ReaderState) -> dict[str, Any]:
    """The run's `usage`: tokens, cost_usd (None: some model's price is not known), model, turns, duration_ms."""
    result = reader.result
    ended = {"turns": result and result.turns, "duration_ms": result and result.duration_ms}
    return {**reader.usage, "cost_usd": reader.cost_usd, **ended, "model": reader.model}


def usage_event_if_due(reader: ReaderState, now: datetime) -> tuple[list[Event], ReaderState]:
    """The event `usage`, if one is due, and the state that remembers it. An agent that has ended reports it itself."""
    at, cost, tokens = now.timestamp(), reader.cost_usd or 0.0, sum(reader.usage.values())
    last = {"at": 0.0, "cost_usd": 0.0, "tokens": 0, **reader.last_reported}
    due = abs(cost - last["cost_usd"]) >= REPORT_USD or at - last["at"] >= REPORT_EVERY_S
    if reader.result or tokens == last["tokens"] or not due:
        return [], reader
    payload = {**reader.usage, "cost_usd": reader.cost_usd, "model": reader.model}
    return [Event("usage", payload)], replace(reader, last_reported={"at": at, "cost_usd": cost, "tokens": tokens})


def limit_usd(run: Run, settings: ExecutorSettings) -> float:
    """What the run may cost: what its user allows, at most what the deployment does."""
    return min(run.max_cost_usd or settings.max_cost_usd, settings.max_cost_usd)


def over_budget_reason(run: Run, usage: Mapping[str, Any], settings: ExecutorSettings) -> str | None:
    """The reason the run is over budget, or None. An unknown cost is never over budget."""
    cost, limit = usage.get("cost_usd"), limit_usd(run, settings)
    if cost is None or cost <= limit:
        return None
    digits = 2 if limit >= 1 else 4
    # Rounded up, so that it never looks like the limit; but not for what floats are off by.
    shown = math.ceil(round(cost * 10**digits, 3)) / 10**digits
    title = run.agent.profile.short_title
    return f"{title} agent was stopped: it cost ${shown:.{digits}f} of at most ${limit:.{digits}f}."
