"""One SQS batch of run messages, for the handlers of the task queue and of the dead letters."""

from collections.abc import Callable
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.executor.step import logger
from shared.domain.errors import InvalidInput
from shared.domain.messages import RunMessage

_processor = BatchProcessor(event_type=EventType.SQS)


def each_message(event: dict[str, Any], context: LambdaContext, take: Callable[[RunMessage], None]) -> dict[str, Any]:
    """Call `take` with each message: returning deletes it, raising hands it back to SQS.

    Answers SQS with the messages to be delivered again; raises when that is all of them.
    """

    def on_record(record: SQSRecord) -> None:
        try:
            message = RunMessage.parse(record.body)
        except InvalidInput:
            # Delivering it again would not make it readable.
            logger.error("message.unreadable", extra={"message_id": record.message_id})
            return
        logger.set_correlation_id(message.trace_id)
        with logger.append_context_keys(task_id=message.task_id, run_id=message.run_id):
            take(message)

    return dict(process_partial_response(event, on_record, _processor, context))
