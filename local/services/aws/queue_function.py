"""An SQS event source mapping on a laptop: receives batches and invokes the real handler with them.

    python -m local.services.aws.queue_function --handler functions.executor.handler:handler --timeout-s 120
        --queue-url URL --endpoint-url URL --batch-size 1 --environments 4 --retry-visibility-s 5

What the handler did not finish stays in the queue until its visibility timeout, and SQS itself moves it to
the dead-letter queue after the last attempt.
"""

import argparse
import signal
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from local.services.aws.events import failed_message_ids, sqs_event
from local.services.aws.lambda_runner import (
    Environments,
    InvocationFailed,
    add_function_arguments,
    function_of,
    logger,
)
from local.services.aws.queue import queue_arn, sqs_client

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

LONG_POLL_S = 1  # short, so that SIGTERM is heard soon; an idle queue then costs 0.6 % of a core
RETRY_AFTER_S = 2.0  # when the queue does not answer
FINISH_S = 3.0  # what invocations under way get after SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSourceMapping:
    """Connects one queue to one function.

    `retry_visibility_s` is when a failed message comes back; None leaves it to the queue's visibility
    timeout, as Lambda does, which is 12 minutes for the executor.
    """

    sqs: "SQSClient"
    queue_url: str
    queue_arn: str
    environments: Environments
    batch_size: int
    retry_visibility_s: int | None

    def receive(self) -> "Sequence[MessageTypeDef]":
        """Wait up to a second for messages."""
        return self.sqs.receive_message(
            QueueUrl=self.queue_url,
            MaxNumberOfMessages=self.batch_size,
            WaitTimeSeconds=LONG_POLL_S,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        ).get("Messages", [])

    def deliver(self, messages: "Sequence[MessageTypeDef]") -> None:
        """Invoke the function with a batch, then delete what it finished."""
        ids = [message["MessageId"] for message in messages]
        try:
            answer = self.environments.invoke(sqs_event(messages, queue_arn=self.queue_arn))
            failed = failed_message_ids(answer, ids)
        except InvocationFailed as error:
            logger.error("%s The queue delivers %d message(s) again.", error, len(ids))
            failed = set(ids)
        self._delete([message for message in messages if message["MessageId"] not in failed])
        self._retry([message for message in messages if message["MessageId"] in failed])

    def _delete(self, messages: "Sequence[MessageTypeDef]") -> None:
        for message in messages:
            self.sqs.delete_message(QueueUrl=self.queue_url, ReceiptHandle=message["ReceiptHandle"])

    def _retry(self, messages: "Sequence[MessageTypeDef]") -> None:
        if self.retry_visibility_s is None:
            return
        for message in messages:
            self.sqs.change_message_visibility(
                QueueUrl=self.queue_url,
                ReceiptHandle=message["ReceiptHandle"],
                VisibilityTimeout=self.retry_visibility_s,
            )


class _Stop:
    """Becomes true with SIGTERM or Ctrl-C."""

    def __init__(self) -> None:
        self.requested = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._request)

    def _request(self, _number: int, _frame: object) -> None:
        self.requested = True


def poll(mapping: EventSourceMapping, *, at_once: int, stop: _Stop) -> None:
    """Receive and deliver until `stop`, with at most `at_once` batches under way."""
    places = threading.BoundedSemaphore(at_once)

    def finished(delivery: "Future[None]") -> None:
        places.release()
        if error := delivery.exception():
            logger.error("A delivery failed.", exc_info=error)

    with ThreadPoolExecutor(at_once) as deliveries:
        while not stop.requested:
            if not places.acquire(timeout=LONG_POLL_S):
                continue
            messages = _receive_or_wait(mapping)
            if messages:
                deliveries.submit(mapping.deliver, messages).add_done_callback(finished)
            else:
                places.release()
        _let_finish(places, at_once)
        mapping.environments.close()


def _receive_or_wait(mapping: EventSourceMapping) -> "Sequence[MessageTypeDef]":
    try:
        return mapping.receive()
    except (BotoCoreError, ClientError) as error:
        logger.warning("The queue is not responding (%s).", type(error).__name__)
        time.sleep(RETRY_AFTER_S)
        return []


def _let_finish(places: threading.BoundedSemaphore, at_once: int) -> None:
    give_up_at = time.monotonic() + FINISH_S
    for _ in range(at_once):
        places.acquire(timeout=max(give_up_at - time.monotonic(), 0.001))


def main() -> None:
    """Poll until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.services.aws.queue_function")
    add_function_arguments(parser)
    parser.add_argument("--queue-url", required=True)
    parser.add_argument("--endpoint-url", required=True, help="where SQS listens")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--environments", type=int, default=2, help="batches under way at the same time")
    parser.add_argument("--retry-visibility-s", type=int, help="when failed messages come back")
    parser.add_argument("--cold", action="store_true", help="start no environment before the first message")
    arguments = parser.parse_args()
    sqs = sqs_client(arguments.endpoint_url)
    stop = _Stop()
    with Environments(function_of(arguments), most=arguments.environments) as environments:
        if not arguments.cold:
            environments.warm_up()
        mapping = EventSourceMapping(
            sqs=sqs,
            queue_url=arguments.queue_url,
            queue_arn=queue_arn(sqs, arguments.queue_url),
            environments=environments,
            batch_size=arguments.batch_size,
            retry_visibility_s=arguments.retry_visibility_s,
        )
        logger.info("POLLING %s", mapping.queue_arn)
        poll(mapping, at_once=arguments.environments, stop=stop)


if __name__ == "__main__":
    main()
