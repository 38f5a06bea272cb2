"""Request and response bodies of the task operations."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator

from functions.api.usage.models import Usage
from functions.api.web.examples import AT, DIFF, GITHUB_TOKEN, PROMPT, REPO_URL, RUN_ID, SSH_REPO_URL
from functions.api.web.request_body import RequestBody
from shared.domain.agents import DEFAULT_AGENT, AgentName
from shared.domain.errors import InvalidInput
from shared.domain.ports import TaskOptions
from shared.domain.task import TaskStatus

COMMIT = "3f0c5b1e9a7d2c4b6e8f0a1b2c3d4e5f60718293"
FILE_CHANGES = {"file_changes": [{"filename": "README.md", "before": "# Widgets\n", "after": "# Widgets\n\nnpm ci\n"}]}
CURSOR = "MjAyNi0xMS0yM1QwOTowMDowMC4xMjM0NTYrMDA6MDAgNw"
FOLLOW_UP_PROMPT = "Add a test for it, too."

MAX_MESSAGE_CHARS = 100_000  # the database's own bound

PROMPT_DESCRIPTION = "At most PROMPT_MAX_CHARS characters (50,000)."
RERUN_TOKEN_DESCRIPTION = "Required for a private repository. Stored encrypted and deleted when the run ends."
START_REQUIRED = "prompt, repo_url, and github_token are required"
PROMPT_REQUIRED = "prompt is required"
CONTENT_REQUIRED = "content is required"
AGENTS = [str(name) for name in AgentName]


def either_of(names: list[str]) -> str:
    """`"a", "b" or "c"`, for an error text."""
    *others, last = [f'"{name}"' for name in names]
    return f"{', '.join(others)} or {last}"


class ChatMessage(BaseModel):
    """A message in the chat of a task. The first user message is the prompt."""

    role: Literal["user", "assistant"]
    content: str = Field(examples=[PROMPT])
    timestamp: str | float = Field(
        examples=[AT],
        description="ISO 8601 with offset. Tasks of the old backend also have times without offset, or seconds since "
        "1970.",
    )


class Task(BaseModel):
    """A complete task."""

    id: int = Field(examples=[7])
    user_id: UUID = Field(examples=["5f0c1f0e-8d5c-4b61-9a34-2f1f6d3f2a10"])
    project_id: int | None = Field(examples=[3])
    status: TaskStatus = Field(examples=["completed"])
    agent: AgentName = Field(examples=["claude"])
    repo_url: str = Field(examples=[REPO_URL])
    target_branch: str | None = Field(examples=["main"])
    pr_branch: str | None = Field(examples=["claude-code-7"])
    container_id: str | None = Field(examples=["i3k9d2m1x8"])
    commit_hash: str | None = Field(examples=[COMMIT])
    pr_number: int | None = Field(examples=[12])
    pr_url: str | None = Field(examples=[f"{REPO_URL}/pull/12"])
    git_diff: str | None = Field(examples=[DIFF], description="The changes as a diff for reading. Null in lists.")
    git_patch: str | None = Field(examples=[DIFF], description="The changes as a patch for git. Null in lists.")
    changed_files: list[str] | None = Field(examples=[["README.md"]])
    error: str | None = Field(examples=["Claude agent timed out after 300 seconds"])
    chat_messages: list[ChatMessage] | None
    execution_metadata: dict[str, Any] | None = Field(
        examples=[FILE_CHANGES],
        description="`file_changes` contains texts for a side-by-side view; FILE_NOT_EXISTS and FILE_DELETED mark a "
        "missing side. Empty in lists.",
    )
    created_at: datetime = Field(examples=[AT])
    updated_at: datetime = Field(examples=[AT])
    started_at: datetime | None = Field(examples=[AT])
    completed_at: datetime | None = Field(examples=[AT])
    is_test_data: bool | None = Field(examples=[False])
    has_patch: bool = Field(examples=[True])


class TaskWithUsage(Task):
    """A complete task with the usage of all its runs so far."""

    usage: Usage


class TaskResponse(BaseModel):
    """The task. `omitted` lists fields that are empty because the response would be larger than 6 MB."""

    status: Literal["success"]
    task: TaskWithUsage
    omitted: list[str] = Field(default_factory=list, examples=[["git_patch"]])


class StartTaskRequest(RequestBody):
    """The prompt for the agent, and the repository to work on."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"prompt": PROMPT, "repo_url": REPO_URL, "github_token": GITHUB_TOKEN, "branch": "main"}]
        }
    )

    prompt: str = Field(examples=[PROMPT], min_length=1, description=PROMPT_DESCRIPTION)
    repo_url: str = Field(examples=[REPO_URL, SSH_REPO_URL], min_length=1)
    github_token: SecretStr = Field(
        examples=[GITHUB_TOKEN], min_length=1, description="Stored encrypted and deleted when the run ends."
    )
    branch: str | None = Field(default=None, examples=["main"], description="Null or empty means main.")
    model: str = Field(default=DEFAULT_AGENT, json_schema_extra={"enum": [*AGENTS]})
    project_id: int | None = Field(default=None, examples=[3], json_schema_extra={"minimum": 1})
    max_cost_usd: float | None = Field(
        default=None,
        examples=[2.5],
        gt=0,
        allow_inf_nan=False,
        description="The agent is stopped when it costs more. The default and the maximum are AGENT_MAX_COST_USD.",
    )
    max_duration_s: int | None = Field(
        default=None,
        examples=[7200],
        ge=60,
        le=86_400,
        description="Counted from the creation of the sandbox. After this time the agent is stopped and its changes "
        "are kept. Null means RUN_TIMEOUT_S (an hour). A deployment can set a lower maximum.",
    )

    def options(self) -> TaskOptions:
        """What is stored as it was sent."""
        return TaskOptions(
            project_id=self.project_id, max_cost_usd=self.max_cost_usd, max_duration_s=self.max_duration_s
        )

    @model_validator(mode="before")
    @classmethod
    def _check_with_contract_texts(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if not all(sent.get(key) for key in ("prompt", "repo_url", "github_token")):
            raise InvalidInput(START_REQUIRED)
        if sent.get("model", DEFAULT_AGENT) not in AGENTS:
            raise InvalidInput(f"model must be either {either_of(AGENTS)}")
        return sent


class StartTaskResponse(BaseModel):
    """The task is stored and an agent will work on it."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    message: Literal["Task started successfully"]


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


class _PageResponse(BaseModel):
    status: Literal["success"]
    total_tasks: int = Field(examples=[1], description="The number of matching tasks on all pages.")
    next_cursor: str | None = Field(
        examples=[CURSOR], description="The `cursor` of the next page, null on the last page."
    )


class ListTasksResponse(_PageResponse):
    """A page of the user's tasks by id, newest first."""

    tasks: dict[str, TaskSummary]


class ListProjectTasksResponse(_PageResponse):
    """A page of the tasks of a project, newest first."""

    tasks: list[Task]


class TaskProgress(BaseModel):
    """The progress of a task. After its end, also the chat and the results."""

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
    usage: Usage = Field(description="The usage of all runs of the task so far.")
    run_id: UUID | None = Field(examples=[RUN_ID], description="The id of the newest run.")
    phase: str | None = Field(examples=["agent"], description="The phase of the newest run, null after its end.")
    queue_position: int | None = Field(
        examples=[2], description="The number of runs ahead of a queued run, otherwise null."
    )
    chat_messages: list[ChatMessage] | None = None
    execution_metadata: dict[str, Any] | None = Field(default=None, examples=[FILE_CHANGES])
    completed_at: datetime | None = Field(default=None, examples=[AT])
    pr_branch: str | None = Field(default=None, examples=["claude-code-7"])
    pr_number: int | None = Field(default=None, examples=[12])
    pr_url: str | None = Field(default=None, examples=[f"{REPO_URL}/pull/12"])


class GetTaskStatusResponse(BaseModel):
    """The progress of the task."""

    status: Literal["success"]
    task: TaskProgress


class TaskEvent(BaseModel):
    """An entry in the live log of a task. `kind` determines the fields of `payload`. Clients must ignore unknown kinds.

    The kind `changes` means that the agent's changes so far were saved and the task's diff is updated.
    """

    seq: int = Field(examples=[1])
    run_id: UUID = Field(examples=[RUN_ID])
    kind: str = Field(examples=["phase"])
    payload: dict[str, Any] = Field(examples=[{"phase": "queued"}])
    at: datetime = Field(examples=[AT])


class ListTaskEventsResponse(BaseModel):
    """A part of the live log, oldest entry first. `next` is the `after` of the next request."""

    status: Literal["success"]
    events: list[TaskEvent]
    next: int = Field(examples=[1])
    task_status: TaskStatus = Field(examples=["pending"])


class AddChatMessageRequest(RequestBody):
    """A message to add to the chat of a task. Agents do not read it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"content": "Looks good."}]})

    content: str = Field(examples=["Looks good."], min_length=1, max_length=MAX_MESSAGE_CHARS)
    role: Literal["user", "assistant"] = "user"

    @model_validator(mode="before")
    @classmethod
    def _check_with_contract_texts(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if not sent.get("content"):
            raise InvalidInput(CONTENT_REQUIRED)
        if sent.get("role", "user") not in ("user", "assistant"):
            raise InvalidInput('role must be either "user" or "assistant"')
        return sent


class CancelTaskResponse(BaseModel):
    """The agent is being stopped and its changes are kept. The task's status shows when it has ended."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    message: Literal["The task is being cancelled"]


class TaskRetryRequest(RequestBody):
    """The GitHub token for the retry. Optional for a public repository."""

    model_config = ConfigDict(json_schema_extra={"examples": [{}]})

    github_token: SecretStr | None = Field(default=None, examples=[GITHUB_TOKEN], description=RERUN_TOKEN_DESCRIPTION)


class TaskRetryResponse(BaseModel):
    """The task is queued again."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    run_id: UUID = Field(examples=[RUN_ID])
    message: Literal["Task restarted successfully"]


class FollowUpRequest(RequestBody):
    """The next prompt for the agent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": FOLLOW_UP_PROMPT}]})

    prompt: str = Field(examples=[FOLLOW_UP_PROMPT], min_length=1, description=PROMPT_DESCRIPTION)
    github_token: SecretStr | None = Field(default=None, examples=[GITHUB_TOKEN], description=RERUN_TOKEN_DESCRIPTION)

    @model_validator(mode="before")
    @classmethod
    def _check_with_contract_texts(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if not sent.get("prompt"):
            raise InvalidInput(PROMPT_REQUIRED)
        return sent


class FollowUpResponse(BaseModel):
    """The task is queued again and the agent will continue its work."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    run_id: UUID = Field(examples=[RUN_ID])
    message: Literal["Follow-up started successfully"]


class MigrateLegacyTasksResponse(BaseModel):
    """No tasks were migrated."""

    status: Literal["success"]
    message: Literal["No legacy tasks file found"]
    migrated: Literal[0]
