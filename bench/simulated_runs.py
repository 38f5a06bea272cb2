"""What a run costs whose agent thinks for a minute, an hour, ten hours: `python -m bench.simulated_runs`.

The executor and the reaper are the real ones. Around them are the fakes of the tests: rows and sandboxes in memory, a
queue with delays, and a clock that goes only when told, so that ten hours take some seconds and each time give the same
table. Two things are no code of ours: how long a step takes (measured, STEP_S) and what AWS charges (PRICES).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from functions.executor.ports import Ports
from functions.executor.step import on_message
from shared.domain.run import Phase
from shared.observability import get_logger
from tests.fakes.executor import (
    CLAUDE_INIT,
    Script,
    World,
    changed_file,
    claude_result,
    claude_says,
    collected,
    collects,
    json_lines,
)

THINKING_MIN = (1, 10, 60, 600)
SPEAKS_EVERY_S = 60
LONGEST_RUN_S = 86_400
CHECKPOINTS = 300  # more than a day has

# Mean seconds of an invocation by what its step does, as `python -m bench.billed_time 30 60 120 240` printed them on
# 2026-11-23: the local stack, all of it on one machine with two cores. In the cloud each call of a step has a way to go
# as well: the table's second figure adds AWAY_S to every one of them. The two steps of a checkpoint were measured on
# 2026-11-27, when a look took 0.11 s, and stand here in proportion to it (0.18 and 0.16 s then).
STEP_S = {
    "provisioning": 0.13,
    "cloning": 0.72,
    "agent starts": 1.29,
    "a look": 0.17,
    "a checkpoint begins": 0.27,
    "a checkpoint is saved": 0.25,
    "collecting": 0.74,
}
AWAY_S = 0.05


class Prices(NamedTuple):
    """US dollars, in us-east-1 without the free tier, from aws.amazon.com/lambda/pricing and /sqs/pricing, 2026-11."""

    gb_second: float = 0.0000133334  # arm64, the architecture in template.yaml
    invocation: float = 0.20 / 1_000_000
    sqs_request: float = 0.40 / 1_000_000  # standard queue


PRICES = Prices()
MEMORY_GB = 0.5  # of the executor in template.yaml


@dataclass(frozen=True, kw_only=True)
class SimulatedRun:
    """What one run came to. Seconds and US dollars; `calls` by the port they went to: runs, queue, sandboxes."""

    thinks_min: int
    took_s: float
    status: str
    steps: int
    billed_s: list[float]
    calls: Counter[str]
    sandboxes: int
    checkpoints: int
    events: list[str]

    @property
    def sqs_requests(self) -> int:
        """Each message is sent, received and deleted. The first was sent by the API; the last step sends none."""
        return 1 + self.calls["queue"] + 2 * len(self.billed_s)

    @property
    def billed_away_s(self) -> float:
        """Billed time where every call takes AWAY_S longer."""
        return sum(self.billed_s) + AWAY_S * sum(self.calls.values())

    @property
    def dollars(self) -> float:
        return _dollars(sum(self.billed_s), len(self.billed_s), self.sqs_requests)

    @property
    def waiting_dollars(self) -> float:
        """What one invocation would cost that waits for the agent, if Lambda let it: it ends one after 15 minutes."""
        return _dollars(self.took_s, 1, 3)


def simulate(thinks_min: int) -> SimulatedRun:
    """One undisturbed run of an agent that works so long."""
    world = _TimedWorld(patience=10_000)
    world.scripts |= {job: _at_once(script) for job, script in world.scripts.items()}  # their time is in STEP_S
    world.scripts["agent"] = _agent_that_thinks(thinks_min * 60)
    world.scripts |= {f"checkpoint-{n}": _at_once(_checkpoint(n)) for n in range(1, CHECKPOINTS + 1)}
    world.store.run_timeout_s = LONGEST_RUN_S
    world.set(run_timeout_s=LONGEST_RUN_S)
    world.start()
    began = world.clock.now
    world.run()
    return SimulatedRun(
        thinks_min=thinks_min,
        took_s=(world.run_row["finished_at"] - began).total_seconds(),
        status=world.task["status"],
        steps=world.run_row["seq"],
        billed_s=world.billed_s,
        calls=world.calls,
        sandboxes=len(world.sandboxes.created),
        checkpoints=world.checkpoints,
        events=world.kinds(),
    )


def table(runs: Iterable[SimulatedRun]) -> str:
    """A row per run, in Markdown; the last two columns are parts of what an executor that waits has."""
    head = (
        "agent thinks",
        "steps",
        "invocations",
        f"billed (calls {AWAY_S * 1000:.0f} ms away)",
        "SQS requests",
        "database calls",
        "E2B calls",
        "Lambda + SQS",
        "billed / waiting",
        "cost / waiting",
    )
    rows = [head, ("---",) * len(head), *map(_row, runs)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _row(run: SimulatedRun) -> tuple[str, ...]:
    billed_s = sum(run.billed_s)
    return (
        f"{run.thinks_min} min",
        f"{run.steps}",
        f"{len(run.billed_s)}",
        f"{billed_s:.1f} s ({run.billed_away_s:.0f} s)",
        f"{run.sqs_requests}",
        f"{run.calls['runs']}",
        f"{run.calls['sandboxes']}",
        f"${run.dollars:.5f}",
        f"{billed_s / run.took_s:.4f}",
        f"{run.dollars / run.waiting_dollars:.3f}",
    )


def _dollars(billed_s: float, invocations: int, sqs_requests: int) -> float:
    compute = billed_s * MEMORY_GB * PRICES.gb_second
    return compute + invocations * PRICES.invocation + sqs_requests * PRICES.sqs_request


def _agent_that_thinks(seconds: int) -> Script:
    said = ((at, json_lines(claude_says("Still at it."))) for at in range(SPEAKS_EVERY_S, seconds, SPEAKS_EVERY_S))
    return Script(output=((0, json_lines(CLAUDE_INIT)), *said, (seconds, json_lines(claude_result()))), ends_at=seconds)


def _checkpoint(number: int) -> Script:
    """Each finds something new: one that does not is nothing but a look."""
    return collects(collected(changed_file("half.txt"), tree=f"{number:040x}"), into="checkpoint.json")


def _at_once(script: Script) -> Script:
    return replace(script, ends_at=0, output=tuple((0, data) for _, data in script.output))


class _TimedWorld(World):  # type: ignore[misc]  # one of the tests' fakes, which have no types
    """A world that counts the calls of its steps, and in which a step takes as long as it was measured to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.billed_s: list[float] = []
        self.calls: Counter[str] = Counter()
        self.checkpoints = 0

    def _survive(self, act: Callable[..., None], *arguments: Any) -> bool:
        if act is not on_message:  # the reaper: once a minute for the whole deployment, whatever runs
            return bool(super()._survive(act, *arguments))
        message, ports = arguments
        kind, mark, began = self._kind_of_step(), self.run_row["checkpoint"], self.clock.now
        done = bool(super()._survive(on_message, message, _counted(ports, self.calls)))
        if (now := self.run_row["checkpoint"]) != mark:
            kind = "a checkpoint begins" if now["running"] else "a checkpoint is saved"
            self.checkpoints += kind == "a checkpoint is saved"
        measured_s = STEP_S[kind]
        waited_s = (self.clock.now - began).total_seconds()  # for a job to end
        self.clock.pass_(max(0.0, measured_s - waited_s))
        self.billed_s.append(max(measured_s, waited_s))
        return done

    def _kind_of_step(self) -> str:
        phase = self.run_row["phase"]
        if phase is Phase.AGENT:
            return "a look" if f"/root/runs/{self.run_row['id']}/agent" in self.sandboxes.last.jobs else "agent starts"
        return str(Phase.PROVISIONING if phase is Phase.QUEUED else phase)


def _counted(ports: Ports, calls: Counter[str]) -> Ports:
    """The same ports; each call to one adds to `calls`."""
    watched: Any = {name: _Counted(getattr(ports, name), name, calls) for name in ("runs", "queue", "sandboxes")}
    return replace(ports, **watched)


class _Counted:
    """A port that counts its calls, and those to what `attach` gives."""

    def __init__(self, port: object, name: str, calls: Counter[str]) -> None:
        self._port, self._name, self._calls = port, name, calls

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            self._calls[self._name] += 1
            answer = getattr(self._port, method)(*arguments, **options)
            return _Counted(answer, self._name, self._calls) if method == "attach" else answer

        return call


if __name__ == "__main__":
    get_logger("executor").setLevel("CRITICAL")
    print(table(map(simulate, THINKING_MIN)))
