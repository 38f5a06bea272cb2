"""Patches as git writes them, applied exactly or not at all.

Nothing is searched for and nothing skipped: a hunk fits at its own line or the whole patch is refused. Takes what
`git diff` and `git format-patch` print (mail headers and signature included) and bare unified diffs with a/ and b/.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from shared.domain.binary_patch import BinaryChange, read_binary
from shared.domain.errors import AppError, Conflict

REGULAR = "100644"
MODES = frozenset({REGULAR, "100755", "120000"})  # file, executable, symbolic link
SUBMODULE = "160000"
NOTHING_EXTRACTED = "Failed to apply patch - no file changes extracted"

_HEADERS = (
    b"old mode ",
    b"new mode ",
    b"new file mode ",
    b"deleted file mode ",
    b"similarity index ",
    b"dissimilarity index ",
    b"rename from ",
    b"rename to ",
    b"index ",
)
_HUNK = re.compile(rb"@@ -(\d{1,9})(?:,(\d{1,9}))? \+(\d{1,9})(?:,(\d{1,9}))? @@")
_INDEX = re.compile(rb"([0-9a-f]{4,64})\.\.([0-9a-f]{4,64})(?: ([0-7]{6}))?")
_ESCAPE = re.compile(rb'\\([abtnvfr"\\]|[0-3][0-7]{2})')
_ESCAPED = {b"a": b"\a", b"b": b"\b", b"t": b"\t", b"n": b"\n", b"v": b"\v", b"f": b"\f", b"r": b"\r"}


class BadPatch(AppError):
    """The patch itself is damaged or holds what no patch of ours holds. Stored by us, so it is a fault of ours."""

    code = "bad_patch"


class PatchConflict(Conflict):
    """The patch is sound, but was made for other files than these."""

    code = "patch_conflict"


@dataclass(frozen=True, slots=True)
class File:
    """A file as git knows it. `mode` is one of MODES; the content of a link is where it leads."""

    mode: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Hunk:
    """`old` lines, found after the first `at` lines of the file, become `new`. Lines keep their ends."""

    at: int
    old: tuple[bytes, ...]
    new: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePatch:
    """What a patch does to one file: `source` (None: it is new) becomes `path`.

    A mode of None is not told: the file keeps the one it has.
    """

    path: str
    source: str | None
    deletes: bool
    old_mode: str | None
    new_mode: str | None
    change: tuple[Hunk, ...] | BinaryChange

    def applied_to(self, before: File | None) -> File | None:
        """The file afterwards, None for none. `before` is what is at `source`, or at `path` when it is to be new.

        Raises PatchConflict when `before` is not just what the patch was made for, BadPatch.
        """
        if self.source is None:
            if before is not None:
                raise PatchConflict(f"{self.path} exists already.")
            return File(self.new_mode or REGULAR, self._changed(b""))
        if before is None:
            raise PatchConflict(f"{self.source} does not exist.")
        if self.old_mode not in {None, before.mode}:
            raise PatchConflict(f"{self.source} has mode {before.mode}, not {self.old_mode}.")
        after = self._changed(before.content)
        if not self.deletes:
            return File(self.new_mode or before.mode, after)
        if after:
            raise PatchConflict(f"{self.path} has lines that the patch does not delete.")
        return None

    def _changed(self, before: bytes) -> bytes:
        if isinstance(self.change, BinaryChange):
            after = self.change.applied_to(before)
        else:
            after = _with_hunks(before, self.change)
        if after is None:
            raise PatchConflict(f"{self.source or self.path} has changed: the patch does not fit it.")
        return after


def parse(patch: str) -> tuple[FilePatch, ...]:
    """The files of the patch, in its order. Raises BadPatch for anything that is not understood to the last line."""
    lines = _Lines(patch.encode())
    files = tuple(_files(lines))
    if not files:
        raise BadPatch(NOTHING_EXTRACTED)
    return files


class _Lines:
    """The lines of the patch without their ends, with a place to read on from."""

    def __init__(self, data: bytes) -> None:
        self._lines = data.removesuffix(b"\n").split(b"\n")
        self._at = 0

    def peek(self) -> bytes:
        """The next line; empty at the end."""
        return self._lines[self._at] if self._at < len(self._lines) else b""

    def take(self) -> bytes:
        if self._at >= len(self._lines):
            raise self.bad("it ends too early")
        self._at += 1
        return self._lines[self._at - 1]

    def find_file(self) -> bool:
        """Go on to where the next file begins; False when there is none."""
        while self._at < len(self._lines) and not self._at_file():
            self._at += 1
        return self._at < len(self._lines)

    def check_file_ended(self) -> None:
        """After a file comes another one, an empty line, a mail's signature, or nothing."""
        if self.peek() not in {b"", b"-- "} and not self._at_file():
            raise self.bad("a line belongs to no change")

    def bad(self, what: str) -> BadPatch:
        return BadPatch(f"Failed to apply patch - it is damaged at line {self._at + 1}: {what}")

    def _at_file(self) -> bool:
        following = self._lines[self._at + 1] if self._at + 1 < len(self._lines) else b""
        return self.peek().startswith(b"diff --git ") or (
            self.peek().startswith(b"--- ") and following.startswith(b"+++ ")
        )


def _files(lines: _Lines) -> Iterator[FilePatch]:
    while lines.find_file():
        yield _git_file(lines) if lines.peek().startswith(b"diff --git ") else _plain_file(lines)
        lines.check_file_ended()


def _git_file(lines: _Lines) -> FilePatch:
    title = lines.take().removeprefix(b"diff --git ")
    headers: dict[bytes, bytes] = {}
    while name := next((name for name in _HEADERS if lines.peek().startswith(name)), None):
        headers[name] = lines.take().removeprefix(name)
    if b"rename from " in headers and b"rename to " in headers:
        source, path = (_text(_unquoted(headers[name], lines), lines) for name in (b"rename from ", b"rename to "))
    else:
        source = path = _text(_twice_named(title, lines), lines)
    is_new, deletes = b"new file mode " in headers, b"deleted file mode " in headers
    index = _INDEX.fullmatch(headers.get(b"index ", b""))
    unchanged = index[3] if index else None
    old_mode = headers.get(b"old mode ") or headers.get(b"deleted file mode ") or unchanged
    new_mode = headers.get(b"new mode ") or headers.get(b"new file mode ") or unchanged
    return FilePatch(
        path=path,
        source=None if is_new else source,
        deletes=deletes,
        old_mode=_mode(old_mode, lines),
        new_mode=_mode(new_mode, lines),
        change=_change(lines, index, (None if is_new else source, None if deletes else path)),
    )


def _change(
    lines: _Lines, index: re.Match[bytes] | None, names: tuple[str | None, str | None]
) -> tuple[Hunk, ...] | BinaryChange:
    """What follows a file's headers: hunks, a binary change, or nothing."""
    if lines.peek() == b"GIT binary patch":
        lines.take()
        binary = read_binary(lines.take, index[1].decode(), index[2].decode()) if index else None
        if binary is None:
            raise lines.bad("the binary change cannot be read")
        return binary
    if lines.peek().startswith(b"Binary files "):
        raise lines.bad("it says that a binary file differs, but not how")
    if not lines.peek().startswith(b"--- "):
        return ()
    if (_name(lines, b"--- ", b"a/"), _name(lines, b"+++ ", b"b/")) != names:
        raise lines.bad("its two headers name different files")
    return tuple(_hunks(lines))


def _plain_file(lines: _Lines) -> FilePatch:
    """A file without git's own headers."""
    old, new = _name(lines, b"--- ", b"a/"), _name(lines, b"+++ ", b"b/")
    path = new or old
    if path is None or (old and new and old != new):
        raise lines.bad("its two headers name different files")
    hunks = tuple(_hunks(lines))
    return FilePatch(path=path, source=old, deletes=new is None, old_mode=None, new_mode=None, change=hunks)


def _hunks(lines: _Lines) -> Iterator[Hunk]:
    while lines.peek().startswith(b"@@ "):
        yield _hunk(lines)


def _hunk(lines: _Lines) -> Hunk:
    counts = _HUNK.match(lines.peek())
    if counts is None:
        raise lines.bad("the line numbers of a hunk cannot be read")
    lines.take()
    start = int(counts[1])
    left = {side: int(count or 1) for side, count in ((b"-", counts[2]), (b"+", counts[4]))}
    taken: dict[bytes, list[bytes]] = {b"-": [], b"+": []}
    at = start if left[b"-"] == 0 else start - 1  # without old lines, the number is of the line before
    while any(left.values()):
        line = lines.take()
        sides = {b" ": (b"-", b"+"), b"-": (b"-",), b"+": (b"+",)}.get(line[:1], ())
        if not sides or not all(left[side] for side in sides):
            raise lines.bad("a hunk has other lines than it says")
        text = line[1:] + b"\n"
        if lines.peek().startswith(b"\\ "):  # "\ No newline at end of file"
            lines.take()
            text = line[1:]
        for side in sides:
            left[side] -= 1
            taken[side].append(text)
    if at < 0:
        raise lines.bad("a hunk starts before the file")
    return Hunk(at, tuple(taken[b"-"]), tuple(taken[b"+"]))


def _with_hunks(before: bytes, hunks: tuple[Hunk, ...]) -> bytes | None:
    """`before` with all hunks applied; None when one does not fit."""
    lines = [line + b"\n" for line in before.split(b"\n")]
    lines[-1] = lines[-1][:-1]  # what stands after the last line end: mostly nothing
    if not lines[-1]:
        lines.pop()
    after: list[bytes] = []
    done = 0
    for hunk in hunks:
        end = hunk.at + len(hunk.old)
        if not done <= hunk.at <= len(lines) or lines[hunk.at : end] != list(hunk.old):
            return None
        after += [*lines[done : hunk.at], *hunk.new]
        done = end
    after += lines[done:]
    if not all(line.endswith(b"\n") for line in after[:-1]):  # "no newline" in the middle of the file
        return None
    return b"".join(after)


def _name(lines: _Lines, sign: bytes, prefix: bytes) -> str | None:
    """The file that a `---` or `+++` line names; None for /dev/null."""
    line = lines.take()
    name = line.removeprefix(sign)
    if name == line:
        raise lines.bad("a line that names a file is missing")
    if not name.startswith(b'"'):
        name = name.partition(b"\t")[0]  # git ends a name with spaces by a tab, diff puts a time behind it
    if name == b"/dev/null":
        return None
    whole = _unquoted(name, lines)
    if not whole.startswith(prefix):
        raise lines.bad("a file's name lacks its a/ or b/")
    return _text(whole.removeprefix(prefix), lines)


def _twice_named(title: bytes, lines: _Lines) -> bytes:
    """NAME of `a/NAME b/NAME`. Both halves are equally long, so spaces in the name do no harm."""
    middle = len(title) // 2
    old, space, new = title[:middle], title[middle : middle + 1], title[middle + 1 :]
    old, new = _unquoted(old, lines), _unquoted(new, lines)
    if space != b" " or old[:2] != b"a/" or new[:2] != b"b/" or old[2:] != new[2:]:
        raise lines.bad("the names of a file cannot be read")
    return old[2:]


def _unquoted(name: bytes, lines: _Lines) -> bytes:
    r"""A name as it is; git writes `"b\303\244h"` for one with unusual bytes."""
    if not name.startswith(b'"'):
        return name
    if len(name) < 2 or not name.endswith(b'"') or b'"' in _ESCAPE.sub(b"", name[1:-1]):
        raise lines.bad("the quotes around a name cannot be read")
    return _ESCAPE.sub(_unescaped, name[1:-1])


def _unescaped(escape: re.Match[bytes]) -> bytes:
    what = escape[1]
    return bytes([int(what, 8)]) if what.isdigit() else _ESCAPED.get(what, what)


def _text(name: bytes, lines: _Lines) -> str:
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise lines.bad("the name of a file is not UTF-8") from None


def _mode(text: bytes | None, lines: _Lines) -> str | None:
    mode = text.decode("ascii", "replace") if text else None
    if mode == SUBMODULE:
        raise lines.bad("it changes a submodule")
    if mode is not None and mode not in MODES:
        raise lines.bad("a file mode is not valid in git")
    return mode
