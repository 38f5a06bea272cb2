"""The scripted model as a web application."""

import asyncio
import hmac
import json

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.services.model import anthropic, openai
from local.services.model.provider import Events, Json, Provider, Refusal
from local.services.model.script import Fail, Hang, ScriptError, turn_of


def create_model(key: str) -> Starlette:
    """An application that speaks POST /v1/messages (Anthropic) and POST /v1/responses (OpenAI), both as SSE.

    It keeps nothing between requests: each request carries the whole conversation. Requests without `key`
    get the provider's own 401, so that a stack whose key handling is broken shows it.
    """

    async def messages(request: Request) -> Response:
        given = request.headers.get("x-api-key") or _bearer(request)
        if not _same(given, key):
            return _sent(anthropic.failure("401"))
        return await _answer(request, anthropic)

    async def responses(request: Request) -> Response:
        if not _same(_bearer(request), key):
            return _sent(openai.failure("401"))
        return await _answer(request, openai)

    return Starlette(
        routes=[
            Route("/", _hello, methods=["GET"]),  # `claude` sends HEAD to see whether anybody is there
            Route("/v1/messages", messages, methods=["POST"]),
            Route("/v1/responses", responses, methods=["POST"]),
        ]
    )


async def _hello(_: Request) -> Response:
    return JSONResponse({"service": "scripted model"})


async def _answer(request: Request, provider: Provider) -> Response:
    body: Json = await request.json()
    at = provider.where(body)
    try:
        turn = turn_of(at.prompt, at.turns_done)
    except ScriptError as mistake:
        return _sent(provider.refusal(400, "invalid_request_error", str(mistake)))
    await asyncio.sleep(turn.delay_s)
    match turn.action:
        case Hang():
            return await _never(request)
        case Fail(reason):
            return _sent(provider.failure(reason))
        case _:
            return _sent(provider.answer(body, turn, at.turns_done))


async def _never(request: Request) -> Response:
    """Wait until the other side has hung up."""
    while not await request.is_disconnected():
        await asyncio.sleep(0.5)
    return Response(status_code=499)  # nobody reads it


def _sent(answer: Refusal | Events) -> Response:
    """As the provider sends it. A script does not change, so `claude` is asked not to try a refusal again."""
    if isinstance(answer, Refusal):
        return JSONResponse(answer.body, answer.status, headers={"x-should-retry": "false"})
    lines = (f"event: {kind}\ndata: {json.dumps({'type': kind, **data})}\n\n" for kind, data in answer)
    return Response("".join(lines), media_type="text/event-stream")


def _bearer(request: Request) -> str:
    return request.headers.get("authorization", "").removeprefix("Bearer ")


def _same(given: str, key: str) -> bool:
    return hmac.compare_digest(given.encode(), key.encode())
