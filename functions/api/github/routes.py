"""GitHub with the user's own token: validate it, and create pull requests with it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request
from pydantic import SecretStr

from functions.api.deps import CurrentUser, Tasks, Wired
from functions.api.github import pull_request, token_validation
from functions.api.github.models import (
    MAX_TOKEN_CHARS,
    VALID,
    CreatePullRequestRequest,
    CreatePullRequestResponse,
    ValidateGithubTokenRequest,
    ValidateGithubTokenResponse,
)
from functions.api.web.ids import RowId
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import request_body, responses
from functions.api.web.request_body import read_body
from shared.domain.errors import InvalidInput
from shared.domain.pull_request import TASK_COLUMNS, FinishedTask, RepositoryAccess
from shared.domain.secret import Secret
from shared.observability import register_secret

TOKEN_REQUIRED = "github_token is required"

router = APIRouter(prefix="/api", tags=["github"])

ValidateBody = Annotated[
    ValidateGithubTokenRequest, Depends(read_body(ValidateGithubTokenRequest, empty=TOKEN_REQUIRED))
]


@router.post(
    "/validate-token",
    operation_id="validateGithubToken",
    responses=responses(ValidateGithubTokenResponse, 400, 401, 403, 409, 413, 429, 503),
    openapi_extra=request_body(ValidateGithubTokenRequest),
)
def validate_github_token(_user: CurrentUser, body: ValidateBody, wired: Wired) -> JsonResponse:
    """Validate a GitHub token. Returns its owner and its permissions in a repository, and writes nothing to GitHub.

    401: GitHub does not accept the token, or the caller is not authenticated. 403: the token cannot read the
    repository; the response still has `user`. 409: GitHub rejects the request for another reason. 429: the token has
    reached GitHub's rate limit.
    """
    github = wired.ports.github(_token(body.github_token))
    found = token_validation.validate(github, body.repo_url, origins=wired.settings.repo_origins)
    access = found.access
    return JsonResponse(
        {
            "status": "success",
            "user": found.owner.login,
            "repo": _repository(access, can_write=found.can_write) if access else {},
            "message": VALID,
        }
    )


def finished_task(task_id: RowId, user: CurrentUser, tasks: Tasks) -> FinishedTask:
    """Raises NotFound, and InvalidInput for a task that is not completed or has no changes."""
    return FinishedTask.of(tasks.get_columns(task_id, TASK_COLUMNS, owner_id=user.id))


Finished = Annotated[FinishedTask, Depends(finished_task)]
_read_body = read_body(CreatePullRequestRequest, empty=TOKEN_REQUIRED)


async def body_after_task(request: Request, _task: Finished) -> CreatePullRequestRequest:
    """The contract checks the task first: for a missing task, any body gets the same response."""
    return await _read_body(request)


@router.post(
    "/create-pr/{task_id:row_id}",
    operation_id="createPullRequest",
    responses=responses(CreatePullRequestResponse, 400, 401, 403, 404, 409, 413, 429, 503),
    openapi_extra=request_body(CreatePullRequestRequest),
)
def create_pull_request(
    task: Finished,
    body: Annotated[CreatePullRequestRequest, Depends(body_after_task)],
    user: CurrentUser,
    tasks: Tasks,
    wired: Wired,
) -> JsonResponse:
    """Create a pull request. It contains the changes of a completed task, as one commit on a new branch.

    A repeated request returns the open pull request; after a follow-up it adds a commit to it. 403: the token cannot
    write to the repository, or another user owns the branch. 404: the task, the repository or its branch does not
    exist. 409: the changes no longer apply to the branch, or the pull request has commits of other authors (code
    `branch_has_moved`).
    """
    command = pull_request.ProposeCommand(
        task=task, owner_id=user.id, title=body.title, body=body.body, draft=body.draft
    )
    proposed = pull_request.propose(
        command,
        github=wired.ports.github(_token(body.github_token)),
        store=wired.ports.changes_of(user.token),
        patch=lambda: tasks.get_columns(task.id, ["git_patch"], owner_id=user.id)["git_patch"],
        origins=wired.settings.repo_origins,
    )
    return JsonResponse(
        {
            "status": "success",
            "pr_url": proposed.pull_request.url,
            "pr_number": proposed.pull_request.number,
            "branch": proposed.pull_request.branch,
            "files_updated": proposed.files_updated,
        }
    )


def _token(sent: SecretStr | None) -> Secret:
    """Raises InvalidInput for text that cannot be sent as a token in a header."""
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
