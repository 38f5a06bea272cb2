"""The repository of a demo: the person's own, by path or URL, or a small real one made on the spot."""

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from local.mirrors import (
    GitError,
    current_branch,
    git,
    git_environ,
    make_sample_repository,
    publish,
    run_git,
    source_of,
)
from local.sample_repository import COMMITS
from local.stack import Stack
from local.state_files import set_aside

OWNER = "local"
SAMPLE = "pocketbook"
LOOK_TIMEOUT_S = 60
CLONE_TIMEOUT_S = 900
QUOTED_CHARS = 300  # of what git says
REMOTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|([^/@:\s]+@)?[^/@:\s]+:")  # a URL, or ssh's short form host:path
# They belong to the repository that a program is called in, for example by a hook, and would be taken for ours.
OF_ANOTHER_REPOSITORY = {
    *("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"),
    *("GIT_COMMON_DIR", "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_CEILING_DIRECTORIES"),
}
NEVER_ASK = {
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_ASKPASS": "",
    "SSH_ASKPASS_REQUIRE": "never",
    "GCM_INTERACTIVE": "never",  # Git Credential Manager
    "LC_ALL": "C",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A repository that sandboxes can clone. `files` counts those of the branch, where they are at hand."""

    url: str
    branch: str
    files: int | None
    name: str


def check_source(source: str | None, caller: Mapping[str, str]) -> None:
    """Look whether `source`, which is REPO, can be published; starts nothing. Raises GitError with what is wrong.

    `caller` is the environment of the person, for their own git.
    """
    source = (source or "").strip()
    if not source:
        return
    path = _local_path(source)
    if path is None:
        if not _own_git(caller, "ls-remote", "--heads", "--", source, timeout_s=LOOK_TIMEOUT_S).strip():
            raise GitError(f"REPO={_without_password(source)} has no branch yet.")
        return
    with git_environ() as env:
        current_branch(env, _top_folder(env, path))


def publish_repository(stack: Stack, source: str | None) -> Published:
    """Make `source` clonable from the local git server: what is committed in it now.

    Where repositories are at the real GitHub, `source` is its address and is cloned from there.

    A folder of a repository stands for the whole of it. A URL is cloned with the person's own git and its credentials,
    which never reach a sandbox. Raises GitError.
    """
    source = (source or "").strip()
    caller = stack.options.caller
    if not stack.local_github:
        return _elsewhere(caller, source)
    path = _local_path(source) if source else _sample(stack.options.data / "sample" / SAMPLE)
    with git_environ() as env:
        top = _top_folder(env, path) if path else _cloned(caller, stack.options.data / "cloned", source)
        name = _free_name(env, stack.git_root / OWNER, top)
        publish(stack.git_root, OWNER, name, top)
        mirror = stack.git_root / OWNER / f"{name}.git"
        branch = str(current_branch(env, mirror))
        files = git(env, mirror, "ls-tree", "-r", "--name-only", "-z", f"refs/heads/{branch}").count("\0")
    return Published(url=f"{stack.git_url}/{OWNER}/{name}", branch=branch, files=files, name=name)


def _local_path(source: str) -> Path | None:
    """Where `source` is on this machine; None for an address elsewhere. Raises GitError where nothing is there."""
    url = urlsplit(source)
    if url.scheme == "file" and url.netloc in ("", "localhost"):
        source = unquote(url.path)
    try:
        path = Path(source).expanduser()
        if path.exists():
            return path.resolve()
    except (OSError, RuntimeError) as error:  # a folder that is closed to us, or ~ of a user who does not exist
        raise GitError(f"REPO={source} cannot be opened: {error}.") from error
    if REMOTE.match(source) and source[:1] not in (".", "/", "~"):
        return None
    raise GitError(f"REPO={source} does not exist, seen from {Path.cwd()}, and is no URL.")


def _top_folder(env: Mapping[str, str], path: Path) -> Path:
    """Of the repository that `path` is in; of a bare one, itself."""
    if not path.is_dir():
        raise GitError(f"REPO={path} is a file; name the folder of a git repository.")
    for question in ("--show-toplevel", "--absolute-git-dir"):
        done = run_git(env, path, "rev-parse", question)
        found = Path(done.stdout.removesuffix("\n"))
        if done.returncode == 0 and done.stdout.strip():
            return found.parent if found.name == ".git" else found
    raise GitError(f"REPO={path} is not a git repository: {_last_line(done.stderr)}")


def _name(path: Path) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.removesuffix(".git")).strip("-.") or "repository"


def _free_name(env: Mapping[str, str], root: Path, source: Path) -> str:
    """One under which no other source is published: two folders of the same name are two repositories."""
    for number in itertools.count(1):
        name = _name(source) + (f"-{number}" if number > 1 else "")
        known = source_of(env, root / f"{name}.git")
        if known is None or known == source.resolve() or not known.exists():
            return name
    raise AssertionError("numbers do not end")


def _sample(path: Path) -> Path:
    """Made when it is not there, or not all of it."""
    with git_environ() as env:
        commits = git(env, path, "rev-list", "--count", "HEAD", check=False) if path.is_dir() else ""
    if not commits.isdigit() or int(commits) < len(COMMITS):
        if os.path.lexists(path):
            set_aside(path)
        make_sample_repository(path)
    return path


def _elsewhere(caller: Mapping[str, str], url: str) -> Published:
    """A repository that sandboxes reach by themselves, with the person's GITHUB_TOKEN where there is one."""
    if not url.startswith("https://"):
        raise GitError("With CLOUD=github or CLOUD=e2b, REPO must be the https:// address of a repository.")
    head = _own_git(caller, "ls-remote", "--symref", "--", url, "HEAD", timeout_s=LOOK_TIMEOUT_S)
    branch = re.match(r"ref: refs/heads/(\S+)", head)
    if not branch:
        raise GitError(f"REPO={_without_password(url)} has no branch.")
    return Published(url=url, branch=branch[1], files=None, name=url.rstrip("/").rsplit("/", 1)[-1])


def _cloned(caller: Mapping[str, str], folder: Path, url: str) -> Path:
    """A fresh clone of the newest commits, in a folder of its own for each URL."""
    address = re.sub(r"^[A-Za-z0-9+.-]+://|^[^/@]*@", "", _without_password(url)).rstrip("/").removesuffix(".git")
    path = folder / re.sub(r"[^A-Za-z0-9._-]+", "-", address).strip("-.") / _name(Path(address.replace(":", "/")))
    draft = path.with_name(f".{path.name}.part")
    shutil.rmtree(draft, ignore_errors=True)
    draft.parent.mkdir(parents=True, exist_ok=True)
    _own_git(caller, "clone", "--quiet", "--depth=50", "--", url, str(draft), timeout_s=CLONE_TIMEOUT_S)
    shutil.rmtree(path, ignore_errors=True)
    return draft.rename(path)


def _own_git(caller: Mapping[str, str], *arguments: str, timeout_s: float) -> str:
    """What git prints with the person's own settings and credentials. It asks for none: nobody may be there to answer.

    Raises GitError with its last line, or when it has not ended in time.
    """
    env = {name: value for name, value in caller.items() if name not in OF_ANOTHER_REPOSITORY} | NEVER_ASK
    env.pop("SSH_ASKPASS", None)
    try:
        process = subprocess.Popen(
            ["git", *arguments],
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # no terminal to ask on, and its helpers can be ended with it
        )
    except FileNotFoundError as error:
        raise GitError("git is not installed; please install it and try again.") from error
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise GitError(f"git {arguments[0]} got no answer within {timeout_s:g} seconds.") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode:
        raise GitError(f"git cannot read REPO: {_without_password(_last_line(err))}")
    return out


def _last_line(said: str) -> str:
    """The line in which git says what is wrong; after it come hints."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(("fatal:", "error:", "ERROR:"))]
    return (fatal or lines or ["git says nothing more."])[0][:QUOTED_CHARS]


def _without_password(text: str) -> str:
    return re.sub(r"://[^/@\s]*@", "://", text)
