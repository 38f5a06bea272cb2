"""How soon a step looks again: often while a run is young, rarely when it has become long.

A look costs an invocation and some calls; a pause costs latency, half of it on average, until the end of an agent is
noticed and what it said is in the live log. So a pause grows with the run: after the first seconds it is at most a
sixth of the run's age, from ten minutes on a tenth, and never more than a minute and a half, well below a sandbox's
lease. An agent that works for an hour is then looked at less than a hundred times (`python -m bench.simulated_runs`);
with pauses of at most 30 s it would be 180 times.
"""

from datetime import timedelta

from functions.executor.ports import Ports
from shared.domain.run import Run

_PACE = (
    (timedelta(seconds=30), 2),
    (timedelta(minutes=1), 5),
    (timedelta(minutes=3), 10),
    (timedelta(minutes=10), 30),
    (timedelta(minutes=20), 60),
)
_SLOWEST_S = 90


def next_poll_delay_s(run: Run, ports: Ports) -> int:
    """Seconds until the next look: 2, 5, 10, 30, 60, then 90, by the age of the run."""
    age = ports.now() - run.started_at if run.started_at else timedelta()
    return next((pause_s for younger_than, pause_s in _PACE if age < younger_than), _SLOWEST_S)
