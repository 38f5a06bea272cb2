"""The change as a commit: its diff for people, and its patch, exact and still text."""

from __future__ import annotations

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator

from sandbox.programs.contents import Contents
from sandbox.programs.protocol import CollectRequest
from sandbox.programs.scratch import Entry, Scratch


def commit(git: Scratch, request: CollectRequest, tree: str) -> str:
    """Make the commit; its id."""
    when = f"@{int(time.time()) if request.date_s is None else request.date_s} +0000"
    who = {"NAME": request.author_name, "EMAIL": request.author_email, "DATE": when}
    env = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    message = commit_message(request.message).encode("utf-8", "replace")
    return git.text("commit-tree", tree, "-p", request.base_commit, stdin=message, env=env)


def commit_message(text: str) -> str:
    """`text` as git can carry it in a mail: without control characters or lines that look like a patch."""
    clean = re.sub(r"[^\S\n]|[\x00-\x08\x0e-\x1f\x7f]", " ", text).strip()
    lines = (f" {line}" if re.match(r"diff -|Index: |---", line) else line for line in clean.split("\n"))
    return "\n".join(lines) or "Changes by the agent"


def first_bytes(process: subprocess.Popen[bytes], limit: int) -> tuple[bytes, bool]:
    """The first `limit` bytes a process prints, and whether there was more."""
    with process:
        assert process.stdout is not None  # noqa: S101 - Scratch.start opens it
        data = process.stdout.read(limit + 1)
        if len(data) > limit:
            process.kill()
    return data[:limit], len(data) > limit


def human_diff(git: Scratch, trees: tuple[str, str], limit: int) -> tuple[str, bool]:
    """The diff for people to read, cut at a line, and whether it was cut."""
    plain = ("--no-ext-diff", "--no-textconv", "--no-color")
    data, is_cut = first_bytes(
        git.start("-c", "core.quotePath=false", "diff-tree", "-p", "-r", "-M", *plain, *trees), limit
    )
    text = data.decode("utf-8", "replace").replace("\0", "")
    if is_cut:
        text = text[: text.rfind("\n") + 1] + f"[The diff is longer than {limit} bytes and was cut here.]\n"
    return text, is_cut


class Patch:
    """The commit as `git am` and `git apply` take it, exact and still text."""

    def __init__(self, git: Scratch, base: str, commit: str, tree: str) -> None:
        self.git = git
        self.base = base
        self.commit = commit
        self.tree = tree

    def text(self, entries: list[Entry], contents: Contents, limit: int) -> tuple[str | None, str | None]:
        """The patch, or None and why there is none.

        git prints the bytes of text files as they are. A patch that would not be UTF-8, or hold a NUL (which
        the database refuses), is made again with those files as binary; one that does not lead back to the
        very tree is no patch.
        """
        for attributes in self._attributes(entries, contents):
            self.git.set_attributes(attributes)
            data, is_cut = first_bytes(self.git.start(*self._command()), limit)
            if is_cut:
                return None, f"The patch is longer than {limit} bytes and was left out."
            with contextlib.suppress(UnicodeDecodeError):
                text = data.decode("utf-8")
                if "\0" not in text and self._leads_to_tree(data):
                    return text, None
        return None, "No patch could be made that git applies: use the files."

    def _command(self) -> tuple[str, ...]:
        exact = ("--binary", "--full-index", "-M", "--no-ext-diff", "--no-textconv", "--no-signature")
        return ("format-patch", "-1", "--stdout", *exact, self.commit)

    @staticmethod
    def _attributes(entries: list[Entry], contents: Contents) -> Iterator[bytes]:
        """What to tell git about the files: nothing; which are not clean text; to take none as text."""
        yield b""
        unclean = [e for e in entries if not (contents.is_text(e.old_id) and contents.is_text(e.id))]
        yield b"".join(_pattern(entry.path) + b" -diff\n" for entry in unclean)
        yield b"* -diff\n"

    def _leads_to_tree(self, patch: bytes) -> bool:
        env = {"GIT_INDEX_FILE": str(self.git.folder / "patch.index")}
        self.git.run("read-tree", self.base, env=env)
        apply = ("apply", "--cached", "--whitespace=nowarn", "-")
        if self.git.ask(*apply, stdin=patch, env=env, codes=(0, 1, 128)).code != 0:
            return False
        return self.git.text("write-tree", env=env) == self.tree


def _pattern(path: bytes) -> bytes:
    """The pattern of gitattributes(5) for exactly this path."""
    escaped = b"/" + re.sub(rb"([*?\[\\])", rb"\\\1", path)
    plain = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._-*?[]"
    return b'"' + b"".join(b"%c" % c if c in plain else b"\\%03o" % c for c in escaped) + b'"'


def line_counts(git: Scratch, trees: tuple[str, str]) -> tuple[int, int]:
    """Lines added and deleted; files that are not text count nothing."""
    git.set_attributes(b"")
    told = git.run("diff-tree", "-r", "-M", "--shortstat", *trees).decode("ascii")
    found = [re.search(rf"(\d+) {word}", told) for word in ("insertion", "deletion")]
    added, deleted = (int(match[1]) if match else 0 for match in found)
    return added, deleted
