"""Tasks, page by page."""

import base64
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field, WithJsonSchema

from functions.api.answers import Answer, fitting_list
from functions.api.deps import CurrentUser, Projects, Tasks
from functions.api.models.task import AT, PROMPT, REPO_URL, ChatMessage, Task
from functions.api.openapi import answers
from functions.api.paths import RowId
from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput
from shared.domain.ports import Row, TaskFilter, TaskPage
from shared.domain.task import TaskStatus, first_prompt

MAX_TASKS = 1000  # and as many when nobody says how many: the old backend never sent more
MAX_PROMPT_CHARS = 50
CURSOR = "MjAyNi0xMS0yM1QwOTowMDowMC4xMjM0NTYrMDA6MDAgNw"

router = APIRouter(prefix="/api", tags=["tasks"])


class TaskSummary(BaseModel):
    """A task in a list. `prompt` is cut after 50 characters."""

    id: int = Field(examples=[7])
    status: TaskStatus = Field(examples=["completed"])
    created_at: datetime = Field(examples=[AT])
    prompt: str = Field(examples=[PROMPT])
    has_patch: bool = Field(examples=[True])
    project_id: int | None = Field(examples=[3])
    repo_url: str = Field(examples=[REPO_URL])
    agent: AgentName = Field(examples=["claude"])
    chat_messages: list[ChatMessage] | None


class _Page(BaseModel):
    status: Literal["success"]
    total_tasks: int = Field(examples=[1], description="How many tasks match, on all pages.")
    next_cursor: str | None = Field(examples=[CURSOR], description="The `cursor` of the next page; null at the end.")


class TaskList(_Page):
    """A page of own tasks by their ids, newest first."""

    tasks: dict[str, TaskSummary]


class ProjectTaskList(_Page):
    """A page of a project's tasks, newest first."""

    tasks: list[Task]


@dataclass(frozen=True, slots=True)
class Page:
    """Which tasks somebody wants to see: some that match, after a row that an earlier page ended with."""

    limit: int
    after: Row | None
    status: TaskStatus | None
    search: str | None


def page(
    limit: Annotated[
        int, Query(ge=1, le=MAX_TASKS, description="A page may be shorter, to fit into one answer.")
    ] = MAX_TASKS,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before.")] = None,
    status: Annotated[TaskStatus | None, Query(description="Only tasks in this state.")] = None,
    q: Annotated[str | None, Query(max_length=200, description="Text to look for in prompts, in any case.")] = None,
) -> Page:
    search = (q or "").replace("\0", "").strip()
    return Page(limit, _row_of(cursor) if cursor is not None else None, status, search or None)


Wanted = Annotated[Page, Depends(page)]
# The contract takes any text, so this is described more narrowly than it is read.
ProjectFilter = Annotated[
    int | str | None,
    Query(description="Only tasks of this project. What is no number, or 0, is no filter."),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]


@router.get("/tasks", operation_id="listTasks", responses=answers(TaskList, 400, 401, 503))
def list_tasks(user: CurrentUser, tasks: Tasks, wanted: Wanted, project_id: ProjectFilter = None) -> Answer:
    """List the own tasks. Page by page, newest first."""
    matching = TaskFilter(status=wanted.status, project_id=_number(project_id), search=wanted.search)
    found = tasks.page(matching, limit=wanted.limit, after=wanted.after, owner_id=user.id)
    return fitting_list(
        [_summary(row) for row in found.rows],
        lambda rows: {"tasks": {str(row["id"]): row for row in rows}, **_position(rows, found)},
    )


@router.get(
    "/projects/{project_id:row_id}/tasks",
    operation_id="listProjectTasks",
    responses=answers(ProjectTaskList, 400, 401, 404, 503),
)
def list_project_tasks(
    project_id: RowId, user: CurrentUser, projects: Projects, tasks: Tasks, wanted: Wanted
) -> Answer:
    """List a project's tasks. Newest first; each has all keys of a task, but without diff and patch."""
    projects.get(project_id, owner_id=user.id)
    matching = TaskFilter(status=wanted.status, project_id=project_id, search=wanted.search)
    found = tasks.page(matching, limit=wanted.limit, after=wanted.after, owner_id=user.id)
    return fitting_list(found.rows, lambda rows: {"tasks": rows, **_position(rows, found)})


def _position(sent: list[Row], found: TaskPage) -> dict[str, Any]:
    more = found.more or len(sent) < len(found.rows)
    return {"status": "success", "total_tasks": found.total, "next_cursor": _cursor(sent[-1]) if more else None}


def _cursor(row: Row) -> str:
    return base64.urlsafe_b64encode(f"{row['created_at']} {row['id']}".encode()).decode().rstrip("=")


def _row_of(cursor: str) -> Row:
    """Raises InvalidInput."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        at, _, task_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition(" ")
        return {"created_at": datetime.fromisoformat(at).isoformat(), "id": int(task_id)}
    except ValueError:
        raise InvalidInput("cursor is none that a list has given; begin without one") from None


def _summary(row: Row) -> Row:
    prompt = first_prompt(row["chat_messages"])
    cut = prompt[:MAX_PROMPT_CHARS] + "..." if len(prompt) > MAX_PROMPT_CHARS else prompt
    same = ("id", "status", "created_at", "has_patch", "project_id", "repo_url", "agent", "chat_messages")
    return {"prompt": cut} | {key: row[key] for key in same}


def _number(text: int | str | None) -> int | None:
    try:
        return int(text or 0) or None
    except ValueError:
        return None
