"""`make replay` against SQS: what was put aside goes back to the task queue, once and whole."""

import os
import subprocess
import sys
import uuid

import pytest

from functions.executor.replay import move
from local.listening import listen
from local.processes import PROJECT_ROOT, ProcessGroup
from local.services.aws.queue import REGION, create_queues, sqs_client
from shared.domain.messages import RunMessage


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with ProcessGroup(tmp_path_factory.mktemp("logs")) as group:
        sqs = [sys.executable, "-m", "local.services.aws"]
        yield group.start("sqs", sqs, env=os.environ, listener=listen()).url


@pytest.fixture
def sqs(endpoint):
    return sqs_client(endpoint)


@pytest.fixture
def queues(endpoint):
    return create_queues(endpoint, name=f"tasks-{uuid.uuid4().hex[:8]}")


def put_aside(sqs, queues, count):
    messages = [
        RunMessage(task_id=n, run_id=str(uuid.uuid4()), seq=3, user_id=str(uuid.uuid4()), replay=True)
        for n in range(count)
    ]
    for message in messages:
        sqs.send_message(QueueUrl=queues.replays, MessageBody=message.body(), MessageGroupId=message.user_id)
    return messages


def received(sqs, url):
    found = []
    while batch := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"]).get("Messages"):
        found += batch
    return found


def test_everything_goes_back_with_its_user_as_group_and_nothing_stays(sqs, queues):
    messages = put_aside(sqs, queues, 13)

    assert move(sqs, queues.replays, queues.tasks, most=100) == 13

    found = received(sqs, queues.tasks)
    assert {RunMessage.parse(each["Body"]) for each in found} == set(messages)
    assert {each["Attributes"]["MessageGroupId"] for each in found} == {message.user_id for message in messages}
    assert move(sqs, queues.replays, queues.tasks, most=100) == 0


def test_no_more_than_asked_for(sqs, queues):
    put_aside(sqs, queues, 5)

    assert move(sqs, queues.replays, queues.tasks, most=2) == 2
    assert len(received(sqs, queues.tasks)) == 2


def test_what_nobody_can_read_is_moved_all_the_same(sqs, queues):
    sqs.send_message(QueueUrl=queues.replays, MessageBody="not json")

    assert move(sqs, queues.replays, queues.tasks, most=10) == 1
    assert [each["Body"] for each in received(sqs, queues.tasks)] == ["not json"]


def replay(endpoint, **env):
    aws = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }
    return subprocess.run(
        [sys.executable, "-m", "functions.executor.replay"],
        cwd=PROJECT_ROOT,
        env={"PATH": os.environ["PATH"], **aws, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_says_how_many(sqs, endpoint, queues):
    put_aside(sqs, queues, 2)
    urls = {"REPLAY_QUEUE_URL": queues.replays, "TASK_QUEUE_URL": queues.tasks}

    assert replay(endpoint, **urls).stdout == "2 replayed.\n"
    assert replay(endpoint, **urls).stdout == "Nothing is kept for a replay.\n"


def test_without_queues_it_says_what_to_do(endpoint):
    done = replay(endpoint)

    assert done.returncode == 1
    assert "Name the stack (make replay STAGE=dev)" in done.stderr
