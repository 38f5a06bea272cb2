import pytest

from functions.api.app import create_app
from tests.unit.api.conformance import undescribed


def test_ping_and_welcome_need_no_token(client):
    welcome, pong = client.get("/"), client.get("/ping")

    assert (welcome.status, undescribed(client, "getApiInfo", welcome)) == (200, [])
    assert (pong.status, undescribed(client, "ping", pong)) == (200, [])


@pytest.mark.parametrize("path", ["/ping", "/api/tasks", "/docs", "/openapi.json"])
def test_head_is_answered_like_get_without_a_body(client, as_user, path):
    head, get = client.request("HEAD", path, headers=as_user), client.get(path, headers=as_user)

    assert (head.status, head.body) == (get.status, b"") == (200, b"")


@pytest.mark.parametrize("path", ["/nothing", "/ping/", "/api/ping", "/health", "/api/auth/verify/", "//pong"])
def test_an_unknown_path_is_not_found_and_never_redirected(client, path):
    answer = client.get(path)

    assert (answer.status, answer.json()) == (404, {"error": "Not found", "code": "not_found"})


def test_a_wrong_method_is_refused_with_the_right_ones(client):
    answer = client.post("/ping")

    assert (answer.status, answer.headers["allow"]) == (405, "GET")
    assert answer.json() == {"error": "Method not allowed", "code": "method_not_allowed"}


def test_the_page_of_the_docs_loads_nothing_from_elsewhere(client):
    answer = client.get("/docs")

    assert answer.headers["content-type"].startswith("text/html")
    assert "http://" not in answer.text
    assert "https://" not in answer.text


def test_an_app_can_be_made_without_a_connection(world):
    assert create_app(world.settings).title
