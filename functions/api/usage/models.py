"""Response bodies about tokens and costs."""

from datetime import date, datetime
from typing import Literal

from pydantic import BaseModel, Field

from shared.domain.agents import AgentName


class Usage(BaseModel):
    """Tokens and costs of some runs. `cost_usd` does not include unpriced runs."""

    runs: int = Field(examples=[2])
    unpriced_runs: int = Field(examples=[0], description="Runs with a model whose price is unknown.")
    cost_usd: float = Field(examples=[0.4217])
    input_tokens: int = Field(examples=[31_000], description="Input tokens that were not read from a cache.")
    cached_input_tokens: int = Field(examples=[840_000], description="Input tokens that were read from a cache.")
    cache_write_tokens: int = Field(examples=[42_000], description="Input tokens that were written to a cache.")
    output_tokens: int = Field(examples=[12_700])


class AgentUsage(Usage):
    """Tokens and costs of one agent."""

    agent: AgentName = Field(examples=["claude"])


class DayUsage(Usage):
    """Tokens and costs of the runs that ended on one day (UTC)."""

    day: date = Field(examples=["2026-11-23"])


class UsageTotals(Usage):
    """Tokens and costs of all runs in the time range, also by agent and by day."""

    by_agent: list[AgentUsage]
    by_day: list[DayUsage] = Field(description="Days without runs are omitted.")


class GetUsageResponse(BaseModel):
    """Tokens and costs between `from` and `to`."""

    status: Literal["success"]
    from_: datetime = Field(alias="from", examples=["2026-11-01T00:00:00+00:00"])
    to: datetime = Field(examples=["2026-11-24T00:00:00+00:00"])
    usage: UsageTotals
