import logging

import pytest

from tests.fakes.lambda_client import event_of


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", logger="api")
    return lambda: [vars(record) for record in caplog.records if record.name.startswith("api.")]


def test_each_request_is_one_line_with_its_route_and_user(client, as_user, world, user, lines):
    task_id = world.database.add_task(user)
    client.get(f"/api/tasks/{task_id}?x=1", headers=as_user)

    [line] = lines()
    assert line["message"] == "request.answered"
    assert (line["method"], line["route"], line["status"]) == ("GET", "/api/tasks/{task_id}", 200)
    assert line["user_id"] == user
    assert line["took_ms"] >= 0


@pytest.mark.parametrize(
    ("method", "path", "route", "status"),
    [
        ("HEAD", "/ping", "/ping", 200),
        ("OPTIONS", "/api/tasks", None, 204),
        ("GET", "/nothing/eyJsecret", None, 404),
    ],
)
def test_requests_nobody_signed_in_for_are_logged_without_their_path(client, lines, method, path, route, status):
    client.request(method, path)

    [line] = lines()
    assert (line["method"], line["route"], line["status"], line["user_id"]) == (method, route, status, None)


def test_an_expected_error_is_part_of_the_line(client, lines):
    client.get("/api/tasks")

    [line] = lines()
    assert (line["status"], line["levelname"]) == (401, "INFO")
    assert line["failure"]["code"] == "not_authenticated"


def test_an_outage_is_a_warning(client, as_user, world, lines):
    world.users.down = True
    client.get("/api/tasks", headers=as_user)

    [line] = lines()
    assert (line["status"], line["levelname"], line["exc_info"]) == (503, "WARNING", None)


def test_a_bug_is_logged_once_with_its_stack_and_the_caller_learns_nothing(client, as_user, world, caplog):
    del world.database.tasks
    answer = client.get("/api/tasks", headers=as_user)

    assert (answer.status, answer.json()) == (500, {"error": "Internal server error", "code": "internal"})
    [failure] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert failure.message == "request.failed"
    assert "has no attribute 'tasks'" in str(failure.exc_info[1])
    assert failure.request_id == answer.headers["x-request-id"]


def test_the_callers_request_id_is_echoed(client):
    assert client.get("/ping", headers={"X-Request-Id": "page-17"}).headers["x-request-id"] == "page-17"


@pytest.mark.parametrize("sent", ["", "a b", "x" * 129, "a\nb", "<script>"])
def test_without_a_sound_one_the_gateways_is_taken(client, sent):
    event = event_of("GET", "/ping", headers={"X-Request-Id": sent})

    assert client.invoke(event).headers["x-request-id"] == event["requestContext"]["requestId"]
