"""Errors as HTTP responses: a status, and the body `{"error": <sentence>, "code": <code>}`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Match

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
    """The request body, or the response, is larger than its limit."""

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
UNAVAILABLE_RETRY_S = 5  # sent as Retry-After with every 503
# The errors that the router itself raises: the texts of the wire contract, with our codes.
ROUTING = {404: ("Not found", "not_found"), 405: ("Method not allowed", "method_not_allowed")}
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
# pydantic's most common errors, each as the end of a sentence that begins with the field's name.
PROBLEMS = {
    "missing": "is required",
    "string_type": "must be a string",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "list_type": "must be a list",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "may have at most {max_length} characters",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
}


def status_of(error: AppError) -> int:
    """The HTTP status of the error's class, or of its nearest listed base class; 500 for all others."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def map_errors(app: FastAPI) -> None:
    """Register the handlers that turn AppErrors, the router's errors and invalid parameters into responses."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)


def error_response(
    status: int,
    sentence: str,
    code: str,
    *,
    shown: Mapping[str, object] | None = None,
    retry_after_s: int | None = None,
) -> JSONResponse:
    headers = {"Retry-After": str(retry_after_s)} if retry_after_s else None
    return JSONResponse({"error": sentence, "code": code, **(shown or {})}, status, headers)


def first_problem(problems: Sequence[Any]) -> str:
    """pydantic's first error as a sentence that names the field and never contains the value that was sent."""
    problem = problems[0]
    where = ".".join(map(str, problem["loc"]))
    if where and problem["type"] in PROBLEMS:
        return f"{where} {PROBLEMS[problem['type']].format(**problem.get('ctx', {}))}"
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


async def _app_error(request: Request, error: Exception) -> JSONResponse:
    known = cast(AppError, error)
    request.state.error = known  # for the request log
    return error_response(
        status_of(known), str(known), known.code, shown=known.shown, retry_after_s=_retry_after_s(known)
    )


def _retry_after_s(error: AppError) -> int | None:
    if isinstance(error, TooMany):
        return error.retry_after_s
    return UNAVAILABLE_RETRY_S if isinstance(error, Unavailable) else None


async def _routing_error(request: Request, error: Exception) -> JSONResponse:
    refused = cast(HTTPException, error)
    if refused.status_code == 404 and (merged := _merged_url(request)):
        response = error_response(308, "The path has a doubled slash", "moved")
        response.headers["Location"] = merged
        return response
    sentence, code = ROUTING.get(refused.status_code, (refused.detail, "invalid_input"))
    response = error_response(refused.status_code, sentence, code)
    response.headers.update(refused.headers or {})
    if refused.status_code == 405:
        response.headers["Allow"] = _allowed(request)
    return response


def _allowed(request: Request) -> str:
    """Every method of the path. The router itself names only those of the first matching route."""
    return ", ".join(method for method in METHODS if _is_routed(request, method=method))


def _is_routed(request: Request, **changes: str) -> bool:
    """Whether a route matches the request with these `changes` to its scope."""
    scope = {**request.scope, **changes}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def _merged_url(request: Request) -> str | None:
    """The URL with doubled slashes merged; None when the path has none, or when no route matches the merged path."""
    path = re.sub("/{2,}", "/", request.url.path)
    if path == request.url.path or not _is_routed(request, path=path):
        return None
    return str(request.url.replace(path=path))


async def _parameter_error(_request: Request, error: Exception) -> JSONResponse:
    problems = cast(RequestValidationError, error).errors()
    named = [problem | {"loc": problem["loc"][1:]} for problem in problems]  # drops "query", "header" or "path"
    return error_response(400, first_problem(named), InvalidInput.code)
