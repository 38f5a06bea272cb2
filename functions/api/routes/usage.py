"""What the own tasks have cost."""

from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import AwareDatetime, BaseModel, Field

from functions.api.answers import Answer
from functions.api.deps import CurrentUser, Usages
from functions.api.models.task import Usage
from functions.api.openapi import answers
from functions.api.services.start_task import MAX_ROW_ID
from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput

DEFAULT_SPAN = timedelta(days=30)
MAX_SPAN = timedelta(days=366)

router = APIRouter(prefix="/api", tags=["tasks"])


class AgentUsage(Usage):
    """What one agent has used."""

    agent: AgentName = Field(examples=["claude"])


class DayUsage(Usage):
    """What was used by runs that ended on one day, in UTC."""

    day: date = Field(examples=["2026-11-23"])


class UsageTotals(Usage):
    """What all runs of that time have used, and parts of it."""

    by_agent: list[AgentUsage]
    by_day: list[DayUsage] = Field(description="Days without runs are left out.")


class UsageReport(BaseModel):
    """What was used from `from` up to `to`."""

    status: Literal["success"]
    from_: datetime = Field(alias="from", examples=["2026-11-01T00:00:00+00:00"])
    to: datetime = Field(examples=["2026-11-24T00:00:00+00:00"])
    usage: UsageTotals


@router.get("/usage", operation_id="getUsage", responses=answers(UsageReport, 400, 401, 503))
def get_usage(
    user: CurrentUser,  # noqa: ARG001 - `usages` is theirs
    usages: Usages,
    since: Annotated[
        AwareDatetime | None, Query(alias="from", description="ISO 8601 with offset. Default: 30 days before `to`.")
    ] = None,
    to: Annotated[AwareDatetime | None, Query(description="ISO 8601 with offset. Default: now.")] = None,
    project_id: Annotated[int | None, Query(ge=1, le=MAX_ROW_ID, description="Only runs of this project.")] = None,
) -> Answer:
    """Sum up tokens and costs. Of own runs, by agent and by day; also of tasks and projects that are deleted.

    A run counts when it has ended, and with what it has used so far while it is active. At most 366 days at once.
    """
    end = to or datetime.now(UTC)
    start = since or _before(end, DEFAULT_SPAN)
    if not timedelta() <= end - start <= MAX_SPAN:
        raise InvalidInput(f"from must lie before to, by at most {MAX_SPAN.days} days")
    usage = usages.totals(start=start, end=to, project_id=project_id)
    return Answer({"status": "success", "from": start.isoformat(), "to": end.isoformat(), "usage": usage})


def _before(end: datetime, span: timedelta) -> datetime:
    try:
        return end - span
    except OverflowError:
        raise InvalidInput("to is too long ago") from None
