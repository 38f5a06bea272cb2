"""The API's description, made to generate clients from: every answer and body has a model, every refusal its shape.

`python -m functions.api.openapi` prints it with all operations; `make openapi` keeps that text in docs/openapi.json.
"""

import json
import re
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import models_json_schema

from functions.api.bodies import Body
from shared.config import ApiSettings

Json = dict[str, Any]

VERSION = "0.1.0"  # of pyproject.toml
LICENCE = {"name": "Apache-2.0", "identifier": "Apache-2.0"}
SERVERS: list[Json] = [{"url": "/", "description": "Where this description was read from."}]
TAGS = {
    "auth": "Who is asking: tokens, refreshed and verified.",
    "me": "The signed-in user's own profile and what an agent is told of it.",
    "api keys": "Keys for programs, which never expire by themselves unless asked to.",
    "projects": "Repositories that somebody works on.",
    "tasks": "Started, watched, read: what an agent was asked and what it did.",
    "github": "What the user's GitHub token may do, and pull requests made with it.",
    "test users": "Throw-away users for tests of a frontend; never in production.",
    "health": "Is anybody there?",
}


class Refusal(NamedTuple):
    """A way not to be served, and an example of it."""

    name: str
    description: str
    sentence: str
    code: str


REFUSALS = {
    400: Refusal("BadRequest", "What was sent is refused; nothing was changed.", "No data provided", "invalid_input"),
    401: Refusal(
        "NotAuthenticated", "Nobody proved who is asking.", "Missing authorization header", "not_authenticated"
    ),
    403: Refusal("Forbidden", "Who is asking may not do this.", "That is not allowed.", "forbidden"),
    404: Refusal("NotFound", "There is none, or it is somebody else's.", "Task not found", "not_found"),
    409: Refusal("Conflict", "The state of things does not allow it.", "It exists already.", "conflict"),
    413: Refusal("TooLarge", "Too much, sent or asked for.", "The body may have at most 1048576 bytes.", "too_large"),
    429: Refusal(
        "TooMany", "A limit is reached.", "Too many tasks are active. Wait for one to end.", "too_many_active_runs"
    ),
    500: Refusal("InternalError", "A fault of ours.", "Internal server error", "internal"),
    503: Refusal(
        "Unavailable",
        "A service that is needed does not answer now.",
        "The database does not answer now. Try again.",
        "unavailable",
    ),
}
ANY_ROUTE = (500,)  # whatever is asked, a fault of ours may come back
HEADERS = {
    "RequestId": {
        "description": "Names this request in our log. It is yours, where you sent one.",
        "required": True,
        "schema": {"type": "string"},
    },
    "RetryAfter": {
        "description": "Seconds to wait before the next try.",
        "required": True,
        "schema": {"type": "integer", "minimum": 1},
    },
}
REQUEST_ID: Json = {"X-Request-Id": {"$ref": "#/components/headers/RequestId"}}
RETRY_AFTER: Json = {"Retry-After": {"$ref": "#/components/headers/RetryAfter"}}
TRY_AGAIN = {429, 503}  # whose answers say when

SCHEMAS = "#/components/schemas/{model}"
# Nobody's, to describe the API with: nothing is asked of these addresses, and nothing signed with this secret.
NOBODYS_SETTINGS = {
    "ENVIRONMENT": "development",
    "SUPABASE_URL": "https://supabase.invalid",
    "SUPABASE_PUBLISHABLE_KEY": "none",
    "JWT_SECRET": "none" * 8,
    "TASK_QUEUE_URL": "https://queue.invalid",
    "SECRETS_KMS_KEY_ID": "none",
}


class Error(BaseModel):
    """Every refusal and failure. Some add further facts, such as the limit that is reached."""

    model_config = ConfigDict(extra="allow")

    error: str = Field(examples=["Task not found"], description="A sentence for a person.")
    code: str = Field(examples=["not_found"], description="Stable, for programs. There will be more of them.")


def answers(model: type[BaseModel], *refusals: int, status: int = 200) -> dict[int | str, Json]:
    """`responses=` of a route: `model` when it went well, and the statuses with which it may refuse or fail."""
    went_well = {"model": model, "description": (model.__doc__ or "").partition("\n")[0], "headers": REQUEST_ID}
    found: dict[int | str, Json] = {status: went_well}
    return found | {code: {} for code in sorted({*refusals, *ANY_ROUTE})}  # which look the same wherever they happen


def text_answer(description: str, *refusals: int) -> dict[int | str, Json]:
    """The same of a route that answers with a text; its `response_class` says of which kind."""
    found: dict[int | str, Json] = {200: {"description": description, "headers": REQUEST_ID}}
    return found | {code: {} for code in sorted({*refusals, *ANY_ROUTE})}


def body(model: type[Body], *, required: bool = True) -> Json:
    """`openapi_extra=` of a route that reads `model` by itself, after it knows who is asking."""
    schema = {"$ref": SCHEMAS.format(model=model.__name__)}
    _BODIES[schema["$ref"]] = model
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def describe(app: FastAPI) -> None:
    """Make `app.openapi()`, and so /openapi.json, answer with the whole description. Made at first use."""

    def description() -> Json:
        if app.openapi_schema is None:
            app.openapi_schema = _description(app)
        return app.openapi_schema

    app.openapi = description  # type: ignore[method-assign]  # FastAPI's own way to extend it


def document() -> str:
    """The description of all operations, also of those that only some deployments have, as JSON."""
    from functions.api.app import create_app  # which needs this module

    app = create_app(ApiSettings.from_env(NOBODYS_SETTINGS))
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False)


_BODIES: dict[str, type[Body]] = {}  # by their $ref


def _description(app: FastAPI) -> Json:
    found = get_openapi(
        title=app.title,
        version=VERSION,
        description=app.description,
        license_info=LICENCE,
        servers=SERVERS,
        routes=app.routes,
    )
    operations = list(_operations(found))
    for operation in operations:
        _use_docstring(operation)
        _drop_nulls(operation.get("parameters", []))
        _use_shared_refusals(operation["responses"])
    used = {tag for operation in operations for tag in operation["tags"]}
    found["tags"] = [{"name": name, "description": text} for name, text in TAGS.items() if name in used]
    bodies = [_BODIES[ref] for operation in operations if (ref := _ref_of_body(operation))]
    components = found["components"]
    components["schemas"] = _schemas(components["schemas"], [*bodies, Error])
    components["responses"] = {refusal.name: _response(status) for status, refusal in REFUSALS.items()}
    components["headers"] = HEADERS
    return found


def _operations(found: Json) -> Iterator[Json]:
    for path in found["paths"].values():
        yield from path.values()


def _ref_of_body(operation: Json) -> str | None:
    sent = operation.get("requestBody")
    return sent and sent["content"]["application/json"]["schema"]["$ref"]


def _use_docstring(operation: Json) -> None:
    """Its first sentence is the summary, what follows is the description."""
    sentence, *rest = re.split(r"(?<=\.)\s+", operation["description"], maxsplit=1)
    operation["summary"] = " ".join(sentence.split()).removesuffix(".")
    operation["description"] = "".join(rest)


def _drop_nulls(parameters: Collection[Json]) -> None:
    """FastAPI lets each optional one be null, which nobody can send in a URL or a header: it can only be absent."""
    for parameter in parameters:
        schema = parameter["schema"]
        choices = [choice for choice in schema.pop("anyOf", []) if choice != {"type": "null"}]
        schema |= choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {}
        del schema["title"]
        schema.pop("description", None)  # the parameter has it


def _use_shared_refusals(responses: Json) -> None:
    """FastAPI declares 422 for every operation with a parameter, too; ours answer 400."""
    responses.pop("422", None)
    for status in REFUSALS.keys() & map(int, responses):
        responses[str(status)] = {"$ref": f"#/components/responses/{REFUSALS[status].name}"}


def _schemas(found: Json, models: Collection[type[BaseModel]]) -> Json:
    """FastAPI's and those of `models`, by their names. Titles that only repeat a field's name are left out."""
    _, ours = models_json_schema([(model, "validation") for model in models], ref_template=SCHEMAS)
    schemas = {name: schema for name, schema in (found | ours["$defs"]).items() if "ValidationError" not in name}
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            field.pop("title", None)
    return dict(sorted(schemas.items()))


def _response(status: int) -> Json:
    refusal = REFUSALS[status]
    example = {"error": refusal.sentence, "code": refusal.code}
    schema = {"$ref": SCHEMAS.format(model=Error.__name__)}
    return {
        "description": refusal.description,
        "headers": REQUEST_ID | (RETRY_AFTER if status in TRY_AGAIN else {}),
        "content": {"application/json": {"schema": schema, "example": example}},
    }


if __name__ == "__main__":
    print(document())
