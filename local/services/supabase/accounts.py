"""Users and sessions: the rows of the schema `auth`. Every function works inside the transaction it is given."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from local.services.supabase.database import Connection

REUSE_GRACE = timedelta(seconds=10)  # GoTrue's SECURITY_REFRESH_TOKEN_REUSE_INTERVAL
REFRESH_TOKEN_BYTES = 16
# Everywhere, here, or everywhere else.
SIGN_OUT_SCOPES = {"global": "true", "local": "id = %(session)s", "others": "id <> %(session)s"}

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    """Where a session is used from."""

    user_agent: str
    ip: str | None


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in device and its current refresh token."""

    id: UUID
    user_id: UUID
    refresh_token: str


async def create_user(
    connection: Connection,
    *,
    email: str,
    password_hash: str | None,
    user_metadata: Mapping[str, Any],
    app_metadata: Mapping[str, Any],
    id: UUID | None = None,
) -> Row:
    """Raises psycopg.errors.UniqueViolation when the e-mail address or the id is taken."""
    row = await _one(
        connection,
        """insert into auth.users (id, email, encrypted_password, email_confirmed_at,
               raw_user_meta_data, raw_app_meta_data)
           values (coalesce(%s, gen_random_uuid()), %s, %s, now(), %s, %s) returning *""",
        (id, email, password_hash, Jsonb(user_metadata), Jsonb(app_metadata)),
    )
    assert row is not None  # noqa: S101 - an insert without a row raises
    return row


async def user_by_id(connection: Connection, user_id: UUID) -> Row | None:
    return await _one(connection, "select * from auth.users where id = %s", (user_id,))


async def user_by_email(connection: Connection, email: str) -> Row | None:
    return await _one(connection, "select * from auth.users where email = %s", (email,))


async def list_users(connection: Connection, *, page: int, per_page: int) -> tuple[list[Row], int]:
    """One page, newest first, and the number of all users. Pages start at 1."""
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(
            "select * from auth.users order by created_at desc, id limit %s offset %s",
            (per_page, (page - 1) * per_page),
        )
        rows = await cursor.fetchall()
    total = await _one(connection, "select count(*) from auth.users")
    return rows, total["count"] if total else 0


async def update_user(
    connection: Connection,
    user: Row,
    *,
    email: str | None = None,
    password_hash: str | None = None,
    user_metadata: Mapping[str, Any] | None = None,
    app_metadata: Mapping[str, Any] | None = None,
) -> Row | None:
    """Change what is given. Metadata is merged; a key with the value null goes. None if the user is gone."""
    return await _one(
        connection,
        """update auth.users set email = coalesce(%s, email), encrypted_password = coalesce(%s, encrypted_password),
               raw_user_meta_data = %s, raw_app_meta_data = %s, updated_at = now()
           where id = %s returning *""",
        (
            email,
            password_hash,
            Jsonb(_merged(user["raw_user_meta_data"], user_metadata)),
            Jsonb(_merged(user["raw_app_meta_data"], app_metadata)),
            user["id"],
        ),
    )


async def delete_user(connection: Connection, user_id: UUID) -> Row | None:
    """The deleted row; None if there was none."""
    return await _one(connection, "delete from auth.users where id = %s returning *", (user_id,))


async def open_session(connection: Connection, user_id: UUID, client: Client) -> Session:
    """Sign in."""
    await connection.execute(
        "update auth.users set last_sign_in_at = now(), updated_at = now() where id = %s", (user_id,)
    )
    row = await _one(
        connection,
        "insert into auth.sessions (user_id, user_agent, ip) values (%s, %s, %s) returning id",
        (user_id, client.user_agent, client.ip),
    )
    assert row is not None  # noqa: S101 - an insert without a row raises
    return await _with_new_token(connection, row["id"], user_id, parent=None)


async def session_exists(connection: Connection, session_id: UUID) -> bool:
    return await _one(connection, "select 1 from auth.sessions where id = %s", (session_id,)) is not None


async def rotate(connection: Connection, token: Row, client: Client) -> Session | None:
    """Exchange a refresh token for the next one.

    A token used a second time answers with the current one when the first answer may have been lost:
    within REUSE_GRACE, or while its successor was never used. Otherwise it was stolen, and None says
    that the whole session has been revoked.
    """
    session_id, user_id = token["session_id"], UUID(token["user_id"])
    await connection.execute(
        """update auth.sessions set refreshed_at = now() at time zone 'utc', updated_at = now(),
               user_agent = %s, ip = %s
           where id = %s""",
        (client.user_agent, client.ip, session_id),
    )
    if not token["revoked"]:
        await connection.execute(
            "update auth.refresh_tokens set revoked = true, updated_at = now() where id = %s", (token["id"],)
        )
        return await _with_new_token(connection, session_id, user_id, parent=token["token"])
    current = await _one(
        connection,
        "select token, parent from auth.refresh_tokens where session_id = %s and not revoked order by id desc limit 1",
        (session_id,),
    )
    if current and (current["parent"] == token["token"] or token["revoked_for"] < REUSE_GRACE):
        return Session(session_id, user_id, current["token"])
    await connection.execute(
        "update auth.refresh_tokens set revoked = true, updated_at = now() where session_id = %s and not revoked",
        (session_id,),
    )
    return None


async def refresh_token(connection: Connection, token: str) -> Row | None:
    """The token's row, locked against a second rotation at the same moment."""
    return await _one(
        connection,
        "select *, now() - updated_at as revoked_for from auth.refresh_tokens where token = %s for update",
        (token,),
    )


async def close_sessions(connection: Connection, user_id: UUID, session_id: UUID | None, scope: str) -> None:
    """Sign out in one of SIGN_OUT_SCOPES. Without a session all of them mean everywhere, as in GoTrue."""
    condition = SIGN_OUT_SCOPES[scope if session_id else "global"]
    await connection.execute(
        f"delete from auth.sessions where user_id = %(user)s and {condition}".encode(),  # noqa: S608 - ours, above
        {"user": user_id, "session": session_id},
    )


async def _with_new_token(connection: Connection, session_id: UUID, user_id: UUID, parent: str | None) -> Session:
    token = secrets.token_urlsafe(REFRESH_TOKEN_BYTES)
    await connection.execute(
        "insert into auth.refresh_tokens (token, user_id, session_id, parent) values (%s, %s, %s, %s)",
        (token, str(user_id), session_id, parent),
    )
    return Session(session_id, user_id, token)


def _merged(old: Mapping[str, Any] | None, change: Mapping[str, Any] | None) -> dict[str, Any]:
    return {key: value for key, value in {**(old or {}), **(change or {})}.items() if value is not None}


async def _one(connection: Connection, query: str, values: tuple[object, ...] = ()) -> Row | None:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(query.encode(), values)
        return await cursor.fetchone()
