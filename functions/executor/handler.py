"""Lambda entry of the task queue: one message, one step."""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.executor.step import logger, on_message
from functions.executor.wiring import ports
from shared.domain.errors import InvalidInput
from shared.domain.messages import RunMessage

_processor = BatchProcessor(event_type=EventType.SQS)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answers SQS with the messages to be delivered again; raises when that is all of them."""
    return dict(process_partial_response(event, on_record, _processor, context))


def on_record(record: SQSRecord) -> None:
    """Returning deletes the message, raising hands it back to SQS."""
    try:
        message = RunMessage.parse(record.body)
    except InvalidInput:
        # Delivering it again would not make it readable.
        logger.error("message.unreadable", extra={"message_id": record.message_id})
        return
    logger.set_correlation_id(message.trace_id)
    with logger.append_context_keys(task_id=message.task_id, run_id=message.run_id):
        on_message(message, ports())
