"""A new task: started."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header
from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import CurrentUser, RequestId, Tasks, Wired
from functions.api.models.task import PROMPT, REPO_URL
from functions.api.openapi import answers, body
from functions.api.services import start_task as service
from shared.domain.agents import DEFAULT_AGENT, AgentName
from shared.domain.errors import InvalidInput
from shared.domain.secret import Secret

router = APIRouter(prefix="/api", tags=["tasks"])

AGENTS = [str(name) for name in AgentName]


def _either(names: list[str]) -> str:
    *others, last = [f'"{name}"' for name in names]
    return f"{', '.join(others)} or {last}"


class StartTaskIn(Body):
    """What an agent shall do, and where."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"prompt": PROMPT, "repo_url": REPO_URL, "github_token": "github_pat_0123456789", "branch": "main"}
            ]
        }
    )

    prompt: str = Field(examples=[PROMPT], min_length=1, description="At most PROMPT_MAX_CHARS characters (50,000).")
    repo_url: str = Field(examples=[REPO_URL, "git@github.com:acme/widgets.git"], min_length=1)
    github_token: SecretStr = Field(
        examples=["github_pat_0123456789"], min_length=1, description="Sealed, and deleted when the run ends."
    )
    branch: str | None = Field(default=None, examples=["main"], description="main, where it is null or empty.")
    model: str = Field(default=DEFAULT_AGENT, json_schema_extra={"enum": [*AGENTS]})
    project_id: int | None = Field(default=None, examples=[3], json_schema_extra={"minimum": 1})
    max_cost_usd: float | None = Field(
        default=None,
        examples=[2.5],
        gt=0,
        allow_inf_nan=False,
        description="The agent is stopped at a higher cost. At most AGENT_MAX_COST_USD, which is the default, too.",
    )

    max_duration_s: int | None = Field(
        default=None,
        examples=[7200],
        ge=60,
        le=86_400,
        description="From the start of its sandbox: then the agent is stopped and its changes are kept. RUN_TIMEOUT_S, "
        "an hour, where it is null; this deployment's limit may be lower than a day.",
    )

    @model_validator(mode="before")
    @classmethod
    def _in_the_contracts_words(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if not all(sent.get(key) for key in ("prompt", "repo_url", "github_token")):
            raise InvalidInput(service.REQUIRED)
        if sent.get("model", DEFAULT_AGENT) not in AGENTS:
            raise InvalidInput(f"model must be either {_either(AGENTS)}")
        return sent


class TaskStarted(BaseModel):
    """The task is safely stored; an agent will work on it."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    message: Literal["Task started successfully"]


StartTaskBody = Annotated[StartTaskIn, Depends(body_of(StartTaskIn, empty="No data provided"))]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="The same request again under the same key answers with the task made first; another is refused.",
    ),
]


@router.post(
    "/start-task",
    operation_id="startTask",
    responses=answers(TaskStarted, 400, 401, 404, 409, 413, 429, 503),
    openapi_extra=body(StartTaskIn),
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

    400 (code `max_duration_too_long`): a task may take `limit` seconds here. 404: the project is not yours.
    409 (code `idempotency_key_reused`): something else was asked under this key.
    429: `limit` tasks are active (`too_many_active_runs`), or were started within an hour (`too_many_starts`).
    """
    asked = service.Asked(
        user_id=user.id,
        prompt=text_of(body.prompt),
        repo_url=text_of(body.repo_url),
        github_token=Secret(body.github_token.get_secret_value().strip()),
        branch=body.branch,
        agent=AgentName(body.model),
        project_id=body.project_id,
        max_cost_usd=body.max_cost_usd,
        max_duration_s=body.max_duration_s,
        idempotency_key=idempotency_key,
        trace_id=request_id,
    )
    run = service.start_task(
        asked, settings=wired.settings, tasks=tasks, queue=wired.ports.queue(), box=wired.ports.box()
    )
    return Answer({"status": "success", "task_id": run.task_id, "message": "Task started successfully"})


def text_of(value: str) -> str:
    """A text as it is stored, trimmed."""
    return value.replace("\0", "").strip()  # PostgreSQL stores no NUL
