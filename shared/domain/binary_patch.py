"""The part of git's patches that changes binary files: base85 lines of deflated contents, or of a delta."""

import base64
import hashlib
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

MAX_BYTES = 100_000_000  # GitHub takes no larger file (docs.github.com, "About large files on GitHub", 2026)

_KIND = re.compile(rb"(literal|delta) (\d{1,9})")


def blob_id(content: bytes, kind: Literal["sha1", "sha256"] = "sha1") -> str:
    """git's own name for a file's contents, in a repository with ids of that kind."""
    return hashlib.new(kind, b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class BinaryChange:
    """From contents with one id to contents with another."""

    old_id: str
    new_id: str
    is_delta: bool
    data: bytes

    def applied_to(self, before: bytes) -> bytes | None:
        """None when `before` is not what the change was made for, or it does not lead where it says."""
        if not _is(before, self.old_id):
            return None
        after = _with_delta(before, self.data) if self.is_delta else self.data
        return after if after is not None and _is(after, self.new_id) else None


def read_binary(take: Callable[[], bytes], old_id: str, new_id: str) -> BinaryChange | None:
    """Read the change, and over its reverse. `take` gives the next line. None when it cannot be read."""
    forward, backward = _block(take), _block(take)
    if forward is None or backward is None:
        return None
    kind, data = forward
    return BinaryChange(old_id, new_id, kind == b"delta", data)


def _is(content: bytes, wanted: str) -> bool:
    """Whether git calls it so; a file that does not exist has the id 000…"""
    return blob_id(content) == wanted or (not content and not wanted.strip("0"))


def _block(take: Callable[[], bytes]) -> tuple[bytes, bytes] | None:
    head = _KIND.fullmatch(take())
    if head is None:
        return None
    packed = bytearray()
    while line := take():
        letter = line[0]  # A to Z and a to z: 1 to 52 bytes
        count = letter - 64 if letter < 97 else letter - 70
        try:
            packed += base64.b85decode(line[1:])[:count]
        except ValueError:
            return None
    data = _inflated(bytes(packed), int(head[2]))
    return None if data is None else (head[1], data)


def _inflated(packed: bytes, size: int) -> bytes | None:
    """Exactly `size` bytes, or None. Never unpacks more, however much was packed."""
    if size > MAX_BYTES:
        return None
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(packed, size + 1)
    except zlib.error:
        return None
    return data if unpacker.eof and len(data) == size else None


def _with_delta(before: bytes, delta: bytes) -> bytes | None:
    """git's pack delta (gitformat-pack(5), "Deltified representation") applied; None when it does not fit."""
    after = bytearray()
    try:
        old_size, at = _size(delta, 0)
        new_size, at = _size(delta, at)
        if new_size > MAX_BYTES:
            return None
        while at < len(delta):
            command, at = delta[at], at + 1
            if command & 0x80:  # copy: which bytes of offset and size follow, lowest first
                offset, at = _number(delta, at, command, 4)
                count, at = _number(delta, at, command >> 4, 3)
                part = before[offset : offset + (count or 0x10000)]
                wanted = count or 0x10000
            else:
                part, wanted, at = delta[at : at + command], command, at + command
            if not part or len(part) != wanted or len(after) + wanted > new_size:
                return None
            after += part
    except IndexError:
        return None
    return bytes(after) if len(before) == old_size and len(after) == new_size else None


def _size(data: bytes, at: int) -> tuple[int, int]:
    """Seven bits a byte, lowest first, until one without its highest bit; and where to read on."""
    value = shift = 0
    while True:
        byte, at = data[at], at + 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _number(data: bytes, at: int, present: int, count: int) -> tuple[int, int]:
    """A number of up to `count` bytes, of which only those exist whose bit in `present` is set."""
    value = 0
    for place in range(count):
        if present >> place & 1:
            value |= data[at] << 8 * place
            at += 1
    return value, at
