"""The OpenAI Responses protocol as `codex` speaks it (0.163.0, November 2026)."""

import json
import shlex
from collections.abc import Iterator
from uuid import uuid4

from local.services.model.conversation import Entry, Position, position
from local.services.model.provider import Events, Json, Refusal
from local.services.model.script import Shell, Turn, Write, into_folder
from local.services.model.usage import usage_of

CALLS = ("function_call", "custom_tool_call")

# reason -> (HTTP status, error code, message)
FAILURES: dict[str, tuple[int, str, str]] = {
    "400": (400, "invalid_request_error", "The scripted model refuses this request."),
    "401": (401, "invalid_api_key", "Incorrect API key provided."),
    "403": (403, "permission_denied", "Your API key does not have permission to use the specified resource."),
    "429": (429, "rate_limit_exceeded", "Rate limit reached for requests per min."),
    "500": (500, "server_error", "The server had an error while processing your request."),
    "529": (
        503,
        "server_is_overloaded",
        "The server is currently overloaded.",
    ),  # OpenAI's status for it is 503
    "credit": (
        429,
        "insufficient_quota",
        "You exceeded your current quota, please check your plan and billing.",
    ),
}
# What OpenAI tells only inside the stream, after a 200
STREAMED_FAILURES: dict[str, tuple[str, str]] = {
    "context": ("context_length_exceeded", "Your input exceeds the context window of this model."),
}


def where(body: Json) -> Position:
    return position(list(_entries(body["input"])))


def _entries(items: list[Json]) -> Iterator[Entry]:
    for item in items:
        if item.get("type") in CALLS:
            yield Entry(None)
        elif item.get("type") == "message" and item.get("role") == "user":
            yield from (Entry(part["text"]) for part in item["content"] if part["type"] == "input_text")


def refusal(status: int, kind: str, message: str) -> Refusal:
    return Refusal(status, {"error": {"message": message, "type": kind, "param": None, "code": kind}})


def failure(reason: str) -> Refusal | Events:
    if reason in STREAMED_FAILURES:
        return _streamed_failure(*STREAMED_FAILURES[reason])
    return refusal(*FAILURES[reason])


def _streamed_failure(code: str, message: str) -> Events:
    response = {"id": f"resp_{uuid4().hex}", "status": "failed", "error": {"code": code, "message": message}}
    yield "response.created", {"response": {"id": response["id"]}}
    yield "response.failed", {"response": response}


def answer(body: Json, turn: Turn, turns_done: int) -> Iterator[tuple[str, Json]]:
    """The turn as (event type, data), complete with usage."""
    response: Json = {"id": f"resp_{uuid4().hex}"}
    yield "response.created", {"response": response}
    for index, item in enumerate(_items(body, turn)):
        yield "response.output_item.done", {"output_index": index, "item": item}
    usage = usage_of(turn, turns_done)
    tokens = {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
    yield "response.completed", {"response": response | {"usage": tokens}}


def _items(body: Json, turn: Turn) -> Iterator[Json]:
    for text in turn.texts:
        content = [{"type": "output_text", "text": text}]
        yield {"type": "message", "id": f"msg_{uuid4().hex}", "role": "assistant", "content": content}
    match turn.action:
        case Write(path, text) if _takes_patches(body):
            yield _call("custom_tool_call", "apply_patch", input=_patch(path, text))
        case Write(path, text):
            yield _shell(_write_command(path, text))
        case Shell(command):
            yield _shell(command)


def _call(kind: str, name: str, **arguments: str) -> Json:
    return {
        "type": kind,
        "id": f"it_{uuid4().hex}",
        "call_id": f"call_{uuid4().hex}",
        "name": name,
    } | arguments


def _shell(command: str) -> Json:
    return _call("function_call", "exec_command", arguments=json.dumps({"cmd": command}))


def _takes_patches(body: Json) -> bool:
    """Codex offers `apply_patch` for models it knows, in `tools` or in an item that adds tools."""
    added = [item for item in body["input"] if item.get("type") == "additional_tools"]
    return "apply_patch" in json.dumps([body.get("tools"), added])


def _patch(path: str, text: str) -> str:
    lines = "".join(f"+{line}\n" for line in text.splitlines())
    return f"*** Begin Patch\n*** Add File: {path}\n{lines}*** End Patch\n"


def _write_command(path: str, text: str) -> str:
    return f"{into_folder(path)}printf %s {shlex.quote(text)} > {shlex.quote(path)}"
