"""The contents of changed files: in the result where they are small, else in files of their own."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path

from sandbox.programs.protocol import ChangedFile, CollectLimits, Content, FileEncoding, FileStatus
from sandbox.programs.scratch import NEVER_TEXT_BYTES, Entry, Scratch, shown

PACK_BYTES = 4 << 20  # of contents in one file, so that few are to be fetched, and none that does not fit into memory
STATUS: dict[str, FileStatus] = {"A": "added", "M": "modified", "D": "deleted", "R": "renamed", "T": "type_changed"}


class Contents:
    """Sizes and bytes of blobs."""

    def __init__(self, git: Scratch, ids: set[str]) -> None:
        asked = "".join(f"{one}\n" for one in sorted(ids)).encode()
        answer = git.run("cat-file", "--batch-check=%(objectname) %(objectsize)", stdin=asked)
        self.sizes = {one: int(size) for one, size in map(str.split, answer.decode("ascii").splitlines())}
        self.reader = git.start("cat-file", "--batch")

    def __enter__(self) -> Contents:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.communicate()

    def read(self, one: str) -> bytes:
        assert self.reader.stdin and self.reader.stdout  # noqa: S101, PT018 - Scratch.start opens them
        self.reader.stdin.write(f"{one}\n".encode())
        self.reader.stdin.flush()
        size = int(self.reader.stdout.readline().split()[2])
        return self.reader.stdout.read(size + 1)[:size]

    def read_if_there(self, one: str) -> bytes:
        return self.read(one) if self.sizes.get(one, NEVER_TEXT_BYTES + 1) <= NEVER_TEXT_BYTES else b""

    def is_text(self, one: str) -> bool:
        """Whether the blob, if there is one, can stand in a text of the result."""
        if one not in self.sizes:
            return True
        return self.sizes[one] <= NEVER_TEXT_BYTES and as_text(self.read(one)) is not None


def as_text(data: bytes) -> str | None:
    """`data` as text; None when it is not UTF-8 or holds a NUL, which PostgreSQL does not store."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def changed_files(entries: list[Entry], contents: Contents, limits: CollectLimits) -> Iterator[ChangedFile]:
    """The entries with their contents or, where these lie apart, with their ids; as far as the limits reach."""
    left, left_in_rows = limits.total_bytes, limits.rows_bytes
    for entry in entries[: limits.files]:
        sides = [contents.sizes.get(entry.old_id), contents.sizes.get(entry.id)]
        total, largest = sum(size or 0 for size in sides), max(size or 0 for size in sides)
        is_truncated = largest > limits.file_bytes or total > left
        before, after = None, None
        encoding: FileEncoding = "utf-8"
        if not is_truncated:
            left -= total
            if largest > limits.row_bytes or total > left_in_rows:
                before, after = (one if one in contents.sizes else None for one in (entry.old_id, entry.id))
                encoding = "apart"
            else:
                left_in_rows -= total
                before, after, encoding = _both_sides(entry, contents)
        yield ChangedFile(
            path=shown(entry.path),
            previous_path=None if entry.previous_path is None else shown(entry.previous_path),
            status=STATUS[entry.status],
            mode=None if entry.status == "D" else entry.mode,
            previous_mode=None if entry.status == "A" else entry.old_mode,
            before=before,
            after=after,
            encoding=encoding,
            size=sides[1] or 0,
            truncated=is_truncated,
        )


def _both_sides(entry: Entry, contents: Contents) -> tuple[str | None, str | None, FileEncoding]:
    """Both sides in one encoding: as text, else as base64; None for a side that does not exist."""
    raw = [contents.read(one) if one in contents.sizes else None for one in (entry.old_id, entry.id)]
    texts = [None if data is None else as_text(data) for data in raw]
    if [text is None for text in texts] == [data is None for data in raw]:
        return texts[0], texts[1], "utf-8"
    coded = [None if data is None else base64.b64encode(data).decode("ascii") for data in raw]
    return coded[0], coded[1], "base64"


class Packs:
    """Contents that lie apart, one after the other in a few files: 0, 1, … in a folder for root only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, files: list[ChangedFile], contents: Contents) -> tuple[tuple[Content, ...], ...]:
        """Write those that `files` name; what stands in each file."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        named = (side for file in files if file.encoding == "apart" for side in (file.before, file.after))
        packs: list[list[Content]] = []
        room = 0
        for one in dict.fromkeys(filter(None, named)):
            size = contents.sizes[one]
            if size > room:
                packs.append([])
                room = PACK_BYTES
            room -= size
            packs[-1].append(Content(id=one, size=size))
            with (self.folder / str(len(packs) - 1)).open("ab") as pack:
                pack.write(contents.read(one))
        return tuple(map(tuple, packs))
