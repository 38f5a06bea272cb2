"""A lab per file of tests, and the one way in which they all have a run outlive its faults."""

import pytest

from tests.faults.promises import learn, violations
from tests.faults.simulated_queue import World
from tests.faults.stack import Lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def outlive(lab, record_property):
    """Have a run of the scenario go through what the plan has for it, and see every promise kept; its world."""

    def outlive(scenario, plan=None, *, may_fail_as=(), sandboxes=1, meanwhile=None, **how):
        learn(lab, scenario, may_fail_as)
        world = World(lab, scenario, plan, **how)
        if meanwhile:
            meanwhile(world)
        world.live()
        broken = violations(world, may_fail_as=may_fail_as, sandboxes=sandboxes)
        for name, value in {"runs": 1, "faults": len(world.tripwire.injected), "broken": bool(broken)}.items():
            record_property(name, value)
        assert broken == [], world.told_so_far()
        return world

    return outlive
