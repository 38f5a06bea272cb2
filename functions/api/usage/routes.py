"""What the user's tasks have cost."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from functions.api.deps import CurrentUser, Usages
from functions.api.usage.models import GetUsageResponse
from functions.api.web.ids import MAX_ROW_ID
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import responses
from shared.domain.errors import InvalidInput

DEFAULT_SPAN = timedelta(days=30)
MAX_SPAN = timedelta(days=366)

router = APIRouter(prefix="/api", tags=["tasks"])


@router.get("/usage", operation_id="getUsage", responses=responses(GetUsageResponse, 400, 401, 503))
def get_usage(
    user: CurrentUser,  # noqa: ARG001 - `usages` acts as this user
    usages: Usages,
    since: Annotated[
        AwareDatetime | None, Query(alias="from", description="ISO 8601 with offset. Default: 30 days before `to`.")
    ] = None,
    to: Annotated[AwareDatetime | None, Query(description="ISO 8601 with offset. Default: now.")] = None,
    project_id: Annotated[int | None, Query(ge=1, le=MAX_ROW_ID, description="Only runs of this project.")] = None,
) -> JsonResponse:
    """Get token usage and costs. Totals of the user's runs, by agent and by day, including deleted tasks and projects.

    A finished run counts at the time it ended, an active run counts with its usage so far. The time range may have at
    most 366 days.
    """
    end = to or datetime.now(UTC)
    start = since or _before(end, DEFAULT_SPAN)
    if not timedelta() <= end - start <= MAX_SPAN:
        raise InvalidInput(f"from must be before to, by at most {MAX_SPAN.days} days")
    usage = usages.totals(start=start, end=end, project_id=project_id)
    return JsonResponse({"status": "success", "from": start.isoformat(), "to": end.isoformat(), "usage": usage})


def _before(end: datetime, span: timedelta) -> datetime:
    try:
        return end - span
    except OverflowError:
        raise InvalidInput("to is too long ago") from None
