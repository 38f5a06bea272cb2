"""Around every request: the log line, CORS, HEAD, and the response to an unexpected error."""

import logging
import re
import time
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from functions.api.web.errors import error_response, status_of
from shared.domain.errors import AppError

log = logging.getLogger("api.requests")

_VALID_REQUEST_ID = re.compile(r"[A-Za-z0-9._=-]{1,128}")

PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, PUT, PATCH, DELETE, OPTIONS",
    "Access-Control-Allow-Headers": (
        "Content-Type, X-User-ID, Authorization, Idempotency-Key, X-Request-Id, X-Test-Users-Secret"
    ),
    "Access-Control-Max-Age": "600",  # seconds; what Chromium caps at is 7,200
}


class RequestLog:
    """Logs one line per request. The response returns the request's id: the caller's own, if it sent one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, method = time.perf_counter(), scope["method"]
        state = scope.setdefault("state", {})
        state["request_id"] = _request_id(scope)
        status = 500

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = state["request_id"]
            await send(message)

        await self._app(scope, receive, send_with_id)
        fields = {
            "method": method,
            "route": getattr(scope.get("route"), "path_format", None),
            "status": status,
            "took_ms": round((time.perf_counter() - started) * 1000),
            "user_id": state.get("user_id"),
            "request_id": state["request_id"],
        }
        error: AppError | None = state.get("error")
        is_failure = error is not None and (status_of(error) >= 500 or error.retryable)
        log.log(
            logging.WARNING if is_failure else logging.INFO,
            "request.answered",
            extra=fields | ({"failure": error.for_log()} if error else {}),
        )


class Cors:
    """Lets the listed origins, and those that `pattern` matches as a whole, read the responses.

    Every OPTIONS request is answered here, also for unknown paths. A request without an origin gets the first listed
    one, as from the old backend.
    """

    def __init__(self, app: ASGIApp, *, origins: Sequence[str], pattern: str | None) -> None:
        self._app = app
        self._origins = origins
        self._pattern = re.compile(pattern) if pattern else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        origin = Headers(scope=scope).get("origin") or next(iter(self._origins), None)

        async def send_with_cors(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._allow(MutableHeaders(scope=message), origin)
            await send(message)

        if scope["method"] == "OPTIONS":
            return await Response(status_code=204, headers=PREFLIGHT)(scope, receive, send_with_cors)
        await self._app(scope, receive, send_with_cors)

    def _allow(self, headers: MutableHeaders, origin: str | None) -> None:
        headers.add_vary_header("Origin")
        if origin and (origin in self._origins or (self._pattern and self._pattern.fullmatch(origin))):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Allow-Credentials"] = "true"
            headers["Access-Control-Expose-Headers"] = "X-Request-Id, Retry-After"


class UnexpectedErrors:
    """Logs the stack trace of an unexpected error once and answers 500 without details."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_response = False

        async def send_and_note(message: Message) -> None:
            nonlocal started_response
            started_response = True
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception:
            log.exception("request.failed", extra={"request_id": scope.get("state", {}).get("request_id")})
            if started_response:  # too late for another response
                raise
            await error_response(500, "Internal server error", "internal")(scope, receive, send)


class HeadAsGet:
    """Answers HEAD like GET, without the body."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return await self._app(scope, receive, send)
        scope["method"] = "GET"

        async def send_head(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        await self._app(scope, receive, send_head)


def _request_id(scope: Scope) -> str:
    sent = Headers(scope=scope).get("x-request-id", "")
    if _VALID_REQUEST_ID.fullmatch(sent):
        return sent
    event: dict[str, Any] = scope.get("aws.event", {})
    return event.get("requestContext", {}).get("requestId") or str(uuid.uuid4())
