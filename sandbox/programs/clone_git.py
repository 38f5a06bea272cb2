"""git as clone.py runs it: before one common deadline, and never more of a repository than is allowed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from sandbox.programs import git
from sandbox.programs.failures import ProgramFailed
from sandbox.programs.protocol import DISK_FULL, FAILED
from sandbox.programs.remote import MOVED
from sandbox.programs.run_folder import RUN

MESSAGE_BYTES = 2000
SIZE_CHECK_S = 1.0

# What git inherits of this environment: how to reach the network, and whom to trust there.
INHERITED = (
    "TMPDIR",
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO"),
    *("http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"),
)

# What git says (LC_ALL=C) and what it means; the first match counts. Exit codes do not tell them apart.
MEANINGS = (
    (DISK_FULL, git.FULL_DISK.pattern),
    ("branch_not_found", r"Remote branch .* not found|Could not find remote branch"),
    ("auth", r"could not read (Username|Password)|Authentication failed|returned error: 40[13]|HTTP 40[13]"),
    ("not_found", r"[Rr]epository .*not found|returned error: 404|does not appear to be a git repository"),
    (MOVED, r"redirection|returned error: 30[1278]"),
    ("refused", r"transport '.*' not allowed"),
)


def meaning(said: str) -> str:
    """The code of what git said on stderr."""
    return next((code for code, pattern in MEANINGS if re.search(pattern, said, re.MULTILINE)), FAILED)


class Git:
    """Runs git before one common deadline, by time.monotonic()."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline

    def run(
        self,
        *arguments: str,
        settings: Mapping[str, str] | None = None,
        growing: Path | None = None,
        max_bytes: int | None = None,
    ) -> str:
        """What git printed. Raises ProgramFailed; also when the folder `growing` exceeds `max_bytes`."""
        inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
        with tempfile.TemporaryFile(dir=RUN) as out, tempfile.TemporaryFile(dir=RUN) as err:
            process = subprocess.Popen(
                ["git", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=git.environment(settings or {}, {**inherited, "GIT_LFS_SKIP_SMUDGE": "1"}),
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
                if error == FAILED and git.has_no_room(RUN):
                    error = DISK_FULL
                raise ProgramFailed(error, said or f"git ended with {process.returncode}.")
            return out.read().decode("utf-8", "replace").strip()

    def _wait(self, process: subprocess.Popen[bytes], growing: Path | None, max_bytes: int | None) -> None:
        while True:
            try:
                process.wait(timeout=min(SIZE_CHECK_S, max(0.0, self.deadline - time.monotonic())))
            except subprocess.TimeoutExpired:
                if time.monotonic() >= self.deadline:
                    raise ProgramFailed("timeout", "The clone took too long. Is the repository too large?") from None
                if growing and max_bytes is not None:
                    refuse_more_than(max_bytes, growing)
            else:
                return


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
    """Raises ProgramFailed for a repository that is larger."""
    if size_of(folder) > max_bytes:
        raise ProgramFailed("refused", f"The repository is larger than {max_bytes} bytes.")
