"""What looks like somebody's key in the changed files."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from sandbox.programs.contents import Contents
from sandbox.programs.protocol import PossibleSecret
from sandbox.programs.scratch import Entry, shown

POSSIBLE_SECRETS, SCANNED_BYTES = 20, 64 << 20


def possible_secrets(entries: list[Entry], contents: Contents, shapes: Mapping[str, str]) -> list[PossibleSecret]:
    """Where something that looks like a key stands now and did not before; never the key itself.

    The first POSSIBLE_SECRETS, in the first SCANNED_BYTES: no change takes longer, however large it is.
    """
    patterns = {kind: re.compile(shape.encode()) for kind, shape in shapes.items()}
    found: list[PossibleSecret] = []
    left = SCANNED_BYTES if patterns else 0
    for entry in entries:
        left -= contents.sizes.get(entry.id, 0)
        if left < 0 or len(found) >= POSSIBLE_SECRETS:
            break
        after = contents.read_if_there(entry.id)
        for kind, at, key in keys_in(after, patterns):
            if key not in contents.read_if_there(entry.old_id):
                found.append(PossibleSecret(path=shown(entry.path), line=after.count(b"\n", 0, at) + 1, kind=kind))
    return sorted(found[:POSSIBLE_SECRETS], key=lambda place: (place.path, place.line))


def keys_in(data: bytes, patterns: Mapping[str, re.Pattern[bytes]]) -> list[tuple[str, int, bytes]]:
    """Kind, place and text of what looks like a key at the beginning of a word; the first POSSIBLE_SECRETS."""
    keys = (
        (kind, match.start(), match[0])
        for kind, pattern in patterns.items()
        for match in pattern.finditer(data)
        if not re.match(rb"\w\w", data[max(match.start() - 1, 0) : match.start() + 1])
    )
    return list(itertools.islice(keys, POSSIBLE_SECRETS))
