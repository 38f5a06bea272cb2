"""Answers that fit through Lambda."""

import json
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from functions.api.errors import TooLarge
from shared.domain.ports import Row

# Lambda's limit for a synchronous answer is 6 MB (docs.aws.amazon.com/lambda, "Lambda quotas", 2026); 16 KiB are left
# for the status and the headers around the body.
MAX_BYTES = 6 * 1024 * 1024 - 16 * 1024

# What can be large in a task, in the order in which a reader misses it least, and what stands in its place.
HEAVY: Row = {"git_patch": None, "git_diff": None, "execution_metadata": {}, "changed_files": [], "chat_messages": []}


class Answer(JSONResponse):
    """A JSON answer in UTF-8. Raises TooLarge where Lambda could not send it."""

    def render(self, content: Any) -> bytes:
        return _sendable(super().render(content))


class PatchAnswer(Response):
    """A patch as it is, in UTF-8. Raises TooLarge where Lambda could not send it."""

    media_type = "text/x-patch"

    def render(self, content: Any) -> bytes:
        return _sendable(bytes(super().render(content)))


def fitting(row: Row) -> Answer:
    """A task's whole row. Where it is too large, its heaviest columns are left empty and named in `omitted`.

    The page can show a task without its patch; the pull request is made from the database's copy.
    """
    empty: Row = {}
    for column, nothing in HEAVY.items():
        try:
            return _whole(row, empty)
        except TooLarge:
            empty[column] = nothing
    return _whole(row, empty)


def fitting_list(rows: list[Row], content: Callable[[list[Row]], Any]) -> Answer:
    """As many of `rows` as can be sent, from the first on; `content` makes the answer of them.

    Where a task is too large even alone, its heavy columns are left empty, so that a reader gets past it.
    """
    while len(rows) > 1:
        try:
            return Answer(content(rows))
        except TooLarge:
            rows = rows[: len(rows) // 2]
    try:
        return Answer(content(rows))
    except TooLarge:
        light = [row | {column: nothing for column, nothing in HEAVY.items() if column in row} for row in rows]
        return Answer(content(light))


def _sendable(body: bytes) -> bytes:
    # Lambda sends the body as a JSON string, and older runtimes escape all that is not ASCII: a byte becomes six at
    # most, so most bodies need no second look.
    if len(body) * 6 > MAX_BYTES and len(json.dumps(body.decode())) > MAX_BYTES:
        raise TooLarge("The answer is larger than the 6 MB that can be sent.", body_bytes=len(body))
    return body


def _whole(row: Row, empty: Row) -> Answer:
    note = {"omitted": list(empty)} if empty else {}
    return Answer({"status": "success", "task": {**row, **empty}, **note})
