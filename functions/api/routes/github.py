"""The user's own GitHub: what a token is good for, and pull requests made with it."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import CurrentUser, Tasks, Wired
from functions.api.models.task import REPO_URL
from functions.api.openapi import answers, body
from functions.api.paths import RowId
from functions.api.services import github_token, pull_request
from shared.domain.errors import InvalidInput
from shared.domain.pull_request import MAX_BODY_CHARS, MAX_TITLE_CHARS, TASK_COLUMNS, FinishedTask, RepositoryAccess
from shared.domain.secret import Secret
from shared.observability import register_secret

TOKEN_REQUIRED = "github_token is required"
MESSAGE = "Token is valid and has repository access"  # the contract's, also where no repository was asked about
MAX_TOKEN_CHARS = 4096  # no git host issues longer ones

router = APIRouter(prefix="/api", tags=["github"])

# The contract refuses whatever is falsy with one text, so this is described more narrowly than it is read.
GithubToken = Annotated[
    SecretStr | None,
    WithJsonSchema(
        {
            "type": "string",
            "format": "password",
            "writeOnly": True,
            "minLength": 1,
            "maxLength": MAX_TOKEN_CHARS,
            "description": "Used for this request only.",
            "examples": ["github_pat_0123456789"],
        }
    ),
]


class ValidateTokenIn(Body):
    """A GitHub token, and the repository that it is wanted for."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"github_token": "github_pat_0123456789"}]})

    github_token: GithubToken
    repo_url: str | None = Field(default=None, examples=[REPO_URL, "git@github.com:acme/widgets.git"])


class Permissions(BaseModel):
    """What the token can do there. Of a fine-grained token, GitHub tells its owner's rights only."""

    read: bool
    write: bool
    admin: bool
    read_branches: bool
    create_branches: bool


class CheckedRepository(BaseModel):
    """The repository that was asked about."""

    name: str = Field(examples=["acme/widgets"])
    private: bool
    default_branch: str = Field(examples=["main"])
    permissions: Permissions


class NoRepository(BaseModel):
    """None was asked about."""

    model_config = ConfigDict(extra="forbid")


class TokenIsValid(BaseModel):
    """GitHub knows the token; `user` is whose it is."""

    status: Literal["success"]
    user: str = Field(examples=["octocat"])
    repo: CheckedRepository | NoRepository
    message: str = Field(examples=[MESSAGE])


class CreatePullRequestIn(Body):
    """The token to make it with, and the words for a new one; without them they are made from the prompt."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"github_token": "github_pat_0123456789"}]})

    github_token: GithubToken
    title: str | None = Field(default=None, description=f"At most {MAX_TITLE_CHARS} characters.")
    body: str | None = Field(default=None, description=f"At most {MAX_BODY_CHARS} characters.")
    draft: bool = Field(default=False, description="Open it as a draft, where the repository has drafts.")


class PullRequestCreated(BaseModel):
    """The pull request is open."""

    status: Literal["success"]
    pr_url: str = Field(examples=[f"{REPO_URL}/pull/12"])
    pr_number: int = Field(examples=[12])
    branch: str = Field(examples=["claude-code-7"])
    files_updated: int = Field(examples=[3])


ValidateTokenBody = Annotated[ValidateTokenIn, Depends(body_of(ValidateTokenIn, empty=TOKEN_REQUIRED))]


@router.post(
    "/validate-token",
    operation_id="validateToken",
    responses=answers(TokenIsValid, 400, 401, 403, 409, 413, 429, 503),
    openapi_extra=body(ValidateTokenIn),
)
def validate_token(_user: CurrentUser, body: ValidateTokenBody, wired: Wired) -> Answer:
    """Check a GitHub token. Whose it is, and what it may do in a repository; nothing is written there to find out.

    401: also when GitHub does not accept the token. 403: it cannot read the repository; `user` is there all the same.
    409: GitHub refuses it for another reason. 429: GitHub accepts no more requests of this token for now.
    """
    github = wired.ports.github(_token(body.github_token))
    found = github_token.validate(github, body.repo_url, origins=wired.settings.repo_origins)
    access = found.access
    return Answer(
        {
            "status": "success",
            "user": found.owner.login,
            "repo": _repository(access, can_write=found.can_write) if access else {},
            "message": MESSAGE,
        }
    )


def finished_task(task_id: RowId, user: CurrentUser, tasks: Tasks) -> FinishedTask:
    """Raises NotFound; InvalidInput for a task that has not been completed or changed nothing."""
    return FinishedTask.of(tasks.get_columns(task_id, TASK_COLUMNS, owner_id=user.id))


Finished = Annotated[FinishedTask, Depends(finished_task)]
_read_body = body_of(CreatePullRequestIn, empty=TOKEN_REQUIRED)


async def body_after_the_task(request: Request, _task: Finished) -> CreatePullRequestIn:
    """The contract looks at the task first: what was sent for a task that does not exist may be anything."""
    return await _read_body(request)


@router.post(
    "/create-pr/{task_id:row_id}",
    operation_id="createPullRequest",
    responses=answers(PullRequestCreated, 400, 401, 403, 404, 409, 413, 429, 503),
    openapi_extra=body(CreatePullRequestIn),
)
def create_pull_request(
    task: Finished,
    body: Annotated[CreatePullRequestIn, Depends(body_after_the_task)],
    user: CurrentUser,
    tasks: Tasks,
    wired: Wired,
) -> Answer:
    """Open a pull request. It proposes a completed task's changes: one commit on a branch of its own.

    Asked again, it answers with the pull request that is open; after a follow-up it adds a commit to it. 403: the token
    may not write, or the branch is somebody else's. 404: also a repository or branch that GitHub does not have. 409:
    the changes do not fit the branch any more, or somebody has worked on the pull request (code `branch_has_moved`).
    """
    asked = pull_request.Asked(task=task, owner_id=user.id, title=body.title, body=body.body, draft=body.draft)
    made = pull_request.propose(
        asked,
        github=wired.ports.github(_token(body.github_token)),
        store=wired.ports.changes_of(user.token),
        patch=lambda: tasks.get_columns(task.id, ["git_patch"], owner_id=user.id)["git_patch"],
        origins=wired.settings.repo_origins,
    )
    return Answer(
        {
            "status": "success",
            "pr_url": made.pull_request.url,
            "pr_number": made.pull_request.number,
            "branch": made.pull_request.branch,
            "files_updated": made.files_updated,
        }
    )


def _token(sent: SecretStr | None) -> Secret:
    """Raises InvalidInput for what cannot be a token: it is to go into a header."""
    text = sent.get_secret_value().strip() if sent else ""
    if not text:
        raise InvalidInput(TOKEN_REQUIRED)
    if len(text) > MAX_TOKEN_CHARS or not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidInput(f"github_token may have at most {MAX_TOKEN_CHARS} characters, all visible ASCII")
    token = Secret(text)
    register_secret(token)
    return token


def _repository(access: RepositoryAccess, *, can_write: bool) -> dict[str, object]:
    return {
        "name": access.full_name,
        "private": access.private,
        "default_branch": access.default_branch,
        "permissions": {
            "read": True,
            "write": can_write,
            "admin": access.is_admin,
            "read_branches": True,
            "create_branches": can_write,
        },
    }
