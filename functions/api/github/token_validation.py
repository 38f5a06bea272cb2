"""Validates a GitHub token without writing anything to GitHub."""

from collections.abc import Collection
from dataclasses import dataclass

from functions.api.projects.repository_url import parse_repository
from shared.domain.errors import Forbidden, NotAuthenticated
from shared.domain.pull_request import GitHub, GitHubRefused, RepositoryAccess, TokenOwner, TokenRefused


@dataclass(frozen=True, slots=True)
class ValidatedToken:
    """The owner of the token, and its access to the requested repository; None when none was requested."""

    owner: TokenOwner
    access: RepositoryAccess | None

    @property
    def can_write(self) -> bool:
        return self.access is not None and self.access.can_write_with(self.owner.scopes)


def validate(github: GitHub, repo_url: str | None, *, origins: Collection[str]) -> ValidatedToken:
    """The owner and the access of a token.

    Raises InvalidInput, NotAuthenticated for a token that GitHub refuses, Forbidden for a repository that it cannot
    read, TooMany, Unavailable.
    """
    repository = parse_repository(repo_url, origins=origins) if repo_url else None
    try:
        owner = github.owner()
    except TokenRefused as refused:
        raise NotAuthenticated(f"Token validation failed: {refused}", code=refused.code) from refused
    try:
        access = github.access(repository) if repository else None
    except GitHubRefused as refused:
        text = f"Cannot access repository: {refused.reason}"
        raise Forbidden(text, code="repository_not_accessible", shown={"user": owner.login}) from refused
    return ValidatedToken(owner, access)
