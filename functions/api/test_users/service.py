"""Temporary users for tests of a frontend: created by the sign-in service, marked as test users, deleted again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from functions.api.auth.tokens import Tokens
from shared.domain.errors import AppError, Conflict, InvalidInput, Misconfigured, NotFound
from shared.domain.ports import AuthAdmin, Row, TestUserDirectory
from shared.domain.secret import Secret

TTL_HOURS = 1
# app_metadata, which only the service can write, decides; the copy in the user's own metadata is for tests to read.
MARKS: dict[str, Any] = {"is_test_user": True, "ttl_hours": TTL_HOURS}
MAX_METADATA_BYTES = 8192  # each Supabase token of the user contains it
MAX_CLEANED = 100  # in one request, which has 30 s


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    access: Secret
    refresh: Secret


def create(
    email: str, metadata: Mapping[str, Any], *, auth: AuthAdmin, users: TestUserDirectory, tokens: Tokens
) -> tuple[Row, IssuedTokens]:
    """The new user, with the keys id, email, created_at, expires_at and metadata, and tokens.

    Raises InvalidInput, Conflict when the e-mail address is taken, Unavailable; then no user is left behind.
    """
    _check(metadata)
    try:
        made = auth.create_user(email, app_metadata=MARKS, user_metadata={**metadata, **MARKS})
    except Conflict as taken:
        raise Conflict(f"Failed to create test user: {taken}") from taken
    try:
        row = users.get(made["id"])  # a trigger marks it as a test user because of app_metadata
    except AppError as error:
        auth.delete_user(made["id"])
        if isinstance(error, NotFound):
            raise Misconfigured("Failed to create test user: the database did not mark it as a test user.") from error
        raise
    user = {key: row[key] for key in ("id", "email", "created_at", "expires_at")} | {"metadata": made["metadata"]}
    return user, _issued(made["id"], tokens)


def delete(user_id: str, *, auth: AuthAdmin, users: TestUserDirectory) -> None:
    """Raises NotFound unless it is a test user, Unavailable."""
    try:
        users.get(user_id)
        auth.delete_user(user_id)
    except NotFound as error:
        raise NotFound("Failed to delete test user") from error


def issue(user_id: str, *, users: TestUserDirectory, tokens: Tokens) -> IssuedTokens:
    """New tokens. Raises NotFound unless it is a test user, Unavailable."""
    users.get(user_id)
    return _issued(user_id, tokens)


def clean_up(now: datetime, *, auth: AuthAdmin, users: TestUserDirectory) -> list[str]:
    """Delete expired test users, at most MAX_CLEANED. Returns the deleted ids. Raises Unavailable."""
    deleted = []
    for user_id in users.expired(now, limit=MAX_CLEANED):
        try:
            auth.delete_user(user_id)
        except NotFound:
            continue  # a concurrent request has deleted it
        deleted.append(user_id)
    return deleted


def _issued(user_id: str, tokens: Tokens) -> IssuedTokens:
    return IssuedTokens(tokens.access(user_id), tokens.refresh(user_id))


def _check(metadata: Mapping[str, Any]) -> None:
    text = json.dumps(metadata)
    if len(text) > MAX_METADATA_BYTES:
        raise InvalidInput(f"metadata may have at most {MAX_METADATA_BYTES} bytes as JSON")
    if r"\u0000" in text:
        raise InvalidInput("metadata must not contain the character NUL")
