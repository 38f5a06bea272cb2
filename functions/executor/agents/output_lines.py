"""From raw bytes of an agent's output to JSON objects, and from their values to what may be stored.

The output is hostile: lines of any size, half characters, NULs that PostgreSQL refuses, numbers JSON cannot hold.
"""

import base64
import binascii
import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from functions.executor.agents.driver import ReaderState
from shared.domain.run import Event

Json = dict[str, Any]
OnObject = Callable[[Json, ReaderState], tuple[list[Event], ReaderState]]

MAX_LINE_BYTES = 1_048_576  # the longest useful line is a result: 128,000 tokens of 4 bytes, and some air
MAX_WARNINGS = 5  # a program that prints no JSON at all should not fill the log
TOO_LONG = f"The agent printed a line of more than {MAX_LINE_BYTES:,} bytes; it was left out."
MESSAGE_CHARS = 20_000
TOOL_CHARS = 2_000
TITLE_CHARS = 120
MAX_ENTRIES = 50  # of a list or an object in a tool's input
MAX_DEPTH = 6


def read_objects(chunk: bytes, state: ReaderState, on_object: OnObject) -> tuple[list[Event], ReaderState]:
    """Cut `chunk` into lines, parse each and give it to `on_object`; a half line waits for the next chunk.

    The objects name files of the checkout as the repository does, before anything is cut to size.
    """
    events: list[Event] = []
    *lines, rest = (_unfinished(state) + chunk).split(b"\n")
    for line in lines:
        more, state = _read_line(line, state, on_object)
        events += more
    if len(rest) > MAX_LINE_BYTES and not state.skipping_line:
        more, state = _warn(TOO_LONG, state)
        events, state = events + more, replace(state, skipping_line=True)
    unfinished = b"" if state.skipping_line else rest
    return events, replace(state, unfinished_line=base64.b64encode(unfinished).decode())


def _unfinished(state: ReaderState) -> bytes:
    """The half line of the last chunk; nothing where a secret was taken out of it before it was stored."""
    try:
        return base64.b64decode(state.unfinished_line, validate=True)
    except binascii.Error:
        return b""


def _read_line(line: bytes, state: ReaderState, on_object: OnObject) -> tuple[list[Event], ReaderState]:
    if state.skipping_line:
        return [], replace(state, skipping_line=False)
    if len(line) > MAX_LINE_BYTES:
        return _warn(TOO_LONG, state)
    text = line.decode(errors="replace").replace("\0", "").strip()
    if not text:
        return [], state
    try:
        parsed = json.loads(text, parse_constant=_finite, parse_float=_finite)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        said = clip(state.checkout.text(text), 200)
        return _warn(f"The agent printed a line that is not JSON: {said}", state)
    return on_object(state.checkout.named(parsed), state)


def _finite(number: str) -> float | None:
    """NaN and Infinity are not JSON, and 1e999 would become one of them."""
    value = float(number)
    return value if math.isfinite(value) else None


def _warn(text: str, state: ReaderState) -> tuple[list[Event], ReaderState]:
    events = [Event("warning", {"text": text})] if state.warnings < MAX_WARNINGS else []
    return events, replace(state, warnings=state.warnings + 1)


def clip(text: str, limit: int) -> str:
    """`text` without what PostgreSQL refuses (NULs, lone surrogates), cut to about `limit` characters."""
    left_out = len(text) - limit
    if left_out > 0:
        text = f"{text[:limit]}… ({left_out:,} more characters)"
    return text.replace("\0", "").encode(errors="replace").decode()


def clip_json(value: object, depth: int = MAX_DEPTH) -> object:
    """`value` with every text, list and object in it cut to a size worth storing."""
    if isinstance(value, str):
        return clip(value, TOOL_CHARS)
    if isinstance(value, dict):
        items = list(value.items())[:MAX_ENTRIES] if depth else []
        return {clip(str(key), TITLE_CHARS): clip_json(item, depth - 1) for key, item in items}
    if isinstance(value, list):
        return [clip_json(item, depth - 1) for item in value[:MAX_ENTRIES]] if depth else []
    return value


# Values of a parsed object whose types nobody guarantees


def obj(value: object) -> Json:
    return value if isinstance(value, dict) else {}


def items(value: object) -> list[Json]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def text(value: object, limit: int = TOOL_CHARS) -> str:
    return clip(value, limit) if isinstance(value, str) else ""


def number(value: object) -> int | None:
    """A count: not a float, not a bool, and small enough for a database."""
    fits = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53
    return value if fits else None  # type: ignore[return-value]


def first_line(value: str) -> str:
    """The first line of a text, short enough for a title."""
    line, *more = value.strip().splitlines() or [""]
    cut = len(line) > TITLE_CHARS or any(more)
    return f"{line[:TITLE_CHARS]} …" if cut else line
