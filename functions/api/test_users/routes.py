"""Temporary users for tests of a frontend. In production these routes do not exist."""

import hmac
import logging
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path
from fastapi.security import APIKeyHeader

from functions.api.deps import RequestId, TokenIssuer, Wired
from functions.api.test_users import service
from functions.api.test_users.models import (
    CleanUpTestUsersResponse,
    CreateTestUserRequest,
    CreateTestUserResponse,
    DeleteTestUserResponse,
    GetTestUsersHealthResponse,
    IssueTestUserTokensResponse,
    ListTestUsersResponse,
)
from functions.api.web.examples import USER_ID
from functions.api.web.ids import uuid_of
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import request_body, responses
from functions.api.web.request_body import read_body
from shared.domain.errors import Forbidden, NotAuthenticated, NotFound

log = logging.getLogger("api.test_users")
router = APIRouter(prefix="/api/test-users", tags=["test users"])

_SECRET = APIKeyHeader(
    name="X-Test-Users-Secret",
    scheme_name="TestUsersSecret",
    description="The deployment's TEST_USERS_SECRET, if it has one.",
    auto_error=False,
)


def _check_enabled(wired: Wired, sent: Annotated[str | None, Depends(_SECRET)]) -> None:
    """Raises Forbidden when test users are not enabled, NotAuthenticated for a wrong or missing secret."""
    if not wired.settings.test_users_enabled:
        raise Forbidden("Test user endpoints are not enabled")
    secret = wired.settings.test_users_secret
    if secret and not hmac.compare_digest((sent or "").encode(), secret.reveal().encode()):
        raise NotAuthenticated("Send this deployment's secret for test users in the header X-Test-Users-Secret")


Enabled = Depends(_check_enabled)
UserId = Annotated[
    str, Path(description="The `id` of the test user.", examples=[USER_ID], json_schema_extra={"format": "uuid"})
]
CreateBody = Annotated[CreateTestUserRequest, Depends(read_body(CreateTestUserRequest, empty=None))]


@router.get("/health", operation_id="getTestUsersHealth", responses=responses(GetTestUsersHealthResponse))
def get_health(wired: Wired) -> JsonResponse:
    """Get whether test users are enabled. Always available, without the secret."""
    settings = wired.settings
    ready = settings.test_users_enabled and settings.supabase_secret_key is not None
    return JsonResponse(
        {"healthy": True, "test_mode_enabled": settings.test_users_enabled, "service_initialized": ready}
    )


@router.post(
    "",
    status_code=201,
    dependencies=[Enabled],
    operation_id="createTestUser",
    responses=responses(CreateTestUserResponse, 400, 401, 403, 409, 413, 503, status=201),
    openapi_extra=request_body(CreateTestUserRequest, required=False),
)
def create_test_user(body: CreateBody, wired: Wired, tokens: TokenIssuer, request_id: RequestId) -> JsonResponse:
    """Create a test user. The response includes tokens. The user has no password and expires after an hour."""
    auth, users = wired.ports.auth_admin(), wired.ports.test_users()
    user, issued = service.create(body.email, body.metadata or {}, auth=auth, users=users, tokens=tokens)
    log.info("test_user.created", extra={"user_id": user["id"], "request_id": request_id})
    return JsonResponse({"user": user, "tokens": _pair(issued)}, status_code=201)


@router.get(
    "",
    dependencies=[Enabled],
    operation_id="listTestUsers",
    responses=responses(ListTestUsersResponse, 401, 403, 413, 503),
)
def list_test_users(wired: Wired) -> JsonResponse:
    """List test users. All of them, newest first."""
    return JsonResponse({"users": wired.ports.test_users().list_all()})


@router.post(
    "/cleanup",
    dependencies=[Enabled],
    operation_id="cleanUpTestUsers",
    responses=responses(CleanUpTestUsersResponse, 401, 403, 503),
)
def clean_up(wired: Wired, request_id: RequestId) -> JsonResponse:
    """Delete expired test users. Including all of their data, at most 100 users per request."""
    deleted = service.clean_up(datetime.now(UTC), auth=wired.ports.auth_admin(), users=wired.ports.test_users())
    log.info("test_user.cleaned_up", extra={"user_ids": deleted, "request_id": request_id})
    return JsonResponse({"message": f"Cleaned up {len(deleted)} expired test users", "deleted_users": deleted})


@router.delete(
    "/{user_id}",
    dependencies=[Enabled],
    operation_id="deleteTestUser",
    responses=responses(DeleteTestUserResponse, 401, 403, 404, 503),
)
def delete_test_user(user_id: UserId, wired: Wired, request_id: RequestId) -> JsonResponse:
    """Delete a test user and all of its data. Any other user id returns 404."""
    known = _user_id(user_id, "Failed to delete test user")
    service.delete(known, auth=wired.ports.auth_admin(), users=wired.ports.test_users())
    log.info("test_user.deleted", extra={"user_id": known, "request_id": request_id})
    return JsonResponse({"message": "Test user deleted successfully"})


@router.post(
    "/{user_id}/token",
    dependencies=[Enabled],
    operation_id="issueTestUserTokens",
    responses=responses(IssueTestUserTokensResponse, 401, 403, 404, 503),
)
def issue_test_user_tokens(user_id: UserId, wired: Wired, tokens: TokenIssuer) -> JsonResponse:
    """Issue new tokens for a test user. Any other user id returns 404."""
    known = _user_id(user_id, "Test user not found")
    return JsonResponse({"tokens": _pair(service.issue(known, users=wired.ports.test_users(), tokens=tokens))})


def _user_id(sent: str, error: str) -> str:
    """Raises NotFound for text that is not a UUID."""
    if known := uuid_of(sent):
        return known
    raise NotFound(error)


def _pair(issued: service.IssuedTokens) -> dict[str, str]:
    return {"access_token": issued.access.reveal(), "refresh_token": issued.refresh.reveal()}
