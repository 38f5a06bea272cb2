"""How a job is run: as whom, which command, in which environment, and with which secrets."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NamedTuple

from sandbox.programs.account import Account, agent_account, own_account
from sandbox.programs.job_folder import JobFolder
from sandbox.programs.processes import MARKER
from sandbox.programs.protocol import JobRequest
from sandbox.programs.run_folder import ARCHIVE
from sandbox.programs.safe_files import create_private, open_folder

# What a job inherits: where programs and temporary files are. Nothing else. The agent's PATH is AGENT_PATH.
INHERITED = ("PATH", "TMPDIR")
# Root's own jobs (clone, collect) must know for whom they work.
INHERITED_BY_ROOT = ("AGENT_USER", "AGENT_HOME")


class Secrets(NamedTuple):
    """What a job gets and nobody else can read."""

    env: dict[str, str]
    home_files: dict[str, str]  # path below the home -> text


def account_of(job: JobRequest) -> Account:
    """Whom the job runs as. Raises UsageError."""
    return agent_account() if job.user == "agent" else own_account()


def take_secrets(job: JobRequest, folder: JobFolder) -> Secrets:
    """The job's secrets; the files they came in are gone afterwards. Raises UsageError."""
    try:
        texts = [
            folder.message(dict[str, str], name) if name else {} for name in (job.secret_env_file, job.secret_home_file)
        ]
        return Secrets(*texts)
    finally:
        for name in job.secret_files:
            (folder.path / name).unlink(missing_ok=True)


def command_of(job: JobRequest) -> list[str]:
    """What is executed: as root nothing but a program of ours, isolated from what else Python would import."""
    if job.user == "agent":
        return list(job.argv)
    return [sys.executable, "-I", "-S", str(ARCHIVE), *job.argv]


def environment_of(job: JobRequest, account: Account, folder: Path, secrets: Secrets) -> dict[str, str]:
    """The whole environment of the job: nothing of ours leaks into it by accident."""
    is_agent = job.user == "agent"
    inherited = INHERITED if is_agent else INHERITED + INHERITED_BY_ROOT
    return {
        "PATH": os.defpath,
        **{name: os.environ[name] for name in inherited if name in os.environ},
        **({"PATH": os.environ["AGENT_PATH"]} if is_agent and "AGENT_PATH" in os.environ else {}),
        "HOME": str(account.home),
        "USER": account.name,
        "LOGNAME": account.name,
        "SHELL": "/bin/bash" if Path("/bin/bash").exists() else "/bin/sh",
        "LANG": "C.UTF-8",
        "IS_SANDBOX": "1",  # Claude Code runs as root only where it is told so
        MARKER: str(folder),
        **job.env,
        **secrets.env,
    }


def write_home_files(home: Path, files: dict[str, str]) -> None:
    """Write home/path for each path, as the user that this process has become. Raises ValueError.

    A setup script may have put anything there. A folder that is a link would lead the secret astray, into the
    repository perhaps: it is refused. What has the file's name (a link, a pipe, an older file) is replaced.
    """
    for path, text in files.items():
        try:
            folder = open_folder(home, Path(path).parent, create=True)
            try:
                create_private(Path(path).name, text, folder=folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise ValueError(f"{path}: {error.strerror}") from None
