"""The sign-in service's administration in memory, and the test users among its users."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.domain.errors import Conflict, NotFound
from shared.domain.ports import Row
from tests.fakes.user_directory import FakeUsers


@dataclass
class FakeAuthAdmin:
    """Makes users in `users`, as the database's trigger does. With `marks` off that trigger is an older one."""

    users: FakeUsers
    emails: dict[str, str] = field(default_factory=dict)  # of whom
    marks: bool = True

    def create_user(self, email: str, *, app_metadata: Mapping[str, Any], user_metadata: Mapping[str, Any]) -> Row:
        self.users.ask()
        email = email.lower()
        if email in self.emails:
            raise Conflict("A user with this e-mail address exists already.")
        user_id, now = str(uuid.uuid4()), datetime.now(UTC)
        self.emails[email] = user_id
        self.users.existing.add(user_id)
        is_test = self.marks and app_metadata.get("is_test_user") is True
        ends = now + timedelta(hours=app_metadata["ttl_hours"]) if is_test else None
        self.users.profiles[user_id] = {
            "id": user_id,
            "email": email,
            "full_name": user_metadata.get("full_name"),
            "avatar_url": user_metadata.get("avatar_url"),
            "github_username": None,
            "preferences": {},
            "created_at": now.isoformat(),
            "updated_at": now.isoformat(),
            "is_test_user": is_test,
            "expires_at": ends and ends.isoformat(),
        }
        return {"id": user_id, "metadata": dict(user_metadata)}

    def delete_user(self, user_id: str) -> None:
        self.users.ask()
        if user_id not in self.users.existing:
            raise NotFound("User not found")
        self.users.existing.remove(user_id)
        self.users.profiles.pop(user_id, None)
        self.emails = {email: owner for email, owner in self.emails.items() if owner != user_id}


@dataclass
class FakeTestUserDirectory:
    users: FakeUsers

    def list_all(self) -> list[Row]:
        self.users.ask()
        return [dict(row) for row in reversed(self.users.profiles.values()) if row["is_test_user"]]

    def get(self, user_id: str) -> Row:
        found = next((row for row in self.list_all() if row["id"] == user_id), None)
        if found is None:
            raise NotFound("Test user not found")
        return found

    def expired(self, now: datetime, *, limit: int) -> list[str]:
        rows = sorted(self.list_all(), key=lambda row: row["expires_at"])
        return [row["id"] for row in rows if datetime.fromisoformat(row["expires_at"]) <= now][:limit]
