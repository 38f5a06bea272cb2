"""How much Lambda time a task is billed while its agent thinks: `python -m bench.billed_time [seconds ...]`.

For each thinking time it runs one task on the local stack and adds up the executor's invocations. The figure that
counts is the last column: billed time as a part of the run's, where an executor that waits for its agent has 1.0.
A second table says how long each kind of step took: `bench/simulated_runs.py` prices long runs with these.
"""

import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

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
    runs: list[list[float]] = []
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
                    runs.append(durations_s)
                    billed_s = sum(durations_s)
                    row = f"{seconds:>6} s {run_s:>6.1f} s {len(durations_s):>6} {billed_s:>6.1f} s"
                    print(f"{row} {billed_s / run_s:>11.3f}")
    print(f"\n{'step':>14} {'mean':>8} {'count':>6}")
    for step, durations_s in _by_step(runs):
        print(f"{step:>14} {mean(durations_s):>6.2f} s {len(durations_s):>6}")


def _by_step(runs: list[list[float]]) -> Iterator[tuple[str, list[float]]]:
    """The durations of each kind of step. Undisturbed runs without a setup script take their steps in this order."""
    yield "provisioning", [run[0] for run in runs]
    yield "cloning", [run[1] for run in runs]
    yield "agent starts", [run[2] for run in runs]
    if looks := [duration_s for run in runs for duration_s in run[3:-1]]:
        yield "a look", looks
    yield "collecting", [run[-1] for run in runs]


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
