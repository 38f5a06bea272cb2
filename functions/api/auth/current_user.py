"""The authenticated user of a request, as FastAPI dependencies."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from functions.api.auth.caller import KnownUsers, User, api_key_not_allowed, authenticate
from functions.api.auth.jwks import key_finder
from functions.api.auth.tokens import Tokens
from functions.api.wiring import Wired
from shared.config import ApiSettings


@dataclass(frozen=True, slots=True)
class AuthState:
    """What one Lambda environment keeps for authentication between requests."""

    tokens: Tokens
    known_users: KnownUsers

    @classmethod
    def of(cls, settings: ApiSettings) -> "AuthState":
        """Opens no connection. Raises Misconfigured for a SUPABASE_JWKS that is not a JWKS document."""
        return cls(Tokens(settings, key_finder(settings)), KnownUsers())


def _state(request: Request) -> AuthState:
    found: AuthState = request.app.state.auth
    return found


_State = Annotated[AuthState, Depends(_state)]


def _tokens(state: _State) -> Tokens:
    return state.tokens


TokenIssuer = Annotated[Tokens, Depends(_tokens)]


# Only describes the header: `authenticate` reads it, to answer with the contract's texts.
def _scheme(name: str, format_: str, description: str) -> Any:
    return Depends(HTTPBearer(scheme_name=name, bearerFormat=format_, description=description, auto_error=False))


_TokenScheme = Annotated[
    HTTPAuthorizationCredentials | None,
    _scheme("AccessToken", "JWT", "An access token from `POST /api/auth/token`, or a Supabase access token."),
]
_KeyScheme = Annotated[
    HTTPAuthorizationCredentials | None,
    _scheme("ApiKey", "ac_ and 43 URL-safe characters", "An API key from `POST /api/api-keys`, for programs."),
]


def _caller(request: Request, wired: Wired, state: _State) -> User:
    user = authenticate(
        request.headers.get("authorization"),
        tokens=state.tokens,
        known=state.known_users,
        users_of=wired.ports.users_of,
        api_keys=wired.ports.api_key_directory,
    )
    request.state.user_id = user.id
    return user


_Caller = Annotated[User, Depends(_caller)]


def current_user(caller: _Caller, _token: _TokenScheme, _key: _KeyScheme) -> User:
    """Raises NotAuthenticated, Unavailable."""
    return caller


def signed_in_user(caller: _Caller, _token: _TokenScheme) -> User:
    """For operations that an API key must not do. Raises NotAuthenticated, Forbidden for an API key, Unavailable."""
    if caller.by_api_key:
        raise api_key_not_allowed()
    return caller


CurrentUser = Annotated[User, Depends(current_user)]
SignedInUser = Annotated[User, Depends(signed_in_user)]
