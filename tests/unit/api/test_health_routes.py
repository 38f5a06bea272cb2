import pytest

from functions.api import examples
from functions.api.app import create_app


def test_ping_and_welcome_need_no_token(client):
    assert client.get("/").json() == examples.WELCOME
    assert client.get("/ping").json().keys() == examples.PONG.keys()


@pytest.mark.parametrize("path", ["/ping", "/api/tasks", "/docs", "/openapi.json"])
def test_head_is_answered_like_get_without_a_body(client, as_user, path):
    head, get = client.request("HEAD", path, headers=as_user), client.get(path, headers=as_user)

    assert (head.status, head.body) == (get.status, b"") == (200, b"")


@pytest.mark.parametrize("path", ["/nothing", "/ping/", "/api/ping", "/health", "/api/auth/verify/", "//ping"])
def test_an_unknown_path_is_not_found_and_never_redirected(client, path):
    answer = client.get(path)

    assert (answer.status, answer.json()) == (404, {"error": "Not found", "code": "not_found"})


def test_a_wrong_method_is_refused_with_the_right_ones(client):
    answer = client.post("/ping")

    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert answer.json() == {"error": "Method not allowed", "code": "method_not_allowed"}


def test_every_operation_is_described_with_examples(client):
    paths = client.get("/openapi.json").json()["paths"]

    operations = [operation for path in paths.values() for operation in path.values()]
    assert len(operations) == 11
    for operation in operations:
        assert "422" not in operation["responses"]
        for response in operation["responses"].values():
            assert response["content"]["application/json"]["example"]
        if "requestBody" in operation:
            assert operation["requestBody"]["content"]["application/json"]["example"]


def test_the_description_keeps_every_key_of_an_example(client):
    paths = client.get("/openapi.json").json()["paths"]

    described = paths["/api/tasks/{task_id}"]["get"]["responses"]["200"]["content"]["application/json"]["example"]
    assert described == examples.TASK


def test_the_operations_that_need_a_token_say_so(client):
    paths = client.get("/openapi.json").json()["paths"]

    open_to_all = {path for path, operations in paths.items() for o in operations.values() if "security" not in o}
    assert open_to_all == {"/", "/ping", "/api/auth/token", "/api/auth/refresh"}


def test_the_page_of_the_docs_loads_nothing_from_elsewhere(client):
    answer = client.get("/docs")

    assert answer.headers["content-type"].startswith("text/html")
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_an_app_can_be_made_without_a_connection(world):
    assert create_app(world.settings).title
