"""The database over HTTPS: PostgREST clients that share one HTTP/1.1 connection pool."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx
from postgrest import SyncPostgrestClient
from postgrest.exceptions import APIError

from shared.domain.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotAuthenticated,
    NotFound,
    TooMany,
    Unavailable,
)
from shared.domain.secret import Secret


@cache
def _http() -> httpx.Client:
    # HTTP/1.1, because a thawed Lambda finds its HTTP/2 connection dead and the library does not notice.
    # Idle connections are dropped after 5 s for the same reason; connecting (not sending) is tried three times.
    # It keeps no cookies: those of one user's answer would travel with the next user's request.
    return httpx.Client(
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=httpx.Timeout(10, connect=3),
        limits=httpx.Limits(max_connections=10, keepalive_expiry=5),
        transport=httpx.HTTPTransport(retries=2),
    )


def postgrest_client(
    supabase_url: str, *, api_key: Secret, bearer: Secret | None = None, http: httpx.Client | None = None
) -> SyncPostgrestClient:
    """A client that acts as the owner of `bearer` (a user's token), or as `api_key` itself when there is none.

    Cheap: make one per request. A cached client must never be given somebody's token, or the next person would use it.
    """
    key = api_key.reveal()
    headers = {"apikey": key}
    # Supabase's new keys are not JWTs and belong in `apikey` only; a legacy service_role key is needed in both places.
    token = bearer.reveal() if bearer else (key if key.count(".") == 2 else None)
    if token:
        headers["Authorization"] = f"Bearer {token}"
    # The library would repeat reads itself and sleep 1, 2 and 4 s in between, which outlasts a request of the API.
    return SyncPostgrestClient(
        f"{supabase_url}/rest/v1", headers=headers, http_client=http or _http(), retry_enabled=False
    )


# What a caller can act on: our functions' own SQLSTATEs, then what PostgREST and PostgreSQL say most; two letters are a
# whole class.
_KINDS: dict[str, tuple[type[AppError], str]] = {
    "PT400": (InvalidInput, "The request cannot be accepted."),
    "PT401": (NotAuthenticated, "Sign in first."),
    "PT404": (NotFound, "Not found."),
    "PT409": (Conflict, "Another request has changed it."),
    "PT429": (TooMany, "A limit is reached. Try again later."),
    "PGRST116": (NotFound, "Not found."),
    "PGRST301": (NotAuthenticated, "The session has expired. Sign in again."),
    "PGRST303": (NotAuthenticated, "The session has expired. Sign in again."),
    "22": (InvalidInput, "The database refused the data."),  # bad data
    "22P05": (InvalidInput, "Text must not contain the character NUL."),
    "23": (InvalidInput, "The database refused the data."),  # a violated constraint
    "23505": (Conflict, "It exists already."),
    "42501": (Forbidden, "That is not allowed."),
    # the API role's own key or a missing function: nothing a user can mend
    "PGRST202": (Misconfigured, "The database lacks a function. Apply the migrations."),
    "PGRST205": (Misconfigured, "The database lacks a table. Apply the migrations."),
}
_UNKNOWN = (Unavailable, "The database returned an unexpected response. Try again.")

# The messages by which our functions tell the cases of a SQLSTATE apart. Each becomes the error's `code`; its details,
# a JSON object, are shown.
_CASES = {
    "chat_full": "The chat of this task is full. Continue in another task.",
    "idempotency_key_reused": "This Idempotency-Key was used for a different request. Use another key.",
    "max_duration_too_long": "max_duration_s is above the maximum of this deployment.",
    "nothing_to_retry": "The task has never run. Start it as a new task.",
    "run_active": "The task is active. Wait for it to end, or cancel it first.",
    "task_ended": "The task has already ended.",
    "too_many_active_runs": "Too many tasks are active. Wait for one to end, then try again.",
    "too_many_starts": "Too many tasks were started within an hour. Try again later.",
}


@contextmanager
def speaking_our_errors(messages: Mapping[str, str] | None = None) -> Iterator[None]:
    """Turns the library's exceptions into ours; `messages` gives better sentences for some SQLSTATEs.

    Raises Unavailable for everything that may pass by itself, and for an answer that is none.
    """
    try:
        yield
    except APIError as error:
        raise _our_error(error, messages or {}) from error
    except (httpx.HTTPError, json.JSONDecodeError) as error:
        raise Unavailable("The database is not responding. Try again.", reason=type(error).__name__) from error


def _our_error(error: APIError, messages: Mapping[str, str]) -> AppError:
    sqlstate, case = str(error.code or ""), str(error.message)
    kind, sentence = _KINDS.get(sqlstate) or _KINDS.get(sqlstate[:2]) or _UNKNOWN
    context: dict[str, Any] = {"database_code": sqlstate, "reason": case}
    if case not in _CASES:
        return kind(messages.get(sqlstate, sentence), **context)
    facts = json.loads(error.details or "{}")
    if "retry_after_s" in facts:
        context["retry_after_s"] = facts.pop("retry_after_s")
    return kind(_CASES[case], code=case, shown=facts, **context)


def call(client: SyncPostgrestClient, function: str, arguments: Mapping[str, Any]) -> Any:
    """The result of a database function. Absent optional arguments take the function's own defaults."""
    return client.rpc(function, {k: v for k, v in arguments.items() if v is not None}).execute().data
