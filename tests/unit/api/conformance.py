"""Whether an answer is as the API's own description says: a status that is declared, a body of that status' schema."""

import copy

import jsonschema_rs


def undescribed(client, operation_id, answer):
    """What the description of `operation_id` does not say of `answer`, as sentences; nothing, when all is well.

    Stricter than JSON Schema: a key that the description does not name is a complaint too.
    """
    document = client.get("/openapi.json").json()
    operation = next(
        o for path in document["paths"].values() for o in path.values() if o["operationId"] == operation_id
    )
    if str(answer.status) not in operation["responses"]:
        return [f"{operation_id} may not answer {answer.status}"]
    declared = resolved(document, operation["responses"][str(answer.status)])
    media_type = answer.headers["content-type"].partition(";")[0]
    if media_type not in declared["content"]:
        return [f"{operation_id} may not answer with {media_type}"]
    if media_type != "application/json":
        return []
    schema = {**declared["content"]["application/json"]["schema"], "components": _closed(document["components"])}
    validator = jsonschema_rs.Draft202012Validator(schema, validate_formats=True)
    return [f"{list(error.instance_path)}: {error.message}" for error in validator.iter_errors(answer.json())]


def resolved(document, part):
    """The part of the document that is meant, where `part` only refers to it."""
    for name in part.get("$ref", "").split("/")[1:]:
        document = document[name]
    return document if "$ref" in part else part


def _closed(components):
    """With every object closed that does not say otherwise."""
    components = copy.deepcopy(components)
    for schema in components["schemas"].values():
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    return components
