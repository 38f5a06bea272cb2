"""Throw-away users for tests of a frontend. In production these routes do not exist."""

import hmac
import logging
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path
from fastapi.security import APIKeyHeader
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import RequestId, Wired
from functions.api.openapi import answers, body
from functions.api.routes.me import Me
from functions.api.services import test_users as service
from functions.api.tokens import uuid_of
from shared.domain.errors import Forbidden, InvalidInput, NotAuthenticated, NotFound

log = logging.getLogger("api.test_users")
router = APIRouter(prefix="/api/test-users", tags=["test users"])

DEFAULT_EMAIL = "test@asynccode.test"
MAX_EMAIL_CHARS = 254
# What the sign-in service takes for an address (the pattern of HTML's input type=email).
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*")
A_JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyX2lkIjoiLi4uIn0.c2lnbmF0dXJl"


class TokenPair(BaseModel):
    """Our tokens for a test user."""

    access_token: str = Field(examples=[A_JWT])
    refresh_token: str = Field(examples=[A_JWT])


class NewTestUser(BaseModel):
    """A test user. `metadata` is what the sign-in service has stored as the user's own."""

    id: UUID = Field(examples=["8a0c8c2e-6c0e-4f0e-9c43-0d3f6c6a2c11"])
    email: str = Field(examples=[DEFAULT_EMAIL])
    created_at: datetime
    expires_at: datetime
    metadata: dict[str, Any] = Field(examples=[service.MARKS])


class CreatedTestUser(BaseModel):
    """The new test user, and tokens."""

    user: NewTestUser
    tokens: TokenPair


class TestUserTokens(BaseModel):
    """New tokens for a test user."""

    tokens: TokenPair


class TestUserList(BaseModel):
    """All test users, newest first."""

    users: list[Me]


class TestUserDeleted(BaseModel):
    """The test user is gone."""

    message: Literal["Test user deleted successfully"]


class CleanedUp(BaseModel):
    """Test users who had expired are gone."""

    message: str = Field(examples=["Cleaned up 1 expired test users"])
    deleted_users: list[UUID] = Field(examples=[["8a0c8c2e-6c0e-4f0e-9c43-0d3f6c6a2c11"]])


class TestUserHealth(BaseModel):
    """Whether test users can be had here."""

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


class NewTestUserIn(Body):
    """What the test user shall be like; all of it may be absent."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"full_name": "Ada"}}]})

    email: Annotated[str, AfterValidator(_test_email)] = Field(
        default=DEFAULT_EMAIL,
        description="An address below .test, which nobody can own.",
        json_schema_extra={"format": "email", "pattern": r"\.test$", "maxLength": MAX_EMAIL_CHARS},
    )
    metadata: dict[str, Any] | None = Field(
        default=None, description="The user's own metadata, such as full_name.", examples=[{"full_name": "Ada"}]
    )


_SECRET = APIKeyHeader(
    name="X-Test-Users-Secret",
    scheme_name="TestUsersSecret",
    description="TEST_USERS_SECRET of the deployment, where it has one.",
    auto_error=False,
)


def _opened(
    wired: Wired,
    sent: Annotated[str | None, Depends(_SECRET)],
) -> None:
    """Raises Forbidden where test users are not enabled, NotAuthenticated without the secret, where there is one."""
    if not wired.settings.test_users_enabled:
        raise Forbidden("Test user endpoints are not enabled")
    secret = wired.settings.test_users_secret
    if secret and not hmac.compare_digest((sent or "").encode(), secret.reveal().encode()):
        raise NotAuthenticated("Send this deployment's secret for test users in the header X-Test-Users-Secret")


Opened = Depends(_opened)
UserId = Annotated[
    str,
    Path(
        description="The test user's `id`.",
        examples=["8a0c8c2e-6c0e-4f0e-9c43-0d3f6c6a2c11"],
        json_schema_extra={"format": "uuid"},
    ),
]
NewTestUserBody = Annotated[NewTestUserIn, Depends(body_of(NewTestUserIn, empty=None))]


@router.get("/health", operation_id="testUsersHealth", responses=answers(TestUserHealth))
def health(wired: Wired) -> Answer:
    """Say whether test users can be had here. Needs neither the setting nor the secret."""
    settings = wired.settings
    ready = settings.test_users_enabled and settings.supabase_secret_key is not None
    return Answer({"healthy": True, "test_mode_enabled": settings.test_users_enabled, "service_initialized": ready})


@router.post(
    "",
    status_code=201,
    dependencies=[Opened],
    operation_id="createTestUser",
    responses=answers(CreatedTestUser, 400, 401, 403, 409, 413, 503, status=201),
    openapi_extra=body(NewTestUserIn, required=False),
)
def create_test_user(body: NewTestUserBody, wired: Wired, request_id: RequestId) -> Answer:
    """Make a test user. The user comes with tokens, has no password to sign in with, and ends after an hour."""
    auth, users = wired.ports.auth_admin(), wired.ports.test_users()
    user, issued = service.create(body.email, body.metadata or {}, auth=auth, users=users, tokens=wired.tokens)
    log.info("test_user.created", extra={"user_id": user["id"], "request_id": request_id})
    return Answer({"user": user, "tokens": _pair(issued)}, status_code=201)


@router.get(
    "", dependencies=[Opened], operation_id="listTestUsers", responses=answers(TestUserList, 401, 403, 413, 503)
)
def list_test_users(wired: Wired) -> Answer:
    """List the test users. All of them, newest first."""
    return Answer({"users": wired.ports.test_users().list_all()})


@router.post(
    "/cleanup", dependencies=[Opened], operation_id="cleanUpTestUsers", responses=answers(CleanedUp, 401, 403, 503)
)
def clean_up(wired: Wired, request_id: RequestId) -> Answer:
    """Remove test users who have expired. All that is theirs goes, too; at most 100 users at once."""
    gone = service.clean_up(datetime.now(UTC), auth=wired.ports.auth_admin(), users=wired.ports.test_users())
    log.info("test_user.cleaned_up", extra={"user_ids": gone, "request_id": request_id})
    return Answer({"message": f"Cleaned up {len(gone)} expired test users", "deleted_users": gone})


@router.delete(
    "/{user_id}",
    dependencies=[Opened],
    operation_id="deleteTestUser",
    responses=answers(TestUserDeleted, 401, 403, 404, 503),
)
def delete_test_user(user_id: UserId, wired: Wired, request_id: RequestId) -> Answer:
    """Remove a test user and all that is his. Anybody else looks absent."""
    known = _existing(user_id, "Failed to delete test user")
    service.delete(known, auth=wired.ports.auth_admin(), users=wired.ports.test_users())
    log.info("test_user.deleted", extra={"user_id": known, "request_id": request_id})
    return Answer({"message": "Test user deleted successfully"})


@router.post(
    "/{user_id}/token",
    dependencies=[Opened],
    operation_id="issueTestUserTokens",
    responses=answers(TestUserTokens, 401, 403, 404, 503),
)
def issue_test_user_tokens(user_id: UserId, wired: Wired) -> Answer:
    """Get new tokens for a test user. Anybody else looks absent."""
    known = _existing(user_id, "Test user not found")
    return Answer({"tokens": _pair(service.issue(known, users=wired.ports.test_users(), tokens=wired.tokens))})


def _existing(user_id: str, sentence: str) -> str:
    if known := uuid_of(user_id):
        return known
    raise NotFound(sentence)


def _pair(issued: service.Issued) -> dict[str, str]:
    return {"access_token": issued.access.reveal(), "refresh_token": issued.refresh.reveal()}
