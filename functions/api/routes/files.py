"""What a task has changed, file by file and as a patch."""

import base64
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from functions.api.answers import Answer, PatchAnswer
from functions.api.deps import Changes, CurrentUser, Tasks
from functions.api.openapi import answers, text_answer
from functions.api.paths import RowId
from shared.domain.changes import NO_PATCH
from shared.domain.errors import Conflict, NotFound
from shared.domain.ports import Row

MAX_PATH_CHARS = 4096  # of a path on Linux, in bytes
SIDES = ("before", "after")

router = APIRouter(prefix="/api", tags=["tasks"])


class ChangedFile(BaseModel):
    """A file that the task has changed."""

    path: str = Field(examples=["README.md"])
    previous_path: str | None = Field(examples=["docs/README.md"], description="Of a renamed one.")
    status: Literal["added", "modified", "deleted", "renamed", "type_changed"]
    mode: str | None = Field(
        examples=["100644"],
        description="100644: a file, 100755: one to execute, 120000: a link, whose content is where it leads."
        " Null when it is deleted.",
    )
    size: int = Field(examples=[1234], description="Bytes of it now; 0 when it is deleted.")
    truncated: bool = Field(examples=[False], description="Its contents were too much to be stored.")


class ChangedFiles(BaseModel):
    """The files, by path. The first 1,000 of very many; the task's `changed_files` names more."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    files: list[ChangedFile]


class FileWithContents(ChangedFile):
    """A file with what it was and what it is. A side is null where it does not exist, or was not asked for."""

    encoding: Literal["utf-8", "base64"] = Field(description="Of both sides; base64 where one of them is no text.")
    before: str | None = Field(examples=["# Widgets\n"])
    after: str | None = Field(examples=["# Widgets\n\nnpm ci\n"])


class OneFile(BaseModel):
    """The file."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    file: FileWithContents


def own_task(task_id: RowId, user: CurrentUser, tasks: Tasks) -> Row:
    """Raises NotFound, also when it is somebody else's."""
    return tasks.get_columns(task_id, ["id"], owner_id=user.id)


OwnTask = Annotated[Row, Depends(own_task)]


@router.get(
    "/tasks/{task_id:row_id}/files",
    operation_id="listTaskFiles",
    responses=answers(ChangedFiles, 401, 404, 413, 503),
)
def list_files(task: OwnTask, user: CurrentUser, changes: Changes) -> Answer:
    """List the files that a task has changed. Without their contents: ask for these file by file.

    They are those of the newest run that was completed or has left any.
    """
    files = changes.files(task["id"], owner_id=user.id)
    return Answer({"status": "success", "task_id": task["id"], "files": files})


@router.get(
    "/tasks/{task_id:row_id}/files/content",
    operation_id="getTaskFile",
    responses=answers(OneFile, 400, 401, 404, 413, 503),
)
def get_file(
    task: OwnTask,
    user: CurrentUser,
    changes: Changes,
    path: Annotated[str, Query(max_length=MAX_PATH_CHARS, description="As it is listed.", examples=["README.md"])],
    side: Annotated[Literal["before", "after"] | None, Query(description="That side alone, of a large file.")] = None,
) -> Answer:
    """Get one of the files that a task has changed. What it was, and what it is now, byte by byte.

    413: it does not fit into one answer (6 MB). Ask for one side; what is larger still is in the pull request.
    """
    wanted = (side,) if side else SIDES
    # PostgreSQL stores no NUL, and no path has one.
    found = changes.file(task["id"], path, sides=wanted, owner_id=user.id) if "\0" not in path else None
    if found is None:
        raise NotFound("File not found", code="file_not_found")
    return Answer({"status": "success", "task_id": task["id"], "file": _shown(found, wanted)})


@router.get(
    "/tasks/{task_id:row_id}/patch",
    operation_id="getTaskPatch",
    response_class=PatchAnswer,
    responses=text_answer("What changed, as a mail that git takes.", 401, 404, 409, 413, 503),
)
def get_patch(task_id: RowId, user: CurrentUser, tasks: Tasks) -> PatchAnswer:
    """Get a task's changes as a patch. For `git apply`, or as a commit for `git am --keep-cr`.

    404 (code `no_changes`): there are none. 409 (code `patch_not_stored`): they are too large for a patch, or hold a
    secret that could not be taken out of it. 413: it does not fit into one answer (6 MB).
    """
    row = tasks.get_columns(task_id, ["git_patch", "changed_files"], owner_id=user.id)
    if row["git_patch"]:
        return PatchAnswer(row["git_patch"], headers={"Content-Disposition": f'attachment; filename="{task_id}.patch"'})
    if row["changed_files"]:
        text = "There is no patch of these changes. Read the files, or create a pull request."
        raise Conflict(text, code="patch_not_stored")
    raise NotFound(NO_PATCH, code="no_changes")


def _shown(file: Row, wanted: tuple[str, ...]) -> Row:
    facts = {name: file[name] for name in ChangedFile.model_fields}
    contents = {side: file[side] if side in wanted else None for side in SIDES}
    try:
        return {**facts, "encoding": "utf-8", **{side: _text(content) for side, content in contents.items()}}
    except ValueError:
        return {**facts, "encoding": "base64", **{side: _coded(content) for side, content in contents.items()}}


def _text(content: bytes | None) -> str | None:
    """Raises ValueError for what is no text."""
    if content is not None and b"\0" in content:
        raise ValueError
    return None if content is None else content.decode()


def _coded(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
