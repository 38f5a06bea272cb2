"""A bare repository, read and written object by object through git's plumbing commands."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

OBJECT_ID = re.compile(r"[0-9a-f]{40}")
NOBODY = "0" * 40
FIELDS = "%H%x00%T%x00%P%x00%an%x00%ae%x00%cn%x00%ce%x00%B"  # of a commit, for `git log`
SETTINGS = {
    "PATH": os.environ.get("PATH", os.defpath),
    "LC_ALL": "C",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_COUNT": "1",  # the repository may belong to another user than the server's
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}


class GitRefused(Exception):
    """git did not do it; the text is what it said."""


@dataclass(frozen=True, slots=True)
class Person:
    name: str
    email: str


@dataclass(frozen=True, slots=True)
class Commit:
    id: str
    tree: str
    parents: tuple[str, ...]
    author: Person
    committer: Person
    message: str


@dataclass(frozen=True, slots=True)
class Entry:
    """One path of a tree; an id of None takes it away."""

    path: str
    mode: str
    kind: str
    id: str | None


class Repository:
    """The bare repository in `folder`. Methods raise GitRefused, and return None for what does not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def default_branch(self) -> str:
        return self._text("symbolic-ref", "HEAD").removeprefix("refs/heads/")

    def head(self, branch: str) -> str | None:
        return self._resolved(f"refs/heads/{branch}^{{commit}}")

    def branches(self) -> list[str]:
        """Those with the newest commits first."""
        return self._names("--sort=-committerdate", "refs/heads/")

    def pull_numbers(self) -> list[int]:
        """Of the pull requests that there are or have been."""
        return [int(name.split("/")[0]) for name in self._names("refs/pull/")]

    def pull_head(self, number: int) -> str | None:
        """The newest commit of a pull request, whatever has become of its branch."""
        return self._resolved(f"refs/pull/{number}/head^{{commit}}")

    def keep_pull(self, number: int, commit_id: str) -> None:
        """Note the newest commit of a pull request; as at GitHub, `git fetch origin pull/<number>/head` gets it."""
        self._git("update-ref", f"refs/pull/{number}/head", commit_id)

    def commit(self, commit_id: str) -> Commit | None:
        if not self.has(commit_id, "commit"):
            return None
        return self.history(commit_id, 1)[0]

    def history(self, commit_id: str, limit: int) -> list[Commit]:
        """The commit and those before it, the newest first."""
        return self._log(f"--max-count={limit}", commit_id)

    def commits(self, base: str, head: str, limit: int) -> list[Commit]:
        """Those that `head` has and `base` has not, the newest first."""
        return self._log(f"--max-count={limit}", f"{base}..{head}")

    def _log(self, *what: str) -> list[Commit]:
        log = self._git("log", "-z", f"--format={FIELDS}", *what, "--").decode(errors="replace")
        if not log:
            return []
        fields = log.removesuffix("\0").split("\0")
        size = FIELDS.count("%x00") + 1
        return [_commit(*fields[at : at + size]) for at in range(0, len(fields), size)]

    def tree(self, tree_id: str) -> list[Entry] | None:
        """All of it, with the trees in it."""
        if not self.has(tree_id, "tree"):
            return None
        lines = self._git("ls-tree", "-r", "-t", "-z", tree_id).decode().split("\0")
        found = (line.split("\t", 1) for line in lines if line)
        return [Entry(path, *facts.split(" ")) for facts, path in found]

    def blob(self, blob_id: str) -> bytes | None:
        return self._git("cat-file", "blob", blob_id) if self.has(blob_id, "blob") else None

    def has(self, object_id: str, kind: str) -> bool:
        return bool(OBJECT_ID.fullmatch(object_id)) and self._resolved(f"{object_id}^{{{kind}}}") == object_id

    def create_blob(self, content: bytes) -> str:
        return self._git("hash-object", "-w", "--stdin", stdin=content).decode().strip()

    def create_tree(self, base: str | None, entries: Iterable[Entry]) -> str:
        lines = (f"{entry.mode if entry.id else 0} {entry.id or NOBODY}\t{entry.path}\0" for entry in entries)
        with TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": f"{folder}/index"}
            self._git("read-tree", base or "--empty", env=index)
            done = self._ask("update-index", "-z", "--index-info", env=index, stdin="".join(lines).encode())
            if done.stderr:  # it ignores a path that leads elsewhere, and says so
                raise GitRefused(done.stderr.decode(errors="replace").strip())
            return self._git("write-tree", env=index).decode().strip()

    def create_commit(
        self, *, tree: str, parents: Iterable[str], message: str, author: Person, committer: Person
    ) -> str:
        people = (("AUTHOR", author), ("COMMITTER", committer))
        env = {f"GIT_{role}_{key}": value for role, who in people for key, value in _facts(who)}
        command = ("commit-tree", tree, *(part for parent in parents for part in ("-p", parent)))
        return self._git(*command, env=env, stdin=message.encode()).decode().strip()

    def merge(self, branch: str, into: str, *, message: str, author: Person) -> str:
        """Put a merge commit on `into`; its id. Raises GitRefused where the two conflict."""
        ours, theirs = (f"refs/heads/{name}" for name in (into, branch))
        with TemporaryDirectory() as folder:
            env = {"GIT_WORK_TREE": folder, "GIT_INDEX_FILE": f"{folder}/.index"}
            base = self._text("merge-base", ours, theirs)
            for step in (
                ("read-tree", "-i", "-m", "--aggressive", base, ours, theirs),
                ("merge-index", "-o", "git-merge-one-file", "-a"),
            ):
                self._git("-c", "core.bare=false", *step, env=env, cwd=folder)
            tree = self._git("write-tree", env=env).decode().strip()
        parents = [self._text("rev-parse", name) for name in (ours, theirs)]
        merged = self.create_commit(tree=tree, parents=parents, message=message, author=author, committer=author)
        self.set_head(into, merged)
        return merged

    def set_head(self, branch: str, commit_id: str, *, only_new: bool = False) -> None:
        """Have the branch point at a commit; `only_new` when there must be no such branch yet."""
        self._git("update-ref", f"refs/heads/{branch}", commit_id, *([NOBODY] if only_new else []))

    def remove_head(self, branch: str) -> None:
        self._git("update-ref", "-d", f"refs/heads/{branch}")

    def is_valid_branch(self, branch: str) -> bool:
        return self._ask("check-ref-format", f"refs/heads/{branch}").returncode == 0

    def commits_between(self, base: str, head: str) -> int:
        """How many commits `head` has that `base` has not."""
        return int(self._text("rev-list", "--count", f"{base}..{head}"))

    def merge_base(self, one: str, other: str) -> str | None:
        return self._ask("merge-base", one, other).stdout.decode().strip() or None

    def diff(self, base: str, head: str, limit: int) -> bytes:
        """What changed from one commit to the other, as text; no more than `limit` bytes of it are made."""
        command = ["git", "--git-dir", str(self.folder), "diff", "--no-color", "--no-ext-diff", "-M", base, head, "--"]
        with subprocess.Popen(command, env=SETTINGS, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None  # noqa: S101 - it is a pipe
            found = process.stdout.read(limit)
            process.kill()  # it would write the rest
        return found

    def _names(self, *what: str) -> list[str]:
        """Of references, without the first two parts."""
        lines = self._git("for-each-ref", "--format=%(refname:lstrip=2)", *what)
        return [name for name in lines.decode(errors="surrogateescape").split("\n") if name]

    def _resolved(self, name: str) -> str | None:
        return self._ask("rev-parse", "--verify", "--quiet", name).stdout.decode().strip() or None

    def _text(self, *command: str) -> str:
        return self._git(*command).decode().removesuffix("\n")

    def _git(
        self, *command: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> bytes:
        done = self._ask(*command, stdin=stdin, env=env, cwd=cwd)
        if done.returncode != 0:
            raise GitRefused(done.stderr.decode(errors="replace").strip())
        return done.stdout

    def _ask(
        self, *command: str, stdin: bytes = b"", env: Mapping[str, str] | None = None, cwd: str | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        return subprocess.run(
            ["git", "--git-dir", str(self.folder), *command],
            input=stdin,
            env={**SETTINGS, **(env or {})},
            cwd=cwd,
            capture_output=True,
            check=False,
        )


def _commit(commit_id: str, tree: str, parents: str, *rest: str) -> Commit:
    author, committer = Person(*rest[:2]), Person(*rest[2:4])
    return Commit(commit_id, tree, tuple(parents.split()), author, committer, rest[4].rstrip("\n"))


def _facts(who: Person) -> tuple[tuple[str, str], ...]:
    return (("NAME", who.name), ("EMAIL", who.email))
