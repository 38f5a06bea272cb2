"""The tokens that prove who is asking: our own, and Supabase's access tokens."""

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jwt

from shared.config import ApiSettings
from shared.domain.errors import Misconfigured, NotAuthenticated, Unavailable
from shared.domain.secret import Secret

AUTHENTICATED = "authenticated"  # Supabase's audience, and its database role, of a signed-in user
PUBLIC_KEY_ALGORITHMS = ("ES256", "RS256")
LEEWAY_S = 5  # between the clocks of the sign-in service and ours
JWKS_LIFESPAN_S = 600  # Supabase caches its published keys for ten minutes at its edge, too
JWKS_TIMEOUT_S = 3

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

# Finds the public key that a token names in its header.
KeyOf = Callable[[str], jwt.PyJWK]
Claims = dict[str, Any]


class Tokens:
    """Issues our tokens and reads everybody's. What it cannot accept is NotAuthenticated with the contract's text.

    An access token of ours is signed with the project's JWT secret and carries what Supabase reads (`sub`, `role`,
    `aud`), so the database accepts it as that user. A refresh token carries none of that: the database would take it
    for a week-long key to everything its user has.
    """

    def __init__(self, settings: ApiSettings, published_key: KeyOf) -> None:
        self._secret = settings.jwt_secret
        self._algorithm = settings.jwt_algorithm
        self._access_s = settings.access_token_minutes * 60
        self._refresh_s = settings.refresh_token_days * 86_400
        self._published_key = published_key

    @property
    def access_lifetime_s(self) -> int:
        return self._access_s

    def access(self, user_id: str) -> Secret:
        return self._signed(user_id, "access", self._access_s, sub=user_id, role=AUTHENTICATED, aud=AUTHENTICATED)

    def refresh(self, user_id: str) -> Secret:
        return self._signed(user_id, "refresh", self._refresh_s)

    def user_of_access(self, token: Secret) -> str:
        """Whose access token this is, one of ours or of Supabase. Raises NotAuthenticated, Unavailable."""
        claims = self._claims(token)
        return _own_user(claims) if "type" in claims else _supabase_user(claims)

    def user_of_supabase_access(self, token: Secret) -> str:
        """The same, but one of ours is not enough: it must not be able to renew itself for ever."""
        claims = self._claims(token)
        if "type" in claims:
            raise NotAuthenticated("Invalid token type. Expected a Supabase access token")
        return _supabase_user(claims)

    def user_of_refresh(self, token: Secret) -> str:
        """Raises NotAuthenticated."""
        claims = self._claims(token)
        if claims.get("type") != "refresh":
            raise NotAuthenticated("Invalid token type. Expected refresh")
        return _known_shape(claims.get("user_id"))

    def _signed(self, user_id: str, kind: str, lifetime_s: int, **more: str) -> Secret:
        now = int(time.time())
        claims = {"user_id": user_id, "type": kind, "iat": now, "exp": now + lifetime_s, "jti": str(uuid.uuid4())}
        return Secret(jwt.encode({**claims, **more}, self._secret.reveal(), algorithm=self._algorithm))

    def _claims(self, token: Secret) -> Claims:
        """The verified claims. The kind of key follows from the algorithm, never the other way round."""
        with _contract_texts():
            text = token.reveal()
            if jwt.get_unverified_header(text).get("alg") in PUBLIC_KEY_ALGORITHMS:
                return _decoded(text, self._published_key(text), PUBLIC_KEY_ALGORITHMS)
            return _decoded(text, self._secret.reveal(), (self._algorithm, "HS256"))


def published_key(settings: ApiSettings) -> KeyOf:
    """The project's public keys: from the setting where there is one, else fetched at first use and kept.

    Raises Misconfigured when the setting is not a JWKS document.
    """
    if settings.supabase_jwks is None:
        url = f"{settings.supabase_url}/auth/v1/.well-known/jwks.json"
        return jwt.PyJWKClient(url, lifespan=JWKS_LIFESPAN_S, timeout=JWKS_TIMEOUT_S).get_signing_key_from_jwt
    try:
        keys = jwt.PyJWKSet.from_json(settings.supabase_jwks)
    except (jwt.PyJWTError, ValueError, AttributeError) as error:
        raise Misconfigured("SUPABASE_JWKS must be the JSON of a JWKS document with a public key") from error

    def find(token: str) -> jwt.PyJWK:
        kid = jwt.get_unverified_header(token).get("kid")
        if found := next((key for key in keys.keys if key.key_id == kid), None):
            return found
        raise jwt.InvalidSignatureError("Signature verification failed")

    return find


def user_id_of(value: object) -> str | None:
    """`value` as a user id in lower case, or None when it is not a UUID."""
    text = value.lower() if isinstance(value, str) else ""
    return text if _UUID.fullmatch(text) else None


def _decoded(token: str, key: jwt.PyJWK | str, algorithms: tuple[str, ...]) -> Claims:
    # The audience is looked at after the type, because a refresh token has none.
    options: Any = {"require": ["exp", "iat"], "verify_aud": False}
    return jwt.decode(token, key, algorithms=list(algorithms), leeway=LEEWAY_S, options=options)


def _own_user(claims: Claims) -> str:
    if claims["type"] != "access":
        raise NotAuthenticated("Invalid token type. Expected access")
    user_id = _known_shape(claims.get("user_id"))
    _check_audience(claims)
    if claims.get("sub") != user_id or claims.get("role") != AUTHENTICATED:
        raise NotAuthenticated("Authentication failed")
    return user_id


def _supabase_user(claims: Claims) -> str:
    if claims.get("role") != AUTHENTICATED:
        raise NotAuthenticated("Invalid token type. Expected access")
    _check_audience(claims)
    return _known_shape(claims.get("sub"))


def _check_audience(claims: Claims) -> None:
    audience = claims.get("aud")
    if audience != AUTHENTICATED and audience != [AUTHENTICATED]:
        raise NotAuthenticated("Invalid audience")


def _known_shape(user_id: object) -> str:
    if known := user_id_of(user_id):
        return known
    raise NotAuthenticated("Authentication failed")


@contextmanager
def _contract_texts() -> Iterator[None]:
    try:
        yield
    except jwt.ExpiredSignatureError:
        raise NotAuthenticated("Token has expired") from None
    except jwt.MissingRequiredClaimError:
        raise NotAuthenticated("Authentication failed") from None
    except jwt.InvalidTokenError as error:
        raise NotAuthenticated(str(error)) from None
    except jwt.PyJWKClientConnectionError as error:
        raise Unavailable("The sign-in service does not answer now. Try again.", reason=str(error)) from error
    except jwt.PyJWTError:  # no published key fits
        raise NotAuthenticated("Signature verification failed") from None
