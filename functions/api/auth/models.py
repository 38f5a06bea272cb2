"""Request and response bodies of the token operations."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SecretStr, WithJsonSchema

from functions.api.web.examples import A_JWT, USER_ID
from functions.api.web.request_body import RequestBody


class IssueTokensResponse(BaseModel):
    """An access token and a refresh token. `expires_in` is the lifetime of the access token in seconds."""

    access_token: str = Field(examples=[A_JWT])
    refresh_token: str = Field(examples=[A_JWT])
    expires_in: int = Field(examples=[3600])


class RefreshTokenResponse(BaseModel):
    """A new access token, and its lifetime in seconds."""

    access_token: str = Field(examples=[A_JWT])
    expires_in: int = Field(examples=[3600])


class VerifyTokenResponse(BaseModel):
    """The token or API key is valid and belongs to this user."""

    valid: Literal[True]
    user_id: UUID = Field(examples=[USER_ID])


# The contract answers every falsy value with its own text, so these accept more than they describe.
class IssueTokensRequest(RequestBody):
    """The user to issue tokens for, and the proof of a Supabase sign-in."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"user_id": USER_ID}]})

    user_id: Annotated[Any, WithJsonSchema({"type": "string", "format": "uuid", "examples": [USER_ID]})]
    access_token: SecretStr | None = Field(
        default=None,
        description="The user's Supabase access token, unless it is sent as bearer token.",
        examples=[A_JWT],
    )


class RefreshTokenRequest(RequestBody):
    """A refresh token from `POST /api/auth/token`."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"refresh_token": A_JWT}]})

    refresh_token: Annotated[
        SecretStr | None,
        WithJsonSchema({"type": "string", "format": "password", "minLength": 1, "examples": [A_JWT]}),
    ]
