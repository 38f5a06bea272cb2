"""What a start-task request leaves behind, where it matters: in the database and in the queue."""

import json
import secrets

import boto3
import psycopg
import pytest

from shared.adapters.local_box import LocalBox
from shared.domain.messages import RunMessage
from shared.domain.secret import Sealed, SealedFor, Secret
from tests.contract.conftest import MASTER_KEYS


@pytest.fixture
def rows(supabase_gateway):
    def select(statement, *values):
        with psycopg.connect(supabase_gateway.dsn, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute(statement, values).fetchall()

    return select


@pytest.fixture
def start(stage):
    def send(headers=None, **changes):
        body = {"prompt": "  add a file  ", "repo_url": "https://github.com/o/r.git", "github_token": "tok"} | changes
        headers = {"Authorization": f"Bearer {stage.bearers['valid']}", **(headers or {})}
        return stage.client.post("/api/start-task", headers=headers, json=body)

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


def test_the_task_is_stored_in_clean_form_and_the_executor_is_nudged(start, rows, stage):
    sqs = boto3.client("sqs")
    sqs.purge_queue(QueueUrl=stage.queue_url)
    task_id = start(headers={"X-Request-Id": "page-17"}, branch="").json()["task_id"]

    [task] = rows("select * from tasks where id = %s", task_id)
    [run] = rows("select * from runs where task_id = %s", task_id)
    assert task["repo_url"] == "https://github.com/o/r"
    assert task["target_branch"] == "main"
    assert task["chat_messages"][0]["content"] == run["prompt"] == "add a file"
    [message] = sqs.receive_message(QueueUrl=stage.queue_url, MessageSystemAttributeNames=["All"])["Messages"]
    assert RunMessage.parse(message["Body"]) == RunMessage(
        task_id=task_id, run_id=str(run["id"]), seq=0, user_id=stage.values["USER_A"], trace_id="page-17"
    )
    assert run["trace_id"] == "page-17"


def test_the_same_idempotency_key_makes_one_task(start, rows):
    key = {"Idempotency-Key": secrets.token_hex(8)}

    first, again = start(headers=key).json(), start(headers=key).json()

    assert first == again
    assert len(rows("select id from runs where idempotency_key = %s", key["Idempotency-Key"])) == 1


def test_a_refused_request_stores_nothing(start, rows):
    before = rows("select count(*) from tasks"), rows("select count(*) from user_credentials")

    assert start(project_id=987654).status == 404
    assert start(repo_url="https://example.com/o/r").status == 400

    assert before == (rows("select count(*) from tasks"), rows("select count(*) from user_credentials"))


def test_the_live_log_begins_with_the_queued_run(start, stage):
    task_id = start().json()["task_id"]
    headers = {"Authorization": f"Bearer {stage.bearers['valid']}"}

    log = stage.client.get(f"/api/tasks/{task_id}/events", headers=headers).json()
    rest = stage.client.get(f"/api/tasks/{task_id}/events?after={log['next']}", headers=headers).json()

    assert [(e["seq"], e["kind"], e["payload"]) for e in log["events"]] == [(1, "phase", {"phase": "queued"})]
    assert (log["next"], log["task_status"]) == (1, "pending")
    assert (rest["events"], rest["next"]) == ([], 1)
