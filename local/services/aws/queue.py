"""The queues that `template.yaml` creates in the cloud, on the SQS that `python -m local.services.aws` serves."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import boto3

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

REGION = "us-east-1"
DEAD_LETTER_RETENTION_S = str(14 * 24 * 3600)  # the longest SQS allows


@dataclass(frozen=True, slots=True)
class QueueUrls:
    tasks: str
    dead_letters: str
    replays: str


def sqs_client(endpoint_url: str) -> "SQSClient":
    """Return a boto3 client of the SQS at `endpoint_url`. moto accepts any credentials."""
    client: SQSClient = boto3.client(
        "sqs",
        endpoint_url=endpoint_url,
        region_name=REGION,
        aws_access_key_id="local",
        aws_secret_access_key="local",
    )
    return client


def create_queues(
    endpoint_url: str,
    *,
    visibility_timeout_s: int = 720,
    dead_letters_visibility_timeout_s: int = 360,
    max_receive_count: int = 5,
    dead_letters_max_receive_count: int = 100,
    name: str = "tasks",
) -> QueueUrls:
    """Create the task queue, its dead-letter queue and the replay queue, or find them where they exist.

    The defaults are the numbers of `template.yaml`, a test holds the two together: six times the timeout of the
    function behind each queue, and how many deliveries make a message dead.
    """
    sqs = sqs_client(endpoint_url)
    replays = sqs.create_queue(
        QueueName=f"{name}-replays", Attributes={"MessageRetentionPeriod": DEAD_LETTER_RETENTION_S}
    )["QueueUrl"]
    dead_letters = sqs.create_queue(
        QueueName=f"{name}-dead-letters",
        Attributes={
            "MessageRetentionPeriod": DEAD_LETTER_RETENTION_S,
            "VisibilityTimeout": str(dead_letters_visibility_timeout_s),
            "RedrivePolicy": _redrive(sqs, replays, dead_letters_max_receive_count),
        },
    )["QueueUrl"]
    tasks = sqs.create_queue(
        QueueName=name,
        Attributes={
            "VisibilityTimeout": str(visibility_timeout_s),
            "RedrivePolicy": _redrive(sqs, dead_letters, max_receive_count),
        },
    )["QueueUrl"]
    return QueueUrls(tasks, dead_letters, replays)


def _redrive(sqs: "SQSClient", target_url: str, max_receive_count: int) -> str:
    return json.dumps({"deadLetterTargetArn": queue_arn(sqs, target_url), "maxReceiveCount": max_receive_count})


def queue_arn(sqs: "SQSClient", queue_url: str) -> str:
    """Return the queue's ARN."""
    attributes = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])
    return attributes["Attributes"]["QueueArn"]
