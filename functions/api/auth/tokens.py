"""Bearer tokens: the API's own, those of the old backend, and Supabase's access tokens."""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt

from functions.api.auth.jwks import PUBLIC_KEY_ALGORITHMS, FindKey
from functions.api.web.ids import uuid_of
from shared.config import ApiSettings
from shared.domain.errors import NotAuthenticated
from shared.domain.secret import Secret

AUTHENTICATED = "authenticated"  # Supabase's audience, and its database role, of a signed-in user
SHARED_SECRET_ALGORITHM = "HS256"  # what Supabase makes of the project's JWT secret
LEEWAY_S = 5  # between the clocks of the sign-in service and ours
DATABASE_TOKEN_S = 60  # the longest request takes 30 s

Claims = dict[str, Any]


class Tokens:
    """Issues the API's own tokens and verifies all kinds. An invalid token raises NotAuthenticated with the contract's
    text.

    An own access token is signed with the project's JWT secret and has the claims that Supabase reads (`sub`, `role`,
    `aud`), so the database accepts it as that user. A refresh token has none of them: the database would accept it for
    a week as full access to the user's data.
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
        """A token that the database accepts for this user during one request. This API does not accept it."""
        return self._signed(_for_database(user_id), DATABASE_TOKEN_S, SHARED_SECRET_ALGORITHM)

    def user_of_access(self, token: Secret) -> tuple[str, Secret]:
        """The user id of an access token, and the token that authenticates the user at the database.

        The two tokens are the same, except for a token of the old backend, which the database does not accept. Raises
        NotAuthenticated, Unavailable.
        """
        claims, is_own = self._claims(token)
        if not is_own:
            return self._supabase_user(claims), token
        user_id = _own_user(claims)
        known_to_database = "sub" in claims and "role" in claims
        return user_id, token if known_to_database else self.for_database(user_id)

    def user_of_supabase_access(self, token: Secret) -> str:
        """The user id of a Supabase access token. Own tokens are refused: they could renew themselves for ever."""
        claims, is_own = self._claims(token)
        if is_own:
            raise NotAuthenticated("Invalid token type. Expected a Supabase access token")
        return self._supabase_user(claims)

    def user_of_refresh(self, token: Secret) -> str:
        """The user id of a refresh token. Raises NotAuthenticated."""
        claims, is_own = self._claims(token)
        if not is_own or claims["type"] != "refresh":
            raise NotAuthenticated("Invalid token type. Expected refresh")
        _check_audience(claims.get("aud", AUTHENTICATED))
        return _valid_user_id(claims.get("user_id"))

    def _signed(self, claims: Claims, lifetime_s: int, algorithm: str) -> Secret:
        now = int(time.time())
        return Secret(
            jwt.encode({**claims, "iat": now, "exp": now + lifetime_s}, self._secret.reveal(), algorithm=algorithm)
        )

    def _claims(self, token: Secret) -> tuple[Claims, bool]:
        """The verified claims, and whether the token is the API's own.

        Own tokens are never signed with a published key, and Supabase's have no `type`. The algorithm selects the kind
        of key, never the other way round, and only a key that is configured or published is used.
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
            # Any caller can create any number of them, and each would have its own limits at the operator's cost.
            raise NotAuthenticated("Anonymous users have no access. Sign in with an account.", code="anonymous_user")
        return _valid_user_id(claims.get("sub"))


def _for_database(user_id: str) -> Claims:
    return {"sub": user_id, "role": AUTHENTICATED, "aud": AUTHENTICATED}


def _decoded(token: str, key: jwt.PyJWK | str, algorithms: tuple[str, ...]) -> Claims:
    # The audience is checked after the type, because a refresh token has none.
    options: Any = {"require": ["exp", "iat"], "verify_aud": False}
    return jwt.decode(token, key, algorithms=list(algorithms), leeway=LEEWAY_S, options=options)


def _own_user(claims: Claims) -> str:
    """The old backend's tokens have no audience, subject or role; where a token has them, they must be right."""
    if claims["type"] != "access":
        raise NotAuthenticated("Invalid token type. Expected access")
    user_id = _valid_user_id(claims.get("user_id"))
    _check_audience(claims.get("aud", AUTHENTICATED))
    if claims.get("sub", user_id) != user_id or claims.get("role", AUTHENTICATED) != AUTHENTICATED:
        raise NotAuthenticated("Authentication failed")
    return user_id


def _check_audience(audience: object) -> None:
    # Supabase's sign-in service writes a string; a hook of the project may make it a list.
    if audience != AUTHENTICATED and not (isinstance(audience, list) and AUTHENTICATED in audience):
        raise NotAuthenticated("Invalid audience")


def _valid_user_id(user_id: object) -> str:
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
