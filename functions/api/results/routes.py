"""What a task has changed: as a diff, as a patch, and file by file."""

import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query

from functions.api.deps import Changes, CurrentUser, Tasks
from functions.api.results.models import ChangedFile, GetGitDiffResponse, GetTaskFileResponse, ListTaskFilesResponse
from functions.api.web.ids import RowId
from functions.api.web.json_response import JsonResponse, PatchResponse
from functions.api.web.openapi import responses, text_responses
from shared.domain.changes import NO_PATCH
from shared.domain.errors import Conflict, NotFound
from shared.domain.ports import Row

MAX_PATH_CHARS = 4096  # of a path on Linux, in bytes
SIDES = ("before", "after")

router = APIRouter(prefix="/api", tags=["tasks"])


def own_task(task_id: RowId, user: CurrentUser, tasks: Tasks) -> Row:
    """The id of the task. Raises NotFound, also when it belongs to another user."""
    return tasks.get_columns(task_id, ["id"], owner_id=user.id)


OwnTask = Annotated[Row, Depends(own_task)]


@router.get(
    "/git-diff/{task_id:row_id}", operation_id="getGitDiff", responses=responses(GetGitDiffResponse, 401, 404, 413, 503)
)
def get_git_diff(task_id: RowId, user: CurrentUser, tasks: Tasks) -> JsonResponse:
    """Get the diff of a task. As text, or null when there is none yet. 413: the diff is larger than 6 MB."""
    row = tasks.get_columns(task_id, ["id", "git_diff"], owner_id=user.id)
    return JsonResponse({"status": "success", "git_diff": row["git_diff"], "task_id": row["id"]})


@router.get(
    "/tasks/{task_id:row_id}/files",
    operation_id="listTaskFiles",
    responses=responses(ListTaskFilesResponse, 401, 404, 413, 503),
)
def list_task_files(task: OwnTask, user: CurrentUser, changes: Changes) -> JsonResponse:
    """List the files that a task has changed. Without their contents, which `getTaskFile` returns file by file.

    The files are those of the newest run that is completed or has saved changes.
    """
    files = changes.files(task["id"], owner_id=user.id)
    return JsonResponse({"status": "success", "task_id": task["id"], "files": files})


@router.get(
    "/tasks/{task_id:row_id}/files/content",
    operation_id="getTaskFile",
    responses=responses(GetTaskFileResponse, 400, 401, 404, 413, 503),
)
def get_task_file(
    task: OwnTask,
    user: CurrentUser,
    changes: Changes,
    path: Annotated[
        str, Query(max_length=MAX_PATH_CHARS, description="The path as it is listed.", examples=["README.md"])
    ],
    side: Annotated[Literal["before", "after"] | None, Query(description="Only this side of the file.")] = None,
) -> JsonResponse:
    """Get a file that a task has changed. Its exact contents before and after the change.

    413: the response is larger than 6 MB. Request a single side, or create a pull request for larger files.
    """
    sides = (side,) if side else SIDES
    # PostgreSQL stores no NUL, and no path has one.
    found = changes.file(task["id"], path, sides=sides, owner_id=user.id) if "\0" not in path else None
    if found is None:
        raise NotFound("File not found", code="file_not_found")
    return JsonResponse({"status": "success", "task_id": task["id"], "file": _file_with_contents(found, sides)})


@router.get(
    "/tasks/{task_id:row_id}/patch",
    operation_id="getTaskPatch",
    response_class=PatchResponse,
    responses=text_responses("The changes in mailbox format.", 401, 404, 409, 413, 503),
)
def get_task_patch(task_id: RowId, user: CurrentUser, tasks: Tasks) -> PatchResponse:
    """Get the changes of a task as a patch. For `git apply`, or as a commit for `git am --keep-cr`.

    404 (code `no_changes`): the task has no changes. 409 (code `patch_not_stored`): the changes are too large for a
    patch, or contain a secret that could not be removed. 413: the patch is larger than 6 MB.
    """
    row = tasks.get_columns(task_id, ["git_patch", "changed_files"], owner_id=user.id)
    if row["git_patch"]:
        disposition = f'attachment; filename="{task_id}.patch"'
        return PatchResponse(row["git_patch"], headers={"Content-Disposition": disposition})
    if row["changed_files"]:
        text = "There is no patch of these changes. Read the files, or create a pull request."
        raise Conflict(text, code="patch_not_stored")
    raise NotFound(NO_PATCH, code="no_changes")


def _file_with_contents(file: Row, sides: tuple[str, ...]) -> Row:
    info = {name: file[name] for name in ChangedFile.model_fields}
    contents = {side: file[side] if side in sides else None for side in SIDES}
    try:
        return {**info, "encoding": "utf-8", **{side: _text(content) for side, content in contents.items()}}
    except ValueError:
        return {**info, "encoding": "base64", **{side: _base64(content) for side, content in contents.items()}}


def _text(content: bytes | None) -> str | None:
    """Raises ValueError for content that is not text."""
    if content is not None and b"\0" in content:
        raise ValueError
    return None if content is None else content.decode()


def _base64(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
