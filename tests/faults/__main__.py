"""Runs that meet faults at random: `make faults N=200`, `make faults N=10m`, `make faults SEED=1234`.

Each run has a seed, which is printed and decides everything: the agent, the faults and where they happen, how messages
are delayed and doubled, how many executors there are. The table at the end says what was injected and what was broken.
"""

import argparse
import re
import secrets
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.faults.faults import FAULTS, Dice
from tests.faults.promises import learn, violations
from tests.faults.simulated_queue import Scenario, World
from tests.faults.stack import AGENTS, Lab

SECONDS = {"s": 1, "m": 60, "h": 3600}
MOST_RUNS = 100_000
ENDING = {"sandbox lost", "401"}  # a run that meets one of these mostly ends there, so most runs do not


class Storm:
    """What a seed stands for."""

    def __init__(self, seed):
        dice = Random(seed)
        self.seed = seed
        self.agent = dice.choice(AGENTS)
        faults = FAULTS if dice.random() < 0.3 else FAULTS.keys() - ENDING
        self.plan = Dice(seed, faults, chance=dice.choice((0.02, 0.05, 0.1)), most=dice.randint(1, 12))
        late_by = dice.choice((0, 0, 30, 600))
        delays = Random(seed)
        self.how = {
            "copies": dice.choice((1, 1, 2)),
            "executors": dice.choice((1, 1, 1, 2)),
            "delay": lambda delay_s: delay_s + delays.uniform(0, late_by),
        }

    def weather(self, lab):
        """Have a run go through it; the world, and the promises that were broken."""
        scenario = Scenario(self.agent)
        learn(lab, scenario)
        world = World(lab, scenario, self.plan, **self.how)
        try:
            world.live()
            broken = violations(world, may_fail_as=reasons(world), sandboxes=sandboxes(world))
        except Exception as error:  # noqa: BLE001  (a story that does not end is a promise broken; the next one goes on)
            broken = [f"{type(error).__name__}: {error}"[:2000]]
        return world, broken


def reasons(world):
    """The error codes that what has happened to the run explains."""
    happened = {(fault, place.call.partition(".")[0]) for place, fault in world.tripwire.injected}
    kinds = {fault for fault, _ in happened}
    codes = {"sandbox_lost"} if "sandbox lost" in kinds else set()
    codes |= {"sandbox_auth"} if happened & {("401", "sandboxes"), ("401", "workbench")} else set()
    codes |= {"internal"} if ("401", "runs") in happened or world.given_up else set()
    return codes


def sandboxes(world):
    """How many it may have had, one after the other: one that was lost unsaved is made anew, and an executor that stood
    still for longer than any Lambda lives may make one more when the run has ended.
    """
    faults = [fault for _, fault in world.tripwire.injected]
    return 1 + sum(fault == "sandbox lost" or fault.startswith("stall") for fault in faults)


class Tally:
    """What has been injected so far, and how it went."""

    def __init__(self):
        self.runs, self.faults, self.ends = 0, Counter(), Counter()
        self.broken = {}  # seed -> sentences

    def add(self, storm, world, broken):
        self.runs += 1
        self.faults.update(fault for _, fault in world.tripwire.injected)
        self.ends[world.run["error_code"] or world.run["status"]] += 1
        if broken:
            self.broken[storm.seed] = broken
            print(f"seed {storm.seed}: " + " ".join(broken), flush=True)
            print(f"  {world.told_so_far()}\n  again: make faults SEED={storm.seed}", flush=True)

    def table(self, took_s):
        """As docs/reliability.md has it."""
        lines = ["| fault | injected |", "| --- | --- |"]
        lines += [f"| {fault} | {count} |" for fault, count in sorted(self.faults.items())]
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        lines += ["", f"{self.faults.total()} faults injected in {self.runs} runs within {took_s:.0f} s ({ends})"]
        return "\n".join([*lines, f"promises broken in {len(self.broken)} runs: {sorted(self.broken) or 'none'}"])


def seeds_of(arguments):
    """The seeds to run, one after the other, until it is time to stop."""
    if arguments.seed is not None:
        yield arguments.seed
        return
    amount, unit = re.fullmatch(r"(\d+)([smh]?)", arguments.n).groups()
    first = arguments.first if arguments.first is not None else secrets.randbelow(10**6) * 1000
    most = MOST_RUNS if unit else int(amount)
    stop_at = time.monotonic() + (int(amount) * SECONDS[unit] if unit else float("inf"))
    print(f"seeds from {first}, every {arguments.step}.", flush=True)
    for seed in range(first, first + most * arguments.step, arguments.step):
        if time.monotonic() > stop_at:
            return
        yield seed


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--n", default="50", help="so many runs, or for so long: 200, 90s, 10m, 2h")
    parser.add_argument("--seed", type=int, help="this one run again")
    parser.add_argument("--first", type=int, help="the first seed; else at random")
    parser.add_argument("--step", type=int, default=1, help="from one seed to the next: for several processes at once")
    arguments = parser.parse_args()
    tally, began = Tally(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder, Lab(Path(folder)) as lab:
        for seed in seeds_of(arguments):
            storm = Storm(seed)
            tally.add(storm, *storm.weather(lab))
    print(tally.table(time.monotonic() - began))
    return 1 if tally.broken or not tally.runs else 0


if __name__ == "__main__":
    sys.exit(main())
