"""Our keys for programs: `ac_` and 43 URL-safe characters, which are 256 random bits."""

import hashlib
import re
import secrets
from dataclasses import dataclass

from shared.domain.errors import NotAuthenticated
from shared.domain.secret import Secret

PREFIX = "ac_"
_RANDOM_BYTES = 32
_SHAPE = re.compile(r"ac_[A-Za-z0-9_-]{43}")  # as shared/domain/redaction.py masks it


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key that somebody holds. Only its hash is stored, and its hint, for a person to recognise it by."""

    secret: Secret

    @classmethod
    def new(cls) -> "ApiKey":
        return cls(Secret(PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)))

    @classmethod
    def parse(cls, bearer: Secret) -> "ApiKey":
        """Raises NotAuthenticated for what has not the shape of a key. Whose it is, only the database knows."""
        if not _SHAPE.fullmatch(bearer.reveal()):
            raise invalid_api_key()
        return cls(bearer)

    @property
    def hash(self) -> str:
        """SHA-256 in hexadecimal digits. No salt and no stretching: nobody guesses 256 random bits."""
        return hashlib.sha256(self.secret.reveal().encode()).hexdigest()

    @property
    def hint(self) -> str:
        return self.secret.reveal()[-4:]


def claims_to_be_api_key(bearer: Secret) -> bool:
    """Whether it is to be read as an API key. No JWT is: each begins with `ey`."""
    return bearer.reveal().startswith(PREFIX)


def invalid_api_key() -> NotAuthenticated:
    """Unknown, expired, revoked, malformed: whoever holds it learns no more."""
    return NotAuthenticated("Invalid API key", code="invalid_api_key")
