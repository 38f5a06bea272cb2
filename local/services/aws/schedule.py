"""EventBridge Scheduler on a laptop: invokes the real handler at a fixed rate, the first time at once.

    python -m local.services.aws.schedule --handler functions.executor.reaper:handler --timeout-s 60 --every-s 60

A run that takes longer than the rate delays the next one; two never overlap.
"""

import argparse
import signal
import sys
import time
from datetime import UTC, datetime

from local.services.aws.events import schedule_event
from local.services.aws.lambda_runner import (
    REGION,
    Environments,
    InvocationFailed,
    add_function_arguments,
    function_of,
    logger,
)


def run(environments: Environments, *, name: str, every_s: float) -> None:
    """Invoke the function every `every_s` seconds, for ever; times that have passed are left out."""
    due = time.monotonic()
    while True:
        try:
            environments.invoke(schedule_event(name, region=REGION, at=datetime.now(UTC)))
        except InvocationFailed as error:
            logger.error("%s The schedule goes on.", error)
        now = time.monotonic()
        due += every_s * (1 + max(now - due, 0) // every_s)
        time.sleep(max(due - now, 0))


def main() -> None:
    """Run until SIGTERM, which ends an invocation under way."""
    parser = argparse.ArgumentParser(prog="python -m local.services.aws.schedule")
    add_function_arguments(parser)
    parser.add_argument("--every-s", type=float, required=True)
    arguments = parser.parse_args()
    function = function_of(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: sys.exit(0))
    with Environments(function, most=1) as environments:
        environments.warm_up()
        run(environments, name=function.name, every_s=arguments.every_s)


if __name__ == "__main__":
    main()
