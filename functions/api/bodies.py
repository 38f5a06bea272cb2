"""JSON bodies, read after the caller is known: the contract answers 401 before it looks at what was sent."""

import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from starlette.requests import Request

from functions.api.errors import first_problem
from shared.domain.errors import InvalidInput


class Body(BaseModel):
    """A body whose fields have exactly the declared types: no number passes for a text. Unknown keys are ignored."""

    model_config = ConfigDict(strict=True, hide_input_in_errors=True)


B = TypeVar("B", bound=Body)


def body_of(model: type[B], *, empty: str) -> Callable[[Request], Awaitable[B]]:
    """A dependency that reads the request's JSON as `model`; `empty` is the sentence for `{}`, `[]` and `null`."""

    async def read(request: Request) -> B:
        data = _json(request.headers.get("content-type", ""), await request.body())
        if not data:
            raise InvalidInput(empty)
        if not isinstance(data, dict):
            raise InvalidInput("The body must be a JSON object")
        try:
            return model.model_validate(data)
        except ValidationError as error:
            raise InvalidInput(first_problem(error.errors(include_input=False, include_url=False))) from None

    return read


def documented(model: type[Body], example: dict[str, Any]) -> dict[str, Any]:
    """What the API's description says about such a body."""
    content = {"schema": model.model_json_schema(), "example": example}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def _json(content_type: str, body: bytes) -> Any:
    kind = content_type.partition(";")[0].strip().lower()
    if kind != "application/json" and not (kind.startswith("application/") and kind.endswith("+json")):
        raise InvalidInput("Send JSON, with the header Content-Type: application/json")
    try:
        data = json.loads(body)
        json.dumps(data, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
    except (ValueError, RecursionError):
        raise InvalidInput("The body is not valid JSON") from None
    return data
