"""How soon a step looks again: often while a run is young, rarely when it has become long."""

from datetime import timedelta

from functions.executor.ports import Ports
from shared.domain.run import Run

_PACE = ((timedelta(seconds=30), 2), (timedelta(minutes=2), 5), (timedelta(minutes=10), 10))
_SLOWEST_S = 30


def check_in_s(run: Run, ports: Ports) -> int:
    """Seconds until the next look: 2, 5, 10, then 30, by the age of the run."""
    age = ports.now() - run.started_at if run.started_at else timedelta()
    return next((pause_s for younger_than, pause_s in _PACE if age < younger_than), _SLOWEST_S)
