"""What happened in the server, for tests to look at: which secret was stored, which rules were live, what came in."""

from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime

ENTRIES = 5000
CONTENT_CHARS = 64 * 1024  # of one uploaded file


class Journal:
    """The last entries, oldest first. One that is not `on` keeps nothing: it would hold what users upload."""

    def __init__(self, *, on: bool = False) -> None:
        self.on = on
        self._entries: deque[Mapping[str, object]] = deque(maxlen=ENTRIES)

    def note(self, kind: str, **facts: object) -> None:
        if self.on:
            self._entries.append({"at": datetime.now(UTC).isoformat(), "kind": kind, **facts})

    def entries(self) -> list[Mapping[str, object]]:
        return list(self._entries)
