"""What a GitHub token is good for, found out without writing anything."""

from collections.abc import Collection
from dataclasses import dataclass

from functions.api.repositories import named_repository
from shared.domain.errors import Forbidden, NotAuthenticated
from shared.domain.pull_request import GitHub, GitHubRefused, RepositoryAccess, TokenOwner, TokenRefused


@dataclass(frozen=True, slots=True)
class Validated:
    """Whose token it is and, where one was asked about, what it may do in a repository."""

    owner: TokenOwner
    access: RepositoryAccess | None

    @property
    def can_write(self) -> bool:
        return self.access is not None and self.access.can_write_with(self.owner.scopes)


def validate(github: GitHub, repo_url: str | None, *, origins: Collection[str]) -> Validated:
    """Raises InvalidInput, NotAuthenticated for a token that GitHub refuses, Forbidden for a repository that it cannot
    read, TooMany, Unavailable.
    """
    repository = named_repository(repo_url, origins=origins) if repo_url else None
    try:
        owner = github.owner()
    except TokenRefused as refused:
        raise NotAuthenticated(f"Token validation failed: {refused}", code=refused.code) from refused
    try:
        access = github.access(repository) if repository else None
    except GitHubRefused as refused:
        text = f"Cannot access repository: {refused.reason}"
        raise Forbidden(text, code="repository_not_accessible", shown={"user": owner.login}) from refused
    return Validated(owner, access)
