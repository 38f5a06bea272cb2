"""Projects: repositories with settings. Their tasks are listed by functions/api/tasks."""

from collections.abc import Collection
from typing import Annotated

from fastapi import APIRouter, Depends

from functions.api.deps import CurrentUser, Projects, Wired
from functions.api.projects.models import (
    CreateProjectRequest,
    DeleteProjectResponse,
    ListProjectsResponse,
    ProjectResponse,
    UpdateProjectRequest,
)
from functions.api.projects.repository_url import parse_repository
from functions.api.web.errors import TooLarge
from functions.api.web.ids import RowId
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import request_body, responses
from functions.api.web.request_body import read_body
from shared.domain.ports import Row

router = APIRouter(prefix="/api/projects", tags=["projects"])

CreateBody = Annotated[CreateProjectRequest, Depends(read_body(CreateProjectRequest, empty="No data provided"))]
UpdateBody = Annotated[UpdateProjectRequest, Depends(read_body(UpdateProjectRequest, empty="No data provided"))]


@router.get("", operation_id="listProjects", responses=responses(ListProjectsResponse, 401, 413, 503))
def list_projects(user: CurrentUser, projects: Projects) -> JsonResponse:
    """List projects. All of the user's projects, newest first, with the number of their tasks."""
    rows = projects.list_all(owner_id=user.id)
    try:
        return JsonResponse({"status": "success", "projects": rows})
    except TooLarge:
        without_settings = [row | {"settings": {}} for row in rows]
        return JsonResponse({"status": "success", "projects": without_settings, "omitted": ["settings"]})


@router.post(
    "",
    operation_id="createProject",
    responses=responses(ProjectResponse, 400, 401, 409, 413, 503),
    openapi_extra=request_body(CreateProjectRequest),
)
def create_project(user: CurrentUser, body: CreateBody, projects: Projects, wired: Wired) -> JsonResponse:
    """Create a project. A repository can have one project per user, in any spelling of its URL. Another is a 409."""
    columns = body.model_dump() | _repository_columns(body.repo_url, wired.settings.repo_origins)
    return _response(projects.create(columns, owner_id=user.id))


@router.get("/{project_id:row_id}", operation_id="getProject", responses=responses(ProjectResponse, 401, 404, 413, 503))
def get_project(project_id: RowId, user: CurrentUser, projects: Projects) -> JsonResponse:
    """Get a project. It includes the number of its tasks."""
    return _response(projects.get(project_id, owner_id=user.id))


@router.put(
    "/{project_id:row_id}",
    operation_id="updateProject",
    responses=responses(ProjectResponse, 400, 401, 404, 409, 413, 503),
    openapi_extra=request_body(UpdateProjectRequest),
)
def update_project(
    project_id: RowId, user: CurrentUser, body: UpdateBody, projects: Projects, wired: Wired
) -> JsonResponse:
    """Update a project. Absent fields do not change, unknown fields are ignored. `settings` is replaced as a whole."""
    changes = body.model_dump(exclude_unset=True)
    if "repo_url" in changes:
        changes |= _repository_columns(body.repo_url, wired.settings.repo_origins)
    return _response(projects.update(project_id, changes, owner_id=user.id))


@router.delete(
    "/{project_id:row_id}", operation_id="deleteProject", responses=responses(DeleteProjectResponse, 401, 404, 503)
)
def delete_project(project_id: RowId, user: CurrentUser, projects: Projects) -> JsonResponse:
    """Delete a project and its tasks. Active tasks are stopped."""
    projects.delete(project_id, owner_id=user.id)
    return JsonResponse({"status": "success", "message": "Project deleted successfully"})


def _response(row: Row) -> JsonResponse:
    return JsonResponse({"status": "success", "project": row})


def _repository_columns(url: str, origins: Collection[str]) -> Row:
    """The columns that are derived from a URL, and the URL as it was sent."""
    repository = parse_repository(url, origins=origins)
    return {"repo_url": url, "repo_owner": repository.owner, "repo_name": repository.name}
