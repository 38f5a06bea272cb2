"""The public keys that verify Supabase's signatures, by their id (`kid`)."""

import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import jwt

from shared.config import ApiSettings
from shared.domain.errors import Misconfigured, Unavailable

log = logging.getLogger("api.jwks")

PUBLIC_KEY_ALGORITHMS = ("ES256", "RS256")
LIFESPAN_S = 600.0  # Supabase caches its published keys for ten minutes at its edge, too
COOLDOWN_S = 30.0
TIMEOUT_S = 3
HEADERS = {"User-Agent": "async-code"}  # some edges refuse urllib's own

Keys = dict[str, jwt.PyJWK]
# Finds a key by its id; None when no such key is published. Raises Unavailable.
FindKey = Callable[[str], jwt.PyJWK | None]

_JWKS_ERRORS = (jwt.PyJWTError, ValueError, TypeError, AttributeError)  # what PyJWT raises for an invalid document


def key_finder(settings: ApiSettings) -> FindKey:
    """A lookup in the keys of SUPABASE_JWKS, or else in those that the project publishes, fetched at first use.

    Raises Misconfigured when the setting is not a JWKS document.
    """
    if settings.supabase_jwks is None:
        url = f"{settings.supabase_url}/auth/v1/.well-known/jwks.json"
        client = jwt.PyJWKClient(url, headers=HEADERS, cache_jwk_set=False, timeout=TIMEOUT_S)
        return FetchedKeys(client.fetch_data).find
    try:
        keys = _signing_keys(json.loads(settings.supabase_jwks))
    except _JWKS_ERRORS:
        keys = {}
    if not keys:
        raise Misconfigured("SUPABASE_JWKS must be the JSON of a JWKS document with a public key")
    return keys.get


class FetchedKeys:
    """Keys that are fetched again when they are ten minutes old, or when a token names an unknown one.

    Any caller can send a token that names any key, so there is at most one attempt in 30 s, also after a failure. (The
    client of PyJWT 2.15 tries each time after a failure, and while no key is published.) While attempts fail, the known
    keys stay valid.
    """

    def __init__(self, fetch: Callable[[], Any], now: Callable[[], float] = time.monotonic) -> None:
        """`fetch` returns the parsed document, or raises what urllib, json and PyJWT raise."""
        self._fetch = fetch
        self._now = now
        self._lock = threading.Lock()
        self._keys: Keys = {}
        self._fresh_until = self._next_attempt = float("-inf")
        self._failure: str | None = None

    def find(self, kid: str) -> jwt.PyJWK | None:
        with self._lock:
            now = self._now()
            if now >= self._next_attempt and (kid not in self._keys or now >= self._fresh_until):
                self._refresh(now)
            if kid not in self._keys and self._failure:
                raise Unavailable("The sign-in service is not responding. Try again.", reason=self._failure)
            return self._keys.get(kid)

    def _refresh(self, now: float) -> None:
        self._next_attempt = now + COOLDOWN_S
        try:
            self._keys = _signing_keys(self._fetch())
        except (OSError, *_JWKS_ERRORS) as error:
            self._failure = type(error).__name__
            log.warning("jwks.not_fetched", extra={"reason": self._failure, "known_keys": len(self._keys)})
        else:
            self._fresh_until, self._failure = now + LIFESPAN_S, None


def _signing_keys(document: dict[str, Any]) -> Keys:
    """The signing keys of a supported algorithm. An empty document is valid: the project has only a shared secret."""
    if document.get("keys") == []:
        return {}
    found = jwt.PyJWKSet.from_dict(document)
    supported = (
        key for key in found if key.algorithm_name in PUBLIC_KEY_ALGORITHMS and key.public_key_use in {"sig", None}
    )
    return {key.key_id: key for key in supported if key.key_id}
