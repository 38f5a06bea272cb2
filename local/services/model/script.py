"""What the scripted model does with a prompt.

A prompt directs it with lines of their own; every other line is prose and changes nothing:

    @say text                     say something before the next step
    @write path: text             create or replace a file
    @append path: text            add text to the end of a file
    @delete path                  delete a file
    @move old path -> new path    rename a file
    @run command                  run a shell command
    @commit message               commit everything
    @sleep seconds                think that long before the next step
    @fail reason                  the API answers with an error: a reason of `FAILURES`
    @hang                         the API never answers
    @no-result                    the agent's program is killed before it can report

In a text, `\\n` is a line break and `\\t` a tab; a written file always ends with a line break. Each line but
`@say` and `@sleep` is one turn of the model. When all are done it ends with the last `@say`, or with "Done".

A prompt without such a line, as a person writes one, gets a look at the repository and a short section in
README.md (NOTES.md where there is none) that quotes the task and says who wrote it.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from shared.domain.agents import PROFILES

FAILURES = frozenset({"400", "401", "403", "429", "500", "529", "credit", "context"})
QUOTED_PROMPT_CHARS = 400
_CLOUDS = " or ".join(dict.fromkeys(f"CLOUD={profile.provider}" for profile in PROFILES.values()))

_LINE = re.compile(r"@(say|write|append|delete|move|run|commit|sleep|fail|hang|no-result)(?:[ \t]+(.*))?")


class ScriptError(ValueError):
    """A line of the prompt starts like a directive but cannot be followed; the text says what is wrong."""


@dataclass(frozen=True, slots=True)
class Write:
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Shell:
    command: str


@dataclass(frozen=True, slots=True)
class Fail:
    reason: str


@dataclass(frozen=True, slots=True)
class Hang:
    pass


Action = Write | Shell | Fail | Hang


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One answer of the model: what it says, then the one thing it does; the last turn does nothing."""

    texts: tuple[str, ...] = ()
    action: Action | None = None
    delay_s: float = 0.0


def turn_of(prompt: str, turns_done: int) -> Turn:
    """The answer that comes after `turns_done` answers to `prompt`. Raises ScriptError."""
    turns = list(_turns(_directives(prompt) or _unprompted(prompt)))
    return turns[min(turns_done, len(turns) - 1)]


def _directives(prompt: str) -> list[tuple[str, str]]:
    lines = (_LINE.fullmatch(line.strip()) for line in prompt.splitlines())
    return [(match[1], (match[2] or "").strip()) for match in lines if match]


def _turns(directives: list[tuple[str, str]]) -> Iterator[Turn]:
    texts: list[str] = []
    delay_s = 0.0
    for name, argument in directives:
        if name == "say":
            texts.append(_unescaped(argument))
        elif name == "sleep":
            delay_s += _seconds(argument)
        else:
            yield Turn(texts=tuple(texts), action=_action(name, argument), delay_s=delay_s)
            texts, delay_s = [], 0.0
    yield Turn(texts=tuple(texts) or ("Done.",), delay_s=delay_s)


def _action(name: str, argument: str) -> Action:
    if name == "write":
        path, text = _split(name, argument, ":")
        return Write(path, _file_text(text))
    if name == "fail":
        if argument not in FAILURES:
            raise ScriptError(f"@fail knows {', '.join(sorted(FAILURES))}, not {argument!r}.")
        return Fail(argument)
    if name == "hang":
        return Hang()
    return Shell(_COMMANDS[name](argument))


def _append(argument: str) -> str:
    path, text = _split("append", argument, ":")
    return f"{into_folder(path)}printf %s {shlex.quote(_file_text(text))} >> {shlex.quote(path)}"


def _move(argument: str) -> str:
    old, new = _split("move", argument, "->")
    return f"{into_folder(new)}mv -- {shlex.quote(old)} {shlex.quote(new)}"


def into_folder(path: str) -> str:
    """The beginning of a shell command that puts a file at `path`: its folder may not be there yet."""
    folder = str(PurePosixPath(path).parent)
    return "" if folder == "." else f"mkdir -p -- {shlex.quote(folder)} && "


def _commit(message: str) -> str:
    who = "-c user.name='Scripted model' -c user.email=scripted-model@example.invalid"
    return f"git add -A && git {who} commit -q -m {shlex.quote(_unescaped(message))}"


_COMMANDS: dict[str, Callable[[str], str]] = {
    "append": _append,
    "move": _move,
    "commit": _commit,
    "delete": lambda path: f"rm -- {shlex.quote(path)}",
    "run": lambda command: command,
    "no-result": lambda _: "kill -KILL $PPID",  # the shell's parent is the agent's program
}


def _unprompted(prompt: str) -> list[tuple[str, str]]:
    """The directives for a prompt that has none of its own."""
    quoted = "\n".join(f"> {line}" for line in prompt.strip()[:QUOTED_PROMPT_CHARS].splitlines())
    section = (
        f"\n## A task for the agent\n\n{quoted}\n\n"
        "Written by the scripted model of the local stack: no language model has read the task.\n"
    )
    return [
        ("say", "I'll look at the repository first."),
        ("run", "ls -A && git log --oneline -5"),
        ("say", "Now the README, if there is one."),
        ("run", "head -n 40 README.md 2>/dev/null || echo 'There is no README.md.'"),
        ("say", "I'll add a short section that quotes the task."),
        ("run", f"f=README.md; [ -f $f ] || f=NOTES.md; printf %s {shlex.quote(section)} >> $f"),
        ("say", "Let me check what changed."),
        ("run", "git status --short && git diff --stat"),
        (
            "say",
            "I added a short section that quotes your task. To be honest: no language model has read it. "
            "No real model was asked for, so a scripted model played the model's part, and the real agent "
            f"program carried its steps out. With {_CLOUDS} the same task goes to a real model.",
        ),
    ]


def _split(name: str, argument: str, separator: str) -> tuple[str, str]:
    left, found, right = (part.strip() for part in argument.partition(separator))
    if not (left and found):
        raise ScriptError(f"@{name} needs two parts with {separator!r} between them, got {argument!r}.")
    return left, right


def _seconds(argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        raise ScriptError(f"@sleep needs a number of seconds, got {argument!r}.") from None


def _file_text(text: str) -> str:
    return _unescaped(text).rstrip("\n") + "\n"


def _unescaped(text: str) -> str:
    return text.replace("\\n", "\n").replace("\\t", "\t")
