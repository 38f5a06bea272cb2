"""The API's name, and whether it is running."""

import time

from fastapi import APIRouter

from functions.api.health.models import ENDPOINTS, GetApiInfoResponse, PingResponse
from functions.api.web.json_response import JsonResponse
from functions.api.web.openapi import responses

router = APIRouter(tags=["health"])


@router.get("/", operation_id="getApiInfo", responses=responses(GetApiInfoResponse))
def get_api_info() -> JsonResponse:
    """Get the name of the API. Also its main endpoints."""
    return JsonResponse({"status": "success", "message": "Claude Code Automation API", "endpoints": ENDPOINTS})


@router.get("/ping", operation_id="ping", responses=responses(PingResponse))
def ping() -> JsonResponse:
    """Check that the API is running. Checks no other service."""
    return JsonResponse({"status": "success", "message": "pong", "timestamp": time.time()})
