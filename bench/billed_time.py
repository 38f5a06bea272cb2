"""How much Lambda time a task is billed while its agent thinks: `python -m bench.billed_time [seconds ...]`.

For each thinking time it runs one task on the local stack and adds up the executor's invocations. The figure that
counts is the last column: billed time as a part of the run's, where an executor that waits for its agent has 1.0.
"""

import re
import sys
import tempfile
from pathlib import Path

import psycopg

from local.client import Client, sign_in
from local.repositories import Published, publish_repository
from local.stack import Stack, StackOptions
from local.watch import ENDED, poll

DURATION = re.compile(r"REPORT executor .* Duration: ([0-9.]+) ms")
THINKING_S = (0, 30, 120)


def main() -> None:
    """Print one row per thinking time."""
    thinking_s = [int(argument) for argument in sys.argv[1:]] or THINKING_S
    print(f"{'thinks':>8} {'run':>8} {'steps':>6} {'billed':>8} {'billed/run':>11}")
    with tempfile.TemporaryDirectory() as folder:
        options = StackOptions(data=Path(folder), preferred_ports={}, verbose=True)
        with Stack(options) as stack:
            _, client = sign_in(stack)
            with client:
                repository = publish_repository(stack, None)
                _measure(stack, client, repository, 0)  # warms every environment
                for seconds in thinking_s:
                    run_s, durations_s = _measure(stack, client, repository, seconds)
                    billed_s = sum(durations_s)
                    row = f"{seconds:>6} s {run_s:>6.1f} s {len(durations_s):>6} {billed_s:>6.1f} s"
                    print(f"{row} {billed_s / run_s:>11.3f}")


def _measure(stack: Stack, client: Client, repository: Published, thinks_s: int) -> tuple[float, list[float]]:
    log = stack.logs / "executor.log"
    began_at = log.stat().st_size
    task_id = client.start_task(
        prompt=f"@sleep {thinks_s}\n@write a.txt: a\n@say Done.",
        repo_url=repository.url,
        branch=repository.branch,
        model="claude",
        github_token="none-needed",
    )
    poll(lambda: client.status(task_id) in ENDED, timeout_s=thinks_s + 60)
    with psycopg.connect(stack.dsn) as connection:
        row = connection.execute(
            "select extract(epoch from completed_at - created_at) from tasks where id = %s", [task_id]
        ).fetchone()
    lines = log.read_bytes()[began_at:].decode()
    return float(row[0]) if row else 0.0, [float(ms) / 1000 for ms in DURATION.findall(lines)]


if __name__ == "__main__":
    main()
