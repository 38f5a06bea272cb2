"""Waiting for what happens elsewhere: for a condition, up to a limit that only what never happens reaches."""

import time

LIMIT_S = 120  # a machine that does many other things takes its time
LOOK_EVERY_S = 0.02


def happens(condition, within_s=LIMIT_S):
    """The condition's first answer that is true, or its last one when the time is over."""
    give_up_at = time.monotonic() + within_s
    while not (answer := condition()) and time.monotonic() < give_up_at:
        time.sleep(LOOK_EVERY_S)
    return answer


def wait_for(condition, within_s=LIMIT_S):
    """The condition's first answer that is true; a failure when the time is over."""
    answer = happens(condition, within_s)
    assert answer, f"it did not happen within {within_s} s"
    return answer
