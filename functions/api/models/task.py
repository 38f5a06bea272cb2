"""A task as the API shows it."""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from shared.domain.agents import AgentName
from shared.domain.task import TaskStatus

USER_ID = "5f0c1f0e-8d5c-4b61-9a34-2f1f6d3f2a10"
REPO_URL = "https://github.com/acme/widgets"
PROMPT = "Add a section about installing to the README"
COMMIT = "3f0c5b1e9a7d2c4b6e8f0a1b2c3d4e5f60718293"
DIFF = "diff --git a/README.md b/README.md\n…"
AT = "2026-11-23T09:00:00.123456+00:00"
FILE_CHANGES = {"file_changes": [{"filename": "README.md", "before": "# Widgets\n", "after": "# Widgets\n\nnpm ci\n"}]}


class ChatMessage(BaseModel):
    """A message of the chat about a task. The first one of the user is the prompt."""

    role: Literal["user", "assistant"]
    content: str = Field(examples=[PROMPT])
    timestamp: str | float = Field(
        examples=[AT],
        description="ISO 8601 with offset; in tasks of the old backend also without, or seconds since 1970.",
    )


class Task(BaseModel):
    """A task's whole row."""

    id: int = Field(examples=[7])
    user_id: UUID = Field(examples=[USER_ID])
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
    git_diff: str | None = Field(examples=[DIFF], description="What changed, to read. Null in lists.")
    git_patch: str | None = Field(examples=[DIFF], description="What changed, to apply. Null in lists.")
    changed_files: list[str] | None = Field(examples=[["README.md"]])
    error: str | None = Field(examples=["Claude agent timed out after 300 seconds"])
    chat_messages: list[ChatMessage] | None
    execution_metadata: dict[str, Any] | None = Field(
        examples=[FILE_CHANGES],
        description="`file_changes` for a side-by-side view; FILE_NOT_EXISTS and FILE_DELETED stand for no file."
        " Empty in lists.",
    )
    created_at: datetime = Field(examples=[AT])
    updated_at: datetime = Field(examples=[AT])
    started_at: datetime | None = Field(examples=[AT])
    completed_at: datetime | None = Field(examples=[AT])
    is_test_data: bool | None = Field(examples=[False])
    has_patch: bool = Field(examples=[True])


class Usage(BaseModel):
    """What some runs have used. `cost_usd` leaves out what unpriced runs cost."""

    runs: int = Field(examples=[2])
    unpriced_runs: int = Field(examples=[0], description="Runs with a model whose price is not known.")
    cost_usd: float = Field(examples=[0.4217])
    input_tokens: int = Field(examples=[31_000], description="Without those that a cache knew.")
    cached_input_tokens: int = Field(examples=[840_000], description="Read from a cache.")
    cache_write_tokens: int = Field(examples=[42_000], description="Read, and written to a cache.")
    output_tokens: int = Field(examples=[12_700])


class TaskWithUsage(Task):
    """A task's whole row, and what all its runs have used so far."""

    usage: Usage


class OneTask(BaseModel):
    """The task. `omitted` names columns that are left empty because they do not fit into one answer (6 MB)."""

    status: Literal["success"]
    task: TaskWithUsage
    omitted: list[str] = Field(default_factory=list, examples=[["git_patch"]])
