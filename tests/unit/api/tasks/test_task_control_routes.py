"""Cancel, retry and follow-up."""

import pytest

from shared.domain.run import RunKind
from shared.domain.secret import SealedFor, Secret
from tests.unit.api.conformance import undescribed

TOKEN = "github_pat_11ABCDEFG0123456789_secretsecretsecret"
OPERATIONS = {"cancel": "cancelTask", "retry": "retryTask", "follow-up": "createFollowUp"}
BODIES = {"cancel": None, "retry": {}, "follow-up": {"prompt": "more"}}
AGAIN = ("retry", "follow-up")


@pytest.fixture
def make_task(world, user):
    def make(status="completed", *, owner=user, seq=0):
        task_id = world.database.add_task(owner, status=status)
        world.database.add_run(task_id, seq)
        return task_id

    return make


@pytest.fixture
def ask(client, as_user):
    def send(task_id, verb, *, headers=None, **body):
        sent = body or BODIES[verb]
        answer = client.post(f"/api/tasks/{task_id}/{verb}", headers=as_user | (headers or {}), json=sent)
        assert undescribed(client, OPERATIONS[verb], answer) == []
        return answer

    return send


def refusal(answer):
    return answer.status, answer.json()["code"]


@pytest.mark.parametrize("status", ["pending", "running"])
def test_cancelling_marks_the_run_and_nudges_it_at_once(ask, world, user, make_task, status):
    task_id = make_task(status, seq=4)

    answer = ask(task_id, "cancel", headers={"X-Request-Id": "page-17"})

    run = world.database.newest_runs[task_id]
    [(message, delay_s)] = world.queue.sent
    assert answer.json() == {"status": "success", "task_id": task_id, "message": "The task is being cancelled"}
    assert world.database.cancelled == {run.run_id}
    assert (message.task_id, message.run_id, message.seq, message.user_id) == (task_id, run.run_id, 4, user)
    assert (message.trace_id, delay_s) == ("page-17", 0)


def test_a_step_at_work_that_cannot_know_of_it_has_its_successor_nudged_too(ask, world, make_task):
    task_id = make_task("running", seq=4)
    world.database.at_work.add(world.database.newest_runs[task_id].run_id)

    ask(task_id, "cancel")

    (now, at_once), (later, delay_s) = world.queue.sent
    assert (now.seq, at_once) == (4, 0)
    assert later.seq == 5
    assert 0 < delay_s < 10


def test_asking_twice_is_fine(ask, make_task):
    task_id = make_task("running")

    assert [ask(task_id, "cancel").status for _ in range(2)] == [200, 200]


def test_a_cancellation_survives_a_queue_that_is_down(ask, world, make_task):
    world.queue.down = True
    task_id = make_task("running")

    assert ask(task_id, "cancel").status == 200
    assert world.database.cancelled


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_what_has_ended_cannot_be_cancelled(ask, world, make_task, status):
    assert refusal(ask(make_task(status), "cancel")) == (409, "task_ended")
    assert not world.queue.sent


@pytest.mark.parametrize("verb", OPERATIONS)
def test_somebody_elses_task_and_none_at_all_are_not_found(ask, world, make_task, verb):
    for task_id in (make_task("completed", owner=world.new_user()), 987654, 2**80):
        assert refusal(ask(task_id, verb)) == (404, "not_found")
    assert not world.queue.sent


@pytest.mark.parametrize("verb", OPERATIONS)
def test_the_caller_must_be_known(client, make_task, verb):
    assert client.post(f"/api/tasks/{make_task()}/{verb}").status == 401


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
@pytest.mark.parametrize("verb", AGAIN)
def test_an_ended_task_is_queued_again_and_nudged(ask, world, user, make_task, verb, status):
    task_id = make_task(status)

    answer = ask(task_id, verb)

    run = world.database.newest_runs[task_id]
    [(message, delay_s)] = world.queue.sent
    assert answer.json() | {"message": ""} == {
        "status": "success",
        "task_id": task_id,
        "run_id": run.run_id,
        "message": "",
    }
    assert (message.task_id, message.run_id, message.seq, message.user_id, delay_s) == (task_id, run.run_id, 0, user, 0)
    assert world.database.tasks[task_id]["status"] == "pending"
    assert not world.database.credentials


@pytest.mark.parametrize("verb", AGAIN)
def test_a_token_is_sealed_for_its_owner(ask, world, user, make_task, verb):
    ask(make_task(), verb, **(BODIES[verb] | {"github_token": f" {TOKEN} "}))

    [(credential_id, run)] = world.database.credentials.items()
    owner = SealedFor(user_id=user, kind="git_token", id=credential_id)
    assert world.box.open(run.token.sealed, owner) == Secret(TOKEN)
    assert run.token.hint == TOKEN[-4:]
    assert run.kind is (RunKind.RETRY if verb == "retry" else RunKind.FOLLOW_UP)


def test_a_retry_needs_no_body(client, as_user, make_task):
    assert client.post(f"/api/tasks/{make_task()}/retry", headers=as_user).status == 200


def test_a_follow_up_is_said_in_the_chat(ask, world, make_task):
    task_id = make_task()

    ask(task_id, "follow-up", prompt="  now the tests\n\0")

    said = [(m["role"], m["content"]) for m in world.database.tasks[task_id]["chat_messages"]]
    assert said == [("user", "now the tests")]


@pytest.mark.parametrize("status", ["pending", "running"])
@pytest.mark.parametrize("verb", AGAIN)
def test_what_is_being_worked_on_is_not_started_again(ask, world, make_task, verb, status):
    assert refusal(ask(make_task(status), verb)) == (409, "run_active")
    assert not world.queue.sent


def test_what_was_never_run_here_cannot_be_retried(ask, world, user):
    assert refusal(ask(world.database.add_task(user, status="failed"), "retry")) == (409, "nothing_to_retry")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": ""}, "prompt is required"),
        ({"prompt": " \n"}, "prompt is required"),
        ({"prompt": None}, "prompt is required"),
        ({"x": 1}, "prompt is required"),
        ({"prompt": 5}, "prompt must be a string"),
        ({"prompt": "x" * 50_001}, "prompt may have at most 50000 characters"),
        ({"prompt": "p", "github_token": "ü" * 2049}, "github_token may have at most 4096 bytes"),
        ({"prompt": "p", "github_token": 5}, "github_token must be a string"),
    ],
)
def test_what_cannot_be_done_is_refused_and_stores_nothing(ask, world, make_task, body, text):
    task_id = make_task()
    answer = ask(task_id, "follow-up", **body)

    assert (answer.status, answer.json()["error"]) == (400, text)
    assert world.database.tasks[task_id]["status"] == "completed"
    assert not world.queue.sent


@pytest.mark.parametrize("verb", AGAIN)
def test_the_same_key_starts_one_run_and_nudges_again(ask, world, make_task, verb):
    task_id, key = make_task(), {"Idempotency-Key": "click-1"}

    first, again = ask(task_id, verb, headers=key), ask(task_id, verb, headers=key)

    assert first.json() == again.json()
    assert [message.run_id for message, _ in world.queue.sent] == [first.json()["run_id"]] * 2


def test_something_else_under_the_same_key_is_refused(ask, make_task):
    task_id, other, key = make_task(), make_task(), {"Idempotency-Key": "click-1"}
    ask(task_id, "follow-up", headers=key)

    for again in (
        ask(task_id, "follow-up", headers=key, prompt="else"),
        ask(task_id, "retry", headers=key),
        ask(other, "follow-up", headers=key),
    ):
        assert refusal(again) == (409, "idempotency_key_reused")


@pytest.mark.parametrize("verb", AGAIN)
def test_limits_are_those_of_a_new_task(ask, world, make_task, verb):
    world.database.active_per_user = 1
    make_task("running")

    answer = ask(make_task(), verb)

    assert refusal(answer) == (429, "too_many_active_runs")
    assert answer.headers["retry-after"] == "30"


def test_the_status_tells_run_phase_and_place_in_the_queue(client, as_user, world, make_task):
    make_task("pending", owner=world.new_user())
    tasks = {status: make_task(status) for status in ("pending", "running", "completed")}

    def progress(task_id):
        task = client.get(f"/api/task-status/{task_id}", headers=as_user).json()["task"]
        assert task["run_id"] == world.database.newest_runs[task_id].run_id
        return task["phase"], task["queue_position"]

    assert {status: progress(task_id) for status, task_id in tasks.items()} == {
        "pending": ("queued", 1),
        "running": ("agent", None),
        "completed": (None, None),
    }


def test_the_git_token_is_in_no_answer_and_no_log(ask, world, make_task, caplog):
    world.queue.down = True
    caplog.set_level("DEBUG")
    answers = [ask(make_task(), verb, **(BODIES[verb] | {"github_token": TOKEN})) for verb in AGAIN]

    seen = [answer.text for answer in answers] + [repr(vars(record)) for record in caplog.records]
    assert not [text for text in seen if TOKEN in text]
