"""The tokens that prove who is asking: our own, those of the backend before us, and Supabase's access tokens."""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt

from functions.api.published_keys import PUBLIC_KEY_ALGORITHMS, FindKey
from shared.config import ApiSettings
from shared.domain.errors import NotAuthenticated
from shared.domain.secret import Secret

AUTHENTICATED = "authenticated"  # Supabase's audience, and its database role, of a signed-in user
SHARED_SECRET_ALGORITHM = "HS256"  # what Supabase makes of the project's JWT secret
LEEWAY_S = 5  # between the clocks of the sign-in service and ours
DATABASE_TOKEN_S = 60  # the longest request takes 30 s

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

Claims = dict[str, Any]


class Tokens:
    """Issues our tokens and reads everybody's. What it cannot accept is NotAuthenticated with the contract's text.

    An access token of ours is signed with the project's JWT secret and carries what Supabase reads (`sub`, `role`,
    `aud`), so the database accepts it as that user. A refresh token carries none of that: the database would take it
    for a week-long key to everything its user has.
    """

    def __init__(self, settings: ApiSettings, find_key: FindKey) -> None:
        self._secret = settings.jwt_secret
        self._algorithm = settings.jwt_algorithm
        self._access_s = settings.access_token_minutes * 60
        self._refresh_s = settings.refresh_token_days * 86_400
        self._issuer = settings.supabase_jwt_issuer
        self._find_key = find_key

    @property
    def access_lifetime_s(self) -> int:
        return self._access_s

    def access(self, user_id: str) -> Secret:
        claims = {"user_id": user_id, "type": "access", "jti": str(uuid.uuid4())}
        return self._signed(claims | _for_database(user_id), self._access_s, self._algorithm)

    def refresh(self, user_id: str) -> Secret:
        claims = {"user_id": user_id, "type": "refresh", "jti": str(uuid.uuid4())}
        return self._signed(claims, self._refresh_s, self._algorithm)

    def for_database(self, user_id: str) -> Secret:
        """What the database takes for this user during one request. It is no token for this API."""
        return self._signed(_for_database(user_id), DATABASE_TOKEN_S, SHARED_SECRET_ALGORITHM)

    def user_of_access(self, token: Secret) -> tuple[str, Secret]:
        """Whose access token this is, and the token with which the database knows that user.

        That is the same one, except for a token of the old backend, which says nothing to the database. Raises
        NotAuthenticated, Unavailable.
        """
        claims, ours = self._claims(token)
        if not ours:
            return self._supabase_user(claims), token
        user_id = _own_user(claims)
        known_to_database = "sub" in claims and "role" in claims
        return user_id, token if known_to_database else self.for_database(user_id)

    def user_of_supabase_access(self, token: Secret) -> str:
        """The same, but one of ours is not enough: it must not be able to renew itself for ever."""
        claims, ours = self._claims(token)
        if ours:
            raise NotAuthenticated("Invalid token type. Expected a Supabase access token")
        return self._supabase_user(claims)

    def user_of_refresh(self, token: Secret) -> str:
        """Raises NotAuthenticated."""
        claims, ours = self._claims(token)
        if not ours or claims["type"] != "refresh":
            raise NotAuthenticated("Invalid token type. Expected refresh")
        _check_audience(claims.get("aud", AUTHENTICATED))
        return _known_shape(claims.get("user_id"))

    def _signed(self, claims: Claims, lifetime_s: int, algorithm: str) -> Secret:
        now = int(time.time())
        return Secret(
            jwt.encode({**claims, "iat": now, "exp": now + lifetime_s}, self._secret.reveal(), algorithm=algorithm)
        )

    def _claims(self, token: Secret) -> tuple[Claims, bool]:
        """The verified claims, and whether the token is ours: no published key signs ours, and Supabase's have no type.

        The kind of key follows from the algorithm, never the other way round; and the key is one that we hold, whatever
        else the header names.
        """
        with _contract_texts():
            text = token.reveal()
            header = jwt.get_unverified_header(text)
            if header.get("alg") in PUBLIC_KEY_ALGORITHMS:
                return _decoded(text, self._published_key(header), (header["alg"],)), False
            claims = _decoded(text, self._secret.reveal(), (self._algorithm, SHARED_SECRET_ALGORITHM))
            return claims, "type" in claims

    def _published_key(self, header: dict[str, Any]) -> jwt.PyJWK:
        key = self._find_key(header.get("kid", ""))
        if key is None:
            raise jwt.InvalidSignatureError("Signature verification failed")
        if key.algorithm_name != header["alg"]:
            raise jwt.InvalidAlgorithmError("The specified alg value is not allowed")
        return key

    def _supabase_user(self, claims: Claims) -> str:
        if claims.get("role") != AUTHENTICATED:
            raise NotAuthenticated("Invalid token type. Expected access")
        if claims.get("iss") != self._issuer:
            raise NotAuthenticated("Invalid issuer")
        _check_audience(claims.get("aud"))
        if claims.get("is_anonymous"):
            # Anybody can make any number of them, and each would have a share of its own of what the operator pays for.
            raise NotAuthenticated("Anonymous users have no access. Sign in with an account.", code="anonymous_user")
        return _known_shape(claims.get("sub"))


def uuid_of(value: object) -> str | None:
    """`value` in lower case, or None when it is not a UUID as databases write it."""
    text = value.lower() if isinstance(value, str) else ""
    return text if _UUID.fullmatch(text) else None


def _for_database(user_id: str) -> Claims:
    return {"sub": user_id, "role": AUTHENTICATED, "aud": AUTHENTICATED}


def _decoded(token: str, key: jwt.PyJWK | str, algorithms: tuple[str, ...]) -> Claims:
    # The audience is looked at after the type, because a refresh token has none.
    options: Any = {"require": ["exp", "iat"], "verify_aud": False}
    return jwt.decode(token, key, algorithms=list(algorithms), leeway=LEEWAY_S, options=options)


def _own_user(claims: Claims) -> str:
    """The old backend's tokens name no audience, subject or role; one that names them must name the right ones."""
    if claims["type"] != "access":
        raise NotAuthenticated("Invalid token type. Expected access")
    user_id = _known_shape(claims.get("user_id"))
    _check_audience(claims.get("aud", AUTHENTICATED))
    if claims.get("sub", user_id) != user_id or claims.get("role", AUTHENTICATED) != AUTHENTICATED:
        raise NotAuthenticated("Authentication failed")
    return user_id


def _check_audience(audience: object) -> None:
    # Supabase's sign-in service writes one text; a hook of the project's may make it a list.
    if audience != AUTHENTICATED and not (isinstance(audience, list) and AUTHENTICATED in audience):
        raise NotAuthenticated("Invalid audience")


def _known_shape(user_id: object) -> str:
    if known := uuid_of(user_id):
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
    except jwt.PyJWTError:  # a key that cannot be used with what was sent
        raise NotAuthenticated("Signature verification failed") from None
