"""The end of a demo: the pull request of a task and, on the local GitHub, the repository once it is merged."""

from rich.console import Console
from rich.markup import escape

from local.client import Json, answer_to, http_client
from local.mirrors import git, git_environ
from local.repositories import OWNER, Published
from local.services.github.accounts import DEFAULT_ACCOUNTS
from local.stack import Stack
from local.terminal import visible


def github_token(stack: Stack) -> str:
    """The one that tasks carry: the person's for the real GitHub, else one that the local GitHub accepts."""
    if stack.uses("github"):
        return stack.options.clouds["github"]["GITHUB_TOKEN"]
    return next(iter(DEFAULT_ACCOUNTS))


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
        "[green]✓[/] Merged on the local GitHub, which ends with this demo. To look at it, start `make dev`, then\n"
        f"    open {escape(made['pr_url'])}\n"
        f"    or   git clone {escape(repository.url)}"
    )


def _merge(stack: Stack, repository: Published, number: int) -> None:
    """As somebody would with the button on GitHub's page."""
    with http_client(stack.github_url, github_token(stack)) as github:
        answer_to(github, "PUT", f"/repos/{OWNER}/{repository.name}/pulls/{number}/merge", json={})


def _log(stack: Stack, repository: Published) -> str:
    """The merge, what it brought, and what it was put on."""
    folder = stack.git_root / OWNER / f"{repository.name}.git"
    log = ("log", "--graph", "--stat", "--format=%h %an: %s", "--max-count=3", f"refs/heads/{repository.branch}", "--")
    with git_environ() as env:
        return visible(git(env, folder, *log))
