"""What the REST handlers share: reading a request's body, and E2B's way to say no."""

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse


class ApiError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def json_body(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body() or b"{}")
    except ValueError as error:
        raise ApiError(400, "The body is not JSON") from error
    if not isinstance(body, dict):
        raise ApiError(400, "The body is not a JSON object")
    return body


def field(body: Mapping[str, Any], name: str, kind: type, default: Any) -> Any:
    """A typed field of a body; absent and null mean the default."""
    value = body.get(name)
    if value is None:
        return default
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ApiError(400, f"{name} is not of type {kind.__name__}")
    return value


def texts(body: Mapping[str, Any], name: str) -> dict[str, str]:
    value: dict[Any, Any] = field(body, name, dict, {})
    if not all(isinstance(text, str) for text in value.values()):
        raise ApiError(400, f"{name} may hold only strings")
    return value


def error_response(status: int, message: str) -> JSONResponse:
    return JSONResponse({"code": status, "message": message}, status)
