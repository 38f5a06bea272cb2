from datetime import datetime, timedelta

import pytest

from functions.api.web.json_response import MAX_BYTES
from shared.domain.usage import totals
from tests.unit.api.conformance import undescribed

ROLE = 'role must be either "user" or "assistant"'
FIRST = {"role": "user", "content": "do it", "timestamp": "2026-11-23T00:55:50.240582+00:00"}


@pytest.fixture
def task_id(world, user):
    return world.database.add_task(user, chat_messages=[FIRST], status="running")


@pytest.fixture
def say(client, as_user, task_id):
    def send(task=task_id, **body):
        return client.post(f"/api/tasks/{task}/chat", headers=as_user, json=body)

    return send


def test_a_message_is_appended_and_the_whole_task_answered(client, say, world, task_id):
    answer = say(content="  and\ttest it\n", role="user")

    assert undescribed(client, "addChatMessage", answer) == []
    assert answer.json() == {"status": "success", "task": world.database.tasks[task_id] | {"usage": totals([])}}
    first, message = answer.json()["task"]["chat_messages"]
    assert (first, message["role"], message["content"]) == (FIRST, "user", "  and\ttest it\n")
    assert datetime.fromisoformat(message["timestamp"]).utcoffset() == timedelta(0)


def test_a_message_is_the_users_unless_it_says_otherwise(say):
    roles = [say(content="a"), say(content="b", role="assistant")][-1].json()["task"]["chat_messages"]

    assert [message["role"] for message in roles] == ["user", "user", "assistant"]


@pytest.mark.parametrize("status", ["pending", "running", "completed", "failed", "cancelled"])
def test_a_task_can_be_talked_about_whatever_its_status(say, world, user, status):
    task = world.database.add_task(user, status=status, chat_messages=None)

    answer = say(task, content="hello")

    assert (answer.status, answer.json()["task"]["status"]) == (200, status)
    assert [message["content"] for message in answer.json()["task"]["chat_messages"]] == ["hello"]


def test_text_may_be_any_but_nul(say):
    message = say(content="a\0b \u2028 世界 😀").json()["task"]["chat_messages"][-1]

    assert message["content"] == "ab \u2028 世界 😀"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "No data provided"),
        ({"role": "user"}, "content is required"),
        ({"content": ""}, "content is required"),
        ({"content": None}, "content is required"),
        ({"content": 0}, "content is required"),
        ({"content": []}, "content is required"),
        ({"content": " \n"}, "content is required"),
        ({"content": "\0"}, "content is required"),
        ({"content": "", "role": "system"}, "content is required"),
        ({"content": 5}, "content must be a string"),
        ({"content": {"text": "x"}}, "content must be a string"),
        ({"content": "x" * 100_001}, "content may have at most 100000 characters"),
        ({"content": "x", "role": "system"}, ROLE),
        ({"content": "x", "role": "User"}, ROLE),
        ({"content": "x", "role": ""}, ROLE),
        ({"content": "x", "role": None}, ROLE),
        ({"content": "x", "role": 5}, ROLE),
        ({"content": "x", "role": ["user"]}, ROLE),
    ],
)
def test_what_is_no_message_is_refused_and_changes_nothing(client, say, world, task_id, body, text):
    answer = say(**body)

    assert (answer.status, answer.json()["error"]) == (400, text)
    assert undescribed(client, "addChatMessage", answer) == []
    assert world.database.tasks[task_id]["chat_messages"] == [FIRST]


def test_the_longest_message_is_kept_whole(say):
    assert len(say(content="世" * 100_000).json()["task"]["chat_messages"][-1]["content"]) == 100_000


def test_a_body_beyond_a_megabyte_is_not_read(client, say):
    answer = say(content="x" * 1024 * 1024)

    assert (answer.status, undescribed(client, "addChatMessage", answer)) == (413, [])


def test_a_full_chat_takes_no_more(client, say, world, user):
    full = [FIRST | {"content": "x" * 100_000} for _ in range(20)]
    task = world.database.add_task(user, chat_messages=full)

    answer = say(task, content="one more")

    assert (answer.status, answer.json()["code"]) == (409, "chat_full")
    assert undescribed(client, "addChatMessage", answer) == []
    assert world.database.tasks[task]["chat_messages"] == full


def test_what_is_not_there_and_what_is_somebody_elses_look_the_same(client, say, world):
    foreign = world.database.add_task(world.new_user())

    for task in (foreign, 987654, 0, 2**63, "9" * 5000):
        answer = say(task, content="x")
        assert (answer.status, answer.json()["error"]) == (404, "Task not found")
        assert undescribed(client, "addChatMessage", answer) == []
        assert say(task).json()["error"] == "No data provided"  # the body comes first
    assert world.database.tasks[foreign]["chat_messages"] == []


def test_a_task_too_large_for_lambda_is_answered_without_its_heaviest_columns(say, world, user):
    answer = say(world.database.add_task(user, git_patch="+" * MAX_BYTES), content="x").json()

    assert answer["omitted"] == ["git_patch"]
    assert answer["task"]["chat_messages"][-1]["content"] == "x"


def test_a_message_needs_a_token(client, task_id):
    assert client.post(f"/api/tasks/{task_id}/chat", json={"content": "x"}).status == 401
