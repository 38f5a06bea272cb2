"""E2B's proxy: it hands requests to the envd of the sandbox that they name, and answers for one that is paused."""

import asyncio
import logging
from collections.abc import AsyncIterator

import httpx
from starlette.datastructures import Headers, QueryParams
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from local.services.e2b.envd import Unauthorized, not_running, sandbox_of_url, unauthorized
from local.services.e2b.sandboxes import NotFound, Sandbox
from tests.conformance.fleet import EnvdFleet

logger = logging.getLogger("conformance")

HOP_BY_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade", b"host"}
)


class EnvdProxy:
    """An ASGI application. It keeps no connection open: those of a paused machine would be dead when it goes on."""

    def __init__(self, fleet: EnvdFleet) -> None:
        self._fleet = fleet
        self._client = httpx.AsyncClient(
            timeout=None, trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )

    def routes(self) -> list[BaseRoute]:
        return [
            Mount("/process.Process", self),
            Mount("/filesystem.Filesystem", self),
            Route("/files", self),
            Route("/health", self),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/health" and "e2b-sandbox-id" not in Headers(scope=scope):
            await PlainTextResponse("ok")(scope, receive, send)
            return
        try:
            sandbox = await self._sandbox_of(scope)
        except NotFound as error:
            await not_running(str(error))(scope, receive, send)
        except Unauthorized as error:
            await unauthorized(str(error))(scope, receive, send)
        else:
            exchange = Exchange(self._client, self._fleet.address(sandbox), scope, receive, send)
            work = asyncio.create_task(exchange.run())
            self._fleet.note_stream(sandbox, work)
            await self._finish(sandbox, work, exchange)

    async def _finish(self, sandbox: Sandbox, work: asyncio.Task[None], exchange: "Exchange") -> None:
        """Wait for the exchange. Raises Broken where the sandbox went away in the middle of its answer."""
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            if not work.done():
                work.cancel()
                raise
        except ClientLeft:
            return
        except httpx.HTTPError as error:
            logger.info("envd of %s broke off: %r", sandbox.id, error)
        if exchange.ended:
            return
        if exchange.begun:
            raise Broken
        try:
            await self._fleet.reach(sandbox.id)
        except NotFound:
            await exchange.answer(not_running(sandbox.id))
        else:
            await exchange.answer(closed_port(sandbox.id))

    async def _sandbox_of(self, scope: Scope) -> Sandbox:
        headers = Headers(scope=scope)
        if (name := headers.get("e2b-sandbox-id")) is not None:
            return await self._fleet.reach(name)
        operation = "read" if scope["method"] == "GET" else "write"
        return await sandbox_of_url(self._fleet, QueryParams(scope["query_string"]), operation)


class Exchange:
    """One request and its answer, both passed on as they come. `begun` and `ended` are about the answer."""

    def __init__(self, client: httpx.AsyncClient, base_url: str, scope: Scope, receive: Receive, send: Send) -> None:
        self.begun = self.ended = False
        self._client = client
        self._base_url = base_url
        self._scope = scope
        self._receive = receive
        self._send = send
        self._uploaded = asyncio.Event()

    async def answer(self, response: Response) -> None:
        await response(self._scope, self._receive, self._send)

    async def run(self) -> None:
        """Raises ClientLeft, and httpx.HTTPError where envd does not answer or breaks off."""
        leaving = asyncio.create_task(self._wait_for_leaving())
        passing = asyncio.create_task(self._pass_on())
        try:
            await asyncio.wait({leaving, passing}, return_when=asyncio.FIRST_COMPLETED)
            if not passing.done():
                raise ClientLeft
            await passing
        finally:
            for task in (leaving, passing):
                task.cancel()
            await asyncio.gather(leaving, passing, return_exceptions=True)

    async def _pass_on(self) -> None:
        request = self._request()
        response = await self._client.send(request, stream=True)
        try:
            headers = [(name, value) for name, value in response.headers.raw if name.lower() not in HOP_BY_HOP]
            self.begun = True
            await self._send({"type": "http.response.start", "status": response.status_code, "headers": headers})
            async for chunk in response.aiter_raw():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
            await self._send({"type": "http.response.body", "body": b""})
            self.ended = True
        finally:
            await response.aclose()

    def _request(self) -> httpx.Request:
        scope = self._scope
        path = scope.get("raw_path", scope["path"].encode()).decode("ascii")
        query = scope["query_string"].decode("ascii")
        headers = [(name, value) for name, value in scope["headers"] if name not in HOP_BY_HOP]
        has_body = scope["method"] not in ("GET", "HEAD")
        if not has_body:
            self._uploaded.set()
        url = f"{self._base_url}{path}{f'?{query}' if query else ''}"
        return self._client.build_request(
            scope["method"], url, headers=headers, content=self._body() if has_body else None
        )

    async def _body(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            yield message.get("body", b"")
            if not message.get("more_body", False):
                self._uploaded.set()
                return

    async def _wait_for_leaving(self) -> None:
        await self._uploaded.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


class ClientLeft(Exception):
    """The client went away in the middle of its request or of the answer."""


class Broken(Exception):
    """The answer ends here, in the middle: the server closes the connection."""


def closed_port(sandbox_id: str) -> JSONResponse:
    body = {"sandboxId": sandbox_id, "message": "The sandbox is running but port is not open", "code": 502}
    return JSONResponse(body, 502)
