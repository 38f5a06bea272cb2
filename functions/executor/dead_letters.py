"""Lambda entry of the dead-letter queue: a run whose message failed for good ends as failed, never frozen."""

from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.executor.ports import Ports
from functions.executor.step import OUR_FAULT, end_run, ended_early, logger
from functions.executor.wiring import ports
from shared.domain.errors import InvalidInput
from shared.domain.messages import RunMessage

_processor = BatchProcessor(event_type=EventType.SQS)


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Answers SQS with the messages to be delivered again; raises when that is all of them."""
    return dict(process_partial_response(event, on_record, _processor, context))


def on_record(record: SQSRecord) -> None:
    """Ends the run that the message names."""
    try:
        message = RunMessage.parse(record.body)
    except InvalidInput:
        logger.error("message.unreadable", extra={"message_id": record.message_id})
        return
    with logger.append_context_keys(task_id=message.task_id, run_id=message.run_id):
        give_up(message, ports())


def give_up(message: RunMessage, ports: Ports) -> None:
    """Mark the run failed and kill its sandbox, also one that was never saved. A run that has ended stays so."""
    run = ports.runs.seize(message.run_id)
    if run is None:
        return
    end_run(run, ended_early(run, "internal", OUR_FAULT), ports)
    if run.sandbox_id is None and (sandbox_id := ports.sandboxes.find(run.id)):
        ports.sandboxes.kill(sandbox_id)
