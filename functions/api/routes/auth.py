"""Tokens: issued, refreshed, verified."""

import logging
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import SecretStr

from functions.api import examples
from functions.api.answers import Answer
from functions.api.bodies import Body, body_of, documented
from functions.api.deps import CurrentUser, Wired
from functions.api.services.token_exchange import Asked, exchange
from functions.api.tokens import user_id_of
from shared.domain.errors import InvalidInput
from shared.domain.secret import Secret

log = logging.getLogger("api.auth")
router = APIRouter(prefix="/api/auth", tags=["auth"])


class TokenIn(Body):
    user_id: Any = None  # the contract refuses whatever is falsy with a text of its own
    access_token: SecretStr | None = None


class RefreshIn(Body):
    refresh_token: SecretStr | None = None


TokenBody = Annotated[TokenIn, Depends(body_of(TokenIn, empty="user_id is required"))]
RefreshBody = Annotated[RefreshIn, Depends(body_of(RefreshIn, empty="refresh_token is required"))]


@router.post("/token", responses=examples.of(examples.TOKENS), openapi_extra=documented(TokenIn, examples.TOKEN_BODY))
def issue_tokens(request: Request, body: TokenBody, wired: Wired) -> Answer:
    """Exchange a Supabase sign-in for our tokens.

    What proves it is the setting TOKEN_EXCHANGE; by default the user's Supabase access token, as bearer or as
    `access_token`. `expires_in` is the life of the access token in seconds.
    """
    if not body.user_id:
        raise InvalidInput("user_id is required")
    user_id = user_id_of(body.user_id)
    if user_id is None:
        raise InvalidInput("user_id must be a UUID")
    asked = Asked(
        user_id=user_id,
        access_token=_secret(body.access_token),
        authorization=request.headers.get("authorization"),
        user_agent=request.headers.get("user-agent", ""),
    )
    mode = wired.settings.token_exchange
    issued = exchange(asked, mode=mode, tokens=wired.tokens, users_of=wired.ports.users_of)
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
    "/refresh", responses=examples.of(examples.REFRESHED), openapi_extra=documented(RefreshIn, examples.REFRESH_BODY)
)
def refresh_token(request: Request, body: RefreshBody, wired: Wired) -> Answer:
    """A new access token. The refresh token stays the same, and valid until it expires."""
    token = _secret(body.refresh_token)
    if not token:
        raise InvalidInput("refresh_token is required")
    user_id = request.state.user_id = wired.tokens.user_of_refresh(token)
    access = wired.tokens.access(user_id)
    wired.known_users.check(user_id, wired.ports.users_of(access))
    return Answer({"access_token": access.reveal(), "expires_in": wired.tokens.access_lifetime_s})


@router.get("/verify", responses=examples.of(examples.VERIFIED))
def verify(user: CurrentUser) -> Answer:
    """Whose valid token this is."""
    return Answer({"valid": True, "user_id": user.id})


def _secret(value: SecretStr | None) -> Secret | None:
    return Secret(value.get_secret_value()) if value else None
