"""Who is asking: API keys and JSON web tokens."""

import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt

from local.services.supabase.errors import ANONYMOUS, ApiError

CLOCK_SKEW_S = 30  # what PostgREST allows for `exp`, `nbf` and `iat`
ROLES = frozenset({ANONYMOUS, "authenticated", "service_role"})


@dataclass(frozen=True)
class Keys:
    """The secrets of one project. Never shown in a repr."""

    jwt_secret: str
    publishable_key: str
    secret_key: str

    def __repr__(self) -> str:
        return "Keys(***)"


@dataclass(frozen=True)
class Caller:
    """The database role of a request, and the claims that `auth.jwt()` returns."""

    role: str
    claims: Mapping[str, Any]

    @property
    def claims_json(self) -> str:
        return json.dumps(self.claims)


def identify(keys: Keys, apikey: str | None, authorization: str | None) -> Caller:
    """Apply Supabase's rules: an API key is always needed, a user's token in `Authorization` outranks it.

    Raises ApiError 401.
    """
    by_key = check_key(keys, apikey)
    bearer = bearer_token(authorization)
    if bearer is None or bearer == apikey:
        return by_key
    return _caller_of_claims(verify(keys.jwt_secret, bearer))


def check_key(keys: Keys, apikey: str | None) -> Caller:
    """The role that an API key alone gives. Raises ApiError 401."""
    if not apikey:
        raise ApiError(401, "no_api_key", "No API key found in request", hint="No `apikey` request header was found.")
    return _caller_of_key(keys, apikey)


def bearer_token(authorization: str | None) -> str | None:
    scheme, _, token = (authorization or "").partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


def verify(jwt_secret: str, token: str) -> dict[str, Any]:
    """Return the claims of an HS256 token signed with our secret. Raises ApiError 401 otherwise."""
    try:
        claims: dict[str, Any] = jwt.decode(
            token, jwt_secret, algorithms=["HS256"], leeway=CLOCK_SKEW_S, options={"verify_aud": False}
        )
    except jwt.ExpiredSignatureError:
        raise ApiError(401, "PGRST303", "JWT expired") from None
    except (jwt.ImmatureSignatureError, jwt.MissingRequiredClaimError) as error:
        raise ApiError(401, "PGRST303", f"JWT claims validation failed: {error}") from None
    except jwt.InvalidTokenError as error:
        raise ApiError(401, "PGRST301", f"JWT could not be decoded: {error}") from None
    return claims


def sign(jwt_secret: str, claims: Mapping[str, Any]) -> str:
    return jwt.encode(dict(claims), jwt_secret, algorithm="HS256")


def _caller_of_key(keys: Keys, apikey: str) -> Caller:
    for key, role in ((keys.publishable_key, ANONYMOUS), (keys.secret_key, "service_role")):
        if hmac.compare_digest(apikey.encode(), key.encode()):
            return Caller(role, {"role": role})
    try:
        return _caller_of_claims(verify(keys.jwt_secret, apikey))  # the older kind of key is itself a token
    except ApiError:
        raise ApiError(401, "invalid_api_key", "Invalid API key", hint="Check SUPABASE_PUBLISHABLE_KEY.") from None


def _caller_of_claims(claims: dict[str, Any]) -> Caller:
    role = claims.get("role", ANONYMOUS)
    if role not in ROLES:
        raise ApiError(401, "22023", f'role "{role}" does not exist')
    return Caller(role, claims)
