"""A queue in memory."""

from dataclasses import dataclass, field

from shared.domain.errors import Unavailable
from shared.domain.messages import RunMessage


@dataclass
class FakeRunQueue:
    """Remembers what was sent, with its delay in seconds. `down` refuses everything."""

    sent: list[tuple[RunMessage, int]] = field(default_factory=list)
    down: bool = False

    def send(self, message: RunMessage, *, delay_s: int = 0) -> None:
        if self.down:
            raise Unavailable("The task queue is not responding.")
        self.sent.append((message, delay_s))
