"""Bad weather between the executor and the services it calls, made at the servers, so that the real clients meet it.

A storm is one way in which every request goes wrong while it lasts: an error answer of the service's own kind, an
answer that never comes, a connection that is reset. "before" and "after" say whether the request has had its effect.
"""

import asyncio
import json
import socket
import struct
from contextlib import contextmanager

from tests.waiting import wait_for

# What each service says with such a status, as far as a client looks at it.
BODIES = {
    "database": {
        429: {"message": "API rate limit exceeded"},
        503: {"code": "PGRST002", "message": "Could not query the database for the schema cache. Retrying."},
        401: {"code": "PGRST301", "message": "No suitable key was found to decode the JWT"},
    },
    "sandboxes": {
        429: {"code": 429, "message": "Rate limit exceeded, please try again later."},
        503: {"code": 503, "message": "no healthy upstream"},
        401: {"code": 401, "message": "Invalid API key"},
    },
    "queue": {
        429: {"__type": "com.amazonaws.sqs#RequestThrottled", "message": "Rate exceeded"},
        503: {"__type": "com.amazonaws.sqs#ServiceUnavailable", "message": "Service is unavailable."},
        401: {"__type": "com.amazonaws.sqs#AccessDeniedException", "message": "Access is denied."},
    },
}
RETRY_AT_ONCE = (b"retry-after", b"0")  # the clients' own retries run into the same storm, and need not sleep before


class Weather:
    """`hits` counts the requests that went wrong; a service in `down` refuses whatever comes.

    A storm is over when each request in it has had all of its effect: nothing of it happens during the next call.
    """

    def __init__(self):
        self.hits = 0
        self.down = set()
        self._storm = None
        self._under_way = set()  # requests in a storm that have not come to their end

    @contextmanager
    def storm(self, kind):
        """While it lasts, every request to any service goes wrong in the way that `STORMS` names."""
        self._storm = STORMS[kind]
        try:
            yield
        finally:
            self._storm = None
            wait_for(lambda: not self._under_way)

    def over(self, service, app):
        """The ASGI application `app`, under this weather."""

        async def exposed(scope, receive, send):
            storm = _reset_before if service in self.down else self._storm
            if scope["type"] != "http" or storm is None:
                await app(scope, receive, send)
                return
            self.hits += 1
            self._under_way.add(id(scope))
            try:
                await storm(service, app, scope, receive, send)
            finally:
                self._under_way.discard(id(scope))

        return exposed


def _answers(status):
    async def answer(service, _app, _scope, receive, send):
        while (await receive()).get("more_body"):
            pass  # who answers before all has come may be seen to hang up
        body = json.dumps(BODIES[service][status]).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), RETRY_AT_ONCE]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


async def _hang(receive):
    while (await receive())["type"] != "http.disconnect":
        pass


def _reset(send):
    """Close the connection as a machine does that knows nothing of it: by RST, whatever was still on its way."""
    transport = send.__self__.transport  # uvicorn's, below everything that could make an answer of this
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _take_effect(app, scope, receive):
    async def to_nobody(_message):
        await asyncio.sleep(0)

    await app(scope, receive, to_nobody)


async def _hang_before(_service, _app, _scope, receive, _send):
    await _hang(receive)


async def _hang_after(_service, app, scope, receive, _send):
    await _take_effect(app, scope, receive)
    await _hang(receive)


async def _reset_before(_service, _app, _scope, _receive, send):
    _reset(send)


async def _reset_after(_service, app, scope, receive, send):
    await _take_effect(app, scope, receive)
    _reset(send)


async def _cut(_service, app, scope, receive, send):
    """The connection is reset in the middle of the answer."""

    async def half(message):
        body = message.get("body", b"")
        if body and not cut:
            await send({**message, "body": body[: len(body) // 2], "more_body": True})
            cut.append(True)
        elif not cut:
            await send(message)

    cut = []
    await app(scope, receive, half)
    _reset(send)


STORMS = {
    "429": _answers(429),
    "503": _answers(503),
    "401": _answers(401),
    "timeout before": _hang_before,
    "timeout after": _hang_after,
    "reset before": _reset_before,
    "reset after": _reset_after,
    "answer cut": _cut,
}
