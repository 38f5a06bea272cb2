"""Tasks: start, list, read, follow, chat, cancel, retry, follow up."""

from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from pydantic import SecretStr, WithJsonSchema

from functions.api.deps import CurrentUser, Projects, RequestId, Tasks, Wired
from functions.api.tasks import service
from functions.api.tasks.models import (
    CONTENT_REQUIRED,
    AddChatMessageRequest,
    CancelTaskResponse,
    FollowUpRequest,
    FollowUpResponse,
    GetTaskStatusResponse,
    ListProjectTasksResponse,
    ListTaskEventsResponse,
    ListTasksResponse,
    MigrateLegacyTasksResponse,
    StartTaskRequest,
    StartTaskResponse,
    TaskResponse,
    TaskRetryRequest,
    TaskRetryResponse,
)
from functions.api.tasks.paging import Paging, page_fields
from functions.api.web.ids import MAX_ROW_ID, RowId
from functions.api.web.json_response import JsonResponse, list_response, task_response
from functions.api.web.openapi import request_body, responses
from functions.api.web.request_body import read_body
from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput
from shared.domain.ports import Row, StartedRun
from shared.domain.secret import Secret
from shared.domain.task import ENDED, first_prompt

MAX_EVENTS = 1000  # PostgREST's own cap for one response
MAX_SUMMARY_PROMPT_CHARS = 50

# The fields of a task's status, and the column of each. The page merges them into the task that it shows.
STATUS_FIELDS = {
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
# Sent once the task has ended.
RESULT_FIELDS = ("chat_messages", "execution_metadata", "completed_at", "pr_branch", "pr_number", "pr_url")
SUMMARY_FIELDS = ("id", "status", "created_at", "has_patch", "project_id", "repo_url", "agent", "chat_messages")

router = APIRouter(prefix="/api", tags=["tasks"])

StartBody = Annotated[StartTaskRequest, Depends(read_body(StartTaskRequest, empty="No data provided"))]
ChatBody = Annotated[AddChatMessageRequest, Depends(read_body(AddChatMessageRequest, empty="No data provided"))]
RetryBody = Annotated[TaskRetryRequest, Depends(read_body(TaskRetryRequest, empty=None))]
FollowUpBody = Annotated[FollowUpRequest, Depends(read_body(FollowUpRequest, empty="No data provided"))]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Makes a repeated request safe: it returns the task of the first one. A different request with the "
        "same key is refused.",
    ),
]
# The contract accepts any text, so this accepts more than it describes.
ProjectFilter = Annotated[
    int | str | None,
    Query(description="Only tasks of this project. 0 and texts that are not numbers are ignored."),
    WithJsonSchema({"type": "integer", "minimum": 1}),
]


@router.post(
    "/start-task",
    operation_id="startTask",
    responses=responses(StartTaskResponse, 400, 401, 404, 409, 413, 429, 503),
    openapi_extra=request_body(StartTaskRequest),
)
def start_task(
    user: CurrentUser,
    body: StartBody,
    tasks: Tasks,
    wired: Wired,
    request_id: RequestId,
    idempotency_key: IdempotencyKey = None,
) -> JsonResponse:
    """Start a task. An agent works on a branch of the repository.

    400 (code `max_duration_too_long`): this deployment allows at most `limit` seconds. 404: the project does not exist
    or belongs to another user. 409 (code `idempotency_key_reused`): the key was used for a different request. 429:
    `limit` tasks are active (code `too_many_active_runs`) or were started within an hour (`too_many_starts`).
    """
    command = service.StartTaskCommand(
        user_id=user.id,
        prompt=_trimmed(body.prompt),
        repo_url=_trimmed(body.repo_url),
        github_token=Secret(body.github_token.get_secret_value().strip()),
        branch=body.branch,
        agent=AgentName(body.model),
        options=body.options(),
        idempotency_key=idempotency_key,
        trace_id=request_id,
    )
    ports = wired.ports
    run = service.start_task(command, settings=wired.settings, tasks=tasks, queue=ports.queue(), box=ports.box())
    return JsonResponse({"status": "success", "task_id": run.task_id, "message": "Task started successfully"})


@router.get("/tasks", operation_id="listTasks", responses=responses(ListTasksResponse, 400, 401, 503))
def list_tasks(user: CurrentUser, tasks: Tasks, paging: Paging, project_id: ProjectFilter = None) -> JsonResponse:
    """List tasks. The user's tasks page by page, newest first."""
    matching = paging.filter(project_id=_number(project_id))
    page = tasks.page(matching, limit=paging.limit, after=paging.after, owner_id=user.id)
    return list_response(
        [_summary(row) for row in page.rows],
        lambda rows: {"tasks": {str(row["id"]): row for row in rows}, **page_fields(rows, page)},
    )


@router.get(
    "/projects/{project_id:row_id}/tasks",
    operation_id="listProjectTasks",
    responses=responses(ListProjectTasksResponse, 400, 401, 404, 503),
)
def list_project_tasks(
    project_id: RowId, user: CurrentUser, projects: Projects, tasks: Tasks, paging: Paging
) -> JsonResponse:
    """List the tasks of a project. Complete tasks without diff and patch, page by page, newest first."""
    projects.get(project_id, owner_id=user.id)
    matching = paging.filter(project_id=project_id)
    page = tasks.page(matching, limit=paging.limit, after=paging.after, owner_id=user.id)
    return list_response(page.rows, lambda rows: {"tasks": rows, **page_fields(rows, page)})


@router.get(
    "/task-status/{task_id:row_id}",
    operation_id="getTaskStatus",
    responses=responses(GetTaskStatusResponse, 401, 404, 503),
)
def get_task_status(task_id: RowId, user: CurrentUser, tasks: Tasks) -> JsonResponse:
    """Get the status of a task. For polling: its progress and, after its end, the chat and the results."""
    row = tasks.get_columns(task_id, [*STATUS_FIELDS.values(), *RESULT_FIELDS], owner_id=user.id)
    progress = _progress(row) | tasks.run_progress(task_id)
    return list_response([progress], lambda rows: {"status": "success", "task": rows[0]})


@router.get("/tasks/{task_id:row_id}", operation_id="getTask", responses=responses(TaskResponse, 401, 404, 503))
def get_task(task_id: RowId, user: CurrentUser, tasks: Tasks) -> JsonResponse:
    """Get a task. Large fields are emptied and listed in `omitted` when the response would be larger than 6 MB."""
    return task_response(tasks.get(task_id, owner_id=user.id))


@router.get(
    "/tasks/{task_id:row_id}/events",
    operation_id="listTaskEvents",
    responses=responses(ListTaskEventsResponse, 400, 401, 404, 503),
)
def list_task_events(
    task_id: RowId,
    user: CurrentUser,
    tasks: Tasks,
    after: Annotated[int, Query(ge=0, le=MAX_ROW_ID, description="The `next` of the previous response.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MAX_EVENTS, description="The maximum number of entries.")] = 200,
) -> JsonResponse:
    """List the live log of a task. Repeat with `next` as `after` until the task has ended and no entries are left."""
    log = tasks.events(task_id, after=after, limit=limit, owner_id=user.id)
    return list_response(
        log.events,
        lambda events: {
            "status": "success",
            "events": events,
            "next": events[-1]["seq"] if events else after,
            "task_status": log.task_status,
        },
    )


@router.post(
    "/tasks/{task_id:row_id}/chat",
    operation_id="addChatMessage",
    responses=responses(TaskResponse, 400, 401, 404, 409, 413, 503),
    openapi_extra=request_body(AddChatMessageRequest),
)
def add_chat_message(task_id: RowId, user: CurrentUser, body: ChatBody, tasks: Tasks) -> JsonResponse:
    """Add a message to the chat of a task. In any status of the task. 409 (code `chat_full`): the chat has 2 MB."""
    content = _without_nul(body.content)
    if not content.strip():
        raise InvalidInput(CONTENT_REQUIRED)
    tasks.append_chat_message(task_id, body.role, content)
    return task_response(tasks.get(task_id, owner_id=user.id))


@router.post(
    "/tasks/{task_id:row_id}/cancel",
    operation_id="cancelTask",
    responses=responses(CancelTaskResponse, 401, 404, 409, 503),
)
def cancel_task(task_id: RowId, user: CurrentUser, tasks: Tasks, wired: Wired, request_id: RequestId) -> JsonResponse:
    """Cancel a task. The agent is stopped within seconds and its changes are kept. Repeated requests are allowed.

    409 (code `task_ended`): the task has already ended.
    """
    service.cancel(task_id, user_id=user.id, trace_id=request_id, tasks=tasks, queue=wired.ports.queue())
    return JsonResponse({"status": "success", "task_id": task_id, "message": "The task is being cancelled"})


@router.post(
    "/tasks/{task_id:row_id}/retry",
    operation_id="retryTask",
    responses=responses(TaskRetryResponse, 400, 401, 404, 409, 413, 429, 503),
    openapi_extra=request_body(TaskRetryRequest, required=False),
)
def retry_task(
    task_id: RowId,
    user: CurrentUser,
    body: RetryBody,
    tasks: Tasks,
    wired: Wired,
    request_id: RequestId,
    idempotency_key: IdempotencyKey = None,
) -> JsonResponse:
    """Retry a task. Runs its last prompt again in a new sandbox, on the current branch of the repository.

    409: the task is active (code `run_active`), it has never run (`nothing_to_retry`), or the idempotency key was used
    for a different request (`idempotency_key_reused`). 429: a limit is reached, as for `startTask`.
    """
    command = service.RerunCommand(
        user_id=user.id,
        task_id=task_id,
        prompt=None,
        github_token=_token(body.github_token),
        idempotency_key=idempotency_key,
        trace_id=request_id,
    )
    ports = wired.ports
    run = service.run_again(command, settings=wired.settings, tasks=tasks, queue=ports.queue(), box=ports.box())
    return _started(run, "Task restarted successfully")


@router.post(
    "/tasks/{task_id:row_id}/follow-up",
    operation_id="createFollowUp",
    responses=responses(FollowUpResponse, 400, 401, 404, 409, 413, 429, 503),
    openapi_extra=request_body(FollowUpRequest),
)
def create_follow_up(
    task_id: RowId,
    user: CurrentUser,
    body: FollowUpBody,
    tasks: Tasks,
    wired: Wired,
    request_id: RequestId,
    idempotency_key: IdempotencyKey = None,
) -> JsonResponse:
    """Continue a task with another prompt. The agent keeps its changes and, for some hours, its conversation.

    The diff of the task contains all changes since its first run. 409: the task is active (code `run_active`), its chat
    has 2 MB (`chat_full`), or the idempotency key was used for a different request (`idempotency_key_reused`). 429: a
    limit is reached, as for `startTask`.
    """
    command = service.RerunCommand(
        user_id=user.id,
        task_id=task_id,
        prompt=_trimmed(body.prompt),
        github_token=_token(body.github_token),
        idempotency_key=idempotency_key,
        trace_id=request_id,
    )
    ports = wired.ports
    run = service.run_again(command, settings=wired.settings, tasks=tasks, queue=ports.queue(), box=ports.box())
    return _started(run, "Follow-up started successfully")


@router.post(
    "/migrate-legacy-tasks",
    operation_id="migrateLegacyTasks",
    responses=responses(MigrateLegacyTasksResponse, 401, 503),
)
def migrate_legacy_tasks(_: CurrentUser) -> JsonResponse:
    """Migrate tasks of the old backend. Always migrates none: the file that they were stored in does not exist here."""
    return JsonResponse({"status": "success", "message": "No legacy tasks file found", "migrated": 0})


def _summary(row: Row) -> Row:
    prompt = first_prompt(row["chat_messages"])
    cut = prompt[:MAX_SUMMARY_PROMPT_CHARS] + "..." if len(prompt) > MAX_SUMMARY_PROMPT_CHARS else prompt
    return {"prompt": cut} | {field: row[field] for field in SUMMARY_FIELDS}


def _progress(row: Row) -> Row:
    """The page merges these fields into its own, so a null that the old backend did not send would erase a value."""
    fields = {field: row[column] for field, column in STATUS_FIELDS.items()}
    if row["status"] in ENDED:
        fields |= {field: row[field] for field in RESULT_FIELDS if row[field] is not None}
    return fields | {"prompt": first_prompt(row["chat_messages"])}


def _started(run: StartedRun, message: str) -> JsonResponse:
    return JsonResponse({"status": "success", "task_id": run.task_id, "run_id": run.run_id, "message": message})


def _token(sent: SecretStr | None) -> Secret | None:
    value = sent.get_secret_value().strip() if sent else ""
    return Secret(value) if value else None


def _without_nul(text: str) -> str:
    return text.replace("\0", "")  # PostgreSQL stores no NUL


def _trimmed(text: str) -> str:
    return _without_nul(text).strip()


def _number(text: int | str | None) -> int | None:
    try:
        return int(text or 0) or None
    except ValueError:
        return None
