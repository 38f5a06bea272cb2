"""Token numbers that look like a real run's and depend on the script alone."""

from dataclasses import dataclass

from local.services.model.script import Shell, Turn, Write

FIRST_INPUT_TOKENS = 1_500  # system prompt, tools and task
INPUT_TOKENS_PER_TURN = 400
CHARS_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class Usage:
    input_tokens: int  # all of them, the cached ones included
    cached_tokens: int
    output_tokens: int


def usage_of(turn: Turn, turns_done: int) -> Usage:
    """Each turn reads the conversation so far, of which all but the newest part is cached."""
    total = FIRST_INPUT_TOKENS + INPUT_TOKENS_PER_TURN * turns_done
    return Usage(total, total - INPUT_TOKENS_PER_TURN if turns_done else 0, 20 + _chars(turn) // CHARS_PER_TOKEN)


def _chars(turn: Turn) -> int:
    match turn.action:
        case Write(path, text):
            done = len(path) + len(text)
        case Shell(command):
            done = len(command)
        case _:
            done = 0
    return done + sum(map(len, turn.texts))
