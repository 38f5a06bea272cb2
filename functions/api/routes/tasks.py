"""Tasks: started, watched, read."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query
from pydantic import SecretStr
from starlette.convertors import Convertor, register_url_convertor

from functions.api import examples
from functions.api.answers import Answer, fitting
from functions.api.bodies import Body, body_of, documented
from functions.api.deps import CurrentUser, RequestId, Tasks, Wired
from functions.api.services import start_task as service
from shared.domain.ports import Row
from shared.domain.secret import Secret
from shared.domain.task import ENDED

MAX_PROMPT_IN_LISTS = 50
MAX_EVENTS = 1000  # PostgREST's own cap for one answer

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
}
# Sent too once the task has ended.
RESULT_KEYS = ("chat_messages", "execution_metadata", "completed_at", "pr_branch", "pr_number", "pr_url")


class RowId(Convertor[int]):
    """Digits, as a number; with more of them than any row has, still a number that no row has."""

    regex = "[0-9]+"

    def convert(self, value: str) -> int:
        return int(value.lstrip("0")[:20] or 0)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("row_id", RowId())
router = APIRouter(prefix="/api", tags=["tasks"])


class StartTaskIn(Body):
    prompt: str | None = None
    repo_url: str | None = None
    github_token: SecretStr | None = None
    branch: str | None = None
    model: str | None = "claude"
    project_id: int | None = None


StartTaskBody = Annotated[StartTaskIn, Depends(body_of(StartTaskIn, empty="No data provided"))]
IdempotencyKey = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="The same key again answers with the task it made first."),
]


@router.post(
    "/start-task",
    responses=examples.of(examples.STARTED),
    openapi_extra=documented(StartTaskIn, examples.START_TASK_BODY),
)
def start_task(
    user: CurrentUser,
    body: StartTaskBody,
    tasks: Tasks,
    wired: Wired,
    request_id: RequestId,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    """Have an agent work on a branch of a repository.

    `model` is claude or codex, `branch` defaults to main. The git token is sealed, and deleted when the run ends.
    """
    token = body.github_token.get_secret_value() if body.github_token else ""
    asked = service.Asked(
        user_id=user.id,
        prompt=_text(body.prompt),
        repo_url=_text(body.repo_url),
        github_token=Secret(token.strip()),
        branch=body.branch,
        model=body.model,
        project_id=body.project_id,
        idempotency_key=idempotency_key,
        trace_id=request_id,
    )
    run = service.start_task(
        asked, settings=wired.settings, tasks=tasks, queue=wired.ports.queue(), box=wired.ports.box()
    )
    return Answer({"status": "success", "task_id": run.task_id, "message": "Task started successfully"})


@router.get("/task-status/{task_id:row_id}", responses=examples.of(examples.TASK_STATUS))
def task_status(task_id: int, user: CurrentUser, tasks: Tasks) -> Answer:
    """How a task is getting on. Once it has ended, the answer also holds what the agent said and did."""
    row = tasks.get_columns(task_id, [*STATUS_KEYS.values(), *RESULT_KEYS], owner_id=user.id)
    return Answer({"status": "success", "task": _status(row)})


@router.get("/tasks", responses=examples.of(examples.TASK_LIST))
def list_tasks(user: CurrentUser, tasks: Tasks, project_id: str | None = None) -> Answer:
    """All own tasks, keyed by id; of one project where `project_id` is a number other than 0."""
    rows = tasks.list_all(owner_id=user.id, project_id=_number(project_id))
    return Answer(
        {"status": "success", "tasks": {str(row["id"]): _summary(row) for row in rows}, "total_tasks": len(rows)}
    )


@router.get("/tasks/{task_id:row_id}", responses=examples.of(examples.TASK))
def get_task(task_id: int, user: CurrentUser, tasks: Tasks) -> Answer:
    """The whole task. Columns that do not fit into one answer (6 MB) are left empty and named in `omitted`."""
    return fitting(tasks.get(task_id, owner_id=user.id))


@router.get("/tasks/{task_id:row_id}/events", responses=examples.of(examples.EVENTS))
def list_events(
    task_id: int,
    user: CurrentUser,
    tasks: Tasks,
    after: Annotated[int, Query(ge=0, le=service.MAX_ROW_ID, description="`next` of the answer before")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = 200,
) -> Answer:
    """What happened since `after`, oldest first. Ask again with `next` until the task has ended and nothing is new."""
    log = tasks.events(task_id, after=after, limit=limit, owner_id=user.id)
    return Answer(
        {
            "status": "success",
            "events": log.events,
            "next": log.events[-1]["seq"] if log.events else after,
            "task_status": log.task_status,
        }
    )


@router.get("/git-diff/{task_id:row_id}", responses=examples.of(examples.GIT_DIFF))
def git_diff(task_id: int, user: CurrentUser, tasks: Tasks) -> Answer:
    """The diff as text; null while there is none."""
    row = tasks.get_columns(task_id, ["id", "git_diff"], owner_id=user.id)
    return Answer({"status": "success", "git_diff": row["git_diff"], "task_id": row["id"]})


def _status(row: Row) -> dict[str, Any]:
    """The page merges this over the row it has, so nothing that is null is sent beyond what it has always been sent."""
    answer = {key: row[column] for key, column in STATUS_KEYS.items()} | {"prompt": _first_prompt(row)}
    if row["status"] in ENDED:
        answer |= {key: row[key] for key in RESULT_KEYS if row[key] is not None}
    return answer


def _summary(row: Row) -> dict[str, Any]:
    prompt = _first_prompt(row)
    cut = prompt[:MAX_PROMPT_IN_LISTS] + "..." if len(prompt) > MAX_PROMPT_IN_LISTS else prompt
    same = ("id", "status", "created_at", "has_patch", "project_id", "repo_url", "agent", "chat_messages")
    return {"prompt": cut} | {key: row[key] for key in same}


def _first_prompt(row: Row) -> str:
    messages = row["chat_messages"] or []
    return next((str(message["content"]) for message in messages if message.get("role") == "user"), "")


def _text(value: str | None) -> str:
    return (value or "").replace("\0", "").strip()  # PostgreSQL stores no NUL


def _number(text: str | None) -> int | None:
    """A filter that is no number, or 0, is no filter."""
    try:
        return int(text or 0) or None
    except ValueError:
        return None
