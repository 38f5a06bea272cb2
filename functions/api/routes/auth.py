"""Tokens: issued, refreshed, verified."""

import logging
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import CurrentUser, Wired
from functions.api.openapi import answers, body
from functions.api.services import token_exchange as service
from functions.api.tokens import uuid_of
from shared.domain.errors import InvalidInput
from shared.domain.secret import Secret
from shared.observability import register_secret

log = logging.getLogger("api.auth")
router = APIRouter(prefix="/api/auth", tags=["auth"])

USER_ID = "8a0c8c2e-6c0e-4f0e-9c43-0d3f6c6a2c11"
A_JWT = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ1c2VyX2lkIjoiLi4uIn0.c2lnbmF0dXJl"
# The bearer is one of two places for the proof, and needed in neither with other settings.
BEARER_OR_NOTHING: dict[str, Any] = {"security": [{}, {"AccessToken": []}]}


class IssuedTokens(BaseModel):
    """Our tokens for this user. `expires_in` is the life of the access token in seconds."""

    access_token: str = Field(examples=[A_JWT])
    refresh_token: str = Field(examples=[A_JWT])
    expires_in: int = Field(examples=[3600])


class RefreshedToken(BaseModel):
    """A new access token, and its life in seconds."""

    access_token: str = Field(examples=[A_JWT])
    expires_in: int = Field(examples=[3600])


class Verified(BaseModel):
    """Whose valid token, or API key, this is."""

    valid: Literal[True]
    user_id: UUID = Field(examples=[USER_ID])


# The contract refuses whatever is falsy with texts of its own, so these are described more narrowly than they are read.
class TokenIn(Body):
    """Who wants tokens, and what proves it."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": USER_ID}]})

    user_id: Annotated[Any, WithJsonSchema({"type": "string", "format": "uuid", "examples": [USER_ID]})]
    access_token: SecretStr | None = Field(
        default=None, description="The user's Supabase access token, where it is not the bearer.", examples=[A_JWT]
    )


class RefreshIn(Body):
    """A refresh token of ours."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"refresh_token": A_JWT}]})

    refresh_token: Annotated[
        SecretStr | None,
        WithJsonSchema({"type": "string", "format": "password", "minLength": 1, "examples": [A_JWT]}),
    ]


TokenBody = Annotated[TokenIn, Depends(body_of(TokenIn, empty="user_id is required"))]
RefreshBody = Annotated[RefreshIn, Depends(body_of(RefreshIn, empty="refresh_token is required"))]


@router.post(
    "/token",
    operation_id="issueTokens",
    responses=answers(IssuedTokens, 400, 401, 403, 404, 413, 503),
    openapi_extra=body(TokenIn) | BEARER_OR_NOTHING,
)
def issue_tokens(request: Request, body: TokenBody, wired: Wired) -> Answer:
    """Exchange a Supabase sign-in for our tokens.

    What proves it is the deployment's setting TOKEN_EXCHANGE; by default the user's Supabase access token, as bearer or
    as `access_token`.
    """
    if not body.user_id:
        raise InvalidInput("user_id is required")
    user_id = uuid_of(body.user_id)
    if user_id is None:
        raise InvalidInput("user_id must be a UUID")
    asked = service.Asked(
        user_id=user_id,
        access_token=_secret(body.access_token),
        authorization=request.headers.get("authorization"),
        user_agent=request.headers.get("user-agent", ""),
    )
    mode = wired.settings.token_exchange
    issued = service.exchange(asked, mode=mode, tokens=wired.tokens, users_of=wired.ports.users_of)
    request.state.user_id = user_id
    log.info("token.issued", extra={"user_id": user_id, "mode": mode, "request_id": request.state.request_id})
    return Answer(
        {
            "access_token": issued.access.reveal(),
            "refresh_token": issued.refresh.reveal(),
            "expires_in": wired.tokens.access_lifetime_s,
        }
    )


@router.post(
    "/refresh",
    operation_id="refreshToken",
    responses=answers(RefreshedToken, 400, 401, 403, 413, 503),
    openapi_extra=body(RefreshIn),
)
def refresh_token(request: Request, body: RefreshBody, wired: Wired) -> Answer:
    """Get a new access token. The refresh token stays the same, and valid until it expires."""
    token = _secret(body.refresh_token)
    if not token:
        raise InvalidInput("refresh_token is required")
    refreshed = service.refresh(token, tokens=wired.tokens, users_of=wired.ports.users_of)
    request.state.user_id = refreshed.user_id
    return Answer({"access_token": refreshed.access.reveal(), "expires_in": wired.tokens.access_lifetime_s})


@router.get("/verify", operation_id="verifyToken", responses=answers(Verified, 401, 503))
def verify(user: CurrentUser) -> Answer:
    """Check a token or an API key. Says whose it is, where it is valid."""
    return Answer({"valid": True, "user_id": user.id})


def _secret(value: SecretStr | None) -> Secret | None:
    secret = Secret(value.get_secret_value()) if value else None
    register_secret(secret)
    return secret
