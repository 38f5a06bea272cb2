"""Keys for programs: made, listed, revoked. Never by a key itself: a stolen one must not outlive its revocation."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.api.answers import Answer
from functions.api.bodies import Body, body_of
from functions.api.deps import ApiKeys, RequestId, SignedInUser
from functions.api.openapi import answers, body
from functions.api.tokens import uuid_of
from shared.domain.api_key import ApiKey
from shared.domain.errors import InvalidInput, NotFound
from shared.observability import register_secret

log = logging.getLogger("api.api_keys")
router = APIRouter(prefix="/api/api-keys", tags=["api keys"])

MAX_NAME_CHARS = 100  # the database's own bound
MAX_DAYS = 3650


class KeyFacts(BaseModel):
    """What is known of a key: not the key. `hint` is its end, `last_used_at` at most a minute old."""

    id: UUID = Field(examples=["3f0f3c1e-7d3b-4c53-9a55-6a2d8a2f4b11"])
    name: str = Field(examples=["nightly build"])
    hint: str = Field(examples=["x3Vw"])
    created_at: datetime
    expires_at: datetime | None = Field(description="Null: it is valid until it is revoked.")
    last_used_at: datetime | None = Field(description="Null: never yet.")


class NewKey(KeyFacts):
    """A new key, which is shown this once."""

    key: str = Field(examples=["ac_" + "x" * 43])


class CreatedKey(BaseModel):
    """The new key. It is shown in no other answer."""

    status: Literal["success"]
    api_key: NewKey


class KeyList(BaseModel):
    """All own keys, newest first."""

    status: Literal["success"]
    api_keys: list[KeyFacts]


class KeyRevoked(BaseModel):
    """The key is refused from now on."""

    status: Literal["success"]
    message: Literal["API key revoked"]


def _name(text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARS or "\0" in name:
        raise InvalidInput(f"name must have 1 to {MAX_NAME_CHARS} characters, not only blanks")
    return name


class NewKeyIn(Body):
    """What to call the key, and how long it is valid."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "nightly build", "expires_in_days": 90}]})

    name: Annotated[str, AfterValidator(_name)] = Field(
        examples=["nightly build"], json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_CHARS, "pattern": r"\S"}
    )
    expires_in_days: int | None = Field(
        default=None, ge=1, le=MAX_DAYS, description="Without it the key is valid until it is revoked.", examples=[90]
    )


NewKeyBody = Annotated[NewKeyIn, Depends(body_of(NewKeyIn, empty="No data provided"))]
KeyId = Annotated[
    str,
    Path(
        description="The key's `id`.",
        examples=["3f0f3c1e-7d3b-4c53-9a55-6a2d8a2f4b11"],
        json_schema_extra={"format": "uuid"},
    ),
]


@router.post(
    "",
    status_code=201,
    operation_id="createApiKey",
    responses=answers(CreatedKey, 400, 401, 403, 409, 413, 503, status=201),
    openapi_extra=body(NewKeyIn),
)
def create_api_key(user: SignedInUser, body: NewKeyBody, api_keys: ApiKeys, request_id: RequestId) -> Answer:
    """Make an API key. A program can use it as its bearer, in the place of an access token. One can have 50."""
    key = ApiKey.new()
    register_secret(key.secret)
    days = body.expires_in_days
    row = api_keys.create(
        name=body.name,
        key_hash=key.hash,
        hint=key.hint,
        expires_at=datetime.now(UTC) + timedelta(days=days) if days else None,
    )
    log.info("api_key.created", extra={"user_id": user.id, "api_key_id": row["id"], "request_id": request_id})
    return Answer({"status": "success", "api_key": row | {"key": key.secret.reveal()}}, status_code=201)


@router.get("", operation_id="listApiKeys", responses=answers(KeyList, 401, 403, 503))
def list_api_keys(user: SignedInUser, api_keys: ApiKeys) -> Answer:
    """List the own API keys. Newest first, without the keys themselves."""
    return Answer({"status": "success", "api_keys": api_keys.list_all(owner_id=user.id)})


@router.delete("/{key_id}", operation_id="revokeApiKey", responses=answers(KeyRevoked, 401, 403, 404, 503))
def revoke_api_key(key_id: KeyId, user: SignedInUser, api_keys: ApiKeys, request_id: RequestId) -> Answer:
    """Revoke an API key. It is refused from now on, for good."""
    known = uuid_of(key_id)
    if known is None:
        raise NotFound("API key not found")
    api_keys.revoke(known, owner_id=user.id)
    log.info("api_key.revoked", extra={"user_id": user.id, "api_key_id": known, "request_id": request_id})
    return Answer({"status": "success", "message": "API key revoked"})
