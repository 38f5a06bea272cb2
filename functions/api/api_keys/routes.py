"""API keys: create, list, revoke. An API key cannot do this itself: a stolen one must not outlive its revocation."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path

from functions.api.api_keys.models import (
    KEY_ID,
    CreateApiKeyRequest,
    CreateApiKeyResponse,
    ListApiKeysResponse,
    RevokeApiKeyResponse,
)
from functions.api.deps import ApiKeys, RequestId, SignedInUser
from functions.api.web.ids import uuid_of
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import request_body, responses
from functions.api.web.request_body import read_body
from shared.domain.api_key import ApiKey
from shared.domain.errors import NotFound
from shared.observability import register_secret

log = logging.getLogger("api.api_keys")
router = APIRouter(prefix="/api/api-keys", tags=["api keys"])

CreateBody = Annotated[CreateApiKeyRequest, Depends(read_body(CreateApiKeyRequest, empty="No data provided"))]
KeyId = Annotated[
    str, Path(description="The `id` of the API key.", examples=[KEY_ID], json_schema_extra={"format": "uuid"})
]


@router.post(
    "",
    status_code=201,
    operation_id="createApiKey",
    responses=responses(CreateApiKeyResponse, 400, 401, 403, 409, 413, 503, status=201),
    openapi_extra=request_body(CreateApiKeyRequest),
)
def create_api_key(user: SignedInUser, body: CreateBody, api_keys: ApiKeys, request_id: RequestId) -> JsonResponse:
    """Create an API key. Programs send it as bearer token instead of an access token. A user can have 50 API keys."""
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
    return JsonResponse({"status": "success", "api_key": row | {"key": key.secret.reveal()}}, status_code=201)


@router.get("", operation_id="listApiKeys", responses=responses(ListApiKeysResponse, 401, 403, 503))
def list_api_keys(user: SignedInUser, api_keys: ApiKeys) -> JsonResponse:
    """List API keys. Newest first, without the keys themselves."""
    return JsonResponse({"status": "success", "api_keys": api_keys.list_all(owner_id=user.id)})


@router.delete("/{key_id}", operation_id="revokeApiKey", responses=responses(RevokeApiKeyResponse, 401, 403, 404, 503))
def revoke_api_key(key_id: KeyId, user: SignedInUser, api_keys: ApiKeys, request_id: RequestId) -> JsonResponse:
    """Revoke an API key. Every later request with it is refused."""
    known = uuid_of(key_id)
    if known is None:
        raise NotFound("API key not found")
    api_keys.revoke(known, owner_id=user.id)
    log.info("api_key.revoked", extra={"user_id": user.id, "api_key_id": known, "request_id": request_id})
    return JsonResponse({"status": "success", "message": "API key revoked"})
