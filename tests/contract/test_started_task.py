"""What a start-task request leaves behind, where it matters: in the database and in the queue."""

import json
import secrets

import pytest

from local.services.aws.queue import sqs_client
from shared.adapters.local_box import LocalBox
from shared.domain.messages import RunMessage
from shared.domain.secret import Sealed, SealedFor, Secret
from tests.contract.deployments import MASTER_KEYS


@pytest.fixture
def stage(stage_of):
    return stage_of("started tasks")


@pytest.fixture
def api(deployments):
    return deployments.client()


@pytest.fixture
def as_user(stage):
    return {"Authorization": f"Bearer {stage.values['valid']}"}


@pytest.fixture
def start(api, as_user):
    def send(headers=None, **changes):
        body = {"prompt": "  add a file  ", "repo_url": "https://github.com/o/r.git", "github_token": "tok"} | changes
        return api.post("/api/start-task", headers=as_user | (headers or {}), json=body)

    return send


def test_the_git_token_is_stored_sealed_for_its_owner_and_nowhere_in_clear(start, rows, stage):
    token = f"github_pat_{secrets.token_hex(20)}"
    task_id = start(github_token=token).json()["task_id"]

    [run] = rows("select * from runs where task_id = %s", task_id)
    [stored] = rows("select * from user_credentials where id = %s", run["git_credential_id"])
    owner = SealedFor(user_id=stage.values["USER_A"], kind="git_token", id=str(stored["id"]))
    sealed = Sealed(ciphertext=stored["ciphertext"], key_id=stored["key_id"], alg=stored["alg"])
    assert LocalBox.from_ring(Secret(MASTER_KEYS)).open(sealed, owner) == Secret(token)
    everything = [rows(f"select to_jsonb(t) as row from {table} t") for table in ("tasks", "runs", "task_events")]
    assert token not in json.dumps([*everything, stored], default=str)


def test_the_task_is_stored_in_clean_form_and_the_executor_is_nudged(start, rows, stage, sqs_url, queues):
    sqs = sqs_client(sqs_url)
    sqs.purge_queue(QueueUrl=queues.tasks)
    task_id = start(headers={"X-Request-Id": "page-17"}, branch="").json()["task_id"]

    [task] = rows("select * from tasks where id = %s", task_id)
    [run] = rows("select * from runs where task_id = %s", task_id)
    assert task["repo_url"] == "https://github.com/o/r"
    assert task["target_branch"] == "main"
    assert task["chat_messages"][0]["content"] == run["prompt"] == "add a file"
    [message] = sqs.receive_message(QueueUrl=queues.tasks, MessageSystemAttributeNames=["All"])["Messages"]
    assert RunMessage.parse(message["Body"]) == RunMessage(
        task_id=task_id, run_id=str(run["id"]), seq=0, user_id=stage.values["USER_A"], trace_id="page-17"
    )
    assert run["trace_id"] == "page-17"


def test_the_same_idempotency_key_makes_one_task(start, rows):
    key = {"Idempotency-Key": secrets.token_hex(8)}

    first, again = start(headers=key).json(), start(headers=key).json()

    assert first == again
    assert len(rows("select id from runs where idempotency_key = %s", key["Idempotency-Key"])) == 1


def test_beyond_the_limit_the_page_is_told_when_to_try_again(start, rows):
    start()
    [limits] = rows("select active_per_user from run_limits")
    rows("update run_limits set active_per_user = 1 returning 1")
    try:
        answer = start()
    finally:
        rows("update run_limits set active_per_user = %s returning 1", limits["active_per_user"])

    assert (answer.status, answer.json()["code"]) == (429, "too_many_active_runs")
    assert int(answer.headers["retry-after"]) > 0


def test_a_refused_request_stores_nothing(start, rows):
    before = rows("select count(*) from tasks"), rows("select count(*) from user_credentials")

    assert start(project_id=987654).status == 404
    assert start(repo_url="https://example.com/o/r").status == 400

    assert before == (rows("select count(*) from tasks"), rows("select count(*) from user_credentials"))


def test_the_live_log_begins_with_the_queued_run(start, api, as_user):
    task_id = start().json()["task_id"]

    log = api.get(f"/api/tasks/{task_id}/events", headers=as_user).json()
    rest = api.get(f"/api/tasks/{task_id}/events?after={log['next']}", headers=as_user).json()

    assert [(e["seq"], e["kind"], e["payload"]) for e in log["events"]] == [(1, "phase", {"phase": "queued"})]
    assert (log["next"], log["task_status"]) == (1, "pending")
    assert (rest["events"], rest["next"]) == ([], 1)
