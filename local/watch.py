"""Shows a task while it runs: a progress line of its phases, and below it what the agent says and does."""

import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from local.client import Client
from local.terminal import visible

PHASES = ("queued", "provisioning", "cloning", "setup", "agent", "collecting", "done")
ENDED = {"completed", "failed", "cancelled"}
LOOK_EVERY_S = 0.5
DIFF_LINES = 200  # of a diff on a screen; the whole of it is in the database
LINE_CHARS = 1000  # of a line of it

Json = dict[str, Any]


def follow(client: Client, task_id: int, console: Console, *, timeout_s: float) -> Json:
    """Print the task's events as they come and return the row once it has ended. Raises TimeoutError."""
    progress = _Progress()
    give_up_at = time.monotonic() + timeout_s
    last = 0
    with Live(progress, console=console, refresh_per_second=8, transient=True):
        while True:
            # The status first: what was logged before the end is then surely in the next read.
            status = client.status(task_id)
            for event in client.events(task_id, after=last):
                last = event["seq"]
                progress.take(event)
                for line in describe(event):
                    console.print(line)
            if status in ENDED:
                return client.task(task_id)
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"Task {task_id} has not ended after {timeout_s:.0f} seconds.")
            time.sleep(LOOK_EVERY_S)


def poll(condition: Callable[[], bool], *, timeout_s: float) -> None:
    """Return once `condition` holds. Raises TimeoutError."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"Not within {timeout_s:.0f} seconds.")
        time.sleep(LOOK_EVERY_S)


class _Progress:
    """One line: what is done, what is under way, and for how long."""

    def __init__(self) -> None:
        self._phase = PHASES[0]
        self._began = time.monotonic()
        self._spinner = Spinner("dots", style="cyan")

    def take(self, event: Json) -> None:
        if event["kind"] == "phase":
            self._phase = event["payload"]["phase"]

    def __rich__(self) -> RenderableType:
        at = PHASES.index(self._phase)
        line = Text()
        for index, phase in enumerate(PHASES[:-1]):
            style = "green" if index < at else "bold cyan" if index == at else "dim"
            line.append("✓ " if index < at else "● " if index == at else "· ", style)
            line.append(f"{phase}  ", style)
        line.append(f"{time.monotonic() - self._began:.0f} s", "dim")
        grid = Table.grid(padding=(0, 1))
        grid.add_row(self._spinner, line)
        return Group(grid)


def describe(event: Json) -> Iterator[Text]:
    """Lines for one event; none for those that say nothing to a person."""
    payload = event["payload"]
    match event["kind"]:
        case "phase" if payload["phase"] != "queued":
            yield _line(f"● {payload['phase']}", "cyan", indent="")
        case "cloned":
            yield _line(f"{payload['branch']} at {payload['commit'][:12]}", "dim")
        case "session":
            version = f"agent program {payload['cli_version']}, " if payload.get("cli_version") else ""
            yield _line(f"{version}model {payload.get('model') or 'of its own choice'}", "dim")
        case "agent_message":
            yield _line(payload["text"], "white")
        case "tool_use":
            yield _line(payload["title"], "yellow")
        case "tool_result" if not payload["ok"]:
            yield _line(_first_line(payload["output"]), "red")
        case "changes":
            lines = f"+{payload['additions']} -{payload['deletions']}"
            yield _line(f"saved so far: {payload['files']} changed, {lines}", "dim")
        case "setup_output":
            yield _line(payload["text"], "dim")
        case "warning":
            yield Text.assemble(("  ! ", "bold yellow"), _line(payload["text"], indent=""))
        case "ended" if payload["text"]:
            yield Text.assemble(("  ✗ ", "bold red"), _line(payload["text"], indent=""))


def show_diff(diff: str, console: Console) -> None:
    """The diff in colour, cut to a screenful or two; the terminal wraps long lines."""
    lines = diff.removesuffix("\n").split("\n")  # a carriage return is part of its line
    shown = "\n".join(visible(_cut(line)) for line in lines[:DIFF_LINES])
    console.print(Syntax("", "diff", theme="ansi_dark", background_color="default").highlight(shown), end="")
    if len(lines) > DIFF_LINES:
        console.print(f"[dim]… {len(lines) - DIFF_LINES} more lines[/]")


def _line(text: str, style: str = "", *, indent: str = "  ") -> Text:
    """No markup, in which backslashes of the text could still be lost. A carriage return and line feed end one line."""
    return Text(indent + visible(text.replace("\r\n", "\n").rstrip().lstrip("\n")), style)


def _cut(line: str) -> str:
    return line if len(line) <= LINE_CHARS else f"{line[:LINE_CHARS]}… {len(line) - LINE_CHARS} more characters"


def _first_line(text: str) -> str:
    return text.strip().split("\n")[0][:200] or "failed"
