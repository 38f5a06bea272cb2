"""The run queue on SQS: a standard queue whose message groups are users (fair queue)."""

from typing import TYPE_CHECKING

from botocore.exceptions import BotoCoreError, ClientError

from shared.domain.errors import Misconfigured, Unavailable
from shared.domain.messages import RunMessage

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

# SQS's own limit for DelaySeconds; a later time would need another nudge in between.
MAX_DELAY_S = 900

_OUR_MISTAKES = {
    "AWS.SimpleQueueService.NonExistentQueue",
    "QueueDoesNotExist",
    "AccessDenied",
    "AccessDeniedException",
}


class SqsRunQueue:
    """Sends nudges. Delivery is at least once and in no order, which the claim makes harmless."""

    def __init__(self, client: "SQSClient", queue_url: str) -> None:
        self._client = client
        self._queue_url = queue_url

    def send(self, message: RunMessage, *, delay_s: int = 0) -> None:
        """Deliver `message` after about `delay_s` seconds (at most 900). Raises Unavailable, Misconfigured."""
        try:
            self._client.send_message(
                QueueUrl=self._queue_url,
                MessageBody=message.body(),
                DelaySeconds=min(max(delay_s, 0), MAX_DELAY_S),
                MessageGroupId=message.user_id,
            )
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _OUR_MISTAKES:
                raise Misconfigured("The task queue cannot be used by this function.", aws_code=code) from error
            raise Unavailable("The task queue is not responding.", aws_code=code) from error
        except BotoCoreError as error:
            raise Unavailable("The task queue is not responding.", reason=type(error).__name__) from error
