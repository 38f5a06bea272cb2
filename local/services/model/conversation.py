"""Which prompt a request is about: the person's last one, not what the agent's program wrote around it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# What claude 2.1.330 and codex 0.163.0 add to a conversation in the user's name
_ADDED = re.compile(
    r"<(system-reminder|environment_context|user_instructions|turn_aborted)\b.*?</\1>"
    r"|# AGENTS\.md instructions\b.*?</INSTRUCTIONS>",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the conversation: a text in the user's name, or a turn of the model."""

    user_text: str | None  # None: the model's turn


@dataclass(frozen=True, slots=True)
class Position:
    prompt: str
    turns_done: int  # answers of the model since that prompt


def position(entries: Sequence[Entry]) -> Position:
    """Where the conversation stands. Without any prompt of a person, the prompt is empty."""
    turns_done = 0
    for entry in reversed(entries):
        if entry.user_text is None:
            turns_done += 1
        elif prompt := _ADDED.sub("", entry.user_text).strip():
            return Position(prompt, turns_done)
    return Position("", turns_done)
