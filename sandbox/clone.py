"""Clones a repository twice: a pristine one the agent never sees, and the agent's own.

    clone.py SPEC.json

The spec (paths are relative to the run's folder, where this file was uploaded, unless said otherwise):

    url         https://github.com/owner/name, or another http(s) address; file:// for tests
    branch      what to check out
    commit      where to begin instead of at the branch's tip, wherever it can be had; optional
    patch_file  changes to begin with, as git diff wrote them, in the agent's clone only; optional
    depth       commits of history to fetch; null for all
    token_file  root-only file with the access token, or null. It is gone before git starts, whatever happens
    base_git    where the pristine bare clone goes
    work_tree   where the agent's clone goes, relative to the agent's home
    timeout_s   for everything together
    max_bytes   of the pristine clone; optional

Prints one line of JSON and exits 0:

    {"ok": true, "base_commit", "branch", "work_tree": where it is, "bytes": size of the pristine clone, "took_s",
     "setup": null, or {"script": the commit's own .asynccode/setup.sh} or {"problem": why it cannot be run},
     "real_work_tree": the same place without symbolic links, where there are any on the way}
    {"ok": false, "message", "error": auth | not_found | branch_not_found | patch_conflict | timeout | refused |
     disk_full | failed}

The token reaches git through the environment of the one process that fetches: never an argument, an address
or a file. The pristine clone is the reference for what the agent changes; it has no hooks and no remote.
May be killed and run again at any point. Standard library only, Python 3.9 or newer.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

RUN = Path(__file__).resolve().parent
RECORD = "async-code.json"  # in the pristine clone: what it is a clone of
MESSAGE_BYTES = 2000
SETUP_SCRIPT = ".asynccode/setup.sh"
MAX_SETUP_BYTES = 32 * 1024  # in JSON up to six times as long, and our line of it is read in one look of 256 KiB
SIZE_CHECK_S = 1.0
REDIRECT_TIMEOUT_S = 15

# What git may know of our environment: how to get out of the house, and whom to trust there.
INHERITED = (
    "PATH",
    "TMPDIR",
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"),
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
)

# What git says (LC_ALL=C) and what it means; the first match counts. Exit codes do not tell them apart.
# Of a full disk, only what ends a line of git's own: the server may have a full disk, too, and a file any name.
FULL = "No space left on device|Disk quota exceeded|Out of diskspace|nable to write new index file"
NO_ROOM_BYTES, NO_ROOM_INODES = 1 << 16, 8
MEANINGS = (
    ("disk_full", rf"(?m)^(?!remote: ).*(?:{FULL})\W?$"),
    ("branch_not_found", r"Remote branch .* not found|Could not find remote branch"),
    ("auth", r"could not read (Username|Password)|Authentication failed|returned error: 40[13]|HTTP 40[13]"),
    ("not_found", r"[Rr]epository .*not found|returned error: 404|does not appear to be a git repository"),
    ("moved", r"redirection|returned error: 30[1278]"),  # never told: with a token followed by moved_to
    ("refused", r"transport '.*' not allowed"),
)


class CloneError(Exception):
    """The clone failed; `error` is one of the codes above."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.error = error


class Agent(NamedTuple):
    """The user the agent runs as; `uid` None when that is ourselves."""

    home: Path
    uid: int | None = None
    gid: int = 0


def agent() -> Agent:
    """AGENT_USER (default `agent`) with home AGENT_HOME; the same rule as in supervisor.py."""
    wanted, home = os.environ.get("AGENT_USER", "agent"), os.environ.get("AGENT_HOME")
    if os.getuid() == 0 and wanted:
        try:
            entry = pwd.getpwnam(wanted)
        except KeyError:
            raise CloneError("failed", f"AGENT_USER names the user {wanted}, which does not exist.") from None
        return Agent(Path(home or entry.pw_dir), entry.pw_uid, entry.pw_gid)
    return Agent(Path(home) if home else Path.home())


class Spec(NamedTuple):
    url: str
    branch: str
    depth: int | None
    token_file: str | None
    base_git: str
    work_tree: str
    timeout_s: float
    max_bytes: int | None = None
    commit: str | None = None
    patch_file: str | None = None

    @property
    def origin(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def refuse_what_is_unsafe(self) -> None:
        """Raises CloneError: the address or the branch is nothing we hand to git."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("https", "http", "file") or not (parts.netloc or parts.scheme == "file"):
            raise CloneError("refused", "Only http and https addresses of repositories can be cloned.")
        if "@" in parts.netloc:
            raise CloneError("refused", "The address of the repository must not hold credentials.")
        if any(ord(letter) < 0x21 for letter in self.url) or "\0" in self.branch or not self.branch:
            raise CloneError("refused", "The address or the branch holds characters that no git server allows.")
        if self.commit is not None and not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.commit):
            raise CloneError("refused", "commit is not the id of a commit.")


def take_token(token_file: str | None) -> str | None:
    """The token; its file is gone afterwards. None without one, or when an earlier attempt took it."""
    if token_file is None:
        return None
    path = RUN / token_file
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    finally:
        path.unlink(missing_ok=True)


def basic(token: str) -> str:
    """GitHub's smart HTTP takes a token as the password of any user."""
    return base64.b64encode(f"x-access-token:{token}".encode()).decode("ascii")


def redacted(text: str, token: str | None) -> str:
    """`text` without the token, in any form it travels in."""
    if token:
        alone = base64.b64encode(token.encode()).decode("ascii")
        for form in (basic(token), alone, quote(token, safe=""), quote(token), token):
            text = text.replace(form, "[REDACTED]")
    return text


class Git:
    """Runs git with nothing of our environment or configuration, before one common deadline."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def run(
        self,
        *arguments: str,
        config: dict[str, str] | None = None,
        growing: Path | None = None,
        max_bytes: int | None = None,
    ) -> str:
        """What git printed. Raises CloneError; also when the folder `growing` exceeds `max_bytes`."""
        with tempfile.TemporaryFile(dir=RUN) as out, tempfile.TemporaryFile(dir=RUN) as err:
            process = subprocess.Popen(
                ["git", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self._environment(config or {}),
                cwd="/",
                start_new_session=True,
            )
            try:
                self._wait(process, growing, max_bytes)
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
            out.seek(0)
            err.seek(max(0, err.seek(0, os.SEEK_END) - MESSAGE_BYTES))
            said = err.read().decode("utf-8", "replace").strip()
            if process.returncode != 0:
                error = meaning(said)
                if error == "failed" and has_no_room(RUN):
                    error = "disk_full"
                raise CloneError(error, said or f"git ended with {process.returncode}.")
            return out.read().decode("utf-8", "replace").strip()

    def _wait(self, process: subprocess.Popen[bytes], growing: Path | None, max_bytes: int | None) -> None:
        while True:
            try:
                process.wait(timeout=min(SIZE_CHECK_S, max(0.0, self.deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= self.deadline:
                    raise CloneError("timeout", "The clone took too long. Is the repository too large?") from None
                if growing and max_bytes is not None:
                    refuse_more_than(max_bytes, growing)
            else:
                return

    def _environment(self, config: dict[str, str]) -> dict[str, str]:
        """The environment of one git process; `config` is handed over in it, out of everybody's sight."""
        config = {"core.hooksPath": "/dev/null", "protocol.allow": "never", **config}
        settings = {"GIT_CONFIG_COUNT": str(len(config))}
        for number, (key, value) in enumerate(config.items()):
            settings[f"GIT_CONFIG_KEY_{number}"] = key
            settings[f"GIT_CONFIG_VALUE_{number}"] = value
        return {
            **{name: os.environ[name] for name in INHERITED if name in os.environ},
            "HOME": "/nonexistent",
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_LFS_SKIP_SMUDGE": "1",
            **settings,
        }


def has_no_room(folder: Path) -> bool:
    """Whether its disk is as good as full. git often says no more than that it could not write a file."""
    disk = os.statvfs(folder)
    return disk.f_bfree * disk.f_frsize < NO_ROOM_BYTES or (disk.f_files > 0 and disk.f_ffree < NO_ROOM_INODES)


def meaning(said: str) -> str:
    """The code of what git said on stderr."""
    return next((code for code, pattern in MEANINGS if re.search(pattern, said)), "failed")


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).lstat().st_size
            except FileNotFoundError:  # git renames its temporary files
                continue
    return total


def refuse_more_than(max_bytes: int, folder: Path) -> None:
    if size_of(folder) > max_bytes:
        raise CloneError("refused", f"The repository is larger than {max_bytes} bytes.")


def clone_base(spec: Spec, token: str | None, base: Path, git: Git) -> str:
    """Make the pristine clone; its commit. A finished one is taken as it is. Raises CloneError."""
    record = {"url": spec.url, "branch": spec.branch, "commit": spec.commit}
    if base.exists():
        if json.loads((base / RECORD).read_text(encoding="utf-8")) != record:
            raise CloneError("refused", f"{base.name} is a clone of something else.")
        return commit_of(spec, base, git)
    part = half_made(base)
    depth = [] if spec.depth is None else [f"--depth={spec.depth}"]
    only = ["--bare", "--single-branch", "--no-tags", "--no-recurse-submodules", "--template=", "--no-progress"]

    def fetch(url: str) -> None:
        git.run(
            *("clone", *only, f"--branch={spec.branch}", *depth, "--", url, str(part)),
            config=fetch_config(spec, token),
            growing=part,
            max_bytes=spec.max_bytes,
        )
        if spec.commit is not None:
            begin_at(spec.commit, spec, url, token, part, git)

    try:
        fetch(spec.url)
    except CloneError as error:
        if error.error != "moved" or token is None:
            raise
        fetch(moved_to(spec, token))
    if spec.max_bytes is not None:
        refuse_more_than(spec.max_bytes, part)
    commit = commit_of(spec, part, git)
    git.run("--git-dir", str(part), "remote", "remove", "origin")
    (part / RECORD).write_text(json.dumps(record), encoding="utf-8")
    part.rename(base)
    return commit


def begin_at(commit: str, spec: Spec, url: str, token: str | None, base: Path, git: Git) -> None:
    """Make `commit` the branch's tip; where the server does not give it, the branch stays as it is."""
    place = ("--git-dir", str(base))
    if not has_commit(commit, base, git):
        depth = [] if spec.depth is None else [f"--depth={spec.depth}"]
        try:
            git.run(
                *(*place, "fetch", "--no-tags", "--no-recurse-submodules", *depth, "--", url, commit),
                config=fetch_config(spec, token),
            )
        except CloneError as error:
            if error.error in ("timeout", "moved", "disk_full"):
                raise
            return
    git.run(*place, "update-ref", f"refs/heads/{spec.branch}", commit)


def has_commit(commit: str, base: Path, git: Git) -> bool:
    try:
        git.run("--git-dir", str(base), "cat-file", "-e", f"{commit}^{{commit}}")
    except CloneError as error:
        if error.error == "timeout":
            raise
        return False
    return True


class _StayHere(HTTPRedirectHandler):
    """Makes a redirect an answer like any other."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def moved_to(spec: Spec, token: str) -> str:
    """Where a renamed repository is now, asked with the token. Raises CloneError when that is another server."""
    question = Request(f"{spec.url}/info/refs?service=git-upload-pack")  # noqa: S310 - http(s) was checked
    question.add_unredirected_header("Authorization", f"Basic {basic(token)}")
    location = ""
    try:
        build_opener(_StayHere).open(question, timeout=REDIRECT_TIMEOUT_S).close()
    except HTTPError as answer:
        location = answer.headers.get("Location") or ""
        answer.close()
    except OSError as error:
        raise CloneError("failed", f"The repository has moved to an unknown address: {error}") from None
    url = location.partition("/info/refs")[0]
    if not url.startswith(f"{spec.origin}/"):
        raise CloneError("refused", "The repository has moved to another server, which must not see the token.")
    return url


def fetch_config(spec: Spec, token: str | None) -> dict[str, str]:
    """What the one process that talks to the server is told."""
    scheme = urlsplit(spec.url).scheme
    schemes = ["file"] if scheme == "file" else ["https", "http"]
    config = {f"protocol.{name}.allow": "always" for name in schemes}
    # git would send the header to whomever it is redirected to: with a token it follows nobody (see moved_to)
    config["http.followRedirects"] = "false" if token else "initial"
    if token:
        config[f"http.{spec.origin}/.extraHeader"] = f"Authorization: Basic {basic(token)}"
    return config


def commit_of(spec: Spec, base: Path, git: Git) -> str:
    """The commit the branch stands at; `--branch` would have taken a tag as well. Raises CloneError."""
    try:
        return git.run(
            *("--git-dir", str(base), "rev-parse", "--verify", "--quiet", "--end-of-options"),
            f"refs/heads/{spec.branch}^{{commit}}",
        )
    except CloneError as error:
        if error.error == "timeout":
            raise
        raise CloneError("branch_not_found", f"The repository has no branch {spec.branch}.") from None


def setup_of(commit: str, base: Path, git: Git) -> dict[str, str] | None:
    """The setup script that the commit brings, of the pristine clone: nobody in the sandbox can have changed it.

    A link, or a folder that is one, leads nowhere: git looks at the commit's own entry of this name, not at files.
    """
    entry = git.run("--git-dir", str(base), "ls-tree", "--long", commit, "--", SETUP_SCRIPT)
    if not entry:
        return None
    mode, _, blob, size = entry.split()[:4]
    if mode not in ("100644", "100755"):
        return {"problem": "must be a regular file"}
    if int(size) > MAX_SETUP_BYTES:
        return {"problem": f"is longer than {MAX_SETUP_BYTES} bytes"}
    script = git.run("--git-dir", str(base), "cat-file", "blob", blob)
    if "\0" in script or "\ufffd" in script:
        return {"problem": "is not text in UTF-8"}
    return {"script": script} if script else None


def clone_for_agent(spec: Spec, base: Path, work_tree: Path, owner: Agent, git: Git) -> None:
    """Make the agent's clone: self-contained, its own, and with nothing in it that points to us."""
    if work_tree.is_dir() and not work_tree.is_symlink():
        return
    work_tree.parent.mkdir(parents=True, exist_ok=True)
    part = half_made(work_tree)
    git.run(
        *("clone", "--no-hardlinks", "--no-recurse-submodules", "--template=", "--no-progress"),
        *(f"--branch={spec.branch}", "--", str(base), str(part)),
        config={"protocol.file.allow": "always", "core.logAllRefUpdates": "false"},
    )
    git.run("--git-dir", str(part / ".git"), "remote", "set-url", "origin", spec.url)
    if spec.patch_file is not None:
        apply_patch(RUN / spec.patch_file, part, git)
    if owner.uid is not None:
        give(part, owner.uid, owner.gid)
    part.rename(work_tree)


def apply_patch(patch: Path, work_tree: Path, git: Git) -> None:
    """Make the changes where they fit, merged with what has changed since. Raises CloneError for a conflict."""
    try:
        git.run("-C", str(work_tree), "apply", "--3way", "--whitespace=nowarn", "--", str(patch))
        git.run("-C", str(work_tree), "reset", "--quiet")  # nothing is staged: as the agent had left it
    except CloneError as error:
        if error.error in ("timeout", "disk_full"):
            raise
        raise CloneError("patch_conflict", str(error)) from None


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


def clone(spec: Spec, token: str | None) -> dict[str, Any]:
    began = time.monotonic()
    spec.refuse_what_is_unsafe()
    owner = agent()
    git = Git(deadline=began + spec.timeout_s)
    base = RUN / spec.base_git
    commit = clone_base(spec, token, base, git)
    work_tree = owner.home / spec.work_tree
    clone_for_agent(spec, base, work_tree, owner, git)
    took_s = round(time.monotonic() - began, 3)
    real = work_tree.resolve()
    return {
        "ok": True,
        "base_commit": commit,
        "branch": spec.branch,
        "work_tree": str(work_tree),
        **({"real_work_tree": str(real)} if real != work_tree else {}),
        "bytes": size_of(base),
        "took_s": took_s,
        "setup": setup_of(commit, base, git),
    }


def main(arguments: list[str]) -> int:
    if len(arguments) != 1:
        print("Usage: clone.py SPEC.json", file=sys.stderr)
        return 2
    token = None
    try:
        raw = json.loads((RUN / arguments[0]).read_text(encoding="utf-8"))
        token = take_token(raw.get("token_file"))  # before anything can go wrong
        answer = clone(Spec(**raw), token)
    except CloneError as error:
        code = "failed" if error.error == "moved" else error.error
        answer = {"ok": False, "error": code, "message": redacted(str(error), token)}
    except (OSError, TypeError, ValueError) as error:
        is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        code = "disk_full" if is_full else "failed"
        answer = {"ok": False, "error": code, "message": f"{type(error).__name__}: {error}"}
    print(json.dumps(answer))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
