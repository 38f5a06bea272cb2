"""Authentication: from the Authorization header to the user."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from functions.api.auth.tokens import Tokens
from shared.domain.api_key import ApiKey, claims_to_be_api_key, invalid_api_key
from shared.domain.errors import Forbidden, NotAuthenticated
from shared.domain.ports import ApiKeyDirectory, UserDirectory
from shared.domain.secret import Secret
from shared.observability import register_secret

KNOWN_FOR_S = 60.0  # how long a deleted user may still be served by a warm environment
MAX_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class User:
    """The authenticated user. `token` authenticates it at the database: the caller's own, or one for this request."""

    id: str
    token: Secret
    by_api_key: bool = False


def bearer_token(header: str | None) -> Secret:
    """The token of an Authorization header. Raises NotAuthenticated with the contract's text for a malformed one."""
    if not header:
        raise NotAuthenticated("Missing authorization header")
    parts = header.split(" ")
    if len(parts) != 2:
        raise NotAuthenticated("Invalid authorization header format")
    if parts[0].lower() != "bearer":
        raise NotAuthenticated("Invalid authentication scheme")
    token = Secret(parts[1])
    register_secret(token)
    return token


class KnownUsers:
    """Remembers existing users for a minute, so that a polling page does not cost a second query each time.

    Missing users are not remembered: a new user is found at once.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[str, float] = {}

    def check(self, user_id: str, directory: UserDirectory) -> None:
        """Raises NotAuthenticated for a user without a row, Unavailable when the database is not responding."""
        if self._until.get(user_id, 0.0) > self._now():
            return
        if not directory.exists(user_id):
            raise NotAuthenticated("User not found")
        if len(self._until) >= MAX_KNOWN:
            self._until.clear()
        self._until[user_id] = self._now() + KNOWN_FOR_S


def authenticate(
    header: str | None,
    *,
    tokens: Tokens,
    known: KnownUsers,
    users_of: Callable[[Secret], UserDirectory],
    api_keys: Callable[[], ApiKeyDirectory],
) -> User:
    """The user whose valid token or API key the header holds. Raises NotAuthenticated, Unavailable."""
    bearer = bearer_token(header)
    if claims_to_be_api_key(bearer):
        return _owner_of(ApiKey.parse(bearer), api_keys(), tokens)
    user_id, token = tokens.user_of_access(bearer)
    known.check(user_id, users_of(token))
    return User(user_id, token)


def refuse_api_key(bearer: Secret) -> None:
    """Raises Forbidden for an API key: tokens issued for it would outlive its revocation."""
    if claims_to_be_api_key(bearer):
        raise api_key_not_allowed()


def api_key_not_allowed() -> Forbidden:
    return Forbidden("An API key cannot do this. Sign in and use your access token.", code="api_key_not_allowed")


def _owner_of(key: ApiKey, directory: ApiKeyDirectory, tokens: Tokens) -> User:
    """One query per request, so that a revoked key is refused at once. A key is deleted together with its user."""
    user_id = directory.user_of(key.hash)
    if user_id is None:
        raise invalid_api_key()
    return User(user_id, tokens.for_database(user_id), by_api_key=True)
