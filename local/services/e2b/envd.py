"""The way into a sandbox: which one a request means, whether it may, and as which user it acts."""

import asyncio
import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import Headers
from starlette.datastructures import Headers as HttpHeaders
from starlette.datastructures import QueryParams
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from local.services.e2b.box import Refused
from local.services.e2b.sandboxes import Connection, Fleet, NotFound, Sandbox

CODES = {code.name.lower(): code for code in Code}


class Unauthorized(Exception):
    pass


class EnvdGuard:
    """Lets a request through to envd when its sandbox runs and its access token is right.

    The sandbox is named by a header, as E2B's proxy does where one host serves all of them. The answers are the
    proxy's and envd's own: 502 with "was not found" makes the SDK raise SandboxNotRunningException.
    """

    def __init__(self, app: ASGIApp, fleet: Fleet) -> None:
        self._app = app
        self._fleet = fleet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = HttpHeaders(scope=scope)
        try:
            sandbox = await self._fleet.reach(headers.get("e2b-sandbox-id", ""))
            check_token(sandbox, headers)
        except NotFound as error:
            await not_running(str(error))(scope, receive, send)
        except Unauthorized as error:
            await unauthorized(str(error))(scope, receive, send)
        else:
            await serve(self._app, sandbox, scope, receive, send)


async def serve(app: ASGIApp, sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve a request until it is done or its envd ends: then the client sees the connection break."""
    connection = Connection()
    begun = False

    async def tell(message: Message) -> None:
        nonlocal begun
        if not connection.broken.is_set():
            begun = True
            await send(message)

    requests = sandbox.envd.requests
    requests.add(connection)
    serving = asyncio.ensure_future(app(scope, receive, tell))
    broken = asyncio.ensure_future(connection.broken.wait())
    try:
        await asyncio.wait({serving, broken}, return_when=asyncio.FIRST_COMPLETED)
        if not broken.done():
            return await serving
    finally:
        requests.discard(connection)
        for task in (serving, broken):
            task.cancel()
        await asyncio.gather(serving, broken, return_exceptions=True)
    if not begun:  # an answer without its end is what makes the HTTP server close the connection
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
    return None


def check_token(sandbox: Sandbox, headers: HttpHeaders) -> None:
    """Raises Unauthorized. An envd that was told no token asks for none."""
    wanted = sandbox.envd.access_token
    given = headers.get("x-access-token", "")
    if wanted is not None and not hmac.compare_digest(given.encode(), wanted.encode()):
        raise Unauthorized("unauthorized access, please provide a valid access token or method signing if supported")


async def sandbox_of_url(fleet: Fleet, query: QueryParams, operation: str) -> Sandbox:
    """The sandbox whose token signed a file URL. Raises Unauthorized, and NotFound when it is paused.

    Such a URL names no sandbox when one host serves all of them, so each token is tried.
    """
    signature = query.get("signature")
    if signature is None:
        raise Unauthorized("missing signature query parameter")
    for sandbox in fleet.all():
        if hmac.compare_digest(signature.encode(), signature_of(query, operation, sandbox.access_token).encode()):
            expiration = query.get("signature_expiration")
            if expiration is not None and int(expiration) < time.time():
                raise Unauthorized("signature is already expired")
            return await fleet.reach(sandbox.id)
    raise Unauthorized("invalid signature")


def signature_of(query: Mapping[str, str], operation: str, access_token: str) -> str:
    parts = [query.get("path", ""), operation, query.get("username", ""), access_token]
    if (expiration := query.get("signature_expiration")) is not None:
        parts.append(expiration)
    digest = hashlib.sha256(":".join(parts).encode()).digest()
    return f"v1_{base64.b64encode(digest).rstrip(b'=').decode()}"


def user_of(sandbox: Sandbox, headers: Headers) -> str:
    """The user of an RPC: the name in basic authentication. Raises ConnectError for one that does not exist."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return sandbox.envd.user
    try:
        name = base64.b64decode(credentials).decode().partition(":")[0]
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ConnectError(Code.UNAUTHENTICATED, "invalid basic authentication") from error
    if name not in sandbox.box.view.users:
        raise ConnectError(Code.UNAUTHENTICATED, f"invalid username: '{name}'")
    return name


def rpc_error(refused: Refused) -> ConnectError:
    return ConnectError(CODES[refused.code], str(refused))


def connection_lost(sandbox_id: str) -> ConnectError:
    """What a client hears whose sandbox ends in the middle of an answer; the SDK then asks /health."""
    return ConnectError(Code.UNAVAILABLE, f"the connection to sandbox {sandbox_id} ended before the stream completed")


def not_running(sandbox_id: str) -> JSONResponse:
    body = {"sandboxId": sandbox_id, "message": "The sandbox was not found", "code": 502}
    return JSONResponse(body, 502)


def unauthorized(message: str) -> JSONResponse:
    return JSONResponse({"code": 401, "message": message}, 401)
