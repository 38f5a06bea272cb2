"""How much Lambda time a task is billed while its agent thinks: `python -m bench.billed_time [seconds ...]`.

For each thinking time it runs one task on the local stack and adds up the executor's invocations. The figure that
counts is the last column: billed time as a part of the run's, where an executor that waits for its agent has 1.0.
A second table says how long each kind of step took: `bench/simulated_runs.py` prices long runs with these. Checkpoints
are made oftener than in the cloud, so that there are enough of them to measure.
"""

import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import NamedTuple

import psycopg

from local.client import Client, sign_in
from local.repositories import Published, publish_repository
from local.stack import Stack, StackOptions
from local.watch import ENDED, poll

DURATION = re.compile(r"REPORT executor .* Duration: ([0-9.]+) ms")
THINKING_S = (0, 30, 120)
CHECKPOINT_EVERY_S = 10
CHECKPOINT_STEPS = {"checkpoint.begun": "a checkpoint begins", "checkpoint.saved": "a checkpoint is saved"}


class Step(NamedTuple):
    """One invocation: what it logged of a checkpoint, as a kind of step, and how long it was billed."""

    kind: str | None
    duration_s: float


def main() -> None:
    """Print one row per thinking time."""
    thinking_s = [int(argument) for argument in sys.argv[1:]] or THINKING_S
    runs: list[list[Step]] = []
    print(f"{'thinks':>8} {'run':>8} {'steps':>6} {'billed':>8} {'billed/run':>11}")
    with tempfile.TemporaryDirectory() as folder:
        options = StackOptions(
            data=Path(folder), preferred_ports={}, verbose=True, checkpoint_every_s=CHECKPOINT_EVERY_S
        )
        with Stack(options) as stack:
            _, client = sign_in(stack)
            with client:
                repository = publish_repository(stack, None)
                _measure(stack, client, repository, 0)  # warms every environment
                for seconds in thinking_s:
                    run_s, steps = _measure(stack, client, repository, seconds)
                    runs.append(steps)
                    billed_s = sum(step.duration_s for step in steps)
                    row = f"{seconds:>6} s {run_s:>6.1f} s {len(steps):>6} {billed_s:>6.1f} s"
                    print(f"{row} {billed_s / run_s:>11.3f}")
    print(f"\n{'step':>21} {'mean':>8} {'count':>6}")
    for kind, durations_s in _by_kind(runs).items():
        print(f"{kind:>21} {mean(durations_s):>6.2f} s {len(durations_s):>6}")


def _by_kind(runs: list[list[Step]]) -> dict[str, list[float]]:
    """The durations of each kind of step. Undisturbed runs without a setup script take their steps in this order."""
    found: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        kinds = ["provisioning", "cloning", "agent starts", *("a look" for _ in run[3:-1]), "collecting"]
        for kind, step in zip(kinds, run, strict=True):
            found[step.kind or kind].append(step.duration_s)
    return found


def _steps(log: str) -> Iterator[Step]:
    kind = None
    for line in log.splitlines():
        kind = next((CHECKPOINT_STEPS[event] for event in CHECKPOINT_STEPS if f'"{event}"' in line), kind)
        if report := DURATION.search(line):
            yield Step(kind, float(report[1]) / 1000)
            kind = None


def _measure(stack: Stack, client: Client, repository: Published, thinks_s: int) -> tuple[float, list[Step]]:
    log = stack.logs / "executor.log"
    began_at = log.stat().st_size
    task_id = client.start_task(
        prompt=f"@write a.txt: a\n@sleep {thinks_s}\n@say Done.",
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
    return float(row[0]) if row else 0.0, list(_steps(log.read_bytes()[began_at:].decode()))


if __name__ == "__main__":
    main()
