"""Repositories as users name them."""

from collections.abc import Collection

from shared.domain.errors import InvalidInput
from shared.domain.redaction import Redactor
from shared.domain.repository import Repository

MAX_CHARS_SHOWN = 500  # of what was sent; no project's URL may be longer


def named_repository(url: str, *, origins: Collection[str]) -> Repository:
    """Raises InvalidInput with the contract's sentence, which says the URL as it was sent, but for credentials."""
    try:
        return Repository.parse(url, origins=origins)
    except InvalidInput:
        shown = Redactor().text(url)[:MAX_CHARS_SHOWN]
        raise InvalidInput(f"Invalid GitHub URL format: {shown}") from None
