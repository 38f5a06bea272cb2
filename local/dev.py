"""`make dev`: the stack stays up, with URLs, a token and curl lines to copy, and the logs of all functions."""

import json
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.markup import escape

from local.client import DEMO_EMAIL, Json, sign_in
from local.demo import EXPECTED, check_machine
from local.proposal import github_token
from local.repositories import Published, check_source, publish_repository
from local.settings import PROMPT, Settings, enter, read_settings
from local.stack import Stack, StackOptions
from local.terminal import make_console
from shared.domain.agents import AgentName

LOOK_EVERY_S = 0.3
# The functions' own logs; what the stand-ins print is in files and matters only when they fail.
FOLLOWED = ("api", "executor", "dead-letters", "reaper")
LEVEL_STYLES = {"DEBUG": "dim", "WARNING": "yellow", "ERROR": "bold red", "CRITICAL": "bold red"}
# Fields of Powertools that say the same in every line.
UNSAID = {"level", "location", "message", "timestamp", "service", "cold_start", "function_name", "function_arn"} | {
    "function_memory_size",
    "function_request_id",
    "correlation_id",
    "xray_trace_id",
}


def main() -> int:
    """Runs until Ctrl-C."""
    signal.signal(signal.SIGTERM, _as_interrupt)
    console = make_console()
    try:
        settings = read_settings()
        check_source(settings.repo, settings.caller)
        check_machine(settings, console)
        enter(settings.machine)
        for line in settings.announcements():
            console.print(f"[bold yellow]![/] {escape(line)}")
        with Stack(StackOptions.of(settings), lambda text: console.print(f"[dim]·[/] {escape(text)}")) as stack:
            _welcome(stack, console, settings)
            _stream_logs(stack, console)
    except KeyboardInterrupt:
        console.print("\nStopped. Nothing is left running.")
    except EXPECTED as error:
        console.print(f"[bold red]✗[/] {escape(str(error))}")
        return 1
    return 0


def _welcome(stack: Stack, console: Console, settings: Settings) -> None:
    user_id, client = sign_in(stack)
    with client:
        token = client.token
    repository = publish_repository(stack, settings.repo)
    console.rule("[bold]async-code is running")
    for title, value in (
        ("API", f"{stack.api_url}  (docs: {stack.api_url}/docs)"),
        ("Supabase", f"{stack.supabase_url}  (publishable key: {stack.supabase_publishable_key})"),
        *([] if stack.uses("supabase") else [("PostgreSQL", stack.dsn)]),
        ("Agents", f"{', '.join(stack.options.agents)}  (make dev AGENT={','.join(AgentName)} for all)"),
        ("Repository", repository.url),
        ("User", f"{DEMO_EMAIL}  (password: {stack.keys.demo_password}, id: {user_id})"),
        ("GitHub", _github_line(stack)),
        ("Logs", str(stack.logs)),
    ):
        console.print(f"  [bold]{title:<11}[/]{escape(value)}")
    console.print("\n[bold]Copy and paste[/]")
    console.print(_curl_lines(stack, token, repository), markup=False)
    console.rule("[dim]logs, Ctrl-C stops everything")


def _github_line(stack: Stack) -> str:
    if not stack.local_github:
        return "the real one; enter your own token in the frontend's settings"
    return f"{stack.github_url}  (token for the frontend's settings: {github_token(stack)})"


def _curl_lines(stack: Stack, api_token: str, repository: Published) -> str:
    git_token = {"github_token": github_token(stack) if stack.local_github else "<your GitHub token>"}
    body = {
        "prompt": PROMPT,
        "repo_url": repository.url,
        "branch": repository.branch,
        "model": stack.options.agents[0],
    } | git_token
    curl = "curl -sS --noproxy '*'"  # this machine is reached without a proxy
    auth = '-H "Authorization: Bearer $TOKEN"'
    as_json = f"{auth} -H 'Content-Type: application/json'"
    task_id = r"""sed -n 's/.*"task_id": *\([0-9]*\).*/\1/p'"""
    return "\n".join(
        (
            f"export TOKEN={api_token}",
            f'ANSWER=$({curl} {stack.api_url}/api/start-task {as_json} -d {_word(body)}); echo "$ANSWER"',
            f'TASK=$(echo "$ANSWER" | {task_id})',
            f"{curl} {stack.api_url}/api/task-status/$TASK {auth}",
            f'{curl} "{stack.api_url}/api/tasks/$TASK/events?after=0" {auth}',
            f"{curl} {stack.api_url}/api/git-diff/$TASK {auth}",
            f"{curl} {stack.api_url}/api/create-pr/$TASK {as_json} -d {_word(git_token)}",
            f"{curl} {stack.api_url}/api/tasks {auth}",
        )
    )


def _word(body: Json) -> str:
    return shlex.quote(json.dumps(body))


def _stream_logs(stack: Stack, console: Console) -> None:
    tails = [_Tail(name, stack.logs / f"{name}.log") for name in FOLLOWED]
    started = set(stack.processes.alive())
    while True:
        for tail in tails:
            for line in tail.new_lines():
                console.print(readable(tail.name, line))
        for name in sorted(started - set(stack.processes.alive())):
            console.print(f"[bold red]✗ {name} has stopped; see {stack.logs / name}.log[/]")
            started.discard(name)
        threading.Event().wait(LOOK_EVERY_S)


class _Tail:
    """New whole lines of a growing file."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self._path = path
        self._offset = 0

    def new_lines(self) -> list[str]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        return whole.decode(errors="replace").splitlines() if newline else []


def readable(source: str, line: str) -> str:
    """A JSON log line as one line of markup for a person: time, source, event, facts. Other lines as they are."""
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    if not isinstance(entry, dict) or "message" not in entry:
        return f"[dim]{source:<12} {escape(line)}[/]"
    facts = "  ".join(f"{key}={_fact(value)}" for key, value in entry.items() if key not in UNSAID)
    style = LEVEL_STYLES.get(entry.get("level", ""), "white")
    clock = str(entry.get("timestamp", time.strftime("%H:%M:%S")))[11:19]
    return f"[dim]{clock} {source:<12}[/] [{style}]{escape(str(entry['message']))}[/]  [dim]{escape(facts)}[/]"


def _fact(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _as_interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
