"""Request and response bodies of the profile operations."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.api.web.examples import USER_ID
from functions.api.web.request_body import RequestBody
from shared.domain.errors import InvalidInput
from shared.domain.preferences import check_preferences

MAX_FULL_NAME_CHARS = 200
MAX_URL_CHARS = 2048
# Letters and digits with single hyphens between them; enterprise-managed users have an underscore and the company's
# short code at the end (docs.github.com, "Username considerations for external authentication", 2026).
GITHUB_USERNAME = "^[A-Za-z0-9]+(-[A-Za-z0-9]+)*(_[A-Za-z0-9]+)?$"
MAX_GITHUB_USERNAME_CHARS = 39
PREFERENCES: dict[str, Any] = {"claudeCode": {"env": {"ANTHROPIC_MODEL": "claude-sonnet-4-5"}}}


class UserProfile(BaseModel):
    """A user's profile. `expires_at` is when a test user expires."""

    id: UUID = Field(examples=[USER_ID])
    email: str | None = Field(examples=["ada@example.com"])
    full_name: str | None = Field(examples=["Ada Lovelace"])
    avatar_url: str | None = Field(examples=["https://example.com/ada.png"])
    github_username: str | None = Field(examples=["ada"])
    preferences: dict[str, Any] = Field(examples=[PREFERENCES])
    created_at: datetime | None
    updated_at: datetime | None
    is_test_user: bool
    expires_at: datetime | None


class ProfileResponse(BaseModel):
    """The user's own profile."""

    status: Literal["success"]
    user: UserProfile


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
        raise InvalidInput("github_username must be the name of a GitHub account, without @ or URL")
    return name


def _preferences(sections: dict[str, Any] | None) -> dict[str, Any] | None:
    check_preferences(sections or {})
    return sections


def _absent() -> None:
    """A default that the description does not show: a client that sent it would clear the stored value."""


class UpdateProfileRequest(RequestBody):
    """The fields to change. Null clears a field; absent fields do not change."""

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
        description="Each section that is sent replaces the stored one; null removes it.",
    )
