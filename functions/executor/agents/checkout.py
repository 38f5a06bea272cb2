"""The agent's checkout: events name its files as the repository does, wherever the sandbox keeps the folder."""

import posixpath
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# Keys whose values are paths, whole and unquoted
PATHS = frozenset(("path", "paths", "file_path", "filePath", "notebook_path", "move_path", "cwd", "workdir"))
# What a tool is given, and in it the keys of a file's own content
TOOL_INPUTS = frozenset(("input", "arguments"))
CONTENTS = frozenset(("content", "file_text", "new_source", "old_string", "new_string", "old_str", "new_str"))
MAX_DEPTH = 20  # nothing that lies deeper in a line becomes a part of an event
MACOS_PRIVATE = "/private"  # /tmp, /var and /etc are links into it there, and programs name either

# Before a path, without being a part of it: a colour, a one-letter option (-C/path), or a character that no path goes
# on after. The scheme of a file's address goes.
_BEFORE = r"(?P<kept>\x1b\[[0-9;]*m|(?<=\s)-[A-Za-z]|(?<![\w./~$%#+\-})\]\\]))(?:file://(?:localhost)?(?=/))?"
# After a folder's name. Any other character goes on with the name: repo-other, repo.git, repo*, repo\ 2.
_AFTER = r"""(?:(?P<slashes>/+)|(?=$|[\s"'`,;:|&<>)\]}=\x1b]|\\+["']|[.?!](?:$|[\s"'`)\]])))"""
_PATH = re.compile(r"""[^\s"'`,;:|&<>()\[\]{}]{0,1000}""")
_QUOTES = ('"', "'", "`")
# What may not begin a relative path: it would be nothing, an option, a home, a comment
_NEEDS_DOT = re.compile(r"""$|[\s"'`,;:|&<>)\]}\x1b~#-]""")


@dataclass(frozen=True)
class Checkout:
    """The folder that an agent works in, by every absolute path that leads to it. Without one, nothing is shortened.

    A sibling (repo-other), a longer path that ends alike, and a path that leaves the folder by `..` stay as they are.
    """

    roots: tuple[str, ...] = ()

    @classmethod
    def at(cls, *folders: str) -> "Checkout":
        """The checkout at these paths; "", "/" and relative paths are ignored."""
        roots = {posixpath.normpath(folder) for folder in folders if folder.startswith("/")} - {"/", "//"}
        private = {MACOS_PRIVATE + root for root in roots}
        public = {root.removeprefix(MACOS_PRIVATE) for root in roots if root.startswith(f"{MACOS_PRIVATE}/")}
        return cls(tuple(sorted(roots | private | public, key=len, reverse=True)))

    def path(self, path: str) -> str:
        """A path as the repository has it, "." for the checkout itself; one that leads elsewhere stays as it is."""
        if not path.startswith("/") and not {".", ".."} & set(path.split("/")):
            return self.text(path)  # relative already, or a file's address
        for root in self.roots:
            whole = posixpath.normpath(posixpath.join(root, path))
            if whole == root or whole.startswith(f"{root}/"):
                return whole[len(root) + 1 :] or "."
        return path

    def text(self, text: str) -> str:
        """A message, a command or an output with each path into the checkout as the repository has it."""
        return self._pattern.sub(_shortened, text) if self.roots and "/" in text else text

    def named(self, value: Any, key: str = "", *, of_tool: bool = False, depth: int = MAX_DEPTH) -> Any:
        """A value of an agent's JSON line with each path in it, however deep, as the repository has it.

        What a tool writes into a file stays as it is: the file has it so.
        """
        if isinstance(value, str):
            if of_tool and key in CONTENTS:
                return value
            return self.path(value) if key in PATHS else self.text(value)
        if isinstance(value, dict) and depth:
            return {
                self.text(name): self.named(item, name, of_tool=of_tool or name in TOOL_INPUTS, depth=depth - 1)
                for name, item in value.items()
            }
        if isinstance(value, list) and depth:
            return [self.named(item, key, of_tool=of_tool, depth=depth - 1) for item in value]
        return value

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        return re.compile(f"{_BEFORE}(?:{'|'.join(map(_as_written, self.roots))}){_AFTER}")


def _as_written(root: str) -> str:
    """A pattern of the path, also as a shell has it: with a backslash before a space."""
    return "".join(char if char.isalnum() or char in "/_" else rf"\\?{re.escape(char)}" for char in root)


def _leaves(path: str) -> bool:
    """Whether a relative path leads out of the folder that it begins in."""
    return ".." in path and posixpath.normpath(path).split("/")[0] == ".."


def _shortened(found: re.Match[str]) -> str:
    text, end, kept = found.string, found.end(), found["kept"]
    if found["slashes"]:
        if (rest := _PATH.match(text, end)) and _leaves(rest[0]):
            return found[0]
        return f"{kept}./" if _NEEDS_DOT.match(text, end) else kept
    before, following = text[max(0, found.start() - 1) : found.start()], text[end : end + 1]
    if before in _QUOTES and following == " ":  # the name may go on: "/home/agent/repo 2"
        return found[0]
    return f"{kept}./" if following == "." else f"{kept}."  # ".." would be the folder above
