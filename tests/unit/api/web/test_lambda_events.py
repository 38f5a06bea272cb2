"""events/api-*.json are what API Gateway would really deliver: `sam local invoke` and these tests read them."""

import json
from pathlib import Path

import pytest

from tests.fakes.lambda_client import event_of

EVENTS = Path(__file__).parents[4] / "events"


def event(name):
    return json.loads((EVENTS / f"{name}.json").read_text())


def test_ping_is_answered(client):
    assert client.invoke(event("api-ping")).json()["message"] == "pong"


def test_a_task_is_started_once_a_real_token_is_pasted_in(client, as_user, world):
    start = event("api-start-task")
    refused = client.invoke(start)
    start["headers"]["authorization"] = as_user["Authorization"]

    assert (refused.status, refused.json()["error"]) == (401, "Not enough segments")
    assert client.invoke(start).json()["status"] == "success"
    [(message, _)] = world.queue.sent
    assert message.trace_id == start["requestContext"]["requestId"]


@pytest.mark.parametrize("name", ["api-ping", "api-start-task"])
def test_the_events_of_the_local_stack_have_the_same_shape(name):
    real = event(name)
    http = real["requestContext"]["http"]
    ours = event_of(http["method"], http["path"], json_body={"x": 1} if "body" in real else None)

    assert real.keys() == ours.keys()
    assert real["requestContext"].keys() == ours["requestContext"].keys()
    assert http.keys() == ours["requestContext"]["http"].keys()
