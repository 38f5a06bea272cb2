"""Responses that fit through Lambda."""

import json
from collections.abc import Callable
from typing import Any

from starlette.responses import JSONResponse, Response

from functions.api.web.errors import TooLarge
from shared.domain.ports import Row

# Lambda's limit for a synchronous response is 6 MB (docs.aws.amazon.com/lambda, "Lambda quotas", 2026); 16 KiB are left
# for the status and the headers around the body.
MAX_BYTES = 6 * 1024 * 1024 - 16 * 1024

# The columns of a task that can be large, the one that readers need least first, each with the value that replaces it.
LARGE_COLUMNS: Row = {
    "git_patch": None,
    "git_diff": None,
    "execution_metadata": {},
    "changed_files": [],
    "chat_messages": [],
}


class JsonResponse(JSONResponse):
    """A JSON response in UTF-8. Raises TooLarge when Lambda could not send it."""

    def render(self, content: Any) -> bytes:
        return _checked_size(super().render(content))


class PatchResponse(Response):
    """A patch, unchanged, in UTF-8. Raises TooLarge when Lambda could not send it."""

    media_type = "text/x-patch"

    def render(self, content: Any) -> bytes:
        return _checked_size(bytes(super().render(content)))


def task_response(row: Row) -> JsonResponse:
    """A whole task. When it is too large, its largest columns are emptied and named in `omitted`.

    The page can show a task without its patch; a pull request is made from the database's copy.
    """
    emptied: Row = {}
    for column, empty_value in LARGE_COLUMNS.items():
        try:
            return _task_without(emptied, row)
        except TooLarge:
            emptied[column] = empty_value
    return _task_without(emptied, row)


def list_response(rows: list[Row], content: Callable[[list[Row]], Any]) -> JsonResponse:
    """As many of the first `rows` as fit; `content` makes the response's body of them.

    When a single task is still too large, its large columns are emptied, so that a client can read past it.
    """
    while len(rows) > 1:
        try:
            return JsonResponse(content(rows))
        except TooLarge:
            rows = rows[: len(rows) // 2]
    try:
        return JsonResponse(content(rows))
    except TooLarge:
        small = [row | {column: empty for column, empty in LARGE_COLUMNS.items() if column in row} for row in rows]
        return JsonResponse(content(small))


def _checked_size(body: bytes) -> bytes:
    # Lambda sends the body as a JSON string, and older runtimes escape every non-ASCII character: a byte becomes six at
    # most, so most bodies need no second look.
    if len(body) * 6 > MAX_BYTES and len(json.dumps(body.decode())) > MAX_BYTES:
        raise TooLarge("The response is larger than the limit of 6 MB.", body_bytes=len(body))
    return body


def _task_without(emptied: Row, row: Row) -> JsonResponse:
    omitted = {"omitted": list(emptied)} if emptied else {}
    return JsonResponse({"status": "success", "task": {**row, **emptied}, **omitted})
