"""Contents that are too large for a row of task_files: stored apart, in parts, by git's id of them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared.domain.binary_patch import blob_id

APART = "apart"  # the encoding of a file whose two sides are such ids
PART_BYTES = 1024 * 1024  # as the table allows; one call stores about as much


@dataclass(frozen=True, slots=True)
class ContentPart:
    """The bytes number `part` of `parts` of the content `id`."""

    id: str
    part: int
    parts: int
    data: bytes


def parts_of(content_id: str, data: bytes) -> Iterator[ContentPart]:
    """Never none: nothing at all is one empty part."""
    pieces = [data[at : at + PART_BYTES] for at in range(0, len(data), PART_BYTES)] or [b""]
    for number, piece in enumerate(pieces):
        yield ContentPart(content_id, number, len(pieces), piece)


def joined(parts: Iterable[ContentPart]) -> dict[str, bytes]:
    """The contents that are whole, by id."""
    found: dict[str, dict[int, ContentPart]] = {}
    for part in parts:
        found.setdefault(part.id, {})[part.part] = part
    whole = {content_id: these for content_id, these in found.items() if len(these) == these[next(iter(these))].parts}
    return {content_id: b"".join(these[n].data for n in sorted(these)) for content_id, these in whole.items()}


def together(parts: Iterable[ContentPart]) -> Iterator[list[ContentPart]]:
    """In lists of PART_BYTES at most, so that small ones travel together."""
    batch: list[ContentPart] = []
    for part in parts:
        if batch and sum(len(one.data) for one in batch) + len(part.data) > PART_BYTES:
            yield batch
            batch = []
        batch.append(part)
    if batch:
        yield batch


def is_named(data: bytes, content_id: str) -> bool:
    """Whether git calls the data so, in a repository of either kind of ids."""
    return blob_id(data, kind="sha256" if len(content_id) == 64 else "sha1") == content_id
