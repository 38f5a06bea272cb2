"""Tasks as the frontend knows them, and where a status may go."""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any


class TaskStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


# The database's functions enforce the same table; an integration test holds the two together.
NEXT: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset({TaskStatus.RUNNING, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    TaskStatus.RUNNING: frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED}),
    # a follow-up or a retry queues the task again
    TaskStatus.COMPLETED: frozenset({TaskStatus.PENDING}),
    TaskStatus.FAILED: frozenset({TaskStatus.PENDING}),
    TaskStatus.CANCELLED: frozenset({TaskStatus.PENDING}),
}

ENDED = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


def first_prompt(chat_messages: Sequence[Mapping[str, Any]] | None) -> str:
    """What the user asked for: the first of the user's messages, or an empty text."""
    return next(iter(said_by_user(chat_messages)), "")


def said_by_user(chat_messages: Sequence[Mapping[str, Any]] | None) -> tuple[str, ...]:
    """All of the user's messages: prompts, and what no agent has read."""
    return tuple(str(message["content"]) for message in chat_messages or () if message.get("role") == "user")
