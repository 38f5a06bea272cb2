"""The API's OpenAPI description, complete enough to generate clients: every response and body has a model."""

import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from functions.api.web.request_body import RequestBody

Json = dict[str, Any]

VERSION = "0.1.0"  # the same as in pyproject.toml
LICENCE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
SERVERS: list[Json] = [{"url": "/", "description": "The server that this description was read from."}]
TAGS = {
    "auth": "Issue, refresh and verify access tokens.",
    "me": "The user's own profile and preferences.",
    "api keys": "Keys that programs use instead of an access token.",
    "projects": "Repositories and their settings.",
    "tasks": "Start tasks, follow them, control them and read their results.",
    "github": "Validate a GitHub token and create pull requests with it.",
    "test users": "Temporary users for tests of a frontend. Not available in production.",
    "health": "Whether the API is running.",
}


class ErrorResponse(NamedTuple):
    """An error status: the name of its component, its description, and an example."""

    name: str
    description: str
    sentence: str
    code: str


ERROR_RESPONSES = {
    400: ErrorResponse(
        "BadRequest", "The request is invalid. Nothing was changed.", "No data provided", "invalid_input"
    ),
    401: ErrorResponse(
        "NotAuthenticated", "The caller is not authenticated.", "Missing authorization header", "not_authenticated"
    ),
    403: ErrorResponse("Forbidden", "The caller may not do this.", "That is not allowed.", "forbidden"),
    404: ErrorResponse(
        "NotFound", "The resource does not exist or belongs to another user.", "Task not found", "not_found"
    ),
    409: ErrorResponse(
        "Conflict", "The current state of the resource does not allow this.", "It exists already.", "conflict"
    ),
    413: ErrorResponse(
        "TooLarge",
        "The request body or the response is too large.",
        "The body may have at most 1048576 bytes.",
        "too_large",
    ),
    429: ErrorResponse(
        "TooMany", "A limit is reached.", "Too many tasks are active. Wait for one to end.", "too_many_active_runs"
    ),
    500: ErrorResponse("InternalError", "An internal error.", "Internal server error", "internal"),
    503: ErrorResponse(
        "Unavailable",
        "A required service is not responding.",
        "The database is not responding. Try again.",
        "unavailable",
    ),
}
EVERY_OPERATION = (500,)  # the error statuses that every operation declares
HEADERS = {
    "RequestId": {
        "description": "Identifies this request in the server's log. The caller's own id, if the request had one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "RetryAfter": {
        "description": "Seconds to wait before the next attempt.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
}
REQUEST_ID: Json = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
RETRY_AFTER: Json = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
WITH_RETRY_AFTER = {429, 503}

SCHEMAS = "#/components/schemas/{model}"


class Error(BaseModel):
    """The body of every error response. Some errors have more fields, such as the limit that is reached."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(examples=["Task not found"], description="A sentence for people.")
    code: str = Field(examples=["not_found"], description="A stable code for programs. New codes may be added.")


def responses(model: type[BaseModel], *errors: int, status: int = 200) -> dict[int | str, Json]:
    """`responses=` of a route: `model` on success, and the error statuses that it may answer with."""
    success = {"model": model, "description": (model.__doc__ or "").partition("\n")[0], "headers": REQUEST_ID}
    return _with_errors({status: success}, errors)


def text_responses(description: str, *errors: int) -> dict[int | str, Json]:
    """The same for a route that answers with text; its `response_class` says the media type."""
    return _with_errors({200: {"description": description, "headers": REQUEST_ID}}, errors)


def request_body(model: type[RequestBody], *, required: bool = True) -> Json:
    """`openapi_extra=` of a route that parses `model` itself, after it has authenticated the caller."""
    schema = {"$ref": SCHEMAS.format(model=model.__name__)}
    _BODIES[schema["$ref"]] = model
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def install_openapi(app: FastAPI) -> None:
    """Replace `app.openapi()`, and so /openapi.json, by the complete description. It is built at its first use."""

    def description() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _description(app)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's own way to extend it


_BODIES: dict[str, type[RequestBody]] = {}  # by their $ref


def _with_errors(success: dict[int | str, Json], errors: Collection[int]) -> dict[int | str, Json]:
    return success | {status: {} for status in sorted({*errors, *EVERY_OPERATION})}  # _use_shared_errors fills them in


def _description(app: FastAPI) -> Json:
    document = get_openapi(
        title=app.title,
        version=VERSION,
        description=app.description,
        license_info=LICENCE,
        servers=SERVERS,
        routes=app.routes,
    )
    operations = list(_operations(document))
    for operation in operations:
        _use_docstring(operation)
        _drop_nulls(operation.get("parameters", []))
        _use_shared_errors(operation["responses"])
    used = {tag for operation in operations for tag in operation["tags"]}
    document["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    bodies = [_BODIES[ref] for operation in operations if (ref := _ref_of_body(operation))]
    components = document["components"]
    components["schemas"] = _schemas(components["schemas"], [*bodies, Error])
    components["responses"] = {error.name: _response(status) for status, error in ERROR_RESPONSES.items()}
    components["headers"] = HEADERS
    return document


def _operations(document: Json) -> Iterator[Json]:
    for path in document["paths"].values():
        yield from path.values()


def _ref_of_body(operation: Json) -> str | None:
    sent = operation.get("requestBody")
    return sent and sent["content"]["application/json"]["schema"]["$ref"]


def _use_docstring(operation: Json) -> None:
    """Its first sentence becomes the summary, the rest the description."""
    sentence, *rest = re.split(r"(?<=\.)\s+", operation["description"], maxsplit=1)
    operation["summary"] = " ".join(sentence.split()).removesuffix(".")
    operation["description"] = "".join(rest)


def _drop_nulls(parameters: Collection[Json]) -> None:
    """FastAPI declares optional parameters as nullable. In a URL or header they cannot be null, only absent."""
    for parameter in parameters:
        schema = parameter["schema"]
        choices = [choice for choice in schema.pop("anyOf", []) if choice != {"type": "null"}]
        schema |= choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {}
        del schema["title"]
        schema.pop("description", None)  # the parameter itself has it


def _use_shared_errors(declared: Json) -> None:
    """Point each error status to its shared component. FastAPI's 422 is removed: invalid parameters are a 400 here."""
    declared.pop("422", None)
    for status in ERROR_RESPONSES.keys() & map(int, declared):
        declared[str(status)] = {"$ref": f"#/components/responses/{ERROR_RESPONSES[status].name}"}


def _schemas(found: Json, models: Collection[type[BaseModel]]) -> Json:
    """FastAPI's schemas and those of `models`, sorted by name, without titles that only repeat a field's name."""
    _, ours = models_json_schema([(model, "validation") for model in models], ref_template=SCHEMAS)
    schemas = {name: schema for name, schema in (found | ours["$defs"]).items() if "ValidationError" not in name}
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
    return dict(sorted(schemas.items()))


def _response(status: int) -> Json:
    error = ERROR_RESPONSES[status]
    example = {"error": error.sentence, "code": error.code}
    schema = {"$ref": SCHEMAS.format(model=Error.__name__)}
    return {
        "description": error.description,
        "headers": REQUEST_ID | (RETRY_AFTER if status in WITH_RETRY_AFTER else {}),
        "content": {"application/json": {"schema": schema, "example": example}},
    }
