"""Lambda entry of the task queue: one message, one step."""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.executor.messages import each_message
from functions.executor.step import logger, on_message
from functions.executor.wiring import ports


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """Take one step of the run that each message names."""
    return each_message(event, context, lambda message: on_message(message, ports()))
