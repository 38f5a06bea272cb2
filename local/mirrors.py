"""The bare repositories that stand for those of GitHub: made from a person's repository, updated from it at each start.

A mirror holds more than its source: the branches and merges of tasks. `refs/source/heads` records the branches that the
source had at the last update, so that an update takes over what has changed there and leaves the rest as it is.
"""

import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from local.sample_repository import COMMITS
from local.state_files import set_aside

NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # not "." and not ".."
TOKEN_FILE = "required-token"
DETACHED = "detached-head"  # the branch we publish for a source that is on none
USUAL_BRANCHES = ("main", "master")  # where HEAD names a branch that does not exist, as in many bare repositories

HEADS = "refs/heads/"
SOURCE = "refs/source/heads/"  # the source's branches at the last update
INCOMING = "refs/source/incoming/"  # the source's branches now, while an update is under way
SOURCE_PATH = "asynccode.source"  # a setting of the mirror
SETTINGS = {
    # What GitHub allows too: `clone --filter=blob:none`, and `fetch` of any commit by its id.
    "uploadpack.allowFilter": "true",
    "uploadpack.allowAnySHA1InWant": "true",
    "transfer.hideRefs": "refs/source",
}

Refs = Mapping[str, str]  # names of branches, and the ids of their commits


class GitError(Exception):
    """git is missing or refused; the text is a sentence for a person."""


def publish(root: Path, owner: str, name: str, source: Path) -> None:
    """Make or update the mirror `root/owner/name.git` from the repository at `source`.

    It gets the branches, the tags and the current branch of `source`, as committed. Where the source has moved, the
    mirror follows; work of tasks on a branch that the source still has as it was stays, and so do branches that were
    made in the mirror, and the file with its required token. A mirror that is not whole is set aside and made again.
    Raises GitError when `source` is no git repository or has no commit yet.
    """
    if not (NAME.fullmatch(owner) and NAME.fullmatch(name)):
        raise GitError(f"{owner}/{name} is not a name of a repository.")
    with git_environ() as env:
        branch = current_branch(env, source)
        mirror = root / owner / f"{name}.git"
        if _is_whole(env, mirror):
            _remove_locks(mirror)
            _update(env, mirror, source, branch)
            return
        draft = mirror.with_name(f".{mirror.name}.part")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        kind = git(env, source, "rev-parse", "--show-object-format")
        git(env, draft, "init", "--bare", "--quiet", f"--object-format={kind}")
        _update(env, draft, source, branch)
        if mirror.exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.copy2(mirror / TOKEN_FILE, draft)
            set_aside(mirror)
        draft.rename(mirror)


def make_sample_repository(path: Path) -> None:
    """Make the demo's repository at `path`: a small Python library of three commits, always the same ids."""
    draft = path.with_name(f".{path.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    with git_environ() as env:
        git(env, draft, "init", "--quiet", "--initial-branch=main", "--object-format=sha1")
        for commit in COMMITS:
            for file, text in commit.files.items():
                (draft / file).parent.mkdir(parents=True, exist_ok=True)
                (draft / file).write_text(text, encoding="utf-8")
            git(env, draft, "add", "--all")
            author = {
                f"GIT_{who}_{what}": value
                for who in ("AUTHOR", "COMMITTER")
                for what, value in (("NAME", commit.name), ("EMAIL", commit.email), ("DATE", commit.date))
            }
            git({**env, **author}, draft, "commit", "--quiet", "--message", commit.message)
    draft.rename(path)


def source_of(env: Mapping[str, str], mirror: Path) -> Path | None:
    """The repository that a mirror was made from; None where there is no mirror, or none that says so."""
    path = git(env, mirror, "config", "--local", SOURCE_PATH, check=False) if mirror.is_dir() else ""
    return Path(path) if path else None


def current_branch(env: Mapping[str, str], source: Path) -> str | None:
    """The branch that `source` is on; None where it is on a commit without a branch.

    Where that branch has no commit, main, master or the first of those that have one. Raises GitError without any.
    """
    if not source.is_dir():
        raise GitError(f"{source} is not a folder.")
    if _has_commit(env, source, "HEAD"):
        head = git(env, source, "symbolic-ref", "--quiet", "HEAD", check=False)
        return head.removeprefix(HEADS) if head.startswith(HEADS) else None
    for name in (*USUAL_BRANCHES, *_refs(env, source, HEADS)):
        if _has_commit(env, source, f"{HEADS}{name}"):
            return name
    raise GitError(f"{source} is not a git repository with at least one commit.")


@contextlib.contextmanager
def git_environ() -> Iterator[dict[str, str]]:
    """Give an environment in which git reads no settings but ours, asks for nothing and trusts every folder's owner."""
    with NamedTemporaryFile("w", suffix=".gitconfig") as config:
        config.write("[safe]\n\tdirectory = *\n[gc]\n\tauto = 0\n")
        config.flush()
        yield {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": config.name,  # a file, as git keeps it for the programs it starts
            "GIT_TERMINAL_PROMPT": "0",
        }


def git(env: Mapping[str, str], folder: Path, *arguments: str, check: bool = True, stdin: str = "") -> str:
    """Run git in `folder`, which must itself be a repository or become one, and return what it printed."""
    done = run_git({**env, "GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}, folder, *arguments, stdin=stdin)
    if check and done.returncode != 0:
        raise GitError(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip("\n")


def run_git(
    env: Mapping[str, str], folder: Path, *arguments: str, stdin: str = ""
) -> "subprocess.CompletedProcess[str]":
    """Run git in `folder` or the repository around it. Names that are no UTF-8 pass through as they are."""
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            env=dict(env),
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed; please install it and try again.") from error


def _has_commit(env: Mapping[str, str], folder: Path, name: str) -> bool:
    return bool(git(env, folder, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}", check=False))


def _is_whole(env: Mapping[str, str], mirror: Path) -> bool:
    try:
        current_branch(env, mirror)
    except GitError:
        return False
    return True


def _update(env: Mapping[str, str], mirror: Path, source: Path, branch: str | None) -> None:
    detached = [] if branch else [f"+HEAD:{INCOMING}{DETACHED}"]
    refspecs = [f"+{HEADS}*:{INCOMING}*", "+refs/tags/*:refs/tags/*", *detached]
    git(env, mirror, "fetch", "--quiet", "--prune", "--update-shallow", str(source.resolve()), *refspecs)
    _take_over(env, mirror)
    git(env, mirror, "symbolic-ref", "HEAD", f"{HEADS}{branch or DETACHED}")
    for key, value in {**SETTINGS, SOURCE_PATH: str(source.resolve())}.items():
        git(env, mirror, "config", key, value)


def _take_over(env: Mapping[str, str], mirror: Path) -> None:
    """Move the branches to where the source has them now, but for those with work of tasks that fits to it.

    Two transactions, since git makes no branch `a/b` in the one that deletes `a`. Killed in between, the next update
    does the rest.
    """
    here, before, now = (_refs(env, mirror, prefix) for prefix in (HEADS, SOURCE, INCOMING))
    gone = before.keys() - now.keys()
    in_the_way = {name for name in here.keys() - now.keys() if any(_excludes(name, other) for other in now)}
    _update_refs(env, mirror, (f"delete {HEADS}{name}" for name in (gone | in_the_way) & here.keys()))
    _update_refs(env, mirror, (f"delete {SOURCE}{name}" for name in gone))
    moved = [name for name, tip in now.items() if not _stays(env, mirror, here.get(name), before.get(name), tip)]
    moves = [f"update {HEADS}{name} {now[name]}" for name in moved]
    _update_refs(env, mirror, [*moves, *(f"update {SOURCE}{name} {tip}" for name, tip in now.items())])


def _stays(env: Mapping[str, str], mirror: Path, mine: str | None, before: str | None, now: str) -> bool:
    """Whether the mirror's branch holds work of its own, done on what the source has now."""
    if mine is None or mine == before:
        return mine == now
    return now == before or run_git(env, mirror, "merge-base", "--is-ancestor", now, mine).returncode == 0


def _excludes(one: str, other: str) -> bool:
    """git keeps branches as files: there is no `a` beside `a/b`."""
    return one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _refs(env: Mapping[str, str], folder: Path, prefix: str) -> Refs:
    lines = git(env, folder, "for-each-ref", "--format=%(objectname) %(refname)", prefix, check=False).split("\n")
    return {name.removeprefix(prefix): commit for commit, name in (line.split(" ", 1) for line in lines if line)}


def _update_refs(env: Mapping[str, str], mirror: Path, commands: Iterable[str]) -> None:
    """All of them or none."""
    git(env, mirror, "update-ref", "--stdin", stdin="".join(f"{command}\n" for command in commands))


def _remove_locks(mirror: Path) -> None:
    """Of git programs that were killed. None is at work in here while a mirror is published."""
    for path in [*mirror.glob("*.lock"), *(mirror / "refs").rglob("*.lock")]:
        path.unlink(missing_ok=True)
