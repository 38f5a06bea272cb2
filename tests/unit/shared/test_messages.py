import json
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.domain.errors import InvalidInput
from shared.domain.messages import RunMessage

IDS = st.uuids().map(str)
MESSAGE = RunMessage(task_id=7, run_id=str(uuid.uuid4()), seq=3, user_id=str(uuid.uuid4()), trace_id="t")


@given(st.integers(1, 2**63 - 1), IDS, st.integers(0, 2**31 - 1), IDS, st.none() | st.text(max_size=20))
def test_what_is_sent_is_what_is_read(task_id, run_id, seq, user_id, trace_id):
    message = RunMessage(task_id=task_id, run_id=run_id, seq=seq, user_id=user_id, trace_id=trace_id)

    assert RunMessage.parse(message.body()) == message


def test_a_message_carries_ids_and_its_version_only():
    assert json.loads(MESSAGE.body()).keys() == {"v", "task_id", "run_id", "seq", "user_id", "trace_id"}


@pytest.mark.parametrize("body", ["", "null", "[]", "7", '"x"', "{}", "{", '{"v":1}'])
def test_a_body_that_is_no_message_is_refused(body):
    with pytest.raises(InvalidInput):
        RunMessage.parse(body)


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"v": None},
        {"task_id": "7"},
        {"task_id": True},
        {"task_id": 7.0},
        {"seq": None},
        {"run_id": "x"},
        {"run_id": 7},
        {"user_id": "7b0e4ee6-0000-4000-8000-00000000000G"},
        {"trace_id": 7},
    ],
)
def test_a_message_with_a_wrong_field_is_refused(change):
    with pytest.raises(InvalidInput):
        RunMessage.parse(json.dumps(json.loads(MESSAGE.body()) | change))


def test_a_later_version_may_add_fields():
    assert RunMessage.parse(json.dumps(json.loads(MESSAGE.body()) | {"new": 1})) == MESSAGE


def test_the_trace_may_be_missing():
    data = json.loads(MESSAGE.body())
    del data["trace_id"]

    assert RunMessage.parse(json.dumps(data)).trace_id is None
