"""The API's description: whether all that a client needs is said, and whether what is said fits together."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlencode

import jsonschema_rs
import pytest
import schemathesis

from functions.api.document import document
from functions.api.web.openapi import ERROR_RESPONSES, TAGS, VERSION
from shared.domain.secret import Secret
from tests.unit.api.conformance import resolved

ROOT = Path(__file__).parents[4]
API = json.loads(document())
OPERATIONS = {
    operation["operationId"]: (method, path, operation)
    for path, methods in API["paths"].items()
    for method, operation in methods.items()
}
SCHEMAS = API["components"]["schemas"]
OPEN = {"getApiInfo", "ping", "refreshToken", "getTestUsersHealth"}
BY_SIGN_IN_ALONE = {"listApiKeys", "createApiKey", "revokeApiKey"}
TEXTS = {"getTaskPatch": "text/x-patch"}
OPTIONAL_BODIES = {"createTestUser", "retryTask"}
KINDS_THAT_SAY_ENOUGH = {"const", "enum", "format", "$ref", "boolean", "array", "object"}


@pytest.fixture(params=OPERATIONS)
def operation(request):
    return OPERATIONS[request.param][2]


def parameters(operation, place):
    return [parameter for parameter in operation.get("parameters", []) if parameter["in"] == place]


def test_the_description_in_docs_is_the_present_one():
    kept = (ROOT / "docs" / "openapi.json").read_text(encoding="utf-8")

    assert kept == document() + "\n", "docs/openapi.json is stale: run `make openapi`"


def test_it_can_be_printed_without_any_setting():
    command = [sys.executable, "-m", "functions.api.document"]
    printed = subprocess.run(command, env={}, cwd=ROOT, capture_output=True, timeout=60, check=True)

    assert printed.stdout.decode() == document() + "\n"
    assert printed.stderr == b""


def test_a_running_api_serves_the_same(client):
    assert client.get("/openapi.json").json() == API


def test_production_does_not_tell_of_test_users(world):
    served = world.client(environment="production").get("/openapi.json").json()

    assert API["paths"].keys() - served["paths"].keys() == {path for path in API["paths"] if "test-users" in path}
    assert "test users" not in [tag["name"] for tag in served["tags"]]
    assert "CreateTestUserRequest" not in served["components"]["schemas"]
    assert "TestUsersSecret" not in served["components"]["securitySchemes"]


def test_it_is_a_sound_openapi_document():
    schemathesis.openapi.from_dict(API).validate()
    for schema in SCHEMAS.values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


def test_it_says_what_this_is():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert API["info"]["title"]
    assert API["info"]["description"]
    assert API["info"]["version"] == VERSION == project["version"]
    assert API["info"]["license"]["identifier"] == project["license"]
    assert [server["url"] for server in API["servers"]] == ["/"]


def test_every_reference_leads_somewhere_and_every_component_is_used():
    references = set(re.findall(r'"\$ref": "(#[^"]+)"', json.dumps(API)))
    components = {
        f"#/components/{kind}/{name}"
        for kind in ("schemas", "responses", "headers")
        for name in API["components"][kind]
    }

    assert references == components


def test_every_tag_is_used_and_described():
    used = {tag for _, _, operation in OPERATIONS.values() for tag in operation["tags"]}

    assert [tag["name"] for tag in API["tags"]] == list(TAGS)
    assert used == set(TAGS)
    assert all(tag["description"] for tag in API["tags"])


def test_every_operation_has_a_name_of_its_own():
    assert len(OPERATIONS) == sum(len(methods) for methods in API["paths"].values())
    assert all(re.fullmatch("[a-z]+([A-Z][a-z]+)*", name) for name in OPERATIONS)


def test_an_operation_is_told_in_a_line_and_in_sentences(operation):
    assert len(operation["tags"]) == 1
    assert re.fullmatch(r"[A-Z][^.\n]{3,59}", operation["summary"])
    assert re.fullmatch(r"(?s)[A-Z0-9].+\.", operation["description"])


def test_an_operation_that_needs_to_know_who_is_asking_says_how(operation):
    name, schemes = operation["operationId"], [set(way) for way in operation.get("security", [])]

    if name in OPEN:
        assert schemes == []
    elif name == "issueTokens":
        assert schemes == [set(), {"AccessToken"}]
    elif operation["tags"] == ["test users"]:
        assert schemes == [{"TestUsersSecret"}]
    elif name in BY_SIGN_IN_ALONE:
        assert schemes == [{"AccessToken"}]
    else:
        assert schemes == [{"AccessToken"}, {"ApiKey"}]
    assert all(API["components"]["securitySchemes"][name]["description"] for way in schemes for name in way)


def test_an_operation_declares_the_statuses_that_follow_from_what_it_reads(operation):
    statuses = {int(status) for status in operation["responses"]}

    assert len(statuses & {200, 201}) == 1
    assert statuses <= {200, 201, *ERROR_RESPONSES}
    assert 500 in statuses
    assert {401, 503} <= statuses or "security" not in operation
    assert {400, 413} <= statuses or "requestBody" not in operation
    assert 404 in statuses or not parameters(operation, "path")
    assert 400 in statuses or not (parameters(operation, "query") + parameters(operation, "header"))
    if not (operation.get("parameters") or "requestBody" in operation):
        assert 400 not in statuses


def test_every_answer_has_a_schema_and_names_its_request(operation):
    for status, response in operation["responses"].items():
        response = resolved(API, response)
        assert response["description"]
        assert "X-Request-Id" in response["headers"]
        assert ("Retry-After" in response["headers"]) == (status in {"429", "503"})
        if operation["operationId"] in TEXTS and status == "200":
            assert response["content"] == {TEXTS[operation["operationId"]]: {"schema": {"type": "string"}}}
            continue
        refers_to = response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert (refers_to == "Error") == (status >= "400")


def test_a_body_is_a_component(operation):
    if "requestBody" in operation:
        content = operation["requestBody"]["content"]
        assert content.keys() == {"application/json"}
        assert re.fullmatch(r"#/components/schemas/\w+Request", content["application/json"]["schema"]["$ref"])
        assert operation["requestBody"]["required"] == (operation["operationId"] not in OPTIONAL_BODIES)


def test_every_parameter_is_described_and_bounded(operation):
    for parameter in operation.get("parameters", []):
        schema = resolved(API, parameter["schema"])
        assert parameter["description"]
        assert "null" not in json.dumps(schema), "what a URL holds is a text or absent"
        assert "minimum" in schema or schema["type"] != "integer"
        assert schema.get("minimum") == 1 or parameter["in"] != "path" or schema["format"] == "uuid"


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_a_name_does_not_say_is_described_or_shown(name):
    schema = SCHEMAS[name]

    assert schema.get("description") or "enum" in schema
    for field, described in schema.get("properties", {}).items():
        alternatives = described.get("anyOf", [described])
        enough = all(KINDS_THAT_SAY_ENOUGH & {*one, one.get("type")} for one in alternatives if one != {"type": "null"})
        assert enough or described.keys() & {"description", "examples"}, field


def with_examples(part, where="#"):
    """Every schema that has examples, and its place in the document; also the examples of answers."""
    if isinstance(part, list):
        for number, one in enumerate(part):
            yield from with_examples(one, f"{where}/{number}")
    if isinstance(part, dict):
        if isinstance(part.get("examples"), list):
            yield where, part, part["examples"]
        if "example" in part:
            yield where, part["schema"], [part["example"]]
        for name, one in part.items():
            if name not in {"examples", "example", "default"}:
                yield from with_examples(one, f"{where}/{name}")


EXAMPLES = {where: (schema, examples) for where, schema, examples in with_examples(API)}


@pytest.mark.parametrize("where", EXAMPLES)
def test_every_example_fits_its_own_schema(where):
    schema, examples = EXAMPLES[where]
    validator = jsonschema_rs.Draft202012Validator({**schema, "components": API["components"]}, validate_formats=True)

    assert examples
    for example in examples:
        assert [error.message for error in validator.iter_errors(example)] == []


def sample(schema):
    """What Swagger UI puts into "Try it out": the schema's own example, else one made of those of its parts."""
    schema = resolved(API, schema)
    for value in (*schema.get("examples", [])[:1], schema.get("const"), schema.get("default")):
        if value is not None:
            return value
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return sample(choices[0])
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "array":
        return [sample(schema["items"])]
    if schema["type"] != "object":
        return {"string": "string", "integer": 0, "number": 0, "boolean": True}[schema["type"]]
    return {name: sample(part) for name, part in schema.get("properties", {}).items()}


def tried_out(client, operation_id, headers):
    """The answer to what Swagger UI sends of itself: what is required, and what has an example or a default."""
    method, path, operation = OPERATIONS[operation_id]
    sent = {"path": {}, "query": {}, "header": {}}
    for parameter in operation.get("parameters", []):
        schema = resolved(API, parameter["schema"])
        if parameter["required"] or schema.keys() & {"examples", "default"}:
            sent[parameter["in"]][parameter["name"]] = str(sample(schema))
    query = urlencode(sent["query"])
    body = {}
    if "requestBody" in operation:
        body = {"json": sample(operation["requestBody"]["content"]["application/json"]["schema"])}
    address = path.format(**sent["path"]) + (f"?{query}" if query else "")
    return client.request(method.upper(), address, headers={**headers, **sent["header"]}, **body)


NEEDS_NOTHING = {  # that would have to be there already; the others may say that it is not
    *(
        "getApiInfo",
        "ping",
        "verifyToken",
        "getProfile",
        "updateProfile",
        "listApiKeys",
        "createApiKey",
        "listProjects",
    ),
    *("createProject", "startTask", "listTasks", "getUsage", "migrateLegacyTasks"),
    *("getTestUsersHealth", "listTestUsers", "createTestUser", "cleanUpTestUsers"),
}


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_what_a_page_offers_to_try_is_fit_to_be_tried(world, as_user, operation_id):
    client = world.client(test_users_enabled=True, supabase_secret_key=Secret("sb_secret_key"))
    answer = tried_out(client, operation_id, as_user)

    assert answer.status not in {400, 413, 415, 422, 500}, answer.json()
    assert answer.status in {200, 201} or operation_id not in NEEDS_NOTHING, answer.json()


def test_every_body_has_an_example_that_names_nothing_that_would_have_to_exist():
    refs = [
        operation["requestBody"]["content"] for _, _, operation in OPERATIONS.values() if "requestBody" in operation
    ]
    examples = [resolved(API, content["application/json"]["schema"])["examples"][0] for content in refs]

    assert len(examples) > 10
    assert not [example for example in examples if example.keys() & {"project_id", "task_id", "cursor"}]
