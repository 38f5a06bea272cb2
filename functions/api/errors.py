"""What went wrong, as HTTP: a status, and the body `{"error": <sentence>, "code": <code>}`."""

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
    """The body is larger than we read, or the answer than Lambda can send."""

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
UNAVAILABLE_S = 5  # after which another try may find the service back
# What the router itself refuses: the sentences of the wire contract, and our codes.
ROUTING = {404: ("Not found", "not_found"), 405: ("Method not allowed", "method_not_allowed")}
METHODS = ("DELETE", "GET", "PATCH", "POST", "PUT")
# pydantic's commonest complaints, as the end of a sentence that begins with the field's name.
COMPLAINTS = {
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
    """The nearest listed ancestor decides, so a new subclass needs no new row."""
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def map_errors(app: FastAPI) -> None:
    """Teach `app` to answer our errors, the router's, and those of declared parameters."""
    app.add_exception_handler(AppError, _app_error)
    app.add_exception_handler(HTTPException, _routing_error)
    app.add_exception_handler(RequestValidationError, _parameter_error)


def error_answer(
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
    """pydantic's first complaint as a sentence that names the field but never shows what was sent."""
    problem = problems[0]
    where = ".".join(map(str, problem["loc"]))
    if where and problem["type"] in COMPLAINTS:
        return f"{where} {COMPLAINTS[problem['type']].format(**problem.get('ctx', {}))}"
    return f"{where}: {problem['msg']}" if where else str(problem["msg"])


async def _app_error(request: Request, error: Exception) -> JSONResponse:
    known = cast(AppError, error)
    request.state.error = known  # the request log puts it into its one line
    return error_answer(
        status_of(known), str(known), known.code, shown=known.shown, retry_after_s=_retry_after_s(known)
    )


def _retry_after_s(error: AppError) -> int | None:
    if isinstance(error, TooMany):
        return error.retry_after_s
    return UNAVAILABLE_S if isinstance(error, Unavailable) else None


async def _routing_error(request: Request, error: Exception) -> JSONResponse:
    refused = cast(HTTPException, error)
    if refused.status_code == 404 and (merged := _merged_url(request)):
        answer = error_answer(308, "The address has a slash too many", "moved")
        answer.headers["Location"] = merged
        return answer
    sentence, code = ROUTING.get(refused.status_code, (refused.detail, "invalid_input"))
    answer = error_answer(refused.status_code, sentence, code)
    answer.headers.update(refused.headers or {})
    if refused.status_code == 405:
        answer.headers["Allow"] = _allowed(request)
    return answer


def _allowed(request: Request) -> str:
    """Every method of the path; the router names those of the first route alone."""
    return ", ".join(method for method in METHODS if _leads_somewhere(request, method=method))


def _leads_somewhere(request: Request, **changes: str) -> bool:
    """Whether there is a route for the request with these `changes` of its scope."""
    scope = {**request.scope, **changes}
    return any(route.matches(scope)[0] is Match.FULL for route in request.app.routes)


def _merged_url(request: Request) -> str | None:
    """Where a path with doubled slashes leads; None when it has none, or leads nowhere either."""
    path = re.sub("/{2,}", "/", request.url.path)
    if path == request.url.path or not _leads_somewhere(request, path=path):
        return None
    return str(request.url.replace(path=path))


async def _parameter_error(_request: Request, error: Exception) -> JSONResponse:
    problems = cast(RequestValidationError, error).errors()
    named = [problem | {"loc": problem["loc"][1:]} for problem in problems]  # without query, header or path
    return error_answer(400, first_problem(named), InvalidInput.code)
