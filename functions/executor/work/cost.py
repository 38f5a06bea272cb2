"""What a run's agent has cost so far: stored with every look, told now and then, and bounded."""

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from functions.executor.agents import ReaderState
from shared.config import ExecutorSettings
from shared.domain.run import Event, Run

# Whoever watches is told of a cent at once, and of less once a minute.
TELL_USD = 0.01
TELL_EVERY_S = 60


def usage_of(reader: ReaderState) -> dict[str, Any]:
    """The run's `usage`: tokens, cost_usd (None: some model's price is not known), model, turns, duration_ms."""
    result = reader.result
    ended = {"turns": result and result.turns, "duration_ms": result and result.duration_ms}
    return {**reader.usage, "cost_usd": reader.cost_usd, **ended, "model": reader.model}


def tell(reader: ReaderState, now: datetime) -> tuple[list[Event], ReaderState]:
    """The event `usage`, if it is time for one. The result, the agent's own last word, tells it for itself."""
    at, cost, tokens = now.timestamp(), reader.cost_usd or 0.0, sum(reader.usage.values())
    told = {"at": 0.0, "cost_usd": 0.0, "tokens": 0, **reader.told}
    due = abs(cost - told["cost_usd"]) >= TELL_USD or at - told["at"] >= TELL_EVERY_S
    if reader.result or tokens == told["tokens"] or not due:
        return [], reader
    payload = {**reader.usage, "cost_usd": reader.cost_usd, "model": reader.model}
    return [Event("usage", payload)], replace(reader, told={"at": at, "cost_usd": cost, "tokens": tokens})


def limit_usd(run: Run, settings: ExecutorSettings) -> float:
    """What the run may cost: what its user allows, at most what the deployment does."""
    return min(run.max_cost_usd or settings.max_cost_usd, settings.max_cost_usd)


def too_dear(run: Run, usage: Mapping[str, Any], settings: ExecutorSettings) -> str | None:
    """Why the agent must stop, as a sentence; None while it may go on. A cost that is not known exceeds nothing."""
    cost, limit = usage.get("cost_usd"), limit_usd(run, settings)
    if cost is None or cost <= limit:
        return None
    digits = 2 if limit >= 1 else 4
    # Rounded up, so that it never looks like the limit; but not for what floats are off by.
    shown = math.ceil(round(cost * 10**digits, 3)) / 10**digits
    title = run.agent.profile.short_title
    return f"{title} agent was stopped: it cost ${shown:.{digits}f} of at most ${limit:.{digits}f}."
