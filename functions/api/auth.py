"""From the Authorization header to the user who is asking."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from functions.api.tokens import Tokens
from shared.domain.errors import NotAuthenticated
from shared.domain.ports import UserDirectory
from shared.domain.secret import Secret

KNOWN_FOR_S = 60.0  # how long a deleted user may still be served by a warm environment
MAX_KNOWN = 10_000


@dataclass(frozen=True, slots=True)
class User:
    """Who is asking. The database is asked with this very token."""

    id: str
    token: Secret


def bearer_token(header: str | None) -> Secret:
    """Raises NotAuthenticated with the contract's text for each way to get it wrong."""
    if not header:
        raise NotAuthenticated("Missing authorization header")
    parts = header.split(" ")
    if len(parts) != 2:
        raise NotAuthenticated("Invalid authorization header format")
    if parts[0].lower() != "bearer":
        raise NotAuthenticated("Invalid authentication scheme")
    return Secret(parts[1])


class KnownUsers:
    """Remembers for a minute who exists, so that a polling page does not cost a second query each time.

    Only good news is kept: who was just created is found at once.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._until: dict[str, float] = {}

    def check(self, user_id: str, directory: UserDirectory) -> None:
        """Raises NotAuthenticated for a user without a row, Unavailable when the database cannot say."""
        if self._until.get(user_id, 0.0) > self._now():
            return
        if not directory.exists(user_id):
            raise NotAuthenticated("User not found")
        if len(self._until) >= MAX_KNOWN:
            self._until.clear()
        self._until[user_id] = self._now() + KNOWN_FOR_S


def authenticate(
    header: str | None, tokens: Tokens, known: KnownUsers, users_of: Callable[[Secret], UserDirectory]
) -> User:
    """The user whose valid token the header holds. Raises NotAuthenticated, Unavailable."""
    token = bearer_token(header)
    user = User(tokens.user_of_access(token), token)
    known.check(user.id, users_of(token))
    return user
