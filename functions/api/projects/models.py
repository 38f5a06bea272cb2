"""Request and response bodies of the project operations."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from functions.api.web.examples import AT, REPO_URL, SSH_REPO_URL, USER_ID
from functions.api.web.request_body import RequestBody
from shared.domain.errors import InvalidInput
from shared.domain.project import checked_settings

MAX_NAME_CHARS = 200
MAX_DESCRIPTION_CHARS = 10_000
MAX_URL_CHARS = 500  # an origin, an owner of 39 and a name of 100 characters, and surrounding blanks


class Project(BaseModel):
    """A project, and the number of its tasks. Active tasks are pending or running."""

    id: int = Field(examples=[3])
    user_id: UUID = Field(examples=[USER_ID])
    name: str = Field(examples=["Widgets"])
    description: str | None = Field(examples=["What we sell"])
    repo_url: str = Field(examples=[REPO_URL])
    repo_owner: str = Field(examples=["acme"])
    repo_name: str = Field(examples=["widgets"])
    is_active: bool | None = Field(examples=[True])
    settings: dict[str, Any] | None = Field(examples=[{"setup_script": "npm ci"}])
    created_at: datetime = Field(examples=[AT])
    updated_at: datetime = Field(examples=[AT])
    is_test_data: bool | None = Field(examples=[False])
    task_count: int = Field(examples=[12])
    completed_tasks: int = Field(examples=[9])
    active_tasks: int = Field(examples=[1])


class ProjectResponse(BaseModel):
    """The project."""

    status: Literal["success"]
    project: Project


class ListProjectsResponse(BaseModel):
    """All of the user's projects, newest first."""

    status: Literal["success"]
    projects: list[Project]
    omitted: list[Literal["settings"]] | None = Field(
        default=None, description="Fields that are empty in every project because the response would be too large."
    )


class DeleteProjectResponse(BaseModel):
    """The project and its tasks are deleted."""

    status: Literal["success"]
    message: Literal["Project deleted successfully"]


def _not_blank(name: str) -> str:
    if not name.strip():
        raise InvalidInput("name must not be blank")
    return name


Name = Annotated[
    str,
    Field(max_length=MAX_NAME_CHARS, examples=["Widgets"], json_schema_extra={"minLength": 1, "pattern": r"\S"}),
    AfterValidator(_not_blank),
]
RepoUrl = Annotated[
    str,
    Field(
        max_length=MAX_URL_CHARS,
        examples=[REPO_URL, SSH_REPO_URL],
        description="Stored as sent. It may end with `.git` or a slash.",
        json_schema_extra={"minLength": 1},
    ),
]
Description = Annotated[str | None, Field(max_length=MAX_DESCRIPTION_CHARS, examples=["What we sell"])]
Settings = Annotated[
    dict[str, Any] | None,
    AfterValidator(checked_settings),
    Field(
        examples=[{"setup_script": "npm ci"}],
        description="Any JSON, up to 256 KiB. `setup_script` (up to 64 KiB) runs in the sandbox before the agent. "
        "`env` (`{NAME: value}`) sets environment variables of both; responses include its values. `network` lists "
        "additional hosts, such as `db.example.org` or `*.example.org`, that both can reach.",
    ),
]


class CreateProjectRequest(RequestBody):
    """The repository and the name of the new project."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "Widgets", "repo_url": REPO_URL}]})

    name: Name
    repo_url: RepoUrl
    description: Description = ""
    settings: Settings = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _has_both(cls, sent: dict[str, Any]) -> dict[str, Any]:
        if not all(str(sent.get(key) or "").strip() for key in ("name", "repo_url")):
            raise InvalidInput("name and repo_url are required")
        return sent


class UpdateProjectRequest(RequestBody):
    """The fields to change. Absent fields do not change."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "examples": [{"name": "Widgets"}]})

    # Only the fields that were sent are used; the defaults only make a field optional.
    name: Name = Field(default_factory=str)
    repo_url: RepoUrl = Field(default_factory=str)
    description: Description = Field(default_factory=str)
    settings: Settings = Field(default_factory=dict)
    is_active: bool = Field(default_factory=bool, examples=[True])
