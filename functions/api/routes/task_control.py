"""A task that was started: cancelled, done again, gone on with."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import CurrentUser, RequestId, Tasks, Wired, Wiring
from functions.api.openapi import answers, body
from functions.api.paths import RowId
from functions.api.routes.start_task import IdempotencyKey, text_of
from functions.api.services import task_control as service
from shared.domain.errors import InvalidInput
from shared.domain.ports import StartedRun, TaskStore
from shared.domain.secret import Secret

CANCEL_MESSAGE = "The task is being cancelled"
RETRY_MESSAGE = "Task restarted successfully"
FOLLOW_UP_MESSAGE = "Follow-up started successfully"
TOKEN_DESCRIPTION = "Needed for a private repository. Sealed, and deleted when the run ends."

router = APIRouter(prefix="/api", tags=["tasks"])


class RetryIn(Body):
    """The last prompt once more. It may be left out, where the repository is public."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    github_token: SecretStr | None = Field(
        default=None, examples=["github_pat_0123456789"], description=TOKEN_DESCRIPTION
    )


class FollowUpIn(Body):
    """What the agent shall do next."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Add a test for it, too."}]})

    prompt: str = Field(
        examples=["Add a test for it, too."], min_length=1, description="At most PROMPT_MAX_CHARS characters (50,000)."
    )
    github_token: SecretStr | None = Field(
        default=None, examples=["github_pat_0123456789"], description=TOKEN_DESCRIPTION
    )

    @model_validator(mode="before")
    @classmethod
    def _with_a_prompt(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if not sent.get("prompt"):
            raise InvalidInput(service.PROMPT_REQUIRED)
        return sent


class Cancelling(BaseModel):
    """The task's agent is being stopped; what it has done is kept. Its status tells when that is done."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    message: Literal["The task is being cancelled"]


class Retried(BaseModel):
    """The task is queued again."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    run_id: UUID = Field(examples=["0b9d1b46-6a0c-4f43-8b5c-6f3a1f0f7a55"])
    message: Literal["Task restarted successfully"]


class FollowedUp(BaseModel):
    """The task is queued again, to go on from where it ended."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    run_id: UUID = Field(examples=["0b9d1b46-6a0c-4f43-8b5c-6f3a1f0f7a55"])
    message: Literal["Follow-up started successfully"]


RetryBody = Annotated[RetryIn, Depends(body_of(RetryIn, empty=None))]
FollowUpBody = Annotated[FollowUpIn, Depends(body_of(FollowUpIn, empty="No data provided"))]


@router.post(
    "/tasks/{task_id:row_id}/cancel", operation_id="cancelTask", responses=answers(Cancelling, 401, 404, 409, 503)
)
def cancel(task_id: RowId, user: CurrentUser, tasks: Tasks, wired: Wired, request_id: RequestId) -> Answer:
    """Cancel a task. Its agent is stopped within seconds, and what it has done so far is kept. Asking twice is fine.

    409 (code `task_ended`): there is nothing to stop any more.
    """
    service.cancel(task_id, user_id=user.id, trace_id=request_id, tasks=tasks, queue=wired.ports.queue())
    return Answer({"status": "success", "task_id": task_id, "message": CANCEL_MESSAGE})


@router.post(
    "/tasks/{task_id:row_id}/retry",
    operation_id="retryTask",
    responses=answers(Retried, 400, 401, 404, 409, 413, 429, 503),
    openapi_extra=body(RetryIn, required=False),
)
def retry(
    task_id: RowId,
    user: CurrentUser,
    body: RetryBody,
    tasks: Tasks,
    wired: Wired,
    request_id: RequestId,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    """Have the task's last prompt done again. In a fresh sandbox, from the branch as it is now.

    409: it is being worked on (code `run_active`), it was never run here (`nothing_to_retry`), or something else was
    asked under this key (`idempotency_key_reused`). 429: a limit, as for starting a task.
    """
    asked = service.AskedAgain(
        user_id=user.id,
        task_id=task_id,
        prompt=None,
        github_token=_token(body.github_token),
        idempotency_key=idempotency_key,
        trace_id=request_id,
    )
    return _started(_run_again(asked, tasks, wired), RETRY_MESSAGE)


@router.post(
    "/tasks/{task_id:row_id}/follow-up",
    operation_id="followUpTask",
    responses=answers(FollowedUp, 400, 401, 404, 409, 413, 429, 503),
    openapi_extra=body(FollowUpIn),
)
def follow_up(
    task_id: RowId,
    user: CurrentUser,
    body: FollowUpBody,
    tasks: Tasks,
    wired: Wired,
    request_id: RequestId,
    idempotency_key: IdempotencyKey = None,
) -> Answer:
    """Have the agent go on from where it ended. With the changes made so far and, within hours, all that it remembers.

    The task's diff is of everything since its first run. 409: it is being worked on (code `run_active`), its chat has
    reached 2 MB (`chat_full`), or something else was asked under this key (`idempotency_key_reused`). 429: a limit, as
    for starting a task.
    """
    asked = service.AskedAgain(
        user_id=user.id,
        task_id=task_id,
        prompt=text_of(body.prompt),
        github_token=_token(body.github_token),
        idempotency_key=idempotency_key,
        trace_id=request_id,
    )
    return _started(_run_again(asked, tasks, wired), FOLLOW_UP_MESSAGE)


def _run_again(asked: service.AskedAgain, tasks: TaskStore, wired: Wiring) -> StartedRun:
    ports = wired.ports
    return service.run_again(asked, settings=wired.settings, tasks=tasks, queue=ports.queue(), box=ports.box())


def _token(sent: SecretStr | None) -> Secret | None:
    value = sent.get_secret_value().strip() if sent else ""
    return Secret(value) if value else None


def _started(run: StartedRun, message: str) -> Answer:
    return Answer({"status": "success", "task_id": run.task_id, "run_id": run.run_id, "message": message})
