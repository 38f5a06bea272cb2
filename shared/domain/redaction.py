"""Takes secrets out of text: known values in every form they travel in, and whatever has the shape of a token."""

import base64
import re
from collections.abc import Iterable
from urllib.parse import quote

from shared.domain.agents import PROFILES

REDACTED = "[REDACTED]"

# The published prefixes of GitHub, E2B and Supabase keys and of those of the agents' models, our own keys for programs
# (shared/domain/api_key.py), JWTs, and credentials in URLs.
_MODEL_KEYS = "|".join(dict.fromkeys(each.redacted_shape for each in PROFILES.values()))
_SHAPES = re.compile(
    r"gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_[A-Za-z0-9_]{20,}"
    rf"|{_MODEL_KEYS}"
    r"|e2b_[A-Za-z0-9]{16,}"
    r"|sb_secret_[A-Za-z0-9_-]{8,}"
    r"|ac_[A-Za-z0-9_-]{43}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"
    r"|(?<=://)[^/\s:@]{1,256}:[^/\s@]{1,1024}(?=@)"
    r"|(?i:(?<=bearer )|(?<=basic ))[A-Za-z0-9._~+/=-]{16,}"
)

# Shorter values would blank out ordinary words.
MIN_SECRET_CHARS = 6


class Redactor:
    """Replaces the given secret values, and on request anything shaped like a token, by `[REDACTED]`."""

    def __init__(self, secrets: Iterable[str] = (), *, limit: int | None = None) -> None:
        """`limit`: how many values it remembers; a new one then makes it forget the oldest."""
        self._forms: dict[str, set[str]] = {}
        self._limit = limit
        self._longest_first: list[str] = []
        for secret in secrets:
            self.add(secret)

    def add(self, secret: str) -> None:
        """Register a value; its base64 and URL-encoded forms, and that of git's Basic header, go with it."""
        if len(secret) < MIN_SECRET_CHARS or secret in self._forms:
            return
        basic = f"x-access-token:{secret}"
        encoded = {base64.b64encode(text.encode()).decode() for text in (secret, basic)}
        self._forms[secret] = {secret, quote(secret, safe="")} | encoded | {form.rstrip("=") for form in encoded}
        if self._limit is not None and len(self._forms) > self._limit:
            del self._forms[next(iter(self._forms))]
        self._longest_first = sorted(set().union(*self._forms.values()), key=len, reverse=True)

    def values(self, text: str) -> str:
        """`text` without the registered values: for diffs, where a token-like test string must stay as it is."""
        # One by one: a regular expression of fifty tokens takes 0.2 s to compile, at every new token.
        for form in self._longest_first:
            text = text.replace(form, REDACTED)
        return text

    def raw(self, data: bytes) -> bytes:
        """The same of a file that need not be text."""
        for form in self._longest_first:
            data = data.replace(form.encode(), REDACTED.encode())
        return data

    def text(self, text: str) -> str:
        """`text` without the registered values and without anything shaped like a token: for logs and events."""
        return _SHAPES.sub(REDACTED, self.values(text))

    def data(self, value: object) -> object:
        """The same JSON-like value with every string in it passed through `text`."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.data(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.data(item) for item in value]
        return value
