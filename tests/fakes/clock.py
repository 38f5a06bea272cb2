"""A clock that goes only when told."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta


@dataclass
class FakeClock:
    """Calling it gives the time."""

    now: datetime = datetime(2026, 11, 24, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def later(self, seconds: float) -> datetime:
        return self.now + timedelta(seconds=seconds)

    def pass_(self, seconds: float) -> None:
        self.now = self.later(seconds)
