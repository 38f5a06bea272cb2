"""What went wrong, as HTTP: a status, and the body `{"error": <sentence>, "code": <code>}`."""

from collections.abc import Sequence
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from shared.domain.errors import (
    AppError,
    Conflict,
    Forbidden,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    TooMany,
    Unavailable,
)


class TooLarge(AppError):
    """The answer does not fit into what Lambda can send."""

    code = "too_large"


STATUS: dict[type[AppError], int] = {
    InvalidInput: 400,
    NotAuthenticated: 401,
    Forbidden: 403,
    NotFound: 404,
    Conflict: 409,
    TooLarge: 413,
    TooMany: 429,
    Unavailable: 503,
}
RETRY_AFTER = {429: "30", 503: "5"}  # seconds
# What the router itself refuses: the sentences of the wire contract, and our codes.
ROUTING = {404: ("Not found", "not_found"), 405: ("Method not allowed", "method_not_allowed")}


def status_of(error: AppError) -> int:
    """The nearest listed ancestor decides, so a new subclass needs no new row."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def map_errors(app: FastAPI) -> None:
    """Teach `app` to answer our errors, the router's, and those of declared parameters."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)


def error_answer(status: int, sentence: str, code: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence, "code": code}, status, headers)


def first_problem(problems: Sequence[Any]) -> str:
    """pydantic's first complaint as a sentence that names the field but never shows what was sent."""
    where = [str(part) for part in problems[0]["loc"] if part not in {"query", "header", "path", "body"}]
    return f"{'.'.join(where)}: {problems[0]['msg']}" if where else str(problems[0]["msg"])


async def _app_error(request: Request, error: Exception) -> JSONResponse:
    known = cast(AppError, error)
    request.state.error = known  # the request log puts it into its one line
    status = status_of(known)
    headers = {"Retry-After": RETRY_AFTER[status]} if status in RETRY_AFTER else None
    return error_answer(status, str(known), known.code, headers)


async def _routing_error(_request: Request, error: Exception) -> JSONResponse:
    refused = cast(HTTPException, error)
    sentence, code = ROUTING.get(refused.status_code, (refused.detail, "invalid_input"))
    return error_answer(refused.status_code, sentence, code, dict(refused.headers or {}))


async def _parameter_error(_request: Request, error: Exception) -> JSONResponse:
    problems = cast(RequestValidationError, error).errors()
    return error_answer(400, first_problem(problems), InvalidInput.code)
