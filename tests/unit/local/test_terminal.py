"""Whatever an agent, a repository or a log says, the terminal shows it and obeys none of it."""

import io
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.panel import Panel
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from local.terminal import make_console, visible
from local.watch import DIFF_LINES, describe, show_diff

# What a terminal obeys, or lets a text lie with; line feeds and tabs are what a console makes of them.
ORDERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
OWN = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")  # rich's colours and cursor movements, on a terminal

NASTY = (
    "\x1b[2J\x1b[H",
    "\x1b]0;title\x07",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x9b31m",
    "\x1bP+q\x1b\\",
    "fine\rgone",
    "a\bb",
    "\u202eevil\u2066",
    "\x7f\x00",
    "\udce9.txt",
    "[red]",
    "[/]",
    "[/red] [link=http://x]y",
    "\\",
    "\\[bold]",
    "[",
    ":smile: :warning:",
    "a\tb",
    "ls\x0b\x0c\x85\u2028x",
)
texts = st.lists(
    st.one_of(st.sampled_from(NASTY), st.text(alphabet=st.characters(exclude_categories=()), max_size=8)), max_size=6
).map("".join)


def output_of(show, **options):
    """What it writes to a terminal that shows no colours and is wide."""
    file = io.StringIO()
    show(make_console(**{"file": file, "width": 4000} | options))
    return file.getvalue()


def markup(text):
    return lambda console: console.print(f"[red]{escape(text)}[/]")


def plain(text):
    return lambda console: console.print(text, markup=False)


def out(text):
    return lambda console: console.out(text)


def rich_text(text):
    return lambda console: console.print(Text(text, "red"))


def syntax(text):
    return lambda console: console.print(Syntax(text, "diff"))


def panel(text):
    return lambda console: console.print(Panel(escape(text), title=escape(text)))


def rule(text):
    return lambda console: console.rule(f"[bold]{escape(text)}")


def table(text):
    def show(console):
        table = Table(escape(text), title=escape(text))
        table.add_row(escape(text), Text(text))
        console.print(table)

    return show


def live(text):
    def show(console):
        with Live(Text(text), console=console, transient=True):
            console.print(escape(text))

    return show


def diff(text):
    return lambda console: show_diff(f"+{text}\n-{text}", console)


def events(text):
    payload = {"text": text, "title": text, "output": text, "ok": False, "phase": text, "branch": text}
    payload |= {"commit": text, "cli_version": text, "model": text, "files": 1, "additions": 2, "deletions": 3}
    kinds = ("phase", "cloned", "session", "agent_message", "tool_use", "tool_result", "setup_output", "warning")

    def show(console):
        for kind in (*kinds, "changes", "ended"):
            for line in describe({"kind": kind, "payload": payload}):
                console.print(line)

    return show


some = settings(max_examples=30, deadline=None)
WAYS = (markup, plain, out, rich_text, syntax, panel, rule, table, live, diff, events)


@pytest.mark.parametrize("way", WAYS)
@some
@given(text=texts)
def test_nothing_in_a_text_reaches_the_terminal_as_an_order(way, text):
    assert not ORDERS.search(output_of(way(text)).replace("\n", ""))


@pytest.mark.parametrize("way", WAYS)
@some
@given(text=texts)
def test_on_a_terminal_all_orders_are_richs_own(way, text):
    shown = output_of(way(text), force_terminal=True, color_system="truecolor", width=80)

    assert not ORDERS.search(OWN.sub("", shown).replace("\n", ""))
    for order in set(OWN.findall(shown)):
        assert order == "\r" or order[-1] in "mKAlh"  # colours, one line erased, up, the cursor hidden and shown
    assert "\x1b[2J" not in shown


def gaps_apart(text):
    """How many spaces a tab becomes depends on the columns before it, and a character may take two."""
    return re.sub(r"[ \t]+", " ", text)


@some
@given(text=texts)
@example(text="\u2e80a\tb")
def test_a_text_is_shown_just_as_it_is(text):
    event = {"kind": "agent_message", "payload": {"text": f"{text}."}}

    for way in (plain, out, rich_text):
        assert gaps_apart(output_of(way(visible(text))).removesuffix("\n")) == gaps_apart(visible(text))
    [line] = describe(event)
    assert line.plain == "  " + visible(f"{text}.".replace("\r\n", "\n").lstrip("\n"))


def test_a_plain_console_would_obey():
    """So that the tests above can fail."""
    file = io.StringIO()
    Console(file=file, width=4000).print("\x1b[2J")

    assert ORDERS.search(file.getvalue())


@some
@given(text=texts)
def test_a_visible_text_keeps_its_length_its_lines_and_its_tabs(text):
    shown = visible(text)

    assert len(shown) == len(text)
    assert not ORDERS.search(shown)
    assert [at for at, one in enumerate(shown) if one in "\n\t"] == [at for at, one in enumerate(text) if one in "\n\t"]
    assert visible(shown) == shown


def test_each_order_has_a_picture():
    assert visible("\x1b[31m\r\x00\x7f\x9b\u202e äöü 漢字 👩‍🔬\n\t") == "␛[31m␍␀␡\ufffd\ufffd äöü 漢字 👩‍🔬\n\t"


def test_a_diff_is_shown_line_by_line_with_its_tabs_and_long_lines():
    long = "x" * 900
    text = f"diff --git a/a b/a\n@@ -1 +1 @@\n-old\r\n+\tnew\rline\n+[red]{long}\n"

    assert output_of(diff_of(text), width=40) == f"diff --git a/a b/a\n@@ -1 +1 @@\n-old␍\n+   new␍line\n+[red]{long}\n"


def diff_of(text):
    return lambda console: show_diff(text, console)


def test_a_diff_is_cut_after_some_lines_and_within_endless_ones():
    shown = output_of(diff_of("+line\n" * (DIFF_LINES + 5))).splitlines()
    endless = output_of(diff_of("+" + "x" * 100_000))

    assert shown == ["+line"] * DIFF_LINES + ["… 5 more lines"]
    assert endless == "+" + "x" * 999 + "… 99001 more characters\n"


def test_the_lines_of_a_program_that_ends_them_as_windows_does_are_lines():
    event = {"kind": "setup_output", "payload": {"text": "one\r\ntwo\r\n"}}

    assert [line.plain for line in describe(event)] == ["  one\ntwo"]
