"""`make demo`: one real task from an empty machine to a diff in the database.

make hands REPO (path or URL), PROMPT, AGENT, PR and CLOUD on as environment variables, so that no shell ever interprets
a prompt. With PR=1 it goes on to a pull request and, on the local GitHub, to what that leaves in the repository when it
is merged.
"""

import signal
import sys
import time
from types import FrameType

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from local.agent_clis import CliFetchError
from local.client import ApiError, Json, sign_in
from local.mirrors import GitError
from local.preflight import gather, problems, warnings
from local.processes import ProcessError
from local.proposal import github_token, show_pull_request
from local.repositories import Published, check_source, publish_repository
from local.services.postgres import MigrationError, PostgresError
from local.settings import Settings, SettingsError, enter, read_settings
from local.stack import Stack, StackError, StackOptions
from local.terminal import make_console
from local.watch import follow, show_diff
from shared.domain.agents import AgentName

WAIT_S = 3600.0

EXPECTED = (
    SettingsError,
    StackError,
    CliFetchError,
    ApiError,
    GitError,
    ProcessError,
    PostgresError,
    MigrationError,
    TimeoutError,
)


def main() -> int:
    """0 when the task completed, 1 with a sentence when it or the stack failed, 130 after Ctrl-C."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    console = make_console()
    try:
        settings = read_settings()
        if len(settings.agents) > 1:
            raise SettingsError(f"AGENT must be one of {', '.join(AgentName)} for a demo.")
        check_source(settings.repo, settings.caller)
        check_machine(settings, console)
        enter(settings.machine)
        return _demo(console, settings)
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is left running.")
        return 130
    except EXPECTED as error:
        console.print(f"[bold red]✗[/] {escape(str(error))}")
        return 1


def check_machine(settings: Settings, console: Console) -> None:
    """Say what may not work on this machine. Raises SettingsError with what cannot."""
    facts = gather(agents=settings.agents, clouds=settings.clouds, data=settings.data)
    if found := problems(facts):
        raise SettingsError("\n".join(found))
    for warning in warnings(facts):
        console.print(f"[bold yellow]![/] {escape(warning)}")


def _demo(console: Console, settings: Settings) -> int:
    began = time.monotonic()
    (agent,) = settings.agents
    console.rule("[bold]async-code: a coding task from prompt to diff")
    for line in settings.announcements():
        console.print(f"[bold yellow]![/] {escape(line)}")
    with Stack(StackOptions.of(settings), lambda text: console.print(f"[dim]·[/] {escape(text)}")) as stack:
        console.print(f"[green]✓[/] API ready at {stack.api_url} after {time.monotonic() - began:.1f} s")
        repository = publish_repository(stack, settings.repo)
        files = "" if repository.files is None else f", {repository.files} files"
        console.print(
            f"[green]✓[/] Repository {escape(repository.name)}: "
            f"branch {escape(repository.branch)}{files}, at {escape(repository.url)}"
        )
        console.print(f"[green]✓[/] {_model_line(stack, agent)}")
        console.print(f"\n[bold]Prompt:[/] {escape(settings.prompt)}\n")
        return _run_task(stack, console, settings, repository)


def _run_task(stack: Stack, console: Console, settings: Settings, repository: Published) -> int:
    (agent,) = settings.agents
    _, client = sign_in(stack)
    with client:
        began = time.monotonic()
        task_id = client.start_task(
            prompt=settings.prompt,
            repo_url=repository.url,
            branch=repository.branch,
            model=agent,
            github_token=github_token(stack),
        )
        console.print(f"[green]✓[/] POST /api/start-task: task {task_id}")
        task = follow(client, task_id, console, timeout_s=WAIT_S)
        took_s = time.monotonic() - began
        diff = client.diff(task_id)
        wanted = settings.pull_request and bool(task["changed_files"]) and task["status"] == "completed"
        proposed = client.propose(task_id, github_token=github_token(stack)) if wanted else None
    console.rule(f"[bold]GET /api/git-diff/{task_id}")
    show_diff(diff, console) if diff else console.print("[dim]no changes[/]")
    console.rule()
    console.print(_summary(task, took_s))
    if task["status"] != "completed":
        console.print(f"[bold red]✗[/] The task {task['status']}: {escape(task['error'] or '')}")
        console.print(f"[dim]Logs are in {stack.logs}[/]")
        return 1
    if proposed:
        show_pull_request(stack, console, repository, proposed)
    console.print(_next_steps(agent, proposed=bool(proposed)))
    return 0


def _model_line(stack: Stack, agent: str) -> str:
    profile = AgentName(agent).profile
    if not stack.scripted(agent):
        return f"{profile.title} with the real model"
    return (
        f"The {profile.title} program is the real one; a scripted model plays the model's part "
        f"(a real one: CLOUD={profile.provider}, with {profile.key_variable} set)"
    )


def _summary(task: Json, took_s: float) -> Table:
    metadata = task["execution_metadata"]
    usage = metadata.get("usage", {})
    tokens = usage.get("input_tokens", 0) + usage.get("cached_input_tokens", 0) + usage.get("cache_write_tokens", 0)
    cost = usage.get("cost_usd")
    table = Table.grid(padding=(0, 2))
    table.add_row("[bold]status[/]", task["status"])
    table.add_row("changed", ", ".join(task["changed_files"]) or "nothing")
    table.add_row("lines", f"[green]+{metadata.get('additions', 0)}[/] [red]-{metadata.get('deletions', 0)}[/]")
    table.add_row("commit", (task["commit_hash"] or "none")[:12])
    table.add_row("time", f"{took_s:.1f} s from request to stored diff")
    table.add_row("tokens", f"{tokens} in, {usage.get('output_tokens', 0)} out")
    table.add_row("cost", "unknown" if cost is None else f"${cost:.4f}, as the agent counts it")
    return table


def _next_steps(agent: str, *, proposed: bool) -> str:
    other = next(name for name in AgentName if name != agent)
    offer = "" if proposed else "  make demo PR=1    goes on to a pull request, merged on the local GitHub\n"
    return (
        "\n[bold]Try next[/]\n"
        f"{offer}"
        f"  make demo AGENT={other}\n"
        '  make demo REPO=~/src/my-project PROMPT="Fix the failing test"\n'
        "  make dev          keeps the stack running for the frontend and for curl\n"
    )


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
