"""The work tree of the agent, turned into a tree of git."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO

from sandbox.programs.failures import ProgramFailed
from sandbox.programs.safe_files import is_no_folder, open_folder, open_regular
from sandbox.programs.scratch import Entry, Scratch, parents_of, raw_diff, shown

GITLINK = "160000"  # the mode of a submodule
WARNINGS_FROM_GIT = 20
COMPARE_BYTES = 1 << 16


def enter_work_tree(home: Path, relative: str) -> None:
    """Make the work tree the current folder, following no link the agent may have put in its place.

    Raises ProgramFailed.
    """
    try:
        here = open_folder(home, Path(relative))
    except ValueError:
        raise ProgramFailed("work_tree_unsafe", "The work tree must lie in the home of the agent.") from None
    except FileNotFoundError:
        raise ProgramFailed("work_tree_missing", f"The work tree {relative} does not exist.") from None
    except OSError as error:
        if is_no_folder(error):
            raise ProgramFailed("work_tree_unsafe", f"The work tree {relative} is no folder any more.") from None
        raise
    os.fchdir(here)
    os.close(here)


class Snapshot:
    """Turns the work tree, as it lies there, into a tree of git."""

    def __init__(self, git: Scratch, base: str) -> None:
        self.git = git
        self.base = base
        self.warnings: list[str] = []

    def tree(self) -> str:
        """The id of the tree; what could not or must not be taken stands in `warnings`. Raises ProgramFailed."""
        self.git.run("read-tree", self.base)
        submodules = self._submodules()
        self._edit(dict.fromkeys(submodules))  # git would run in them to see whether they are dirty
        self._add_all()
        changes = raw_diff(
            self.git.run("diff-index", "--cached", "--raw", "-z", "--no-renames", "--full-index", self.base)
        )
        self._edit(dict.fromkeys(self._embedded(changes, submodules)))
        self._edit(self._untouched(changes))
        taken = {entry.path for entry in changes if entry.status != "D"}
        self._edit({path: entry for path, entry in submodules.items() if not taken & set(parents_of(path))})
        return self.git.text("write-tree")

    def _submodules(self) -> dict[bytes, tuple[str, str]]:
        staged = (line.split(b"\t", 1) for line in self.git.run("ls-files", "-s", "-z").split(b"\0") if line)
        entries = {path: head.decode("ascii").split(" ") for head, path in staged}
        return {path: (mode, commit) for path, (mode, commit, _) in entries.items() if mode == GITLINK}

    def _edit(self, entries: Mapping[bytes, tuple[str, str] | None]) -> None:
        """Put mode and object at these paths of the index; None removes the path."""
        nothing = ("0", "0" * len(self.base))
        lines = [" ".join(entry or nothing).encode() + b"\t" + path for path, entry in entries.items()]
        self.git.run("update-index", "-z", "--index-info", stdin=b"".join(line + b"\0" for line in lines))

    def _add_all(self) -> None:
        add = ("add", "--all", "--ignore-errors", "--no-warn-embedded-repo")
        answer = self.git.ask(*add, in_work_tree=True, codes=(0, 1, 128))
        if answer.code == 128:
            # one file that is not in the encoding `.gitattributes` promises stops git altogether
            self.warnings.append(f"Encodings named in .gitattributes were ignored: {answer.err[-200:]}")
            self.git.set_attributes(b"* -working-tree-encoding\n")
            answer = self.git.ask(*add, in_work_tree=True, codes=(0, 1))
            self.git.set_attributes(b"")
        lines = [line for line in answer.err.splitlines() if line.startswith(("error: ", "warning: "))]
        self.warnings += [f"Not collected: {line.partition(': ')[2]}." for line in lines[:WARNINGS_FROM_GIT]]

    def _embedded(self, changes: list[Entry], submodules: Iterable[bytes]) -> list[bytes]:
        """Paths that belong to another repository: of a submodule, or of one the agent made or cloned here."""
        dropped = []
        for entry in (change for change in changes if change.status != "D"):
            place = next((p for p in (entry.path, *parents_of(entry.path)) if p in submodules), None)
            if place is not None:
                self._warn(f"The submodule {shown(place)} stays as it was: what changed in it is not collected.")
            elif entry.mode == GITLINK:
                self._warn(f"{shown(entry.path)} is a repository of its own: it is not collected.")
            else:
                continue
            dropped.append(entry.path)
        return dropped

    def _warn(self, text: str) -> None:
        if text not in self.warnings:
            self.warnings.append(text)

    def _untouched(self, changes: list[Entry]) -> dict[bytes, tuple[str, str]]:
        """Files whose bytes are just what checking out the base gives, yet which git would store otherwise.

        That happens where the base itself breaks the rules of its `.gitattributes` (CRLF in a `text` file):
        git would tell a change that nobody made.
        """
        regular = [c for c in changes if c.status == "M" and c.old_mode[:3] == c.mode[:3] == "100"]
        regular = [c for c in regular if c.old_id != c.id]
        pristine = self.git.folder / "pristine"
        pristine.mkdir()
        env = {"GIT_INDEX_FILE": str(self.git.folder / "pristine.index"), "GIT_WORK_TREE": str(pristine)}
        self.git.run("read-tree", self.base, env=env)
        paths = b"".join(c.path + b"\0" for c in regular)
        self.git.run(
            *("-c", "core.bare=false", "checkout-index", "--quiet", "-z", "--stdin"),
            stdin=paths,
            env=env,
            codes=(0, 1, 128),
        )
        here = os.fsencode(pristine) + b"/"
        return {c.path: (c.mode, c.old_id) for c in regular if _same_bytes(here + c.path, c.path)}


def _same_bytes(ours: bytes, theirs: bytes) -> bool:
    """Whether both are regular files with the same contents. `theirs` may be anything, even a pipe."""
    try:
        with _opened(ours) as left, _opened(theirs) as right:
            while (block := left.read(COMPARE_BYTES)) == right.read(COMPARE_BYTES):
                if not block:
                    return True
    except OSError:
        return False
    return False


def _opened(path: bytes) -> IO[bytes]:
    return os.fdopen(open_regular(path), "rb")
