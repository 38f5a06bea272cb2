"""Collects exactly what an agent changed in its work tree, trusting nothing the agent left there.

    collect REQUEST.json

The file is a CollectRequest, in the run's folder. Writes the result, a Collected, to the file `out` of the run's
folder, prints one line, a CollectReport or a Failure, and exits 0.

How it stays safe: git works with a repository of ours, in a throwaway folder that borrows the objects of the
pristine clone. The agent's `.git` is never opened, so its configuration, hooks, filters and drivers do not
exist for us; submodules are taken out of the index before git could look into them. The work tree is only
read: the agent may go on working in it. Whether the agent committed, stashed or rewrote history makes no
difference: what counts is which files lie there.

git 2.31 or newer.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sandbox.programs.account import agent_account
from sandbox.programs.contents import Contents, Packs, as_text, changed_files
from sandbox.programs.failures import REPORTED, ProgramFailed, failure_of
from sandbox.programs.git import COMMIT_ID
from sandbox.programs.patch import Patch, commit, human_diff, line_counts
from sandbox.programs.possible_secrets import possible_secrets
from sandbox.programs.protocol import (
    DISK_FULL,
    ChangedFile,
    Collected,
    CollectLimits,
    CollectReport,
    CollectRequest,
    Failure,
    from_json,
    to_value,
)
from sandbox.programs.run_folder import RUN, answer_request
from sandbox.programs.safe_files import write_whole
from sandbox.programs.scratch import Entry, Scratch, raw_diff, shown
from sandbox.programs.snapshot import GITLINK, Snapshot, enter_work_tree

PATHS_PER_FILE_LIMIT = 10  # so many more paths than contents are listed: a path is small
NOTHING = "000000"  # the mode of a side that does not exist
LFS = b"lfs"
WORKFLOWS = b".github/workflows/"


def main(arguments: list[str]) -> int:
    """The program: its exit code."""
    return answer_request("collect", arguments, _answer)


def _answer(path: Path) -> CollectReport | Failure:
    try:
        return run(from_json(CollectRequest, path.read_bytes(), path.name))
    except REPORTED as error:
        return failure_of(error)


def run(request: CollectRequest) -> CollectReport:
    """Write the result to its file; what to report of it. Raises ProgramFailed."""
    if not COMMIT_ID.fullmatch(request.base_commit):
        raise ProgramFailed("base_missing", "base_commit is not the id of a commit.")
    with tempfile.TemporaryDirectory(dir=RUN, prefix="collect-") as folder:
        result = collect(request, Scratch(Path(folder), RUN / request.base_git, request.base_commit))
    data = json.dumps(to_value(result), ensure_ascii=False).encode("utf-8")
    write_whole(RUN / request.out, data)
    digest = hashlib.sha256(data).hexdigest()
    return CollectReport(bytes=len(data), sha256=digest, files=result.files_changed, tree=result.tree)


def collect(request: CollectRequest, git: Scratch) -> Collected:
    """Everything about the change. Raises ProgramFailed."""
    base_tree = base_tree_of(request, git)
    enter_work_tree(agent_account().home, request.work_tree)
    snapshot = Snapshot(git, request.base_commit)
    tree = snapshot.tree()
    trees = (base_tree, tree)
    entries = raw_diff(git.run("diff-tree", "-r", "--raw", "-z", "-M", "--full-index", *trees))
    diff, diff_is_cut = human_diff(git, trees, request.limits.diff_bytes)
    new_commit = commit(git, request, tree) if entries else None
    patch: str | None = ""
    no_patch = None
    with Contents(git, _ids_of(entries)) as contents:
        files = list(changed_files(entries, contents, request.limits))
        packs = Packs(RUN / (request.contents_out or f"{request.out}.contents")).write(files, contents)
        secrets = possible_secrets(entries, contents, request.secret_shapes)
        if new_commit is not None:
            maker = Patch(git, request.base_commit, new_commit, tree)
            patch, no_patch = maker.text(entries, contents, request.limits.patch_bytes)
    additions, deletions = line_counts(git, trees)
    listed = request.limits.files * PATHS_PER_FILE_LIMIT
    unusual = warnings(git, entries, files, request.limits)
    return Collected(
        base_commit=request.base_commit,
        commit=new_commit,
        tree=tree,
        base_tree=base_tree,
        diff=diff,
        diff_truncated=diff_is_cut,
        patch=patch,
        patch_truncated=patch is None,
        changed_files=tuple(shown(entry.path) for entry in entries[:listed]),
        files=tuple(files),
        contents=packs,
        possible_secrets=tuple(secrets),
        additions=additions,
        deletions=deletions,
        warnings=(*snapshot.warnings, *unusual, *filter(None, [no_patch])),
        files_changed=len(entries),
    )


def _ids_of(entries: list[Entry]) -> set[str]:
    """The ids of all contents, old and new."""
    sides = {side for e in entries for side in ((e.old_mode, e.old_id), (e.mode, e.id))}
    return {one for mode, one in sides if mode not in (GITLINK, NOTHING)}


def base_tree_of(request: CollectRequest, git: Scratch) -> str:
    try:
        return git.text("rev-parse", "--verify", "--quiet", f"{request.base_commit}^{{tree}}")
    except ProgramFailed as error:
        if error.error == DISK_FULL:
            raise
        raise ProgramFailed("base_missing", "The pristine clone does not have the base commit.") from None


def warnings(git: Scratch, entries: list[Entry], files: list[ChangedFile], limits: CollectLimits) -> Iterator[str]:
    """What the reader of the result must know about what is not in it, or cannot be proposed like the rest."""
    if len(entries) > limits.files:
        yield f"{len(entries)} files changed: the contents of the first {limits.files} are listed."
    if cut := sum(1 for file in files if file.truncated):
        yield f"{cut} of the changed files are too large to be listed with their contents."
    for entry in entries:
        if as_text(entry.path) is None:
            yield f"The name of {shown(entry.path)} is not UTF-8: only the patch has it exactly."
    if any(entry.path.startswith(WORKFLOWS) for entry in entries):
        yield f"{shown(WORKFLOWS)} was changed: a pull request of it needs a token with the 'workflow' scope."
    if pointers := in_lfs(git, [entry.path for entry in entries if entry.status != "D"]):
        more = f" and {len(pointers) - 1} more files" if len(pointers) > 1 else ""
        yield f"{shown(pointers[0])}{more}: by .gitattributes for Git LFS, but collected as they are."


def in_lfs(git: Scratch, paths: list[bytes]) -> list[bytes]:
    """Those that the `.gitattributes` of the new tree give to Git LFS, whose filter never runs here."""
    asked = b"".join(path + b"\0" for path in paths)
    told = git.run("check-attr", "--cached", "--stdin", "-z", "filter", stdin=asked).split(b"\0")
    answers = zip(told[::3], told[2::3])
    return [path for path, value in answers if value == LFS]
