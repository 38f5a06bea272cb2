"""Users in memory."""

from dataclasses import dataclass, field

from shared.domain.errors import Unavailable


@dataclass
class FakeUsers:
    """Who exists, and who has a live session of which user agent. `down` makes the database unreachable."""

    existing: set[str] = field(default_factory=set)
    sessions: set[tuple[str, str]] = field(default_factory=set)
    down: bool = False
    asked: int = 0

    def directory_of(self, user_id: str) -> "FakeUserDirectory":
        return FakeUserDirectory(self, user_id)


@dataclass
class FakeUserDirectory:
    users: FakeUsers
    user_id: str

    def exists(self, user_id: str) -> bool:
        self.users.asked += 1
        if self.users.down:
            raise Unavailable("The database does not answer now. Try again.")
        return user_id == self.user_id and user_id in self.users.existing

    def has_live_session(self, user_agent: str) -> bool:
        return (self.user_id, user_agent) in self.users.sessions
