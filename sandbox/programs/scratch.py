"""A throwaway repository, in which git looks at what an agent has left without opening anything of the agent's."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sandbox.programs import git
from sandbox.programs.failures import MESSAGE_CHARS, ProgramFailed
from sandbox.programs.protocol import DISK_FULL, FAILED

GIT_TIMEOUT_S = 900  # of one git command; the job as a whole has its own
NEVER_TEXT_BYTES = 20 << 20

SETTINGS = {
    # nothing that runs
    "core.fsmonitor": "false",
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


class Answer(NamedTuple):
    code: int
    out: bytes
    err: str


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
        env: Mapping[str, str] | None = None,
        in_work_tree: bool = False,
        codes: tuple[int, ...] = (0,),
    ) -> bytes:
        """What git printed. Raises ProgramFailed unless it ended with one of `codes`."""
        return self.ask(*arguments, stdin=stdin, env=env, in_work_tree=in_work_tree, codes=codes).out

    def ask(
        self,
        *arguments: str,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        in_work_tree: bool = False,
        codes: tuple[int, ...] = (0,),
    ) -> Answer:
        done = subprocess.run(
            ["git", *arguments],
            input=stdin,
            capture_output=True,
            env=self._environment(env, in_work_tree),
            cwd=None if in_work_tree else self.folder,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
        said = done.stderr.decode("utf-8", "replace").strip()
        is_full = done.returncode != 0 and (git.FULL_DISK.search(said) or git.has_no_room(self.folder))
        if is_full or done.returncode not in codes:
            raise ProgramFailed(DISK_FULL if is_full else FAILED, f"git {arguments[0]}: {said[-MESSAGE_CHARS:]}")
        return Answer(done.returncode, done.stdout, said)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A git whose output is read bit by bit."""
        return subprocess.Popen(
            ["git", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self._environment(None, False),
            cwd=self.folder,
        )

    def set_attributes(self, lines: bytes) -> None:
        """Attributes that win over those of any `.gitattributes`."""
        (self.git_dir / "info").mkdir(exist_ok=True)
        (self.git_dir / "info" / "attributes").write_bytes(lines)

    def text(self, *arguments: str, **options: Any) -> str:
        return self.run(*arguments, **options).decode("ascii").strip()

    def _environment(self, extra: Mapping[str, str] | None, in_work_tree: bool) -> dict[str, str]:
        """Without a work tree git reads no `.gitattributes`: no agent hides a change from the diff with it."""
        settings = {**SETTINGS, "core.bare": "false" if in_work_tree else "true"}
        place = {"GIT_DIR": str(self.git_dir), "GIT_INDEX_FILE": str(self.index)}
        work_tree = {"GIT_WORK_TREE": "."} if in_work_tree else {}
        return git.environment(settings, {**place, **work_tree, **(extra or {})})


class Entry(NamedTuple):
    """One line of a raw diff. `path` is bytes: on Linux a name need not be text."""

    status: str
    old_mode: str
    mode: str
    old_id: str
    id: str
    path: bytes
    previous_path: bytes | None = None


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


def parents_of(path: bytes) -> Iterator[bytes]:
    """The folders that the path lies in, the nearest first."""
    while b"/" in path:
        path = path.rpartition(b"/")[0]
        yield path


def shown(path: bytes) -> str:
    """The path as text, for people."""
    return path.decode("utf-8", "replace")
