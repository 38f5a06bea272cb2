"""What the two providers' protocols have in common: a module of this shape speaks each."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from local.services.model.conversation import Position
from local.services.model.script import Turn

Json = dict[str, Any]
Events = Iterable[tuple[str, Json]]  # event type and data, to be sent as a stream


@dataclass(frozen=True, slots=True)
class Refusal:
    """An HTTP status that is no success, with the provider's kind of body."""

    status: int
    body: Json


class Provider(Protocol):
    def where(self, body: Json) -> Position:
        """Where the conversation in a request stands."""
        ...

    def answer(self, body: Json, turn: Turn, turns_done: int) -> Events:
        """The turn, complete with usage."""
        ...

    def failure(self, reason: str) -> Refusal | Events:
        """The error of a reason in `script.FAILURES`; some come only inside a stream."""
        ...

    def refusal(self, status: int, kind: str, message: str) -> Refusal: ...
