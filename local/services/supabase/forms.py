"""The JSON that comes in and goes out of `/auth/v1`. Every refusal is an AuthError in GoTrue's words."""

import re
from datetime import datetime
from typing import Any
from uuid import UUID

from starlette.requests import Request

from local.services.supabase.accounts import Row
from local.services.supabase.errors import AuthError

MIN_PASSWORD_LENGTH = 6  # Supabase's default
EMAIL_SHAPE = re.compile(r"[^@\s]+@[^@\s]+")


def user_json(user: Row) -> dict[str, Any]:
    """The user object of every answer; its one identity is the e-mail address."""
    created_at, email = _iso(user["created_at"]), user["email"]
    identity = {
        "identity_id": str(user["id"]),
        "id": str(user["id"]),
        "user_id": str(user["id"]),
        "identity_data": {"email": email, "email_verified": True, "sub": str(user["id"])},
        "provider": "email",
        "created_at": created_at,
        "updated_at": created_at,
        "last_sign_in_at": _iso(user["last_sign_in_at"]),
    }
    return {
        "id": str(user["id"]),
        "aud": user["aud"],
        "role": user["role"],
        "email": email,
        "phone": "",
        "email_confirmed_at": _iso(user["email_confirmed_at"]),
        "confirmed_at": _iso(user["email_confirmed_at"]),
        "last_sign_in_at": _iso(user["last_sign_in_at"]),
        "app_metadata": user["raw_app_meta_data"],
        "user_metadata": user["raw_user_meta_data"],
        "identities": [identity],
        "created_at": created_at,
        "updated_at": _iso(user["updated_at"]),
        "is_anonymous": user["is_anonymous"],
    }


def _iso(at: datetime | None) -> str | None:
    return at.isoformat() if at else None


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise AuthError(400, "bad_json", "Could not parse request body as JSON") from None
    if not isinstance(body, dict):
        raise AuthError(400, "bad_json", "The request body must be a JSON object")
    return body


def email(body: dict[str, Any]) -> str:
    """The address in lower case, as it is stored."""
    email = str(body.get("email") or "").strip().lower()
    if not email:
        raise AuthError(422, "anonymous_provider_disabled", "Anonymous sign-ins are disabled")
    if not EMAIL_SHAPE.fullmatch(email):
        raise AuthError(400, "validation_failed", "Unable to validate email address: invalid format")
    return email


def password(body: dict[str, Any]) -> str:
    password = str(body.get("password") or "")
    if not password:
        raise AuthError(400, "validation_failed", "Signup requires a valid password")
    if len(password) < MIN_PASSWORD_LENGTH:
        text = f"Password should be at least {MIN_PASSWORD_LENGTH} characters."
        raise AuthError(422, "weak_password", text, weak_password={"reasons": ["length"]})
    return password


def metadata(body: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = body.get(name)
    if value is not None and not isinstance(value, dict):
        raise AuthError(400, "validation_failed", f"{name} must be an object")
    return value


def page_number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name) or str(default)
    if not (text.isdecimal() and int(text) > 0):
        raise AuthError(400, "validation_failed", f"Bad Pagination Parameters: {name}")
    return int(text)


def page_links(path: str, page: int, per_page: int, total: int) -> str:
    """The `Link` header of a list; clients believe `X-Total-Count` only beside it."""
    last = max(1, -(-total // per_page))
    numbers = {"next": page + 1, "last": last} if page < last else {"last": last}
    return ", ".join(f'<{path}?page={number}&per_page={per_page}>; rel="{rel}"' for rel, number in numbers.items())


def uuid(text: object) -> UUID:
    try:
        return UUID(str(text))
    except ValueError:
        raise AuthError(404, "validation_failed", "The user id must be a UUID") from None
