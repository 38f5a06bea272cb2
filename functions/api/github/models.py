"""Request and response bodies of the GitHub operations."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema

from functions.api.web.examples import GITHUB_TOKEN, REPO_URL, SSH_REPO_URL
from functions.api.web.request_body import RequestBody
from shared.domain.pull_request import MAX_BODY_CHARS, MAX_TITLE_CHARS

VALID = "Token is valid and has repository access"  # the contract's text, also without a repository
MAX_TOKEN_CHARS = 4096  # no git host issues longer ones

# The contract answers every falsy value with one text, so this accepts more than it describes.
GithubToken = Annotated[
    SecretStr | None,
    WithJsonSchema(
        {
            "type": "string",
            "format": "password",
            "writeOnly": True,
            "minLength": 1,
            "maxLength": MAX_TOKEN_CHARS,
            "description": "Used for this request only, and not stored.",
            "examples": [GITHUB_TOKEN],
        }
    ),
]


class ValidateGithubTokenRequest(RequestBody):
    """A GitHub token, and optionally a repository to check its permissions in."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"github_token": GITHUB_TOKEN}]})

    github_token: GithubToken
    repo_url: str | None = Field(default=None, examples=[REPO_URL, SSH_REPO_URL])


class RepositoryPermissions(BaseModel):
    """What the token can do in the repository. For fine-grained tokens, GitHub reports the permissions of the owner."""

    read: bool
    write: bool
    admin: bool
    read_branches: bool
    create_branches: bool


class RepositoryInfo(BaseModel):
    """The requested repository."""

    name: str = Field(examples=["acme/widgets"])
    private: bool
    default_branch: str = Field(examples=["main"])
    permissions: RepositoryPermissions


class NoRepository(BaseModel):
    """An empty object: the request named no repository."""

    model_config = ConfigDict(extra="forbid")


class ValidateGithubTokenResponse(BaseModel):
    """The token is valid. `user` is the login of its owner."""

    status: Literal["success"]
    user: str = Field(examples=["octocat"])
    repo: RepositoryInfo | NoRepository
    message: str = Field(examples=[VALID])


class CreatePullRequestRequest(RequestBody):
    """The GitHub token, and the title and body of a new pull request. Their defaults are made from the prompt."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"github_token": GITHUB_TOKEN}]})

    github_token: GithubToken
    title: str | None = Field(default=None, description=f"At most {MAX_TITLE_CHARS} characters.")
    body: str | None = Field(default=None, description=f"At most {MAX_BODY_CHARS} characters.")
    draft: bool = Field(default=False, description="Open it as a draft, if the repository supports drafts.")


class CreatePullRequestResponse(BaseModel):
    """The open pull request."""

    status: Literal["success"]
    pr_url: str = Field(examples=[f"{REPO_URL}/pull/12"])
    pr_number: int = Field(examples=[12])
    branch: str = Field(examples=["claude-code-7"])
    files_updated: int = Field(examples=[3])
