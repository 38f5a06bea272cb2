"""What users have spent, in memory: passes tests/integration/test_usage_store_and_its_fake.py."""

from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.domain.ports import Row
from shared.domain.usage import totals


@dataclass
class FakeLedger:
    """The rows, for everybody to look at: user_id, project_id, at, agent, usage."""

    rows: list[Row] = field(default_factory=list)

    def add(self, user_id: str, *, at: datetime, agent: str, usage: Row, project_id: int | None = None) -> None:
        self.rows.append({"user_id": user_id, "at": at, "agent": agent, "usage": usage, "project_id": project_id})

    def store_of(self, user_id: str) -> "FakeUsageStore":
        return FakeUsageStore(self, user_id)


@dataclass
class FakeUsageStore:
    ledger: FakeLedger
    user_id: str

    def totals(self, *, start: datetime, end: datetime | None, project_id: int | None) -> Row:
        found = [
            row
            for row in self.ledger.rows
            if row["user_id"] == self.user_id
            and start <= row["at"]
            and (end is None or row["at"] < end)
            and project_id in (None, row["project_id"])
        ]
        by_agent = _grouped(found, "agent", lambda row: row["agent"])
        by_day = _grouped(found, "day", lambda row: row["at"].astimezone(UTC).date().isoformat())
        return totals(row["usage"] for row in found) | {"by_agent": by_agent, "by_day": by_day}


def _grouped(rows: list[Row], name: str, key) -> list[Row]:
    groups = sorted({key(row) for row in rows})
    return [{name: group} | totals(row["usage"] for row in rows if key(row) == group) for group in groups]
