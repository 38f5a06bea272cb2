"""Lambda entry of the dead-letter queue: a run whose message failed for good ends as failed, never frozen.

A message is put aside for it in the replay queue, by which it can be done again (`make replay`).
"""

from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext

from functions.executor.context import StepContext
from functions.executor.messages import each_message
from functions.executor.ports import Ports
from functions.executor.step import OUR_FAULT, end_run, ended_early, logger
from functions.executor.wiring import ports
from shared.domain.messages import RunMessage
from shared.domain.run import INTERNAL


@logger.inject_lambda_context(clear_state=True)
def handler(event: dict[str, Any], context: LambdaContext) -> dict[str, Any]:
    """End the run that each message names."""
    return each_message(event, context, lambda message: give_up(message, ports()))


def give_up(message: RunMessage, ports: Ports) -> None:
    """Mark the run failed and kill its sandbox, also one that was never saved. A run that has ended stays so."""
    run = ports.runs.seize(message.run_id)
    if run is None:
        return
    end_run(StepContext.of(run, ports), ended_early(run, INTERNAL, OUR_FAULT))
    if run.sandbox_id is None and (sandbox_id := ports.sandboxes.find(run.id)):
        ports.sandboxes.kill(sandbox_id)
