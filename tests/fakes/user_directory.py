"""Users in memory, each seen by himself alone: what row-level security does in the database."""

import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.domain.errors import Conflict, NotFound, Unavailable
from shared.domain.ports import Row

MAX_KEYS = 50
API_KEY_KEYS = ("id", "name", "hint", "created_at", "expires_at", "last_used_at")


@dataclass
class FakeUsers:
    """Who exists, what they say of themselves, their keys, and who has a live session of which user agent.

    `down` makes the database unreachable; `asked` counts what it was asked for.
    """

    existing: set[str] = field(default_factory=set)
    sessions: set[tuple[str, str]] = field(default_factory=set)
    profiles: dict[str, Row] = field(default_factory=dict)
    api_keys: dict[str, Row] = field(default_factory=dict)  # by hash
    down: bool = False
    asked: int = 0

    def directory_of(self, user_id: str) -> "FakeUserDirectory":
        return FakeUserDirectory(self, user_id)

    def profile_of(self, user_id: str) -> "FakeProfileStore":
        return FakeProfileStore(self, user_id)

    def api_keys_of(self, user_id: str) -> "FakeApiKeyStore":
        return FakeApiKeyStore(self, user_id)

    def api_key_directory(self) -> "FakeApiKeyDirectory":
        return FakeApiKeyDirectory(self)

    def ask(self) -> None:
        self.asked += 1
        if self.down:
            raise Unavailable("The database is not responding. Try again.")


@dataclass
class FakeUserDirectory:
    users: FakeUsers
    user_id: str

    def exists(self, user_id: str) -> bool:
        self.users.ask()
        return user_id == self.user_id and user_id in self.users.existing

    def has_live_session(self, user_agent: str) -> bool:
        self.users.ask()
        return (self.user_id, user_agent) in self.users.sessions


@dataclass
class FakeProfileStore:
    users: FakeUsers
    user_id: str

    def get(self, *, owner_id: str) -> Row:
        self.users.ask()
        if not owner_id == self.user_id or owner_id not in self.users.existing:
            raise NotFound("User not found")
        now = datetime.now(UTC).isoformat()
        fresh = {"id": owner_id, "email": f"{owner_id}@example.test", "preferences": {}, "is_test_user": False}
        fresh |= dict.fromkeys(("full_name", "avatar_url", "github_username", "expires_at"))
        return dict(self.users.profiles.setdefault(owner_id, fresh | {"created_at": now, "updated_at": now}))

    def update(self, changes: Row, *, owner_id: str) -> Row:
        row = self.get(owner_id=owner_id)
        preferences = changes.get("preferences", {})
        merged = {} if preferences is None else (row["preferences"] or {}) | preferences
        row |= changes | {"updated_at": datetime.now(UTC).isoformat()}
        row["preferences"] = {section: value for section, value in merged.items() if value is not None}
        self.users.profiles[owner_id] = row
        return dict(row)


@dataclass
class FakeApiKeyStore:
    users: FakeUsers
    user_id: str

    def create(self, *, name: str, key_hash: str, hint: str, expires_at: datetime | None) -> Row:
        self.users.ask()
        if len(self._own(self.user_id)) >= MAX_KEYS:
            raise Conflict("You have 50 API keys, the maximum. Revoke one first.")
        row = {"id": str(uuid.uuid4()), "name": name, "hint": hint, "created_at": datetime.now(UTC).isoformat()}
        row |= {"expires_at": expires_at.isoformat() if expires_at else None, "last_used_at": None}
        self.users.api_keys[key_hash] = row | {"user_id": self.user_id}
        return row

    def list_all(self, *, owner_id: str) -> list[Row]:
        self.users.ask()
        return [{key: row[key] for key in API_KEY_KEYS} for row in reversed(self._own(owner_id))]

    def revoke(self, key_id: str, *, owner_id: str) -> None:
        self.users.ask()
        if key_id not in [row["id"] for row in self._own(owner_id)]:
            raise NotFound("API key not found")
        self.users.api_keys = {hash_: row for hash_, row in self.users.api_keys.items() if row["id"] != key_id}

    def _own(self, owner_id: str) -> list[Row]:
        return [row for row in self.users.api_keys.values() if row["user_id"] == self.user_id == owner_id]


@dataclass
class FakeApiKeyDirectory:
    users: FakeUsers

    def user_of(self, key_hash: str) -> str | None:
        self.users.ask()
        row, now = self.users.api_keys.get(key_hash), datetime.now(UTC)
        if row is None or (row["expires_at"] and datetime.fromisoformat(row["expires_at"]) <= now):
            return None
        row["last_used_at"] = now.isoformat()
        return row["user_id"]
