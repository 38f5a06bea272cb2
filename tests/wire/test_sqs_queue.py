"""What the queue asks of SQS, and what it makes of the answers."""

import uuid

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from botocore.stub import Stubber

from shared.adapters.aws.sqs_queue import SqsRunQueue
from shared.domain.errors import Misconfigured, Unavailable
from shared.domain.messages import RunMessage

QUEUE_URL = "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks"
MESSAGE = RunMessage(task_id=7, run_id=str(uuid.uuid4()), seq=3, user_id=str(uuid.uuid4()))


@pytest.fixture
def sqs():
    client = boto3.client("sqs", "eu-central-1", aws_access_key_id="test", aws_secret_access_key="test")
    with Stubber(client) as stub:
        yield stub
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(("delay_s", "sent_delay_s"), [(0, 0), (30, 30), (901, 900), (-1, 0)])
def test_a_message_goes_to_its_users_group_after_its_delay(sqs, delay_s, sent_delay_s):
    expected = {"MessageBody": MESSAGE.body(), "MessageGroupId": MESSAGE.user_id, "DelaySeconds": sent_delay_s}
    sqs.add_response("send_message", {"MessageId": "1"}, {"QueueUrl": QUEUE_URL, **expected})

    SqsRunQueue(sqs.client, QUEUE_URL).send(MESSAGE, delay_s=delay_s)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("AWS.SimpleQueueService.NonExistentQueue", Misconfigured),
        ("QueueDoesNotExist", Misconfigured),
        ("AccessDenied", Misconfigured),
        ("AccessDeniedException", Misconfigured),
        ("ThrottlingException", Unavailable),
        ("InternalError", Unavailable),
    ],
)
def test_a_refusal_becomes_our_error(sqs, code, kind):
    sqs.add_client_error("send_message", code, "secret detail")

    with pytest.raises(kind) as raised:
        SqsRunQueue(sqs.client, QUEUE_URL).send(MESSAGE)
    assert "detail" not in str(raised.value)


@pytest.mark.parametrize("error", [EndpointConnectionError(endpoint_url=QUEUE_URL), NoCredentialsError()])
def test_a_queue_that_cannot_be_reached_is_unavailable(error):
    class Unreachable:
        def send_message(self, **_):
            raise error

    with pytest.raises(Unavailable):
        SqsRunQueue(Unreachable(), QUEUE_URL).send(MESSAGE)
