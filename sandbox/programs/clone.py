"""Clones a repository twice: a pristine one the agent never sees, and the agent's own.

    clone REQUEST.json

The file is a CloneRequest, in the run's folder. Prints one line, a CloneReport or a Failure, and exits 0.

The token reaches git through the environment of the one process that fetches: never an argument, an address
or a file. The pristine clone is the reference for what the agent changes; it has no hooks and no remote.
May be killed and run again at any point. git 2.31 or newer.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

from sandbox.programs import git
from sandbox.programs.account import Account, agent_account
from sandbox.programs.clone_git import Git, refuse_more_than, size_of
from sandbox.programs.failures import REPORTED, ProgramFailed, failure_of
from sandbox.programs.protocol import (
    DISK_FULL,
    FAILED,
    CloneReport,
    CloneRequest,
    Failure,
    SetupScript,
    from_value,
    parse,
)
from sandbox.programs.remote import MOVED, fetch_settings, moved_to, redacted, take_token
from sandbox.programs.run_folder import RUN, answer_request

RECORD = "async-code.json"  # in the pristine clone: what it is a clone of
SETUP_SCRIPT = ".asynccode/setup.sh"
MAX_SETUP_BYTES = 32 * 1024  # in JSON up to six times as long, and our line of it is read in one look of 256 KiB


def main(arguments: list[str]) -> int:
    """The program: its exit code."""
    return answer_request("clone", arguments, run)


def run(path: Path) -> CloneReport | Failure:
    """Clone as the file says. The token's file is gone afterwards, whatever happens."""
    token = None
    try:
        value = parse(path.read_bytes(), path.name)
        if isinstance(value, dict) and isinstance(value.get("token_file"), str):
            token = take_token(RUN / value["token_file"])  # before anything can go wrong
        return clone(from_value(CloneRequest, value, path.name), token)
    except REPORTED as error:
        failure = failure_of(error)
        code = FAILED if failure.error == MOVED else failure.error
        return Failure(code, redacted(failure.message, token))


def clone(request: CloneRequest, token: str | None) -> CloneReport:
    """Make both clones, as far as they are not there. Raises ProgramFailed."""
    began = time.monotonic()
    refuse_what_is_unsafe(request)
    owner = agent_account()
    runner = Git(deadline=began + request.timeout_s)
    base = RUN / request.base_git
    commit = clone_base(request, token, base, runner)
    work_tree = owner.home / request.work_tree
    clone_for_agent(request, base, work_tree, owner, runner)
    took_s = round(time.monotonic() - began, 3)
    real = work_tree.resolve()
    return CloneReport(
        base_commit=commit,
        branch=request.branch,
        work_tree=str(work_tree),
        real_work_tree=str(real) if real != work_tree else None,
        bytes=size_of(base),
        took_s=took_s,
        setup=setup_of(commit, base, runner),
    )


def refuse_what_is_unsafe(request: CloneRequest) -> None:
    """Raises ProgramFailed: the address or the branch must not be handed to git."""
    parts = urlsplit(request.url)
    if parts.scheme not in ("https", "http", "file") or not (parts.netloc or parts.scheme == "file"):
        raise ProgramFailed("refused", "Only http and https addresses of repositories can be cloned.")
    if "@" in parts.netloc:
        raise ProgramFailed("refused", "The address of the repository must not hold credentials.")
    if any(ord(letter) < 0x21 for letter in request.url) or "\0" in request.branch or not request.branch:
        raise ProgramFailed("refused", "The address or the branch holds characters that no git server allows.")
    if request.commit is not None and not git.COMMIT_ID.fullmatch(request.commit):
        raise ProgramFailed("refused", "commit is not the id of a commit.")


# --- the pristine clone -------------------------------------------------------------------------------------------


def clone_base(request: CloneRequest, token: str | None, base: Path, runner: Git) -> str:
    """Make the pristine clone; its commit. A finished one is taken as it is. Raises ProgramFailed."""
    record = {"url": request.url, "branch": request.branch, "commit": request.commit}
    if base.exists():
        if json.loads((base / RECORD).read_text(encoding="utf-8")) != record:
            raise ProgramFailed("refused", f"{base.name} is a clone of something else.")
        return commit_of(request, base, runner)
    part = half_made(base)
    depth = [] if request.depth is None else [f"--depth={request.depth}"]
    only = ["--bare", "--single-branch", "--no-tags", "--no-recurse-submodules", "--template=", "--no-progress"]

    def fetch(url: str) -> None:
        runner.run(
            *("clone", *only, f"--branch={request.branch}", *depth, "--", url, str(part)),
            settings=fetch_settings(request.url, token),
            growing=part,
            max_bytes=request.max_bytes,
        )
        if request.commit is not None:
            begin_at(request.commit, request, url, token, part, runner)

    try:
        fetch(request.url)
    except ProgramFailed as error:
        if error.error != MOVED or token is None:
            raise
        fetch(moved_to(request.url, token))
    if request.max_bytes is not None:
        refuse_more_than(request.max_bytes, part)
    commit = commit_of(request, part, runner)
    runner.run("--git-dir", str(part), "remote", "remove", "origin")
    (part / RECORD).write_text(json.dumps(record), encoding="utf-8")
    part.rename(base)
    return commit


def begin_at(commit: str, request: CloneRequest, url: str, token: str | None, base: Path, runner: Git) -> None:
    """Make `commit` the branch's tip; where the server does not give it, the branch stays as it is."""
    place = ("--git-dir", str(base))
    if not has_commit(commit, base, runner):
        depth = [] if request.depth is None else [f"--depth={request.depth}"]
        try:
            runner.run(
                *(*place, "fetch", "--no-tags", "--no-recurse-submodules", *depth, "--", url, commit),
                settings=fetch_settings(request.url, token),
            )
        except ProgramFailed as error:
            if error.error in ("timeout", MOVED, DISK_FULL):
                raise
            return
    runner.run(*place, "update-ref", f"refs/heads/{request.branch}", commit)


def has_commit(commit: str, base: Path, runner: Git) -> bool:
    try:
        runner.run("--git-dir", str(base), "cat-file", "-e", f"{commit}^{{commit}}")
    except ProgramFailed as error:
        if error.error == "timeout":
            raise
        return False
    return True


def commit_of(request: CloneRequest, base: Path, runner: Git) -> str:
    """The commit the branch stands at; `--branch` would have taken a tag as well. Raises ProgramFailed."""
    try:
        return runner.run(
            *("--git-dir", str(base), "rev-parse", "--verify", "--quiet", "--end-of-options"),
            f"refs/heads/{request.branch}^{{commit}}",
        )
    except ProgramFailed as error:
        if error.error == "timeout":
            raise
        raise ProgramFailed("branch_not_found", f"The repository has no branch {request.branch}.") from None


def setup_of(commit: str, base: Path, runner: Git) -> SetupScript | None:
    """The setup script that the commit brings, of the pristine clone: nobody in the sandbox can have changed it.

    A link, or a folder that is one, leads nowhere: git looks at the commit's own entry of this name, not at files.
    """
    entry = runner.run("--git-dir", str(base), "ls-tree", "--long", commit, "--", SETUP_SCRIPT)
    if not entry:
        return None
    mode, _, blob, size = entry.split()[:4]
    if mode not in ("100644", "100755"):
        return SetupScript(problem="must be a regular file")
    if int(size) > MAX_SETUP_BYTES:
        return SetupScript(problem=f"is longer than {MAX_SETUP_BYTES} bytes")
    script = runner.run("--git-dir", str(base), "cat-file", "blob", blob)
    if "\0" in script or "\ufffd" in script:
        return SetupScript(problem="is not text in UTF-8")
    return SetupScript(script=script) if script else None


# --- the agent's clone --------------------------------------------------------------------------------------------


def clone_for_agent(request: CloneRequest, base: Path, work_tree: Path, owner: Account, runner: Git) -> None:
    """Make the agent's clone: self-contained, its own, and with nothing in it that points to us."""
    if work_tree.is_dir() and not work_tree.is_symlink():
        return
    work_tree.parent.mkdir(parents=True, exist_ok=True)
    part = half_made(work_tree)
    runner.run(
        *("clone", "--no-hardlinks", "--no-recurse-submodules", "--template=", "--no-progress"),
        *(f"--branch={request.branch}", "--", str(base), str(part)),
        settings={"protocol.file.allow": "always", "core.logAllRefUpdates": "false"},
    )
    runner.run("--git-dir", str(part / ".git"), "remote", "set-url", "origin", request.url)
    if request.patch_file is not None:
        apply_patch(RUN / request.patch_file, part, runner)
    if owner.uid is not None:
        give(part, owner.uid, owner.gid)
    part.rename(work_tree)


def apply_patch(patch: Path, work_tree: Path, runner: Git) -> None:
    """Make the changes where they fit, merged with what has changed since. Raises ProgramFailed for a conflict."""
    try:
        runner.run("-C", str(work_tree), "apply", "--3way", "--whitespace=nowarn", "--", str(patch))
        runner.run("-C", str(work_tree), "reset", "--quiet")  # nothing is staged: as the agent had left it
    except ProgramFailed as error:
        if error.error in ("timeout", DISK_FULL):
            raise
        raise ProgramFailed("patch_conflict", str(error)) from None


def half_made(place: Path) -> Path:
    """Where `place` is prepared; what an attempt that was killed left there is removed."""
    part = place.with_name(f"{place.name}.part")
    if part.is_symlink() or part.is_file():
        part.unlink()
    elif part.exists():
        shutil.rmtree(part)
    return part


def give(folder: Path, uid: int, gid: int) -> None:
    """Make everything in `folder` belong to the user; links themselves, never what they point to."""
    for _, folders, files, handle in os.fwalk(folder):
        for name in folders + files:
            os.chown(name, uid, gid, dir_fd=handle, follow_symlinks=False)
    os.chown(folder, uid, gid, follow_symlinks=False)
