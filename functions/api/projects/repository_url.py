"""Repository URLs as users enter them."""

from collections.abc import Collection

from shared.domain.errors import InvalidInput
from shared.domain.redaction import Redactor
from shared.domain.repository import Repository

MAX_CHARS_SHOWN = 500  # of the URL in the error; no project's URL may be longer


def parse_repository(url: str, *, origins: Collection[str]) -> Repository:
    """The repository of a URL. Raises InvalidInput with the contract's text, which omits credentials in the URL."""
    try:
        return Repository.parse(url, origins=origins)
    except InvalidInput:
        shown = Redactor().text(url)[:MAX_CHARS_SHOWN]
        raise InvalidInput(f"Invalid GitHub URL format: {shown}") from None
