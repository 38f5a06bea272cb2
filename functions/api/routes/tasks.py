"""One task: watched, read, talked about."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from functions.api.answers import Answer, fitting, fitting_list
from functions.api.bodies import Body, body_of
from functions.api.deps import CurrentUser, Tasks
from functions.api.models.task import AT, COMMIT, DIFF, FILE_CHANGES, PROMPT, REPO_URL, ChatMessage, OneTask, Usage
from functions.api.openapi import answers, body
from functions.api.paths import RowId
from functions.api.services.start_task import MAX_ROW_ID
from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput
from shared.domain.ports import Row
from shared.domain.task import ENDED, TaskStatus, first_prompt

MAX_EVENTS = 1000  # PostgREST's own cap for one answer
MAX_MESSAGE_CHARS = 100_000  # the database's own bound

# What the page is sent while it polls, by its names, and the column it comes from.
STATUS_KEYS = {
    "id": "id",
    "status": "status",
    "repo_url": "repo_url",
    "branch": "target_branch",
    "model": "agent",
    "commit_hash": "commit_hash",
    "changed_files": "changed_files",
    "error": "error",
    "created_at": "created_at",
    "project_id": "project_id",
    "usage": "usage",
}
# Sent too once the task has ended.
RESULT_KEYS = ("chat_messages", "execution_metadata", "completed_at", "pr_branch", "pr_number", "pr_url")

router = APIRouter(prefix="/api", tags=["tasks"])


class Progress(BaseModel):
    """How a task is getting on. Once it has ended, there is also what the agent said and did."""

    id: int = Field(examples=[7])
    status: TaskStatus = Field(examples=["completed"])
    prompt: str = Field(examples=[PROMPT])
    repo_url: str = Field(examples=[REPO_URL])
    branch: str | None = Field(examples=["main"])
    model: AgentName = Field(examples=["claude"])
    commit_hash: str | None = Field(examples=[COMMIT])
    changed_files: list[str] | None = Field(examples=[["README.md"]])
    error: str | None = Field(examples=["Claude agent timed out after 300 seconds"])
    created_at: datetime = Field(examples=[AT])
    project_id: int | None = Field(examples=[3])
    usage: Usage = Field(description="Of all runs of the task so far.")
    run_id: UUID | None = Field(examples=["0b9d1b46-6a0c-4f43-8b5c-6f3a1f0f7a55"], description="Of the newest run.")
    phase: str | None = Field(examples=["agent"], description="What the newest run is at; null once it has ended.")
    queue_position: int | None = Field(
        examples=[2], description="How many runs come before it, while it is queued; else null."
    )
    chat_messages: list[ChatMessage] | None = None
    execution_metadata: dict[str, Any] | None = Field(default=None, examples=[FILE_CHANGES])
    completed_at: datetime | None = Field(default=None, examples=[AT])
    pr_branch: str | None = Field(default=None, examples=["claude-code-7"])
    pr_number: int | None = Field(default=None, examples=[12])
    pr_url: str | None = Field(default=None, examples=[f"{REPO_URL}/pull/12"])


class TaskProgress(BaseModel):
    """How the task is getting on."""

    status: Literal["success"]
    task: Progress


class Diff(BaseModel):
    """The diff as text; null while there is none."""

    status: Literal["success"]
    git_diff: str | None = Field(examples=[DIFF])
    task_id: int = Field(examples=[7])


class Event(BaseModel):
    """An entry of a task's live log. What `payload` holds depends on `kind`; there may be kinds you do not know.

    `changes`: what the agent has changed so far was saved, and the task's diff is the newer one.
    """

    seq: int = Field(examples=[1])
    run_id: UUID = Field(examples=["0b9d1b46-6a0c-4f43-8b5c-6f3a1f0f7a55"])
    kind: str = Field(examples=["phase"])
    payload: dict[str, Any] = Field(examples=[{"phase": "queued"}])
    at: datetime = Field(examples=[AT])


class EventList(BaseModel):
    """A part of the live log, oldest entry first. `next` is the `after` of the next part."""

    status: Literal["success"]
    events: list[Event]
    next: int = Field(examples=[1])
    task_status: TaskStatus = Field(examples=["pending"])


class ChatMessageIn(Body):
    """A message to keep with a task. No agent reads it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"content": "Looks good."}]})

    content: str = Field(examples=["Looks good."], min_length=1, max_length=MAX_MESSAGE_CHARS)
    role: Literal["user", "assistant"] = "user"

    @model_validator(mode="before")
    @classmethod
    def _in_the_contracts_words(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if not sent.get("content"):
            raise InvalidInput("content is required")
        if sent.get("role", "user") not in ("user", "assistant"):
            raise InvalidInput('role must be either "user" or "assistant"')
        return sent


ChatMessageBody = Annotated[ChatMessageIn, Depends(body_of(ChatMessageIn, empty="No data provided"))]


@router.get(
    "/task-status/{task_id:row_id}", operation_id="getTaskStatus", responses=answers(TaskProgress, 401, 404, 503)
)
def task_status(task_id: RowId, user: CurrentUser, tasks: Tasks) -> Answer:
    """Watch a task. For polling: how it is getting on and, once it has ended, what the agent said and did."""
    row = tasks.get_columns(task_id, [*STATUS_KEYS.values(), *RESULT_KEYS], owner_id=user.id)
    progress = _progress(row) | tasks.run_progress(task_id)
    return fitting_list([progress], lambda rows: {"status": "success", "task": rows[0]})


@router.get("/tasks/{task_id:row_id}", operation_id="getTask", responses=answers(OneTask, 401, 404, 503))
def get_task(task_id: RowId, user: CurrentUser, tasks: Tasks) -> Answer:
    """Get a task. All of it; columns that do not fit into one answer (6 MB) are left empty and named in `omitted`."""
    return fitting(tasks.get(task_id, owner_id=user.id))


@router.get(
    "/tasks/{task_id:row_id}/events", operation_id="listTaskEvents", responses=answers(EventList, 400, 401, 404, 503)
)
def list_events(
    task_id: RowId,
    user: CurrentUser,
    tasks: Tasks,
    after: Annotated[int, Query(ge=0, le=MAX_ROW_ID, description="`next` of the answer before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS, description="How many entries, at most.")] = 200,
) -> Answer:
    """Follow a task's live log. Ask again with `next` as `after` until the task has ended and nothing is new."""
    log = tasks.events(task_id, after=after, limit=limit, owner_id=user.id)
    return fitting_list(
        log.events,
        lambda events: {
            "status": "success",
            "events": events,
            "next": events[-1]["seq"] if events else after,
            "task_status": log.task_status,
        },
    )


@router.get("/git-diff/{task_id:row_id}", operation_id="getGitDiff", responses=answers(Diff, 401, 404, 413, 503))
def git_diff(task_id: RowId, user: CurrentUser, tasks: Tasks) -> Answer:
    """Get a task's diff. As text; null while there is none. 413: it does not fit into one answer (6 MB)."""
    row = tasks.get_columns(task_id, ["id", "git_diff"], owner_id=user.id)
    return Answer({"status": "success", "git_diff": row["git_diff"], "task_id": row["id"]})


@router.post(
    "/tasks/{task_id:row_id}/chat",
    operation_id="addChatMessage",
    responses=answers(OneTask, 400, 401, 404, 409, 413, 503),
    openapi_extra=body(ChatMessageIn),
)
def add_chat_message(task_id: RowId, user: CurrentUser, body: ChatMessageBody, tasks: Tasks) -> Answer:
    """Append a message to a task's chat. Whatever its status. 409 (code `chat_full`): the chat has reached 2 MB."""
    content = body.content.replace("\0", "")  # PostgreSQL stores no NUL
    if not content.strip():
        raise InvalidInput("content is required")
    tasks.append_chat_message(task_id, body.role, content)
    return fitting(tasks.get(task_id, owner_id=user.id))


def _progress(row: Row) -> Row:
    """The page merges this over the row it has, so nothing that is null is sent beyond what it has always been sent."""
    found = {key: row[column] for key, column in STATUS_KEYS.items()} | {"prompt": first_prompt(row["chat_messages"])}
    if row["status"] in ENDED:
        found |= {key: row[key] for key in RESULT_KEYS if row[key] is not None}
    return found
