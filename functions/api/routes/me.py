"""The signed-in user's own profile."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import CurrentUser, Profile
from functions.api.openapi import answers, body
from shared.domain.errors import InvalidInput
from shared.domain.ports import Row
from shared.domain.preferences import check_preferences

router = APIRouter(prefix="/api", tags=["me"])

MAX_FULL_NAME_CHARS = 200
MAX_URL_CHARS = 2048
# Letters and digits with single hyphens between them; of users that a company manages, an underscore and the company's
# short code follow (docs.github.com, "Username considerations for external authentication", 2026).
GITHUB_USERNAME = "^[A-Za-z0-9]+(-[A-Za-z0-9]+)*(_[A-Za-z0-9]+)?$"
MAX_GITHUB_USERNAME_CHARS = 39
PREFERENCES: dict[str, Any] = {"claudeCode": {"env": {"ANTHROPIC_MODEL": "claude-sonnet-4-5"}}}


class Me(BaseModel):
    """A user's profile. `expires_at` is when a test user ends."""

    id: UUID = Field(examples=["8a0c8c2e-6c0e-4f0e-9c43-0d3f6c6a2c11"])
    email: str | None = Field(examples=["ada@example.com"])
    full_name: str | None = Field(examples=["Ada Lovelace"])
    avatar_url: str | None = Field(examples=["https://example.com/ada.png"])
    github_username: str | None = Field(examples=["ada"])
    preferences: dict[str, Any] = Field(examples=[PREFERENCES])
    created_at: datetime | None
    updated_at: datetime | None
    is_test_user: bool
    expires_at: datetime | None


class Profiled(BaseModel):
    """The signed-in user's own profile."""

    status: Literal["success"]
    user: Me


def _full_name(text: str | None) -> str | None:
    if text is None:
        return None
    name = text.strip()
    if not 1 <= len(name) <= MAX_FULL_NAME_CHARS or "\0" in name:
        raise InvalidInput(f"full_name must have 1 to {MAX_FULL_NAME_CHARS} characters, not only blanks")
    return name


def _avatar_url(url: str | None) -> str | None:
    if url is not None and not _is_web_address(url):
        raise InvalidInput(f"avatar_url must be an http(s) URL of at most {MAX_URL_CHARS} characters")
    return url


def _is_web_address(url: str) -> bool:
    if len(url) > MAX_URL_CHARS or not re.fullmatch(r"https?://[!-~]+", url, re.IGNORECASE):
        return False
    try:
        return bool(urlsplit(url).hostname)
    except ValueError:
        return False


def _github_username(name: str | None) -> str | None:
    if name is None:
        return None
    if len(name) > MAX_GITHUB_USERNAME_CHARS or not re.fullmatch(GITHUB_USERNAME, name):
        raise InvalidInput("github_username must be the name of a GitHub account, without @ and address")
    return name


def _preferences(sections: dict[str, Any] | None) -> dict[str, Any] | None:
    check_preferences(sections or {})
    return sections


def _absent() -> None:
    """A default that the description does not name: whoever sent it would clear what is there."""


class ProfileIn(Body):
    """What is sent is changed, null clears it, and what is absent stays."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "examples": [{"full_name": "Ada Lovelace"}]})

    full_name: Annotated[str | None, AfterValidator(_full_name)] = Field(
        default_factory=_absent,
        examples=["Ada Lovelace"],
        json_schema_extra={"pattern": r"\S", "maxLength": MAX_FULL_NAME_CHARS},
    )
    avatar_url: Annotated[str | None, AfterValidator(_avatar_url)] = Field(
        default_factory=_absent,
        examples=["https://example.com/ada.png"],
        json_schema_extra={"format": "uri", "pattern": "^https?://", "maxLength": MAX_URL_CHARS},
    )
    github_username: Annotated[str | None, AfterValidator(_github_username)] = Field(
        default_factory=_absent,
        examples=["ada"],
        json_schema_extra={"pattern": GITHUB_USERNAME, "maxLength": MAX_GITHUB_USERNAME_CHARS},
    )
    preferences: Annotated[dict[str, Any] | None, AfterValidator(_preferences)] = Field(
        default_factory=_absent,
        examples=[PREFERENCES],
        description="Each section that is named replaces the stored one; null in its place removes it.",
    )


ProfileBody = Annotated[ProfileIn, Depends(body_of(ProfileIn, empty="No data provided"))]


@router.get("/me", operation_id="getMe", responses=answers(Profiled, 401, 404, 503))
def get_me(user: CurrentUser, profile: Profile) -> Answer:
    """Get the own profile. Who is asking, and what their agents are told."""
    return _answer(profile.get(owner_id=user.id))


@router.patch(
    "/me",
    operation_id="updateMe",
    responses=answers(Profiled, 400, 401, 404, 413, 503),
    openapi_extra=body(ProfileIn),
)
def update_me(user: CurrentUser, body: ProfileBody, profile: Profile) -> Answer:
    """Change the own profile. What is sent is changed, null clears it; any other key is ignored."""
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        raise InvalidInput("No data provided")
    return _answer(profile.update(changes, owner_id=user.id))


def _answer(row: Row) -> Answer:
    return Answer({"status": "success", "user": row})
