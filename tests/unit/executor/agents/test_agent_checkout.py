"""Events name files as the repository does, wherever the sandbox keeps the checkout, and cut no other path."""

import json
import shlex

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from functions.executor.agents import DRIVERS, Checkout, ReaderState
from shared.domain.agents import AgentName

ROOT = "/home/agent/repo"
PLAIN = "/var/tmp/data/sandboxes/i3k9/home/agent/repo"  # of a sandbox that is not isolated
SPACED = "/Users/me/my projects (2)/.local/sandboxes/i3k9/home/agent/repo"
ROOTS = pytest.mark.parametrize("root", [ROOT, PLAIN, SPACED])


def at(*roots):
    return Checkout.at(*roots)


# --- paths, whole


@ROOTS
@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("{}/src/new.txt", "src/new.txt"),
        ("{}/two words/new file.txt", "two words/new file.txt"),
        ("{}//src///new.txt", "src/new.txt"),
        ("{}/./src/../new.txt", "new.txt"),
        ("{}/../repo/new.txt", "new.txt"),
        ("{}/src/", "src"),
        ("{}/-rf", "-rf"),
        ('{}/it\'s, "this": (one) [id] $x.txt', 'it\'s, "this": (one) [id] $x.txt'),
        ("{}", "."),
        ("{}/", "."),
        ("file://{}/src/new.txt", "src/new.txt"),
        ("src/new.txt", "src/new.txt"),
        ("./src/new.txt", "src/new.txt"),
        ("src/../new.txt", "new.txt"),
        ("../repo/new.txt", "new.txt"),
    ],
)
def test_a_path_into_the_checkout_is_named_as_the_repository_has_it(root, written, named):
    assert at(root).path(written.format(root)) == named


@ROOTS
@pytest.mark.parametrize(
    "elsewhere",
    [
        "{}-other/new.txt",
        "{}.git/config",
        "{}2",
        "{} copy/new.txt",
        "{}/../other/new.txt",
        "{}/src/../../new.txt",
        "/mnt{}/new.txt",
        "/home/agent",
        "/etc/passwd",
        "../other/new.txt",
        "~/notes.txt",
        "https://example.org/a//b",
        "git@github.com:o/r.git",
        "",
        "/",
    ],
)
def test_any_other_path_stays_as_it_is_written(root, elsewhere):
    path = elsewhere.format(root)

    assert at(root).path(path) == path
    assert at(root).text(path) == path or "copy" in path  # in a text, nothing says where a name with a space ends


NAME = st.text(st.characters(exclude_characters="/\0\n", exclude_categories=["Cs"]), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..")
)
NAMES = st.lists(NAME, min_size=1, max_size=4)


@given(NAMES, NAMES, st.data())
def test_any_path_below_any_root_becomes_the_rest_however_it_is_written(above, below, data):
    root, wanted = "/" + "/".join(above), "/".join(below)
    detours = st.sampled_from(["", "./", "/", "x/../", "././/"])
    written = "/".join(data.draw(detours) + name for name in below)

    assert at(root).path(f"{root}/{written}") == wanted


@given(NAMES, NAME, NAMES)
def test_no_sibling_of_any_root_is_cut(above, more, below):
    root = "/" + "/".join(above)
    path = f"{root}{more}/" + "/".join(below)

    assert at(root).path(path) == path


# --- paths in texts, commands and outputs


@ROOTS
@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("cat {}/src/a.py", "cat src/a.py"),
        ("cd {} && ls", "cd . && ls"),
        ("cd {}; ls", "cd .; ls"),
        ("cd {}\nls", "cd .\nls"),
        ("cd {}", "cd ."),
        ("{} is what I call 'it'", ". is what I call 'it'"),
        ("ls {}/", "ls ./"),
        ("rm {}/-rf {}/~a {}/#b", "rm ./-rf ./~a ./#b"),
        ("cp {}/a {}/b/c", "cp a b/c"),
        ("cat '{}/two words.txt' \"{}/b\" `{}/c`", "cat 'two words.txt' \"b\" `c`"),
        ("git -C{} log --file={}/a -I{}/include", "git -C. log --file=a -Iinclude"),
        ("PATH={}/bin:$PATH:{}/node_modules/.bin", "PATH=bin:$PATH:node_modules/.bin"),
        ("cat {}//etc/passwd", "cat etc/passwd"),
        ("ls {}/**/*.py", "ls **/*.py"),
        ("I changed [a.py]({}/src/a.py:3), see {}/src/b.py.", "I changed [a.py](src/a.py:3), see src/b.py."),
        ("It is in {}. Is it {}?", "It is in ./. Is it .?"),
        ("{}/app/(group)/[id]/page.tsx:3:1: error", "app/(group)/[id]/page.tsx:3:1: error"),
        ('{{"cwd": "{}", "file":"{}/a"}}', '{{"cwd": ".", "file":"a"}}'),
        ('echo "{{\\"cwd\\": \\"{}\\"}}"', 'echo "{{\\"cwd\\": \\".\\"}}"'),
        ("\x1b[36m{}/src/a.py\x1b[0m:\x1b[33m3", "\x1b[36msrc/a.py\x1b[0m:\x1b[33m3"),
        ("see file://{}/src/a.py", "see src/a.py"),
        ("docker run -v {}:/app", "docker run -v .:/app"),
        ("*** Update File: {}/src/a.py\n@@", "*** Update File: src/a.py\n@@"),
    ],
)
def test_a_path_into_the_checkout_in_a_text_is_named_as_the_repository_has_it(root, written, named):
    count = written.replace("{{", "").count("{}")

    assert at(root).text(written.format(*[root] * count)) == named.format()


@ROOTS
@pytest.mark.parametrize(
    "text",
    [
        "cd {}-other && ls",
        "git clone {}.git",
        "cat {}2/a {}_b/c {}~ {}@x {}+",
        "cat {}\\ copy/a",
        "cat '{} copy/a' \"{} copy/b\"",
        "ls {}* {}{{,-other}} {}[12]",
        "ls {}/../other {}/a/../../b",
        "ls /mnt{}/a ./x{}/a $X{}/a ${{X}}{}/a $(pwd){}/a ~{}/a .{}/a",
        "curl http://localhost:8080{}/a",
        "/home/agent and /home/agent/other",
        "a/b and c//d",
    ],
)
def test_a_text_that_names_something_else_stays_as_it_is(root, text):
    text = text.replace("{}", root).replace("{{", "{").replace("}}", "}")

    assert at(root).text(text) == text


def test_a_space_that_a_shell_command_escapes_is_part_of_the_root():
    escaped = SPACED.replace(" ", "\\ ").replace("(", "\\(").replace(")", "\\)")

    assert at(SPACED).text(f"cat {escaped}/src/a.py") == "cat src/a.py"


@given(NAMES, NAMES, st.sampled_from(["", "cat ", "in (", "see: ", "x=1 "]))
def test_any_quoted_path_below_any_root_becomes_the_quoted_rest(above, below, before):
    assume(not any("'" in name or "\\" in name for name in [*above, *below]))
    root, rest = "/" + "/".join(above), "/".join(below)
    assume(root not in rest)
    dot = "./" if rest[0] in '"`,;:|&<>)]}\x1b~#-' or rest[0].isspace() else ""

    assert at(root).text(f"{before}'{root}/{rest}' ") == f"{before}'{dot}{rest}' "


@given(st.text(), NAMES)
def test_a_text_without_the_root_stays_as_it_is(text, above):
    root = "/" + "/".join(above)
    assume(root not in text.replace("\\", ""))

    assert at(root).text(text) == text


# --- where the checkout is


@pytest.mark.parametrize(
    ("told", "written"),
    [
        (("/tmp/x/repo",), "/private/tmp/x/repo"),
        (("/private/var/x/repo",), "/var/x/repo"),
        (("/data/link/repo", "/mnt/disk/repo"), "/data/link/repo"),
        (("/data/link/repo", "/mnt/disk/repo"), "/mnt/disk/repo"),
        (("/home/agent/repo/",), "/home/agent/repo"),
        (("/home/agent/repo", ""), "/home/agent/repo"),
    ],
)
def test_each_path_that_leads_to_the_checkout_is_known(told, written):
    assert at(*told).path(f"{written}/src/a b.py") == "src/a b.py"
    assert at(*told).text(f"cat {written}/src/a.py in {written}") == "cat src/a.py in ."


@pytest.mark.parametrize("unknown", ["", "/", "//", "repo", "."])
def test_without_a_checkout_nothing_is_shortened(unknown):
    checkout = at(unknown)

    assert [checkout.path(path) for path in ("/etc/x", "a/../b", "repo/a")] == ["/etc/x", "a/../b", "repo/a"]
    assert checkout.text("cat /etc/x repo/a ./b") == "cat /etc/x repo/a ./b"


# --- what the agents print


def events_of(agent, *lines, root):
    start = ReaderState.start(workdir=root, model="gpt-6.1-sol")
    return DRIVERS[AgentName(agent)].read("".join(json.dumps(line) + "\n" for line in lines).encode(), start)


def claude_lines(root):
    def says(*blocks, kind="assistant"):
        return {"type": kind, "message": {"id": "m", "content": list(blocks)}}

    def uses(name, **given):
        return {"type": "tool_use", "id": name, "name": name, "input": given}

    return [
        {"type": "system", "subtype": "init", "cwd": root, "session_id": "0123456789", "model": "m"},
        {"type": "system", "subtype": "permission_denied", "message": f"No {root}/a"},
        says({"type": "text", "text": f"I look at {root}/src/a.py."}, {"type": "thinking", "thinking": f"{root}/b"}),
        says(
            uses("Write", file_path=f"{root}/src/new file.txt", content="x"),
            uses("MultiEdit", file_path=f"{root}/a", edits=[{"old_string": "1", "new_string": "2"}]),
            uses("NotebookEdit", notebook_path=f"{root}/n.ipynb", new_source="x"),
            uses("Glob", pattern=f"{root}/**/*.py", path=root),
            uses("Bash", command=f"cd {root} && cat {root}/src/a.py"),
            uses("mcp__x__y", files={f"{root}/a": [f"{root}/b"]}, uri=f"file://{root}/c"),
        ),
        says({"type": "tool_result", "tool_use_id": "t", "content": f"Created {root}/a"}, kind="user"),
        says(
            {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": f"{root}/a:1"}]},
            kind="user",
        ),
        {"type": "result", "subtype": "success", "result": f"See {root}/src/a.py."},
    ]


def codex_lines(root):
    def item(kind, **fields):
        return {"type": "item.completed", "item": {"id": f"i{len(fields)}{kind}", "type": kind, **fields}}

    command = "/bin/bash -lc " + shlex.quote(f"cd {root} && cat '{root}/src/a b.py'")
    changes = [{"path": f"{root}/src/new file.txt", "kind": "update"}, {"path": f"{root}/b", "kind": "update"}]
    return [
        item("agent_message", text=f"I look at [a]({root}/src/a.py:3)."),
        item("reasoning", text=f"What is in {root}/b?"),
        item("error", message=f"No {root}/a"),
        item("command_execution", command=command, aggregated_output=f"{root}/a:1: error\n", exit_code=1),
        item("file_change", changes=changes),
        item("mcp_tool_call", server="s", tool="t", arguments={"path": root}, result={"content": [{"text": root}]}),
        item("mcp_tool_call", server="s", tool="u", arguments={"paths": [f"{root}/a b"]}, error={"message": root}),
        item("web_search", query=f"what is {root}/a"),
        {"type": "turn.failed", "error": {"message": f"cannot read {root}/a"}},
    ]


LINES = {"claude": claude_lines, "codex": codex_lines}


@ROOTS
@pytest.mark.parametrize("agent", LINES)
def test_no_event_of_an_agent_says_where_the_sandbox_keeps_the_checkout(agent, root):
    events, state = events_of(agent, *LINES[agent](root), root=root)

    told = json.dumps([[event.kind, dict(event.payload)] for event in events])
    assert root not in told
    assert state.result
    assert root not in state.result.text + state.last_text + state.last_error
    assert {event.kind for event in events} >= {"agent_message", "thinking", "warning", "tool_use", "tool_result"}


@pytest.mark.parametrize("agent", LINES)
def test_what_an_agent_tells_is_the_same_wherever_the_checkout_is(agent):
    told = [events_of(agent, *LINES[agent](root), root=root)[0] for root in (ROOT, PLAIN, SPACED)]

    assert told[0] == told[1] == told[2]


def test_the_changes_of_codex_are_named_in_title_and_input():
    [use, _] = events_of("codex", codex_lines(PLAIN)[4], root=PLAIN)[0]

    assert use.payload["title"] == "Edit src/new file.txt, b"
    assert [change["path"] for change in use.payload["input"]["changes"]] == ["src/new file.txt", "b"]


def test_the_titles_of_claude_name_files_as_the_repository_does():
    events, _ = events_of("claude", *claude_lines(PLAIN), root=PLAIN)

    titles = [event.payload["title"] for event in events if event.kind == "tool_use"]
    assert titles == [
        "Write src/new file.txt",
        "Edit a",
        "Edit n.ipynb",
        "Find **/*.py",
        "$ cd . && cat src/a.py",
        "mcp__x__y",
    ]


def test_what_is_written_into_a_file_is_told_as_it_is():
    given = {"file_path": f"{ROOT}/a.sh", "content": f"cd {ROOT}\n"}
    use = {"type": "tool_use", "id": "t", "name": "Write", "input": given}

    [event], _ = events_of("claude", {"type": "assistant", "message": {"content": [use]}}, root=ROOT)

    assert event.payload["input"] == {"file_path": "a.sh", "content": f"cd {ROOT}\n"}


@pytest.mark.parametrize("root", [ROOT, PLAIN * 3])
def test_an_output_is_cut_to_the_same_size_wherever_the_checkout_is(root):
    item = {"id": "i", "type": "command_execution", "command": "x", "aggregated_output": f"{root}/a " * 2_000}

    events, _ = events_of("codex", {"type": "item.completed", "item": item}, root=root)

    assert events[1].payload["output"] == "a " * 1_000 + "… (2,000 more characters)"


def test_a_line_that_is_no_json_names_files_as_the_repository_does():
    start = ReaderState.start(workdir=PLAIN)

    events, _ = DRIVERS[AgentName.CODEX].read(f"panicked at {PLAIN}/src/main.rs:3\n".encode(), start)

    assert events[0].payload["text"].endswith("panicked at src/main.rs:3")


def test_the_state_keeps_every_path_of_the_checkout_between_two_looks():
    start = ReaderState.start(workdir="/data/link/repo", real_workdir="/mnt/disk/repo")

    kept = ReaderState.from_json(json.loads(json.dumps(start.to_json())))

    assert kept.checkout == start.checkout
    assert kept.checkout.path("/mnt/disk/repo/a") == "a"
