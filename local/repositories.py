"""The repository of a demo: the person's own, by path or URL, or a small real one made on the spot."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from local.git_server import GitError, make_sample_repository, publish
from local.stack import Stack

OWNER = "local"
SAMPLE = "pocketbook"
CLONE_TIMEOUT_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A repository that sandboxes can clone. `files` counts those of the branch, where they are at hand."""

    url: str
    branch: str
    files: int | None
    name: str


def publish_repository(stack: Stack, source: str | None) -> Published:
    """Make `source` clonable from the local git server: what is committed in it now. At E2B it is cloned as it is.

    A URL is cloned with the person's own git and its credentials, which never reach a sandbox. Raises GitError.
    """
    if stack.real_sandboxes:
        return _elsewhere(source or "")
    if not source:
        path = stack.options.data / "sample" / SAMPLE
        if not path.exists():
            make_sample_repository(path)
    elif Path(source).expanduser().exists():
        path = Path(source).expanduser().resolve()
    else:
        path = _cloned(stack.options.data / "cloned", source)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name.removesuffix(".git")).strip("-.") or "repository"
    publish(stack.git_root, OWNER, name, path)
    mirror = stack.git_root / OWNER / f"{name}.git"
    branch = _git(mirror, "symbolic-ref", "--short", "HEAD")
    files = _git(mirror, "ls-tree", "-r", "--name-only", "-z", "HEAD").count("\0")
    return Published(url=f"{stack.git_url}/{OWNER}/{name}", branch=branch, files=files, name=name)


def _elsewhere(url: str) -> Published:
    """A repository that sandboxes at E2B can reach by themselves, with the person's GITHUB_TOKEN."""
    if not url.startswith("https://"):
        raise GitError("Sandboxes at E2B cannot reach this machine: set REPO to an https:// URL, or unset E2B_API_KEY.")
    head = subprocess.run(
        ["git", "ls-remote", "--symref", "--", url, "HEAD"], capture_output=True, text=True, timeout=60, check=False
    )
    branch = re.match(r"ref: refs/heads/(\S+)", head.stdout)
    if not branch:
        raise GitError(f"git cannot read {url}: {head.stderr.strip()[-300:] or 'it has no branch'}")
    return Published(url=url, branch=branch[1], files=None, name=url.rstrip("/").rsplit("/", 1)[-1])


def _cloned(folder: Path, url: str) -> Path:
    path = folder / re.sub(r"[^A-Za-z0-9._-]+", "-", url.rstrip("/").removesuffix(".git").rsplit("/", 1)[-1])
    if path.exists():
        shutil.rmtree(path)
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["git", "clone", "--quiet", "--depth=50", "--", url, str(path)],
        capture_output=True,
        text=True,
        timeout=CLONE_TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise GitError(f"{url} is no folder here, and git cannot clone it: {done.stderr.strip()[-300:]}")
    return path


def _git(mirror: Path, *arguments: str) -> str:
    argv = ["git", "-c", "safe.directory=*", "--git-dir", str(mirror), *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip("\n")
