"""Projects: repositories that somebody works on."""

from collections.abc import Collection
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import CurrentUser, Projects, Wired
from functions.api.errors import TooLarge
from functions.api.openapi import answers, body
from functions.api.paths import RowId
from functions.api.repositories import named_repository
from shared.domain.errors import InvalidInput
from shared.domain.ports import Row
from shared.domain.project import checked_settings

MAX_NAME_CHARS = 200
MAX_DESCRIPTION_CHARS = 10_000
MAX_URL_CHARS = 500  # an origin, an owner of 39 and a name of 100 characters, and blanks around them

router = APIRouter(prefix="/api/projects", tags=["projects"])


class Project(BaseModel):
    """A project, and how many tasks it has. Active ones are pending or running."""

    id: int = Field(examples=[3])
    user_id: UUID = Field(examples=["8a0c8c2e-6c0e-4f0e-9c43-0d3f6c6a2c11"])
    name: str = Field(examples=["Widgets"])
    description: str | None = Field(examples=["What we sell"])
    repo_url: str = Field(examples=["https://github.com/acme/widgets"])
    repo_owner: str = Field(examples=["acme"])
    repo_name: str = Field(examples=["widgets"])
    is_active: bool | None = Field(examples=[True])
    settings: dict[str, Any] | None = Field(examples=[{"setup_script": "npm ci"}])
    created_at: datetime = Field(examples=["2026-11-23T09:00:00.123456+00:00"])
    updated_at: datetime = Field(examples=["2026-11-23T09:00:00.123456+00:00"])
    is_test_data: bool | None = Field(examples=[False])
    task_count: int = Field(examples=[12])
    completed_tasks: int = Field(examples=[9])
    active_tasks: int = Field(examples=[1])


class OneProject(BaseModel):
    """The project."""

    status: Literal["success"]
    project: Project


class ProjectList(BaseModel):
    """All own projects, newest first."""

    status: Literal["success"]
    projects: list[Project]
    omitted: list[Literal["settings"]] | None = Field(
        default=None, description="Left empty in each project, because they do not fit into one answer."
    )


class ProjectDeleted(BaseModel):
    """The project and its tasks are gone."""

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
        examples=["https://github.com/acme/widgets", "git@github.com:acme/widgets.git"],
        description="Kept as it is sent. With or without `.git` or a slash at its end.",
        json_schema_extra={"minLength": 1},
    ),
]
Description = Annotated[str | None, Field(max_length=MAX_DESCRIPTION_CHARS, examples=["What we sell"])]
Settings = Annotated[
    dict[str, Any] | None,
    AfterValidator(checked_settings),
    Field(
        examples=[{"setup_script": "npm ci"}],
        description="Yours to fill, up to 256 KiB. `setup_script`, up to 64 KiB, runs in a sandbox before the agent; "
        "`env` (`{NAME: value}`) is there for both. You can read its values back. `network` lists hosts, such as "
        "`db.example.org` or `*.example.org`, that both may reach beside git host, model and package registries.",
    ),
]


class NewProjectIn(Body):
    """A repository, and what to call it."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"name": "Widgets", "repo_url": "https://github.com/acme/widgets"}]}
    )

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


class ProjectChangesIn(Body):
    """What is to change; what is absent stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "examples": [{"name": "Widgets"}]})

    # Only what was sent is looked at: the defaults say no more than that a key may be absent.
    name: Name = Field(default_factory=str)
    repo_url: RepoUrl = Field(default_factory=str)
    description: Description = Field(default_factory=str)
    settings: Settings = Field(default_factory=dict)
    is_active: bool = Field(default_factory=bool, examples=[True])


NewProject = Annotated[NewProjectIn, Depends(body_of(NewProjectIn, empty="No data provided"))]
ProjectChanges = Annotated[ProjectChangesIn, Depends(body_of(ProjectChangesIn, empty="No data provided"))]


@router.get("", operation_id="listProjects", responses=answers(ProjectList, 401, 413, 503))
def list_projects(user: CurrentUser, projects: Projects) -> Answer:
    """List the own projects. All of them, newest first, with the numbers of their tasks."""
    rows = projects.list_all(owner_id=user.id)
    try:
        return Answer({"status": "success", "projects": rows})
    except TooLarge:
        light = [row | {"settings": {}} for row in rows]
        return Answer({"status": "success", "projects": light, "omitted": ["settings"]})


@router.post(
    "",
    operation_id="createProject",
    responses=answers(OneProject, 400, 401, 409, 413, 503),
    openapi_extra=body(NewProjectIn),
)
def create_project(user: CurrentUser, body: NewProject, projects: Projects, wired: Wired) -> Answer:
    """Add a repository. However its URL is spelt, there is one project of it: a second one is refused (409)."""
    columns = body.model_dump() | _repository(body.repo_url, wired.settings.repo_origins)
    return _one(projects.create(columns, owner_id=user.id))


@router.get("/{project_id:row_id}", operation_id="getProject", responses=answers(OneProject, 401, 404, 413, 503))
def get_project(project_id: RowId, user: CurrentUser, projects: Projects) -> Answer:
    """Get a project. With the numbers of its tasks."""
    return _one(projects.get(project_id, owner_id=user.id))


@router.put(
    "/{project_id:row_id}",
    operation_id="updateProject",
    responses=answers(OneProject, 400, 401, 404, 409, 413, 503),
    openapi_extra=body(ProjectChangesIn),
)
def update_project(
    project_id: RowId, user: CurrentUser, body: ProjectChanges, projects: Projects, wired: Wired
) -> Answer:
    """Change a project. What is not sent stays; `settings` are replaced as a whole. Any other key is ignored."""
    changes = body.model_dump(exclude_unset=True)
    if "repo_url" in changes:
        changes |= _repository(body.repo_url, wired.settings.repo_origins)
    return _one(projects.update(project_id, changes, owner_id=user.id))


@router.delete("/{project_id:row_id}", operation_id="deleteProject", responses=answers(ProjectDeleted, 401, 404, 503))
def delete_project(project_id: RowId, user: CurrentUser, projects: Projects) -> Answer:
    """Delete a project and its tasks. Those that run are stopped."""
    projects.delete(project_id, owner_id=user.id)
    return Answer({"status": "success", "message": "Project deleted successfully"})


def _one(row: Row) -> Answer:
    return Answer({"status": "success", "project": row})


def _repository(url: str, origins: Collection[str]) -> Row:
    """The columns that come from a URL, which stays as it was sent."""
    repository = named_repository(url, origins=origins)
    return {"repo_url": url, "repo_owner": repository.owner, "repo_name": repository.name}
