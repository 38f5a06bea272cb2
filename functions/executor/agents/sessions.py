"""What the sessions of all agents have in common: an id, and totals that go on when a session is resumed."""

import re
from collections.abc import Mapping

ABOUT = 0.75
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{7,63}")


def session_id(value: object) -> str | None:
    """A session's id if it looks like one: it becomes an argument of the next command."""
    return value if isinstance(value, str) and _SESSION_ID.fullmatch(value) else None


def since(before: Mapping[str, float], now: Mapping[str, float]) -> dict[str, float]:
    """How much was added. An agent that has lost its session counts from zero again: then all of it.

    What a run had spent that was stopped in mid-work is an estimate, so a little less than before is no loss.
    """
    counts_on = all(now.get(key, 0) >= total * ABOUT for key, total in before.items())
    return {key: max(0, total - before.get(key, 0)) if counts_on else total for key, total in now.items()}
