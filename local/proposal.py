"""The end of a demo: the pull request of a task and, on the local GitHub, the repository once it is merged."""

import os
import subprocess

import httpx
from rich.console import Console
from rich.markup import escape

from local.client import ApiError, Json
from local.github.accounts import DEFAULT_ACCOUNTS
from local.repositories import OWNER, Published
from local.stack import Stack

WAIT_S = 30


def github_token(stack: Stack) -> str:
    """One that the GitHub of this stack takes. Raises ApiError where only the person has such a one."""
    if stack.local_github:
        return next(iter(DEFAULT_ACCOUNTS))
    if token := os.environ.get("GITHUB_TOKEN"):
        return token
    raise ApiError("Set GITHUB_TOKEN to a token that may open pull requests in this repository.")


def show_pull_request(stack: Stack, console: Console, repository: Published, made: Json) -> None:
    """Say where it is; on the local GitHub, merge it and show the history of the branch that it went to."""
    files = f"{made['files_updated']} file{'s' * (made['files_updated'] != 1)}"
    console.print(
        f"[green]✓[/] Pull request {made['pr_number']} of {escape(made['branch'])}, {files}: {made['pr_url']}"
    )
    if not stack.local_github:
        return
    _merge(stack, repository, made["pr_number"])
    console.rule(f"[bold]git log --stat {escape(repository.branch)}")
    console.print(escape(_log(stack, repository)))
    console.rule()
    console.print(
        f"[green]✓[/] Merged on the local GitHub: git clone {escape(repository.url)}, while make dev is running"
    )


def _merge(stack: Stack, repository: Published, number: int) -> None:
    """As somebody would with the button on GitHub's page."""
    url = f"{stack.api_environment()['GITHUB_API_URL']}/repos/{OWNER}/{repository.name}/pulls/{number}/merge"
    answer = httpx.put(url, headers={"Authorization": f"Bearer {github_token(stack)}"}, json={}, timeout=WAIT_S)
    if answer.is_error:
        raise ApiError(f"The pull request could not be merged: {answer.json().get('message')}")


def _log(stack: Stack, repository: Published) -> str:
    """The merge, what it brought, and what it was put on."""
    folder = stack.git_root / OWNER / f"{repository.name}.git"
    log = ("log", "--graph", "--stat", "--format=%h %an: %s", "--max-count=3", f"refs/heads/{repository.branch}")
    argv = ["git", "-c", "safe.directory=*", "--git-dir", str(folder), *log, "--"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=WAIT_S, check=True).stdout.rstrip()
