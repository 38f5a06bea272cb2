"""The files in events/ are what AWS would really deliver: `sam local invoke` and these tests read the same ones."""

import hashlib
import json
from pathlib import Path

import pytest

from shared.domain.errors import InvalidInput
from shared.domain.messages import RunMessage

EVENTS = Path(__file__).parents[2] / "events"
QUEUE_EVENTS = sorted(EVENTS.glob("sqs-*.json"))


def record_of(name):
    (record,) = json.loads((EVENTS / f"{name}.json").read_text())["Records"]
    return record


@pytest.mark.parametrize("path", QUEUE_EVENTS, ids=lambda path: path.stem)
def test_a_queue_event_is_one_record_as_lambda_hands_it_over(path):
    record = record_of(path.stem)

    assert record["eventSource"] == "aws:sqs"
    assert record["md5OfBody"] == hashlib.md5(record["body"].encode()).hexdigest()
    assert record["attributes"]["ApproximateReceiveCount"].isdigit()


def test_there_is_an_event_for_each_way_a_message_may_arrive():
    assert [path.stem for path in QUEUE_EVENTS] == ["sqs-dead-letter", "sqs-duplicate", "sqs-poison", "sqs-start"]


def test_a_start_message_names_the_first_step_of_a_run_and_its_owner():
    record = record_of("sqs-start")
    message = RunMessage.parse(record["body"])

    assert message.seq == 0
    assert message.user_id == record["attributes"]["MessageGroupId"]
    assert message.body() == record["body"]


def test_the_duplicate_is_the_start_message_delivered_again():
    start, duplicate = record_of("sqs-start"), record_of("sqs-duplicate")

    assert (duplicate["messageId"], duplicate["body"]) == (start["messageId"], start["body"])
    assert int(duplicate["attributes"]["ApproximateReceiveCount"]) == 2


def test_the_poison_message_is_not_one_of_ours():
    with pytest.raises(InvalidInput):
        RunMessage.parse(record_of("sqs-poison")["body"])


def test_the_dead_letter_names_its_run_and_the_queue_it_came_from():
    dead = record_of("sqs-dead-letter")

    assert RunMessage.parse(dead["body"]) == RunMessage.parse(record_of("sqs-start")["body"])
    assert dead["attributes"]["DeadLetterQueueSourceArn"] == record_of("sqs-start")["eventSourceARN"]


def test_the_reaper_is_called_by_the_scheduler():
    event = json.loads((EVENTS / "schedule-reaper.json").read_text())

    assert event["source"] == "aws.scheduler"
    assert json.loads(event["detail"]) == {}
