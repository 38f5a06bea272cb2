"""Response bodies about a task's changes."""

from typing import Literal

from pydantic import BaseModel, Field

from functions.api.web.examples import DIFF


class ChangedFile(BaseModel):
    """A file that the task has changed."""

    path: str = Field(examples=["README.md"])
    previous_path: str | None = Field(
        examples=["docs/README.md"], description="The former path of a renamed file, otherwise null."
    )
    status: Literal["added", "modified", "deleted", "renamed", "type_changed"]
    mode: str | None = Field(
        examples=["100644"],
        description="The git file mode: 100644 is a regular file, 100755 an executable file, 120000 a symbolic link "
        "with its target as content. Null when the file is deleted.",
    )
    size: int = Field(examples=[1234], description="The current size in bytes, 0 when the file is deleted.")
    truncated: bool = Field(examples=[False], description="True when the contents were too large to be stored.")


class ListTaskFilesResponse(BaseModel):
    """The changed files, sorted by path, at most 1,000. The task's `changed_files` can name more."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    files: list[ChangedFile]


class FileWithContents(ChangedFile):
    """A changed file and its contents. A side is null when it does not exist or was not requested."""

    encoding: Literal["utf-8", "base64"] = Field(
        description="The encoding of both sides. base64 when one of them is not text."
    )
    before: str | None = Field(examples=["# Widgets\n"])
    after: str | None = Field(examples=["# Widgets\n\nnpm ci\n"])


class GetTaskFileResponse(BaseModel):
    """The changed file."""

    status: Literal["success"]
    task_id: int = Field(examples=[7])
    file: FileWithContents


class GetGitDiffResponse(BaseModel):
    """The diff as text, or null when there is none yet."""

    status: Literal["success"]
    git_diff: str | None = Field(examples=[DIFF])
    task_id: int = Field(examples=[7])
