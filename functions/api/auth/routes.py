"""Tokens: issue, refresh, verify."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import SecretStr

from functions.api.auth import service
from functions.api.auth.current_user import CurrentUser, TokenIssuer
from functions.api.auth.models import (
    IssueTokensRequest,
    IssueTokensResponse,
    RefreshTokenRequest,
    RefreshTokenResponse,
    VerifyTokenResponse,
)
from functions.api.web.ids import uuid_of
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import request_body, responses
from functions.api.web.request_body import read_body
from functions.api.wiring import Wired
from shared.domain.errors import InvalidInput
from shared.domain.secret import Secret
from shared.observability import register_secret

log = logging.getLogger("api.auth")
router = APIRouter(prefix="/api/auth", tags=["auth"])

# The proof can be sent as bearer token or in the body, and some values of TOKEN_EXCHANGE need none.
OPTIONAL_BEARER: dict[str, Any] = {"security": [{}, {"AccessToken": []}]}

TokenBody = Annotated[IssueTokensRequest, Depends(read_body(IssueTokensRequest, empty="user_id is required"))]
RefreshBody = Annotated[RefreshTokenRequest, Depends(read_body(RefreshTokenRequest, empty="refresh_token is required"))]


@router.post(
    "/token",
    operation_id="issueTokens",
    responses=responses(IssueTokensResponse, 400, 401, 403, 404, 413, 503),
    openapi_extra=request_body(IssueTokensRequest) | OPTIONAL_BEARER,
)
def issue_tokens(request: Request, body: TokenBody, wired: Wired, tokens: TokenIssuer) -> JsonResponse:
    """Exchange a Supabase sign-in for tokens of this API.

    The deployment's setting TOKEN_EXCHANGE says which proof is required. The default is the user's Supabase access
    token, as bearer token or as `access_token`.
    """
    if not body.user_id:
        raise InvalidInput("user_id is required")
    user_id = uuid_of(body.user_id)
    if user_id is None:
        raise InvalidInput("user_id must be a UUID")
    token_request = service.TokenRequest(
        user_id=user_id,
        access_token=_secret(body.access_token),
        authorization=request.headers.get("authorization"),
        user_agent=request.headers.get("user-agent", ""),
    )
    mode = wired.settings.token_exchange
    issued = service.exchange(token_request, mode=mode, tokens=tokens, users_of=wired.ports.users_of)
    request.state.user_id = user_id
    log.info("token.issued", extra={"user_id": user_id, "mode": mode, "request_id": request.state.request_id})
    return JsonResponse(
        {
            "access_token": issued.access.reveal(),
            "refresh_token": issued.refresh.reveal(),
            "expires_in": tokens.access_lifetime_s,
        }
    )


@router.post(
    "/refresh",
    operation_id="refreshToken",
    responses=responses(RefreshTokenResponse, 400, 401, 403, 413, 503),
    openapi_extra=request_body(RefreshTokenRequest),
)
def refresh_token(request: Request, body: RefreshBody, wired: Wired, tokens: TokenIssuer) -> JsonResponse:
    """Get a new access token. The refresh token does not change and stays valid until it expires."""
    token = _secret(body.refresh_token)
    if not token:
        raise InvalidInput("refresh_token is required")
    refreshed = service.refresh(token, tokens=tokens, users_of=wired.ports.users_of)
    request.state.user_id = refreshed.user_id
    return JsonResponse({"access_token": refreshed.access.reveal(), "expires_in": tokens.access_lifetime_s})


@router.get("/verify", operation_id="verifyToken", responses=responses(VerifyTokenResponse, 401, 503))
def verify(user: CurrentUser) -> JsonResponse:
    """Verify an access token or API key. The response names the user that it belongs to."""
    return JsonResponse({"valid": True, "user_id": user.id})


def _secret(value: SecretStr | None) -> Secret | None:
    secret = Secret(value.get_secret_value()) if value else None
    register_secret(secret)
    return secret
