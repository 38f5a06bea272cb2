"""What can go wrong around one call of the executor, and the plans that say at which calls it does.

A call is known by its place: the stage of the run, the port's method, and the how-manieth call of it this is in one
invocation. Places are found while a run goes on: a port that is new is covered without being named here.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from random import Random
from typing import NamedTuple

from functions.executor.e2b.sandboxes import E2BSandboxConnection
from shared.domain.errors import Unavailable
from tests.faults.network_faults import STORMS
from tests.faults.stack import HURRIED_S

OUTAGE_S = 60
STALL_S = 200  # longer than the lease on a step


class Died(BaseException):
    """SIGKILL, as far as a test can have it: nothing in the executor may catch it."""


class Place(NamedTuple):
    stage: str
    call: str
    nth: int


class Call:
    """One call of the executor, not yet made."""

    def __init__(self, port, port_name, method, arguments, options):
        self.name, self.options = f"{port_name}.{method}", options
        self._function, self._arguments = getattr(port, method), arguments

    def __call__(self, **changes):
        """Make it. What comes in pieces comes whole, so that nothing of it happens later."""
        answer = self._function(*self._arguments, **self.options | changes)
        return list(answer) if isinstance(answer, Iterator) else answer


# --- what happens at a call; each returns what the call returns, if it comes to that


def _die_before(_world, _call):
    raise Died


def _die_after(_world, call):
    call()
    raise Died


def _storm(kind, world, call):
    """The service's answer is an error, late, or lost; the key service, which is not here, says it is unavailable."""
    if call.name.startswith("box."):
        raise Unavailable("The key service is not responding. Try again.")
    patience = {"timeout_s": HURRIED_S} if kind.startswith("timeout") and "timeout_s" in call.options else {}
    with world.lab.storm(kind):
        return call(**patience)


def _stall_before(world, call):
    """The executor stands still for longer than its lease; another one takes the step meanwhile."""
    world.let_others_work(STALL_S)
    return call()


def _stall_after(world, call):
    answer = call()
    world.let_others_work(STALL_S)
    return answer


def _lose_sandbox(world, call):
    world.lab.kill_sandboxes()
    return call()


def _pause_sandbox(world, call):
    """The sandbox's own lease ends in the middle of the step."""
    world.lab.pause_sandboxes()
    return call()


def _kill_supervisor(world, call):
    """As the kernel does where memory is short: the agent goes on."""
    world.lab.kill_jobs(with_what_they_started=False)
    return call()


def _reboot_sandbox(world, call):
    """All processes of jobs are gone, and all files are there."""
    world.lab.kill_jobs(with_what_they_started=True)
    return call()


def _outage(service, world, call):
    world.cut_off(service, OUTAGE_S)
    return call()


FAULTS = {
    "death before": _die_before,
    "death after": _die_after,
    **{kind: partial(_storm, kind) for kind in STORMS},
    "stall before": _stall_before,
    "stall after": _stall_after,
    "sandbox lost": _lose_sandbox,
    "sandbox paused": _pause_sandbox,
    "sandboxes out of reach for a minute": partial(_outage, "sandboxes"),
    "database down for a minute": partial(_outage, "database"),
    "queue down for a minute": partial(_outage, "queue"),
}


# A run does not outlive these as if nothing had been: they are no part of what happens at random.
INTERRUPTIONS = {"supervisor killed": _kill_supervisor, "sandbox rebooted": _reboot_sandbox}


# --- at which calls


class NoFault:
    """Everything goes well."""

    def __call__(self, place):
        return None


class EveryPlaceOnce:
    """The fault at each place where the run comes by for the first time. A call that it has stopped is made anew."""

    def __init__(self, fault, *, calls=""):
        self._fault, self._calls, self._seen = fault, calls, set()

    def __call__(self, place):
        if place in self._seen or not place.call.startswith(self._calls):
            return None
        self._seen.add(place)
        return self._fault


class EveryCallOnce(EveryPlaceOnce):
    """The fault once for each of the ports' methods."""

    def __call__(self, place):
        return super().__call__(Place("", place.call, 0))


class OncePerStage:
    """The fault at the `nth` place of each stage (from 0), or of that one."""

    def __init__(self, fault, nth, *, stage=None):
        self._fault, self._nth, self._stage, self._met = fault, nth, stage, {}

    def __call__(self, place):
        met = self._met.setdefault(place.stage, [])
        if place not in met:
            met.append(place)
            if len(met) == self._nth + 1 and self._stage in (None, place.stage):
                return self._fault
        return None


class FirstCallOf:
    """The fault at the first call of one method, in stages that begin so."""

    def __init__(self, fault, call, stage=""):
        self._fault, self._call, self._stage = fault, call, stage

    def __call__(self, place):
        if place.call != self._call or not place.stage.startswith(self._stage):
            return None
        self._call = None
        return self._fault


class Dice:
    """Any of the faults, each call with the same chance, until so many have happened.

    The seed decides for each place and visit by itself: one call more or less elsewhere changes nothing here.
    """

    def __init__(self, seed, faults, *, chance, most):
        self._seed, self._faults, self._chance, self._left = seed, sorted(faults), chance, most
        self._visits = Counter()

    def __call__(self, place):
        self._visits[place] += 1
        dice = Random(f"{self._seed} {place} {self._visits[place]}")
        if self._left and dice.random() < self._chance:
            self._left -= 1
            return dice.choice(self._faults)
        return None


# --- where the calls pass by


class Tripwire:
    """Has the plan's faults happen around the calls that pass. `injected` lists (place, fault), `calls` every call."""

    def __init__(self, world, plan):
        self._world, self._plan = world, plan
        self._here = threading.local()  # the invocation of each executor
        self.injected = []
        self.calls = Counter()

    @contextmanager
    def invocation(self, stage) -> Iterator[None]:
        """Calls made inside belong to one invocation, which found the run in that stage."""
        before = vars(self._here).copy()
        self._here.stage, self._here.counts = stage, Counter()
        try:
            yield
        finally:
            vars(self._here).clear()
            vars(self._here).update(before)

    def watch(self, ports):
        """The same ports, with every call passing by."""
        named = {each.name: getattr(ports, each.name) for each in fields(ports)}
        watched = {name: _Watched(port, name, self) for name, port in named.items() if name not in ("settings", "now")}
        return replace(ports, **watched)

    def passes(self, call):
        """The call's answer, or what comes of the fault that the plan has for it."""
        counts = self._here.counts
        counts[call.name] += 1
        self.calls[call.name] += 1
        place = Place(self._here.stage, call.name, counts[call.name])
        fault = self._plan(place)
        if fault is None:
            return call()
        hits = self._world.lab.weather.hits
        try:
            return (FAULTS | INTERRUPTIONS)[fault](self._world, call)
        finally:
            if fault not in STORMS or call.name.startswith("box.") or self._world.lab.weather.hits > hits:
                self.injected.append((place, fault))


class _Watched:
    """A port whose every call passes the tripwire; a workbench that one of them gives is watched as well."""

    def __init__(self, port, name, tripwire):
        self._port, self._name, self._tripwire = port, name, tripwire

    def __getattr__(self, method):
        def call(*arguments, **options):
            answer = self._tripwire.passes(Call(self._port, self._name, method, arguments, options))
            return _Watched(answer, "workbench", self._tripwire) if isinstance(answer, E2BSandboxConnection) else answer

        return call
