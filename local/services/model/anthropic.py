"""The Anthropic Messages protocol as `claude` speaks it (2.1.330, November 2026)."""

import json
from collections.abc import Iterator
from uuid import uuid4

from local.services.model.conversation import Entry, Position, position
from local.services.model.provider import Json, Refusal
from local.services.model.script import Shell, Turn, Write
from local.services.model.usage import usage_of

# reason -> (HTTP status, error type, message)
FAILURES: dict[str, tuple[int, str, str]] = {
    "400": (400, "invalid_request_error", "messages: the scripted model refuses this request."),
    "401": (401, "authentication_error", "invalid x-api-key"),
    "403": (403, "permission_error", "Your API key does not have permission to use the specified resource."),
    "429": (429, "rate_limit_error", "This request would exceed your organization's rate limit."),
    "500": (500, "api_error", "Internal server error"),
    "529": (529, "overloaded_error", "Overloaded"),
    "credit": (400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
    "context": (400, "invalid_request_error", "prompt is too long: 210000 tokens > 200000 maximum"),
}


# How `claude` asks for a summary once a conversation is too long
SUMMARY_REQUEST = "CRITICAL: Respond with TEXT ONLY"


def where(body: Json) -> Position:
    """Only `@fail context` makes a scripted conversation too long; then its summary fails the same way."""
    at = position(list(_entries(body["messages"])))
    return Position("@fail context", 0) if at.prompt.startswith(SUMMARY_REQUEST) else at


def _entries(messages: list[Json]) -> Iterator[Entry]:
    for message in messages:
        if message["role"] == "assistant":
            yield Entry(None)
        elif message["role"] == "user":  # "system" entries stand between them, too
            yield from (Entry(text) for text in _texts(message["content"]))


def _texts(content: str | list[Json]) -> Iterator[str]:
    """`claude` puts reminders and prompts that follow each other into one message, a block for each."""
    if isinstance(content, str):
        yield content
    else:
        yield from (block["text"] for block in content if block["type"] == "text")


def refusal(status: int, kind: str, message: str) -> Refusal:
    return Refusal(status, {"type": "error", "error": {"type": kind, "message": message}})


def failure(reason: str) -> Refusal:
    return refusal(*FAILURES[reason])


def answer(body: Json, turn: Turn, turns_done: int) -> Iterator[tuple[str, Json]]:
    """The turn as (event type, data), complete with usage.

    The message id is a new one each time: `claude` joins messages of one id into one.
    """
    usage = usage_of(turn, turns_done)
    tokens = {
        "input_tokens": usage.input_tokens - usage.cached_tokens,
        "cache_read_input_tokens": usage.cached_tokens,
        "cache_creation_input_tokens": 0,
    }
    message = {"id": f"msg_{uuid4().hex}", "type": "message", "role": "assistant", "model": body["model"]}
    message |= {
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": tokens | {"output_tokens": 1},
    }
    yield "message_start", {"message": message}
    for index, (block, delta) in enumerate(_blocks(turn)):
        yield "content_block_start", {"index": index, "content_block": block}
        yield "content_block_delta", {"index": index, "delta": delta}
        yield "content_block_stop", {"index": index}
    stop = {"stop_reason": "tool_use" if turn.action else "end_turn", "stop_sequence": None}
    yield "message_delta", {"delta": stop, "usage": tokens | {"output_tokens": usage.output_tokens}}
    yield "message_stop", {}


def _blocks(turn: Turn) -> Iterator[tuple[Json, Json]]:
    for text in turn.texts:
        yield {"type": "text", "text": ""}, {"type": "text_delta", "text": text}
    if tool := _tool(turn):
        name, arguments = tool
        block = {"type": "tool_use", "id": f"toolu_{uuid4().hex}", "name": name, "input": {}}
        yield block, {"type": "input_json_delta", "partial_json": json.dumps(arguments)}


def _tool(turn: Turn) -> tuple[str, Json] | None:
    match turn.action:
        case Write(path, text):
            return "Write", {"file_path": path, "content": text}
        case Shell(command):
            return "Bash", {"command": command, "description": "A step of the script"}
        case _:
            return None
