"""API Gateway on a laptop:

    python -m local.services.aws.http_function --handler functions.api.handler:handler --port P

Every HTTP request becomes an HTTP API event (payload format 2.0) for the real handler.
"""

import argparse
import base64
import secrets
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from anyio.to_thread import run_sync
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from local.listening import add_port_arguments, listener_of, serve
from local.services.aws.events import HttpRequest, MalformedResponse, http_event, http_response
from local.services.aws.lambda_runner import (
    Environments,
    InvocationFailed,
    ResponseTooLarge,
    TimedOut,
    add_function_arguments,
    function_of,
    logger,
)

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

REQUEST_LIMIT = 6 * 1024 * 1024  # bytes of a body; Lambda's limit, as API Gateway's own is 10 MB
CONNECTION_HEADERS = {"connection", "content-length", "keep-alive", "transfer-encoding", "upgrade"}


def gateway(environments: Environments) -> "ASGIApp":
    """Return an ASGI app that answers every request through the function."""

    async def app(scope: "Scope", receive: "Receive", send: "Send") -> None:
        request = Request(scope, receive)
        request_id = base64.b64encode(secrets.token_bytes(11)).decode()  # 15 characters and a "="
        body = await request.body()
        if len(body) > REQUEST_LIMIT:
            response: Response = JSONResponse({"message": "Request Entity Too Large"}, 413)
        else:
            event = http_event(_read(request, body), request_id=request_id, at=datetime.now(UTC))
            response = await run_sync(_respond, environments, event)
        response.headers["apigw-requestid"] = request_id
        await response(scope, receive, send)

    return app


def _read(request: Request, body: bytes) -> HttpRequest:
    client = request.client.host if request.client else "127.0.0.1"
    port = str(request.url.port or 80)
    added = [
        ("x-amzn-trace-id", f"Root=1-{int(time.time()):x}-{secrets.token_hex(12)}"),
        ("x-forwarded-for", client),
        ("x-forwarded-port", port),
        ("x-forwarded-proto", "http"),
    ]
    return HttpRequest(
        method=request.method,
        path=request.scope["path"],
        query=request.url.query,
        headers=[*request.headers.items(), *added],
        body=body,
        source_ip=client,
        protocol=f"HTTP/{request.scope['http_version']}",
    )


def _respond(environments: Environments, event: dict[str, object]) -> Response:
    try:
        answer = http_response(environments.invoke(event))
    except TimedOut as error:
        return _failure(503, "Service Unavailable", error)
    except ResponseTooLarge as error:
        return _failure(502, "Internal Server Error", error)
    except (InvocationFailed, MalformedResponse) as error:
        return _failure(500, "Internal Server Error", error)
    response = Response(answer.body, answer.status)
    for name, value in answer.headers:
        if name not in CONNECTION_HEADERS:
            response.headers.append(name, value)
    return response


def _failure(status: int, message: str, error: Exception) -> Response:
    logger.error("%d: %s", status, error)
    return JSONResponse({"message": message}, status)


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.services.aws.http_function", description=__doc__)
    add_function_arguments(parser)
    add_port_arguments(parser)
    parser.add_argument("--environments", type=int, default=2, help="requests served at the same time")
    arguments = parser.parse_args()
    with Environments(function_of(arguments), most=arguments.environments) as environments:
        environments.warm_up()
        serve(gateway(environments), listener_of(arguments), lifespan="off", timeout_graceful_shutdown=3)


if __name__ == "__main__":
    main()
