"""JSON bodies, read after the caller is known: the contract answers 401 before it looks at what was sent."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from functions.api.errors import TooLarge, first_problem
from shared.domain.errors import InvalidInput

# Far above the longest prompt (100,000 characters); API Gateway itself would pass ten times as much on.
MAX_BODY_BYTES = 1024 * 1024
MAX_LEVELS = 50  # below the depths at which json, PostgreSQL and clients give up, each at its own


class Body(BaseModel):
    """A body whose fields have exactly the declared types: no number passes for a text. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


B = TypeVar("B", bound=Body)


def body_of(model: type[B], *, empty: str | None) -> Callable[[Request], Awaitable[B]]:
    """A dependency that reads the request's JSON as `model`; `empty` is the sentence for `{}`, `[]` and `null`.

    With None for it all fields have defaults, and the body may be left out. Raises InvalidInput, and TooLarge beyond
    MAX_BODY_BYTES.
    """

    async def read(request: Request) -> B:
        sent = await request.body()
        if len(sent) > MAX_BODY_BYTES:
            raise TooLarge(f"The body may have at most {MAX_BODY_BYTES} bytes.")
        if not sent and empty is None:
            return model()
        data = _json(request.headers.get("content-type", ""), sent)
        if not data and empty is not None:
            raise InvalidInput(empty)
        if not isinstance(data, dict):
            raise InvalidInput("The body must be a JSON object")
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise InvalidInput(first_problem(error.errors(include_input=False, include_url=False))) from None

    return read


def _json(content_type: str, body: bytes) -> Any:
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidInput("Send JSON, with the header Content-Type: application/json")
    try:
        data = json.loads(body)
        # Half a surrogate pair is JSON, but no text; 1e999 is, but no number that we could send on.
        json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise InvalidInput("The body is not valid JSON") from None
    if _deeper_than(MAX_LEVELS, data):
        raise InvalidInput(f"The body may be nested at most {MAX_LEVELS} levels deep")
    return data


def _deeper_than(levels: int, data: Any) -> bool:
    if not isinstance(data, dict | list):
        return False
    parts = data.values() if isinstance(data, dict) else data
    return levels == 0 or any(_deeper_than(levels - 1, part) for part in parts)
