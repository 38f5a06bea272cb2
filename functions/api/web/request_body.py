"""JSON request bodies, read after the caller is authenticated: the contract answers 401 before it reads the body."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from functions.api.web.errors import TooLarge, first_problem
from shared.domain.errors import InvalidInput

# Far above the longest prompt (100,000 characters); API Gateway itself accepts ten times as much.
MAX_BODY_BYTES = 1024 * 1024
MAX_LEVELS = 50  # below the nesting depths at which json, PostgreSQL and clients fail


class RequestBody(BaseModel):
    """A body whose fields have exactly the declared types: a number is not accepted as a string. Unknown keys are
    ignored.
    """

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


B = TypeVar("B", bound=RequestBody)


def read_body(model: type[B], *, empty: str | None) -> Callable[[Request], Awaitable[B]]:
    """A dependency that parses the request's JSON as `model`; `empty` is the error text for `{}`, `[]` and `null`.

    With empty=None every field has a default, and the body is optional. Raises InvalidInput, and TooLarge beyond
    MAX_BODY_BYTES.
    """

    async def read(request: Request) -> B:
        sent = await request.body()
        if len(sent) > MAX_BODY_BYTES:
            raise TooLarge(f"The body may have at most {MAX_BODY_BYTES} bytes.")
        if not sent and empty is None:
            return model()
        data = _parse_json(request.headers.get("content-type", ""), sent)
        if not data and empty is not None:
            raise InvalidInput(empty)
        if not isinstance(data, dict):
            raise InvalidInput("The body must be a JSON object")
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise InvalidInput(first_problem(error.errors(include_input=False, include_url=False))) from None

    return read


def _parse_json(content_type: str, body: bytes) -> Any:
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise InvalidInput("Send JSON, with the header Content-Type: application/json")
    try:
        data = json.loads(body)
        # Half a surrogate pair is valid JSON but not text; 1e999 is valid JSON but cannot be encoded again.
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
