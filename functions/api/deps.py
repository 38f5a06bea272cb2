"""The dependencies that a route can declare as parameters. Every store acts as the authenticated user."""

from typing import Annotated

from fastapi import Depends, Request

from functions.api.auth.current_user import CurrentUser, SignedInUser, TokenIssuer
from functions.api.wiring import Wired
from shared.domain.ports import ApiKeyStore, ProfileStore, ProjectStore, TaskStore, UsageStore
from shared.domain.pull_request import ChangeStore

__all__ = [
    "ApiKeys",
    "Changes",
    "CurrentUser",
    "Profile",
    "Projects",
    "RequestId",
    "SignedInUser",
    "Tasks",
    "TokenIssuer",
    "Usages",
    "Wired",
]


def tasks(user: CurrentUser, wired: Wired) -> TaskStore:
    return wired.ports.tasks_of(user.token)


Tasks = Annotated[TaskStore, Depends(tasks)]


def changes(user: CurrentUser, wired: Wired) -> ChangeStore:
    return wired.ports.changes_of(user.token)


Changes = Annotated[ChangeStore, Depends(changes)]


def projects(user: CurrentUser, wired: Wired) -> ProjectStore:
    return wired.ports.projects_of(user.token)


Projects = Annotated[ProjectStore, Depends(projects)]


def usages(user: CurrentUser, wired: Wired) -> UsageStore:
    return wired.ports.usages_of(user.token)


Usages = Annotated[UsageStore, Depends(usages)]


def profile(user: CurrentUser, wired: Wired) -> ProfileStore:
    return wired.ports.profile_of(user.token)


Profile = Annotated[ProfileStore, Depends(profile)]


def api_keys(user: SignedInUser, wired: Wired) -> ApiKeyStore:
    return wired.ports.api_keys_of(user.token)


ApiKeys = Annotated[ApiKeyStore, Depends(api_keys)]


def request_id(request: Request) -> str:
    found: str = request.state.request_id
    return found


RequestId = Annotated[str, Depends(request_id)]
