"""Pages of tasks: which tasks a request selects, and the cursor of the next page."""

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import Depends, Query

from shared.domain.errors import InvalidInput
from shared.domain.ports import Row, TaskFilter, TaskPage
from shared.domain.task import TaskStatus

MAX_TASKS = 1000  # also the default: the old backend never sent more


@dataclass(frozen=True, slots=True)
class PageRequest:
    """At most `limit` matching tasks that follow the row `after`, the last one of the previous page."""

    limit: int
    after: Row | None
    status: TaskStatus | None
    search: str | None

    def filter(self, *, project_id: int | None) -> TaskFilter:
        return TaskFilter(status=self.status, project_id=project_id, search=self.search)


def _page_request(
    limit: Annotated[
        int, Query(ge=1, le=MAX_TASKS, description="A page can be shorter to stay below the size limit of a response.")
    ] = MAX_TASKS,
    cursor: Annotated[str | None, Query(description="The `next_cursor` of the previous page.")] = None,
    status: Annotated[TaskStatus | None, Query(description="Only tasks with this status.")] = None,
    q: Annotated[
        str | None, Query(max_length=200, description="Text to search for in prompts, ignoring upper and lower case.")
    ] = None,
) -> PageRequest:
    search = (q or "").replace("\0", "").strip()  # PostgreSQL stores no NUL
    return PageRequest(limit, _row_of(cursor) if cursor is not None else None, status, search or None)


Paging = Annotated[PageRequest, Depends(_page_request)]


def page_fields(sent: list[Row], page: TaskPage) -> dict[str, Any]:
    """The fields of a list response beside its tasks, when only the tasks `sent` of the page fit."""
    has_more = page.more or len(sent) < len(page.rows)
    return {"status": "success", "total_tasks": page.total, "next_cursor": _cursor(sent[-1]) if has_more else None}


def _cursor(row: Row) -> str:
    return base64.urlsafe_b64encode(f"{row['created_at']} {row['id']}".encode()).decode().rstrip("=")


def _row_of(cursor: str) -> Row:
    """Raises InvalidInput."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, _, task_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(" ")
        return {"created_at": datetime.fromisoformat(at).isoformat(), "id": int(task_id)}
    except ValueError:
        raise InvalidInput("cursor is invalid; start again without one") from None
