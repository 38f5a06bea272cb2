"""Request and response bodies of the API key operations."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from functions.api.web.request_body import RequestBody
from shared.domain.errors import InvalidInput

MAX_NAME_CHARS = 100  # the database's own bound
MAX_DAYS = 3650
KEY_ID = "3f0f3c1e-7d3b-4c53-9a55-6a2d8a2f4b11"


class ApiKeyInfo(BaseModel):
    """An API key without the key itself. `hint` is its last characters; `last_used_at` may lag by a minute."""

    id: UUID = Field(examples=[KEY_ID])
    name: str = Field(examples=["nightly build"])
    hint: str = Field(examples=["x3Vw"])
    created_at: datetime
    expires_at: datetime | None = Field(description="Null when the key is valid until it is revoked.")
    last_used_at: datetime | None = Field(description="Null when the key was never used.")


class NewApiKey(ApiKeyInfo):
    """A new API key, including the key itself."""

    key: str = Field(examples=["ac_" + "x" * 43])


class CreateApiKeyResponse(BaseModel):
    """The new API key. No other response contains the key itself."""

    status: Literal["success"]
    api_key: NewApiKey


class ListApiKeysResponse(BaseModel):
    """All of the user's API keys, newest first."""

    status: Literal["success"]
    api_keys: list[ApiKeyInfo]


class RevokeApiKeyResponse(BaseModel):
    """The API key is revoked."""

    status: Literal["success"]
    message: Literal["API key revoked"]


def _name(text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARS or "\0" in name:
        raise InvalidInput(f"name must have 1 to {MAX_NAME_CHARS} characters, not only blanks")
    return name


class CreateApiKeyRequest(RequestBody):
    """The name and the lifetime of the new API key."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "nightly build", "expires_in_days": 90}]})

    name: Annotated[str, AfterValidator(_name)] = Field(
        examples=["nightly build"], json_schema_extra={"minLength": 1, "maxLength": MAX_NAME_CHARS, "pattern": r"\S"}
    )
    expires_in_days: int | None = Field(
        default=None, ge=1, le=MAX_DAYS, description="Without it, the key is valid until it is revoked.", examples=[90]
    )
