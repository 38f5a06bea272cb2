"""`make replay`: once what broke has been mended, have the runs done again that were given up because of it.

    python -m functions.executor.replay [--stack NAME] [--most N]

Takes messages from the replay queue and sends them to the task queue, where each starts its task's last prompt again
unless that has been done meanwhile. The queues are REPLAY_QUEUE_URL and TASK_QUEUE_URL where the environment names
them, else those of the deployed stack. The console's "Start DLQ redrive" from the replay queue to the task queue, or
`aws sqs start-message-move-task`, does the same.
"""

import argparse
import sys
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from shared.config import replay_queues
from shared.domain.errors import InvalidInput, Misconfigured
from shared.domain.messages import RunMessage

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

BATCH = 10  # as many as SQS hands out at a time
MOST = 1000


def main(arguments: list[str] | None = None) -> int:
    """0 and how many were moved; 1 and a sentence when the queues cannot be found or do not answer."""
    parser = argparse.ArgumentParser(prog="python -m functions.executor.replay", description="Replay given-up runs.")
    parser.add_argument("--stack", default="", help="the CloudFormation stack whose queues are meant")
    parser.add_argument("--most", type=int, default=MOST, help=f"messages at a time, {MOST} unless told")
    asked = parser.parse_args(arguments)
    try:
        kept_url, tasks_url = replay_queues() or _queues_of(asked.stack)
        moved = move(boto3.client("sqs"), kept_url, tasks_url, most=asked.most)
    except (Misconfigured, BotoCoreError, ClientError) as error:
        print(f"Nothing more was replayed: {error}", file=sys.stderr)
        return 1
    print(f"{moved} replayed." if moved else "Nothing is kept for a replay.")
    return 0


def move(sqs: "SQSClient", kept_url: str, tasks_url: str, *, most: int) -> int:
    """Send up to `most` kept messages to the task queue. How many.

    Each is deleted only after it has been sent: one that is sent twice is harmless, one that is lost is not.
    """
    moved = 0
    while moved < most:
        found = sqs.receive_message(QueueUrl=kept_url, MaxNumberOfMessages=min(BATCH, most - moved), WaitTimeSeconds=1)
        messages = found.get("Messages", [])
        if not messages:
            break
        for message in messages:
            sqs.send_message(QueueUrl=tasks_url, MessageBody=message["Body"], MessageGroupId=_group(message["Body"]))
            sqs.delete_message(QueueUrl=kept_url, ReceiptHandle=message["ReceiptHandle"])
            moved += 1
    return moved


def _group(body: str) -> str:
    """The user, as of every message. What cannot be read is for the executor to say so."""
    try:
        return RunMessage.parse(body).user_id
    except InvalidInput:
        return "unreadable"


def _queues_of(stack: str) -> tuple[str, str]:
    if not stack:
        raise Misconfigured("Name the stack (make replay STAGE=dev), or set REPLAY_QUEUE_URL and TASK_QUEUE_URL.")
    [found] = boto3.client("cloudformation").describe_stacks(StackName=stack)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    try:
        return outputs["ReplayQueueUrl"], outputs["TaskQueueUrl"]
    except KeyError:
        raise Misconfigured(f"The stack {stack} has no replay queue. Deploy it again first.") from None


if __name__ == "__main__":
    sys.exit(main())
