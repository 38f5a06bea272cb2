"""Collects exactly what an agent changed in its work tree, trusting nothing the agent left there.

    collect.py SPEC.json

The spec (paths are relative to the run's folder, where this file was uploaded, unless said otherwise):

    base_git, base_commit       the pristine clone made by clone.py, and its commit
    work_tree                   relative to the agent's home
    message, author_name, author_email, date_s (epoch, default now)    of the commit
    limits                      see `Limits`
    secret_shapes               what keys look like: {"a GitHub token": "gh[po]_..."}, as regular expressions
    out                         where the result goes
    contents_out                the folder for contents that are too large for it; default: OUT.contents

Writes the result (see `collect`) to `out` and prints one line of JSON, exit 0:

    {"ok": true, "bytes", "sha256" of the result, "files": how many changed, "tree": the id of all of them}
    {"ok": false, "error": work_tree_missing | work_tree_unsafe | base_missing | disk_full | failed, "message"}

How it stays safe: git works with a repository of ours, in a throwaway folder that borrows the objects of the
pristine clone. The agent's `.git` is never opened, so its configuration, hooks, filters and drivers do not
exist for us; submodules are taken out of the index before git could look into them. The work tree is only
read: the agent may go on working in it. Whether the agent committed, stashed or rewrote history makes no
difference: what counts is which files lie there.

Standard library only, Python 3.9 or newer, git 2.30 or newer.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import itertools
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

RUN = Path(__file__).resolve().parent
GIT_TIMEOUT_S = 900  # of one git command; the job as a whole has its own
MESSAGE_CHARS = 2000
WARNINGS_FROM_GIT = 20
PATHS_PER_FILE_LIMIT = 10  # so many more paths than contents are listed: a path is small
COMPARE_BYTES = 1 << 16
NEVER_TEXT_BYTES = 20 << 20
PACK_BYTES = 4 << 20  # of contents in one file, so that few are to be fetched, and none that does not fit into memory
POSSIBLE_SECRETS, SCANNED_BYTES = 20, 64 << 20
LFS = b"lfs"
# How git (LC_ALL=C) ends a line about a full disk. `add` goes on without the file: the result would lack it.
FULL = "No space left on device|Disk quota exceeded|Out of diskspace|nable to write new index file"
NO_ROOM_BYTES, NO_ROOM_INODES = 1 << 16, 8
DISK_FULL = re.compile(rf"(?:{FULL})\W?$", re.M)
WORKFLOWS = b".github/workflows/"

GITLINK, NOTHING = "160000", "000000"  # modes
APART = "apart"  # the encoding of a file whose two sides are ids of contents
STATUS = {"A": "added", "M": "modified", "D": "deleted", "R": "renamed", "T": "type_changed"}

SETTINGS = {
    # nothing that runs
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "protocol.allow": "never",
    "gc.auto": "0",
    # nothing that looks into submodules
    "diff.ignoreSubmodules": "all",
    "submodule.recurse": "false",
    # nothing from outside the two trees
    "core.attributesFile": "/dev/null",
    "core.excludesFile": "/dev/null",
    "core.untrackedCache": "false",
    "core.autocrlf": "false",
    "core.safecrlf": "false",
    # a file above this is never compared line by line: that takes ten times its size in memory
    "core.bigFileThreshold": str(NEVER_TEXT_BYTES),
    # written for a few seconds only
    "core.fsync": "none",
}


class CollectError(Exception):
    """Nothing could be collected; `error` is one of the codes above."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class Limits(NamedTuple):
    """What is too much for the result. The commit itself is always whole."""

    files: int = 1000  # with their contents
    file_bytes: int = 10 << 20  # of one side of a file
    total_bytes: int = 50_000_000  # of all contents
    row_bytes: int = 1_000_000  # of one side of a file that stands in the result itself; larger ones lie apart
    rows_bytes: int = 8_000_000  # of all those
    diff_bytes: int = 1_000_000
    patch_bytes: int = 20_000_000


class Spec(NamedTuple):
    base_git: str
    base_commit: str
    work_tree: str
    message: str
    author_name: str
    author_email: str
    limits: Limits
    out: str
    date_s: int | None = None
    contents_out: str | None = None
    secret_shapes: dict[str, str] = {}  # noqa: RUF012 - never changed

    @classmethod
    def read(cls, path: Path) -> Spec:
        raw = json.loads(path.read_text(encoding="utf-8"))
        spec = cls(**{**raw, "limits": Limits(**raw.get("limits", {}))})
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", spec.base_commit):
            raise CollectError("base_missing", "base_commit is not the id of a commit.")
        return spec


class Entry(NamedTuple):
    """One line of a raw diff. `path` is bytes: on Linux a name need not be text."""

    status: str
    old_mode: str
    mode: str
    old_id: str
    id: str
    path: bytes
    previous_path: bytes | None = None


# --- the work tree ------------------------------------------------------------------------------------


def agent_home() -> Path:
    """AGENT_HOME, else the home of AGENT_USER (default `agent`); the same rule as in supervisor.py."""
    if home := os.environ.get("AGENT_HOME"):
        return Path(home)
    wanted = os.environ.get("AGENT_USER", "agent")
    if os.getuid() == 0 and wanted:
        try:
            return Path(pwd.getpwnam(wanted).pw_dir)
        except KeyError:
            raise CollectError("failed", f"AGENT_USER names {wanted}, which does not exist.") from None
    return Path.home()


def enter_work_tree(home: Path, relative: str) -> None:
    """Make the work tree the current folder, following no link the agent may have put in its place.

    Raises CollectError.
    """
    here = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    for part in Path(relative).parts:
        if part in ("..", "/"):
            raise CollectError("work_tree_unsafe", "The work tree must lie in the home of the agent.")
        try:
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
        except FileNotFoundError:
            raise CollectError("work_tree_missing", f"The work tree {relative} does not exist.") from None
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR):
                raise CollectError("work_tree_unsafe", f"The work tree {relative} is no folder any more.") from None
            raise
        os.close(here)
        here = below
    os.fchdir(here)
    os.close(here)


# --- git ----------------------------------------------------------------------------------------------


class Answer(NamedTuple):
    code: int
    out: bytes
    err: str


def has_no_room(folder: Path) -> bool:
    """Whether its disk is as good as full. git often says no more than that it could not write a file."""
    disk = os.statvfs(folder)
    return disk.f_bfree * disk.f_frsize < NO_ROOM_BYTES or (disk.f_files > 0 and disk.f_ffree < NO_ROOM_INODES)


class Scratch:
    """A throwaway repository that sees the objects of the pristine clone and keeps its own to itself."""

    def __init__(self, folder: Path, base_git: Path, base_commit: str) -> None:
        self.folder = folder
        self.git_dir = folder / "git"
        self.index = folder / "index"
        kind = "sha256" if len(base_commit) == 64 else "sha1"
        self.run("init", "--quiet", "--bare", "--template=", f"--object-format={kind}")
        info = self.git_dir / "objects" / "info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "alternates").write_text(f"{base_git}/objects\n", encoding="utf-8")
        with contextlib.suppress(FileNotFoundError):  # where the history of the clone was cut off
            shutil.copyfile(base_git / "shallow", self.git_dir / "shallow")

    def run(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        in_work_tree: bool = False,
        codes: tuple[int, ...] = (0,),
    ) -> bytes:
        """What git printed. Raises CollectError unless it ended with one of `codes`."""
        return self.ask(*arguments, stdin=stdin, env=env, in_work_tree=in_work_tree, codes=codes).out

    def ask(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: dict[str, str] | None = None,
        in_work_tree: bool = False,
        codes: tuple[int, ...] = (0,),
    ) -> Answer:
        done = subprocess.run(
            self.command(arguments, in_work_tree),
            input=stdin,
            capture_output=True,
            env=self.environment(env, in_work_tree),
            cwd=None if in_work_tree else self.folder,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
        said = done.stderr.decode("utf-8", "replace").strip()
        is_full = done.returncode != 0 and (DISK_FULL.search(said) or has_no_room(self.folder))
        if is_full or done.returncode not in codes:
            raise CollectError("disk_full" if is_full else "failed", f"git {arguments[0]}: {said[-MESSAGE_CHARS:]}")
        return Answer(done.returncode, done.stdout, said)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A git whose output is read bit by bit."""
        return subprocess.Popen(
            self.command(arguments, False),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.environment(None, False),
            cwd=self.folder,
        )

    def set_attributes(self, lines: bytes) -> None:
        """Attributes that win over those of any `.gitattributes`."""
        (self.git_dir / "info").mkdir(exist_ok=True)
        (self.git_dir / "info" / "attributes").write_bytes(lines)

    def text(self, *arguments: str, **options: Any) -> str:
        return self.run(*arguments, **options).decode("ascii").strip()

    @staticmethod
    def command(arguments: tuple[str, ...], in_work_tree: bool) -> list[str]:
        settings = {**SETTINGS, "core.bare": "false" if in_work_tree else "true"}
        return ["git", *(part for item in settings.items() for part in ("-c", "=".join(item))), *arguments]

    def environment(self, extra: dict[str, str] | None, in_work_tree: bool) -> dict[str, str]:
        """Without a work tree git reads no `.gitattributes`: nobody hides a change from the diff with it."""
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_DIR": str(self.git_dir),
            "GIT_INDEX_FILE": str(self.index),
            **({"GIT_WORK_TREE": "."} if in_work_tree else {}),
            **(extra or {}),
        }


def raw_diff(output: bytes) -> list[Entry]:
    """The entries of `git diff-tree -r --raw -z` and its like."""
    fields = iter(output.split(b"\0"))
    entries = []
    for field in fields:
        if not field:
            break
        old_mode, mode, old_id, new_id, status = field.decode("ascii").lstrip(":").split(" ")
        path = next(fields)
        previous = None
        if status[0] in "RC":
            previous, path = path, next(fields)
        entries.append(Entry(status[0], old_mode, mode, old_id, new_id, path, previous))
    return entries


# --- from the work tree to a tree -----------------------------------------------------------------------


class Snapshot:
    """Turns the work tree, as it lies there, into a tree of git."""

    def __init__(self, git: Scratch, base: str) -> None:
        self.git = git
        self.base = base
        self.warnings: list[str] = []

    def tree(self) -> str:
        """The id of the tree; what could not or must not be taken stands in `warnings`. Raises CollectError."""
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
        self._edit({path: entry for path, entry in submodules.items() if not taken & set(_parents(path))})
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
            place = next((p for p in (entry.path, *_parents(entry.path)) if p in submodules), None)
            if place is not None:
                self._warn(f"The submodule {_shown(place)} stays as it was: what changed in it is not collected.")
            elif entry.mode == GITLINK:
                self._warn(f"{_shown(entry.path)} is a repository of its own: it is not collected.")
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


def _parents(path: bytes) -> Iterator[bytes]:
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "replace")


def _same_bytes(ours: bytes, theirs: bytes) -> bool:
    """Whether both are regular files with the same contents. `theirs` may be anything, even a pipe."""
    try:
        with _regular(ours) as left, _regular(theirs) as right:
            while (block := left.read(COMPARE_BYTES)) == right.read(COMPARE_BYTES):
                if not block:
                    return True
    except OSError:
        return False
    return False


def _regular(path: bytes) -> IO[bytes]:
    """Open a regular file, never waiting and never following a link. Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "not a regular file")
    return os.fdopen(handle, "rb")


# --- from two trees to the result -----------------------------------------------------------------------


def commit(git: Scratch, spec: Spec, tree: str) -> str:
    """Make the commit; its id."""
    when = f"@{int(time.time()) if spec.date_s is None else spec.date_s} +0000"
    who = {"NAME": spec.author_name, "EMAIL": spec.author_email, "DATE": when}
    env = {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in who.items()}
    message = commit_message(spec.message).encode("utf-8", "replace")
    return git.text("commit-tree", tree, "-p", spec.base_commit, stdin=message, env=env)


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
        """Whether the blob, if there is one, can stand in a text of ours."""
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


def changed_files(entries: list[Entry], contents: Contents, limits: Limits) -> Iterator[dict[str, Any]]:
    """The entries with their contents or, where these lie apart, with their ids; as far as the limits reach."""
    left, left_in_rows = limits.total_bytes, limits.rows_bytes
    for entry in entries[: limits.files]:
        sides = [contents.sizes.get(entry.old_id), contents.sizes.get(entry.id)]
        total, largest = sum(size or 0 for size in sides), max(size or 0 for size in sides)
        is_truncated = largest > limits.file_bytes or total > left
        before, after, encoding = None, None, "utf-8"
        if not is_truncated:
            left -= total
            if largest > limits.row_bytes or total > left_in_rows:
                before, after = (one if one in contents.sizes else None for one in (entry.old_id, entry.id))
                encoding = APART
            else:
                left_in_rows -= total
                before, after, encoding = _both_sides(entry, contents)
        yield {
            "path": _shown(entry.path),
            "previous_path": None if entry.previous_path is None else _shown(entry.previous_path),
            "status": STATUS[entry.status],
            "mode": None if entry.status == "D" else entry.mode,
            "previous_mode": None if entry.status == "A" else entry.old_mode,
            "before": before,
            "after": after,
            "encoding": encoding,
            "size": sides[1] or 0,
            "truncated": is_truncated,
        }


def _both_sides(entry: Entry, contents: Contents) -> tuple[str | None, str | None, str]:
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

    def write(self, files: list[dict[str, Any]], contents: Contents) -> list[list[dict[str, Any]]]:
        """Write those that `files` name; id and size of each, by file."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(mode=0o700)
        named = (file[side] for file in files if file["encoding"] == APART for side in ("before", "after"))
        packs: list[list[dict[str, Any]]] = []
        room = 0
        for one in dict.fromkeys(filter(None, named)):
            size = contents.sizes[one]
            if size > room:
                packs.append([])
                room = PACK_BYTES
            room -= size
            packs[-1].append({"id": one, "size": size})
            with (self.folder / str(len(packs) - 1)).open("ab") as pack:
                pack.write(contents.read(one))
        return packs


def possible_secrets(entries: list[Entry], contents: Contents, shapes: Mapping[str, str]) -> list[dict[str, Any]]:
    """Where something that looks like a key stands now and did not before: {"path", "line", "kind"}, never the key.

    The first POSSIBLE_SECRETS, in the first SCANNED_BYTES: whoever writes the files must not keep us busy.
    """
    patterns = {kind: re.compile(shape.encode()) for kind, shape in shapes.items()}
    found: list[dict[str, Any]] = []
    left = SCANNED_BYTES if patterns else 0
    for entry in entries:
        left -= contents.sizes.get(entry.id, 0)
        if left < 0 or len(found) >= POSSIBLE_SECRETS:
            break
        after = contents.read_if_there(entry.id)
        for kind, at, key in keys_in(after, patterns):
            if key not in contents.read_if_there(entry.old_id):
                found.append({"path": _shown(entry.path), "line": after.count(b"\n", 0, at) + 1, "kind": kind})
    return sorted(found[:POSSIBLE_SECRETS], key=lambda place: (place["path"], place["line"]))


def keys_in(data: bytes, patterns: Mapping[str, re.Pattern[bytes]]) -> list[tuple[str, int, bytes]]:
    """Kind, place and text of what looks like a key at the beginning of a word; the first POSSIBLE_SECRETS."""
    keys = (
        (kind, match.start(), match[0])
        for kind, pattern in patterns.items()
        for match in pattern.finditer(data)
        if not re.match(rb"\w\w", data[max(match.start() - 1, 0) : match.start() + 1])
    )
    return list(itertools.islice(keys, POSSIBLE_SECRETS))


def collect(spec: Spec, git: Scratch) -> dict[str, Any]:
    """Everything about the change. `commit` is None and the rest empty when nothing changed.

    Raises CollectError.
    """
    base_tree = base_tree_of(spec, git)
    enter_work_tree(agent_home(), spec.work_tree)
    snapshot = Snapshot(git, spec.base_commit)
    tree = snapshot.tree()
    trees = (base_tree, tree)
    entries = raw_diff(git.run("diff-tree", "-r", "--raw", "-z", "-M", "--full-index", *trees))
    diff, diff_is_cut = human_diff(git, trees, spec.limits.diff_bytes)
    new_commit = commit(git, spec, tree) if entries else None
    sides = {side for e in entries for side in ((e.old_mode, e.old_id), (e.mode, e.id))}
    ids = {one for mode, one in sides if mode not in (GITLINK, NOTHING)}
    patch: str | None = ""
    no_patch = None
    with Contents(git, ids) as contents:
        files = list(changed_files(entries, contents, spec.limits))
        packs = Packs(RUN / (spec.contents_out or f"{spec.out}.contents")).write(files, contents)
        secrets = possible_secrets(entries, contents, spec.secret_shapes)
        if new_commit is not None:
            maker = Patch(git, spec.base_commit, new_commit, tree)
            patch, no_patch = maker.text(entries, contents, spec.limits.patch_bytes)
    additions, deletions = line_counts(git, trees)
    listed = spec.limits.files * PATHS_PER_FILE_LIMIT
    return {
        "base_commit": spec.base_commit,
        "commit": new_commit,
        "tree": tree,
        "base_tree": base_tree,
        "diff": diff,
        "diff_truncated": diff_is_cut,
        "patch": patch,
        "patch_truncated": patch is None,
        "changed_files": [_shown(entry.path) for entry in entries[:listed]],
        "files": files,
        "contents": packs,
        "possible_secrets": secrets,
        "additions": additions,
        "deletions": deletions,
        "warnings": [*snapshot.warnings, *warnings(git, entries, files, spec.limits), *filter(None, [no_patch])],
        "files_changed": len(entries),
    }


def base_tree_of(spec: Spec, git: Scratch) -> str:
    try:
        return git.text("rev-parse", "--verify", "--quiet", f"{spec.base_commit}^{{tree}}")
    except CollectError as error:
        if error.error == "disk_full":
            raise
        raise CollectError("base_missing", "The pristine clone does not have the base commit.") from None


def line_counts(git: Scratch, trees: tuple[str, str]) -> tuple[int, int]:
    """Lines added and deleted; files that are not text count nothing."""
    git.set_attributes(b"")
    told = git.run("diff-tree", "-r", "-M", "--shortstat", *trees).decode("ascii")
    found = [re.search(rf"(\d+) {word}", told) for word in ("insertion", "deletion")]
    added, deleted = (int(match[1]) if match else 0 for match in found)
    return added, deleted


def warnings(git: Scratch, entries: list[Entry], files: list[dict[str, Any]], limits: Limits) -> Iterator[str]:
    """What the reader of the result must know about what is not in it, or cannot be proposed like the rest."""
    if len(entries) > limits.files:
        yield f"{len(entries)} files changed: the contents of the first {limits.files} are listed."
    if cut := sum(1 for file in files if file["truncated"]):
        yield f"{cut} of the changed files are too large to be listed with their contents."
    for entry in entries:
        if as_text(entry.path) is None:
            yield f"The name of {_shown(entry.path)} is not UTF-8: only the patch has it exactly."
    if any(entry.path.startswith(WORKFLOWS) for entry in entries):
        yield f"{_shown(WORKFLOWS)} was changed: a pull request of it needs a token with the 'workflow' scope."
    if pointers := in_lfs(git, [entry.path for entry in entries if entry.status != "D"]):
        more = f" and {len(pointers) - 1} more files" if len(pointers) > 1 else ""
        yield f"{_shown(pointers[0])}{more}: by .gitattributes for Git LFS, but collected as they are."


def in_lfs(git: Scratch, paths: list[bytes]) -> list[bytes]:
    """Those that the `.gitattributes` of the new tree give to Git LFS, whose filter never runs here."""
    asked = b"".join(path + b"\0" for path in paths)
    told = git.run("check-attr", "--cached", "--stdin", "-z", "filter", stdin=asked).split(b"\0")
    answers = zip(told[::3], told[2::3])  # noqa: B905 - Python 3.9 knows no `strict`
    return [path for path, value in answers if value == LFS]


# --- the command line -----------------------------------------------------------------------------------


def write(path: Path, data: bytes) -> None:
    """Write the file whole or not at all, for root only."""
    temporary = path.with_name(f"{path.name}.part")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def run(spec: Spec) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(dir=RUN, prefix="collect-") as folder:
        result = collect(spec, Scratch(Path(folder), RUN / spec.base_git, spec.base_commit))
    data = json.dumps(result, ensure_ascii=False).encode("utf-8")
    write(RUN / spec.out, data)
    digest = hashlib.sha256(data).hexdigest()
    told = {"files": result["files_changed"], "tree": result["tree"]}
    return {"ok": True, "bytes": len(data), "sha256": digest, **told}


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("Usage: collect.py SPEC.json", file=sys.stderr)
        return 2
    try:
        answer = run(Spec.read(RUN / arguments[0]))
    except CollectError as error:
        answer = {"ok": False, "error": error.error, "message": str(error)}
    except (OSError, TypeError, ValueError, subprocess.TimeoutExpired) as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = "disk_full" if is_full else "failed"
        answer = {"ok": False, "error": code, "message": f"{type(error).__name__}: {error}"[:MESSAGE_CHARS]}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
