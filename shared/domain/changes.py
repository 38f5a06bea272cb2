"""What an agent changed, and the files that come of it: all of them, or an error."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from shared.domain.errors import InvalidInput
from shared.domain.patch import BadPatch, File, FilePatch, PatchConflict, parse

NO_PATCH = "No patch data available for this task"

Files = Mapping[str, File | None]  # by path: to put, or to remove where None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileChange:
    """One file that a run changed: git's id of what it found, and what it left. None for a side that does not exist."""

    path: str
    previous_path: str | None = None
    mode: str | None
    before_id: str | None
    after: bytes | None


@dataclass(frozen=True, slots=True)
class RunChanges:
    """What a run found at `base_commit` and left there, asked to do `prompt`.

    Files whose contents were too much to store are not in it.
    """

    base_commit: str | None = None
    files: tuple[FileChange, ...] = ()
    prompt: str | None = None


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """What is at a path: `id` is git's name for the contents."""

    mode: str
    id: str


class BaseFiles(Protocol):
    """The files that the changes are put on."""

    def entries(self) -> Mapping[str, TreeEntry]:
        """All of them, by path."""
        ...

    def file(self, path: str) -> File | None: ...


@dataclass(frozen=True, slots=True)
class Changes:
    """All that the agent did: files with their contents, as far as they were stored, and the rest as a patch."""

    stored: Collection[FileChange]
    patched: Collection[FilePatch]

    @classmethod
    def of(cls, run: RunChanges, listed: Collection[str], patch: Callable[[], str | None]) -> "Changes":
        """`listed` are the paths that changed; `patch` is read when some were not stored with their contents.

        Raises InvalidInput without a patch then, BadPatch.
        """
        stored = {change.path for change in run.files}
        if listed and stored >= set(listed):
            return cls(run.files, ())
        text = patch()
        if not text:
            raise InvalidInput(NO_PATCH, code="no_changes")
        return cls(run.files, [part for part in parse(text) if part.path not in stored])

    @property
    def count(self) -> int:
        """How many files; a renamed one is one."""
        return len({change.path for change in self.stored} | {part.path for part in self.patched})

    def on(self, base: BaseFiles, *, is_the_agents: bool) -> Files:
        """The files as they shall be. Where the base is not the one that the agent saw, they must be as it found them.

        Raises PatchConflict, BadPatch.
        """
        gone: set[str] = set()
        put: dict[str, File] = {}
        for change in self.stored:
            if not is_the_agents:
                _check_unchanged(change, base.entries())
            if change.after is None or change.previous_path:
                gone.add(change.previous_path or change.path)
            if change.after is not None and change.mode is not None:
                put[change.path] = File(change.mode, change.after)
        for part in self.patched:
            _apply(part, base, gone, put)
        if not is_the_agents:
            _check_room(put, base.entries().keys() - gone)
        return dict.fromkeys(gone) | put


def folders(paths: Iterable[str]) -> set[str]:
    """Every folder that one of the paths lies in."""
    return {path[:at] for path in paths for at, letter in enumerate(path) if letter == "/"}


def _apply(part: FilePatch, base: BaseFiles, gone: set[str], put: dict[str, File]) -> None:
    """Add to `gone` and `put` what becomes of one file of a patch."""
    if part.path in put or (part.path in gone and part.source):
        raise BadPatch(f"Failed to apply patch - it changes {part.path} twice")
    made_anew = part.path in gone  # as git tells of a file that becomes a link: deleted, then new
    is_renamed = part.source not in {None, part.path}
    if is_renamed and part.path in base.entries():
        raise PatchConflict(f"{part.path} exists already.")
    after = part.applied_to(None if made_anew else base.file(part.source or part.path))
    if part.source and (part.deletes or is_renamed):
        gone.add(part.source)
    if after is not None:
        put[part.path] = after


def _check_unchanged(change: FileChange, entries: Mapping[str, TreeEntry]) -> None:
    source = change.previous_path or change.path
    found = entries[source].id if source in entries else None
    if found != change.before_id or (change.previous_path and change.path in entries):
        raise _changed_since(source)


def _check_room(put: Mapping[str, File], kept: Collection[str]) -> None:
    """No file takes the place of a folder that stays, nor a folder that of a file."""
    for path in sorted((folders(put) & set(kept)) | (folders(kept) & put.keys())):
        raise _changed_since(path)


def _changed_since(path: str) -> PatchConflict:
    return PatchConflict(f"{path} has changed since the agent saw it. Run the task again on the current branch.")
