"""JSON answers that fit through Lambda."""

import json
from typing import Any

from starlette.responses import JSONResponse

from functions.api.errors import TooLarge

# Lambda's limit for a synchronous answer is 6 MB (docs.aws.amazon.com/lambda, "Lambda quotas", 2026); 16 KiB are left
# for the status and the headers around the body.
MAX_BYTES = 6 * 1024 * 1024 - 16 * 1024


class Answer(JSONResponse):
    """A JSON answer in UTF-8. Raises TooLarge where Lambda could not send it."""

    def render(self, content: Any) -> bytes:
        body = super().render(content)
        # Lambda sends the body as a JSON string, and older runtimes escape all that is not ASCII: a byte becomes six at
        # most, so most bodies need no second look.
        if len(body) * 6 > MAX_BYTES and len(json.dumps(body.decode())) > MAX_BYTES:
            raise TooLarge("The answer is larger than the 6 MB that can be sent.", body_bytes=len(body))
        return body


def fitting(row: dict[str, Any]) -> Answer:
    """A task's whole row. Where it is too large, its heaviest columns are left empty and named in `omitted`.

    The page can show a task without its patch; the pull request is made from the database's copy.
    """
    empty: dict[str, Any] = {}
    for column, nothing in (("git_patch", None), ("git_diff", None), ("execution_metadata", {})):
        try:
            return _whole(row, empty)
        except TooLarge:
            empty[column] = nothing
    return _whole(row, empty)


def _whole(row: dict[str, Any], empty: dict[str, Any]) -> Answer:
    note = {"omitted": list(empty)} if empty else {}
    return Answer({"status": "success", "task": {**row, **empty}, **note})
