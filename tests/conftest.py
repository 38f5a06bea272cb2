"""Where all tests begin, and what a whole run of them says at its end."""

import os

from httpx._config import DEFAULT_TIMEOUT_CONFIG
from hypothesis import HealthCheck, settings

from tests.machine import leave_the_callers_environment

leave_the_callers_environment()

# No example has a time limit: a busy machine would meet it. On CI the examples are the same ones each time.
without_clock = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("without-clock", derandomize="CI" in os.environ, **without_clock)
settings.load_profile("without-clock")

# httpx gives up after 5 seconds where nothing else is said: a machine that does many other things misses that.
DEFAULT_TIMEOUT_CONFIG.connect = DEFAULT_TIMEOUT_CONFIG.read = DEFAULT_TIMEOUT_CONFIG.write = 60
DEFAULT_TIMEOUT_CONFIG.pool = 60


def pytest_terminal_summary(terminalreporter):
    """How much the attack suite and the fault harness tried, in all processes; tests say it by `record_property`."""
    ended = [report for report in terminalreporter.stats.get("", []) if report.when == "teardown"]

    def told(name):
        return [value for report in ended for key, value in report.user_properties if key == name]

    if attempts := told("attempts"):
        tried = f"{sum(attempts)} attempts in {len(attempts)} tests"
        terminalreporter.write_line(f"attack suite: {tried} read and changed nothing of another user's")
    if faults := told("faults"):
        terminalreporter.write_line(
            f"fault harness: {sum(faults)} faults injected in {sum(told('runs'))} runs, "
            f"promises broken in {sum(told('broken'))}"
        )
