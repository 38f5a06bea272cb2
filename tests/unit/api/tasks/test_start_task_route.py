import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.agents import AgentName
from shared.domain.secret import SealedFor, Secret
from tests.fakes.new_task import OPTIONS, option_values
from tests.fakes.tokens import bearer, own_claims, signed
from tests.sql_files import columns_of
from tests.unit.api.conformance import undescribed

AGENTS = [f'"{name}"' for name in AgentName]
MODEL = f"model must be either {', '.join(AGENTS[:-1])} or {AGENTS[-1]}"
REQUIRED = "prompt, repo_url, and github_token are required"
TOKEN = "github_pat_11ABCDEFG0123456789_secretsecretsecret"
GOOD = {"prompt": "p", "repo_url": "https://github.com/o/r", "github_token": TOKEN}


@pytest.fixture
def start(client, as_user):
    def send(*, headers=None, **changes):
        return client.post("/api/start-task", headers=as_user | (headers or {}), json=GOOD | changes)

    return send


def refusal(answer):
    return answer.status, answer.json()["error"]


def test_a_task_is_stored_sealed_and_nudged(client, start, world, user):
    answer = start(prompt="  add a file  ", headers={"X-Request-Id": "page-17"})

    [(credential_id, stored)] = world.database.credentials.items()
    [(message, delay_s)] = world.queue.sent
    task_id = message.task_id
    assert answer.json() == {"status": "success", "task_id": task_id, "message": "Task started successfully"}
    assert undescribed(client, "startTask", answer) == []
    assert world.database.tasks[task_id]["chat_messages"][0]["content"] == "add a file"
    assert (stored.branch, stored.agent, stored.options.project_id) == ("main", "claude", None)
    owner = SealedFor(user_id=user, kind="git_token", id=credential_id)
    assert world.box.open(stored.credential, owner) == Secret(TOKEN)
    assert stored.credential_hint == TOKEN[-4:]
    assert (message.user_id, message.seq, message.trace_id, delay_s) == (user, 0, "page-17", 0)


def test_an_accepted_task_survives_a_queue_that_is_down(start, world, caplog):
    world.queue.down = True

    assert start().status == 200
    assert len(world.database.tasks) == 1
    [warning] = [record for record in caplog.records if record.message == "run.nudge_failed"]
    assert warning.levelname == "WARNING"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prompt": ""}, REQUIRED),
        ({"prompt": " \n\t"}, REQUIRED),
        ({"prompt": "\0"}, REQUIRED),
        ({"prompt": None}, REQUIRED),
        ({"prompt": False}, REQUIRED),
        ({"repo_url": ""}, REQUIRED),
        ({"github_token": "  "}, REQUIRED),
        ({"github_token": None, "model": "gpt"}, REQUIRED),
        ({"model": "gpt"}, MODEL),
        ({"model": None}, MODEL),
        ({"model": ""}, MODEL),
        ({"prompt": "x" * 50_001}, "prompt may have at most 50000 characters"),
        ({"github_token": "ü" * 2049}, "github_token may have at most 4096 bytes"),
        ({"repo_url": "file:///etc"}, "repo_url must be on one of: https://github.com"),
        ({"repo_url": "https://evil.example/github.com/o"}, "repo_url must be on one of: https://github.com"),
        ({"branch": "--upload-pack=x"}, "branch is not a valid git branch name"),
        ({"prompt": 5}, "prompt must be a string"),
        ({"prompt": ["x"]}, "prompt must be a string"),
        ({"github_token": 5}, "github_token must be a string"),
        ({"branch": {}}, "branch must be a string"),
        ({"model": True}, MODEL),
        ({"project_id": True}, "project_id must be a whole number"),
        ({"project_id": "7"}, "project_id must be a whole number"),
        ({"project_id": 1.5}, "project_id must be a whole number"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence_and_stores_nothing(start, world, changes, text):
    assert refusal(start(**changes)) == (400, text)
    assert not world.database.tasks
    assert not world.queue.sent


def test_a_text_that_is_no_unicode_is_refused(client, as_user, world):
    content = json.dumps(GOOD).replace('"p"', r'"\ud800"').encode()
    answer = client.post("/api/start-task", headers=as_user | {"Content-Type": "application/json"}, content=content)

    assert answer.status == 400
    assert not world.database.tasks


@pytest.mark.parametrize(
    ("content_type", "content", "text"),
    [
        (None, b"", "Send JSON, with the header Content-Type: application/json"),
        ("text/plain", b"{}", "Send JSON, with the header Content-Type: application/json"),
        ("application/x-www-form-urlencoded", b"a=b", "Send JSON, with the header Content-Type: application/json"),
        ("application/json", b"", "The body is not valid JSON"),
        ("application/json", b"{bad", "The body is not valid JSON"),
        ("application/json", b"\xff\xfe{}", "The body is not valid JSON"),
        ("application/json", b"[" * 100_000, "The body is not valid JSON"),
        ("application/json", b'{"project_id": ' + b"9" * 5000 + b"}", "The body is not valid JSON"),
        ("application/json", b"{}", "No data provided"),
        ("application/json", b"[]", "No data provided"),
        ("application/json", b"null", "No data provided"),
        ("application/json", b"[1]", "The body must be a JSON object"),
        ("application/json; charset=utf-8", b'{"x": 1}', REQUIRED),
        ("Application/VND.our+JSON", b'{"x": 1}', REQUIRED),
    ],
)
def test_a_body_that_is_no_task_is_refused(client, as_user, content_type, content, text):
    headers = as_user | ({"Content-Type": content_type} if content_type else {})

    assert refusal(client.post("/api/start-task", headers=headers, content=content)) == (400, text)


def test_the_caller_must_be_known_before_the_body_is_looked_at(client):
    headers = {"Content-Type": "application/json"}

    assert refusal(client.post("/api/start-task", headers=headers, content=b"{bad")) == (
        401,
        "Missing authorization header",
    )


@pytest.mark.parametrize("branch", [None, "", "  "])
def test_no_branch_means_main(start, world, branch):
    assert start(branch=branch).status == 200
    assert [task["target_branch"] for task in world.database.tasks.values()] == ["main"]


def test_the_repository_is_stored_in_one_form(start, world):
    for url in ("https://github.com/o/r", " https://github.com/o/r.git ", "git@github.com:o/r.git"):
        assert start(repo_url=url).status == 200

    assert {task["repo_url"] for task in world.database.tasks.values()} == {"https://github.com/o/r"}


def test_an_own_project_is_accepted_and_any_other_is_not_found(start, world, user):
    own, foreign = world.database.add_project(user), world.database.add_project(world.new_user())

    assert start(project_id=own).status == 200
    for project_id in (foreign, 987654, 0, -1, 10**30):
        assert refusal(start(project_id=project_id)) == (404, "Project not found")
    assert [task["project_id"] for task in world.database.tasks.values()] == [own]


def test_the_same_idempotency_key_is_the_same_task_and_nudges_again(start, world):
    key = {"Idempotency-Key": "click-1"}

    first, again, other = start(headers=key), start(headers=key), start(headers={"Idempotency-Key": "click-2"})

    assert first.json() == again.json() != other.json()
    assert [message.task_id for message, _ in world.queue.sent] == [1, 1, 2]


def test_a_repeated_request_is_the_same_however_it_is_spelt(start):
    key = {"Idempotency-Key": "click-1"}
    first = start(headers=key).json()

    for same in (
        {"branch": "main"},
        {"branch": ""},
        {"prompt": " p\n"},
        {"model": "claude"},
        {"github_token": "renewed"},
    ):
        assert start(headers=key, **same).json() == first
    assert start(headers=key, repo_url="git@github.com:o/r.git").json() == first


@pytest.mark.parametrize("other", ["prompt", "repo_url", "branch", "model", "project_id"])
def test_something_else_under_the_same_key_is_refused_and_stores_nothing(client, start, world, user, other):
    key = {"Idempotency-Key": "click-1"}
    start(headers=key)
    values = {"prompt": "q", "repo_url": "https://github.com/o/other", "branch": "dev", "model": "codex"}
    values["project_id"] = world.database.add_project(user)

    answer = start(headers=key, **{other: values[other]})

    assert (answer.status, answer.json()["code"]) == (409, "idempotency_key_reused")
    assert undescribed(client, "startTask", answer) == []
    assert (len(world.database.tasks), len(world.queue.sent)) == (1, 1)


def test_the_hash_of_a_request_is_of_what_is_asked_for_and_not_of_the_token(start, world):
    start(branch="", repo_url="git@github.com:o/r.git")

    [stored] = world.database.credentials.values()
    asked = b'{"branch": "main", "model": "claude", "project_id": null, "prompt": "p", "repo_url": "https://github.com/o/r"}'
    assert stored.request_hash == hashlib.sha256(asked).hexdigest()


def test_the_key_of_somebody_else_is_another_key(client, world, start):
    key = {"Idempotency-Key": "click-1"}
    start(headers=key)
    other = bearer(signed(own_claims(world.new_user())))

    assert client.post("/api/start-task", headers=other | key, json=GOOD | {"prompt": "q"}).status == 200
    assert len(world.database.tasks) == 2


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_an_idempotency_key_has_1_to_255_characters(start, key):
    assert start(headers={"Idempotency-Key": key}).status == 400


def test_too_many_active_tasks_are_refused_for_now(client, start, world):
    world.database.active_per_user = 1
    start()
    answer = start()

    assert answer.status == 429
    assert answer.json() | {"error": ""} == {"error": "", "code": "too_many_active_runs", "limit": 1, "current": 1}
    assert answer.headers["retry-after"] == "30"
    assert undescribed(client, "startTask", answer) == []


def test_too_many_starts_within_an_hour_are_refused_until_the_oldest_is_an_hour_old(start, world, user):
    world.database.started_per_hour = 2
    world.database.starts = [(user, datetime.now(UTC) - timedelta(minutes=minutes)) for minutes in (61, 59)]
    assert start().status == 200
    answer = start()

    assert answer.status == 429
    assert answer.json() | {"error": ""} == {"error": "", "code": "too_many_starts", "limit": 2, "current": 2}
    assert 50 <= int(answer.headers["retry-after"]) <= 60
    assert len(world.database.tasks) == 1


def test_the_git_token_is_in_no_answer_and_no_log(start, world, caplog):
    world.queue.down = True
    caplog.set_level("DEBUG")
    answers = [start(), start(model="gpt"), start(repo_url="x"), start(project_id=TOKEN), start(github_token=[TOKEN])]

    assert [answer.status for answer in answers] == [200, 400, 400, 400, 400]
    seen = [answer.text for answer in answers] + [repr(vars(record)) for record in caplog.records]
    assert not [text for text in seen if TOKEN in text]


@pytest.mark.parametrize("limit", [None, 0.01, 3, 10])
def test_a_task_may_have_a_limit_of_its_cost_up_to_the_deployments(start, world, limit):
    assert start(max_cost_usd=limit).status == 200

    [stored] = world.database.credentials.values()
    assert stored.options.max_cost_usd == limit


@pytest.mark.parametrize("limit", [0, -1, 10.01, 1e300, "5", True, [1]])
def test_a_limit_that_is_none_or_above_the_deployments_is_refused_and_starts_nothing(client, start, world, limit):
    answer = start(max_cost_usd=limit)

    assert (answer.status, undescribed(client, "startTask", answer)) == (400, [])
    assert "max_cost_usd" in answer.json()["error"]
    assert world.database.tasks == {}


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_goes_to_the_store_as_it_was_sent_and_another_value_is_another_request(start, world, user, name):
    key = {"Idempotency-Key": "click-1"}
    values = option_values(name)
    if name == "project_id":
        values = [world.database.add_project(user) for _ in values]

    assert [start(headers=key, **{name: value}).status for value in (*values[:1], *values)] == [200, 200, 409]
    [stored] = world.database.credentials.values()
    assert getattr(stored.options, name) == values[0]


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_is_described(client, name):
    assert name in client.get("/openapi.json").json()["components"]["schemas"]["StartTaskRequest"]["properties"]


def test_a_task_is_described_with_every_column(client):
    described = client.get("/openapi.json").json()["components"]["schemas"]["Task"]["properties"]

    assert list(described) == columns_of("tasks")


@pytest.mark.parametrize("limit", [None, 60, 86_400])
def test_a_task_may_take_its_time(start, world, limit):
    assert start(max_duration_s=limit).status == 200

    [stored] = world.database.credentials.values()
    assert stored.options.max_duration_s == limit


@pytest.mark.parametrize("limit", [0, 59, 86_401, 1.5, "3600", True])
def test_a_duration_that_is_none_is_refused_and_starts_nothing(client, start, world, limit):
    answer = start(max_duration_s=limit)

    assert (answer.status, undescribed(client, "startTask", answer)) == (400, [])
    assert "max_duration_s" in answer.json()["error"]
    assert world.database.tasks == {}


def test_a_duration_above_the_deployments_is_refused_with_what_is_allowed(client, start, world):
    world.database.max_duration_s = 3600

    answer = start(max_duration_s=3601)

    assert (answer.status, undescribed(client, "startTask", answer)) == (400, [])
    assert answer.json() | {"error": ""} == {"error": "", "code": "max_duration_too_long", "limit": 3600}
