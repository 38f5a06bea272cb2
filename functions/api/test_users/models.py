"""Request and response bodies of the test user operations."""

import re
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.api.me.models import UserProfile
from functions.api.test_users.service import MARKS
from functions.api.web.examples import A_JWT, USER_ID
from functions.api.web.request_body import RequestBody
from shared.domain.errors import InvalidInput

DEFAULT_EMAIL = "test@asynccode.test"
MAX_EMAIL_CHARS = 254
# The addresses that the sign-in service accepts (the pattern of HTML's input type=email).
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*")


class TokenPair(BaseModel):
    """An access token and a refresh token of a test user."""

    access_token: str = Field(examples=[A_JWT])
    refresh_token: str = Field(examples=[A_JWT])


class TestUser(BaseModel):
    """A test user. `metadata` is the user metadata that the sign-in service has stored."""

    id: UUID = Field(examples=[USER_ID])
    email: str = Field(examples=[DEFAULT_EMAIL])
    created_at: datetime
    expires_at: datetime
    metadata: dict[str, Any] = Field(examples=[MARKS])


class CreateTestUserResponse(BaseModel):
    """The new test user and its tokens."""

    user: TestUser
    tokens: TokenPair


class IssueTestUserTokensResponse(BaseModel):
    """New tokens of a test user."""

    tokens: TokenPair


class ListTestUsersResponse(BaseModel):
    """All test users, newest first."""

    users: list[UserProfile]


class DeleteTestUserResponse(BaseModel):
    """The test user is deleted."""

    message: Literal["Test user deleted successfully"]


class CleanUpTestUsersResponse(BaseModel):
    """The ids of the deleted test users."""

    message: str = Field(examples=["Cleaned up 1 expired test users"])
    deleted_users: list[UUID] = Field(examples=[[USER_ID]])


class GetTestUsersHealthResponse(BaseModel):
    """Whether this deployment supports test users."""

    healthy: bool
    test_mode_enabled: bool
    service_initialized: bool


def _test_email(text: str) -> str:
    email = text.strip()
    if len(email) > MAX_EMAIL_CHARS or not _EMAIL.fullmatch(email):
        raise InvalidInput("Invalid email format")
    if not email.lower().endswith(".test"):
        raise InvalidInput("Test user email must use .test TLD for safety")
    return email


class CreateTestUserRequest(RequestBody):
    """The e-mail address and metadata of the new test user. All fields are optional."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"full_name": "Ada"}}]})

    email: Annotated[str, AfterValidator(_test_email)] = Field(
        default=DEFAULT_EMAIL,
        description="An address in the reserved top-level domain .test.",
        json_schema_extra={"format": "email", "pattern": r"\.test$", "maxLength": MAX_EMAIL_CHARS},
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description="The user metadata, such as full_name.", examples=[{"full_name": "Ada"}]
    )
