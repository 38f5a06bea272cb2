"""The authenticated user's own profile."""

from typing import Annotated

from fastapi import APIRouter, Depends

from functions.api.deps import CurrentUser, Profile
from functions.api.me.models import ProfileResponse, UpdateProfileRequest
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import request_body, responses
from functions.api.web.request_body import read_body
from shared.domain.errors import InvalidInput
from shared.domain.ports import Row

router = APIRouter(prefix="/api", tags=["me"])

UpdateBody = Annotated[UpdateProfileRequest, Depends(read_body(UpdateProfileRequest, empty="No data provided"))]


@router.get("/me", operation_id="getProfile", responses=responses(ProfileResponse, 401, 404, 503))
def get_profile(user: CurrentUser, profile: Profile) -> JsonResponse:
    """Get the user's own profile. It includes the preferences for agents."""
    return _response(profile.get(owner_id=user.id))


@router.patch(
    "/me",
    operation_id="updateProfile",
    responses=responses(ProfileResponse, 400, 401, 404, 413, 503),
    openapi_extra=request_body(UpdateProfileRequest),
)
def update_profile(user: CurrentUser, body: UpdateBody, profile: Profile) -> JsonResponse:
    """Update the user's own profile. Null clears a field, absent fields do not change, unknown fields are ignored."""
    changes = body.model_dump(exclude_unset=True)
    if not changes:
        raise InvalidInput("No data provided")
    return _response(profile.update(changes, owner_id=user.id))


def _response(row: Row) -> JsonResponse:
    return JsonResponse({"status": "success", "user": row})
