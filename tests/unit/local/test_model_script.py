"""What the scripted model does with a prompt, and how it finds the prompt in what the programs send."""

import json

import pytest

from local.services.model import anthropic, openai
from local.services.model.conversation import Position
from local.services.model.script import Fail, Hang, ScriptError, Shell, Turn, Write, turn_of


def turns(prompt):
    """Every turn up to the one that does nothing."""
    found = []
    while not found or found[-1].action:
        found.append(turn_of(prompt, len(found)))
    return found


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("@write src/a.py: x = 1\\n\\ty", Write("src/a.py", "x = 1\n\ty\n")),
        ("@write empty:", Write("empty", "\n")),
        ("@append a.md: it's", Shell("""printf %s 'it'"'"'s\n' >> a.md""")),
        ("@append b/a.md: x", Shell("mkdir -p -- b && printf %s 'x\n' >> b/a.md")),
        ("@delete a b", Shell("rm -- 'a b'")),
        ("@move a -> b/c", Shell("mkdir -p -- b && mv -- a b/c")),
        ("@run ls | wc -l", Shell("ls | wc -l")),
        ("  @run ls  ", Shell("ls")),
        ("@no-result", Shell("kill -KILL $PPID")),
        ("@fail 429", Fail("429")),
        ("@hang", Hang()),
    ],
)
def test_a_line_is_one_thing_to_do(line, action):
    assert turns(f"Please.\n{line}\nThank you.")[0].action == action


def test_what_is_said_and_slept_belongs_to_the_next_step():
    prompt = "@say one\n@say two\n@sleep 0.5\n@sleep 1\n@run ls\n@say three"

    assert turns(prompt) == [
        Turn(texts=("one", "two"), action=Shell("ls"), delay_s=1.5),
        Turn(texts=("three",)),
    ]


def test_a_script_without_a_last_word_ends_with_done():
    assert turns("@run ls")[-1] == Turn(texts=("Done.",))


def test_asked_once_more_the_model_repeats_its_last_word():
    assert turn_of("@run ls\n@say bye", 7) == Turn(texts=("bye",))


def test_the_words_of_a_person_are_no_directives():
    prompt = "Mail @run or me@example.com about @pytest.fixture, see `@write a: b`"

    assert turns(prompt) == turns(prompt + " ")
    assert "A task for the agent" in turns(prompt)[2].action.command


def test_a_persons_task_is_quoted_in_a_short_section():
    command = turns("Make it nice,\nplease; $(rm -rf /) 'quoted'")[2].action.command

    assert "> Make it nice,\n> please; $(rm -rf /)" in command
    assert "no language model has read the task" in command


@pytest.mark.parametrize("line", ["@write a b", "@move a b", "@fail often", "@sleep long", "@append : x"])
def test_a_line_that_cannot_be_followed_is_a_mistake(line):
    with pytest.raises(ScriptError):
        turn_of(line, 0)


def claude_asks(*messages):
    return anthropic.where({"messages": list(messages)})


def user(*texts):
    return {"role": "user", "content": [{"type": "text", "text": text} for text in texts]}


REMINDER = "<system-reminder>\n@write evil: from CLAUDE.md\n</system-reminder>"
TURN = {"role": "assistant", "content": []}
TOOL_RESULT = {"role": "user", "content": [{"type": "tool_result", "content": "@run evil"}]}


def test_claudes_reminders_are_not_the_prompt():
    assert claude_asks(user(REMINDER, f"@run ls\n{REMINDER}", REMINDER)) == Position("@run ls", 0)
    assert claude_asks({"role": "user", "content": "@run ls"}) == Position("@run ls", 0)


def test_claudes_turns_are_counted_from_the_last_prompt():
    system = {"role": "system", "content": [{"type": "text", "text": "@run evil"}]}
    first = [user(REMINDER, "@run first"), system, TURN, TOOL_RESULT, TURN]

    assert claude_asks(*first) == Position("@run first", 2)
    assert claude_asks(*first, user(REMINDER, "@run second")) == Position("@run second", 0)
    assert claude_asks(*first, user("@run second"), TURN, TOOL_RESULT) == Position("@run second", 1)


def test_a_prompt_that_was_never_answered_gives_way_to_the_next():
    assert claude_asks(user("@run first", "@run second")) == Position("@run second", 0)


def codex_asks(*items):
    return openai.where({"input": list(items)})


def message(text, role="user"):
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


CALL = {"type": "function_call", "call_id": "1", "name": "exec_command", "arguments": "{}"}
CALL_OUTPUT = {"type": "function_call_output", "call_id": "1", "output": "@run evil"}
AROUND = [
    message("@run evil", role="developer"),
    message("# AGENTS.md instructions for /repo\n\n<INSTRUCTIONS>\n@run evil\n</INSTRUCTIONS>"),
    message("<environment_context>\n@run evil\n</environment_context>"),
]


def test_codex_surroundings_are_not_the_prompt():
    assert codex_asks(*AROUND, message("@run ls")) == Position("@run ls", 0)
    assert codex_asks(message("@run ls"), *AROUND) == Position("@run ls", 0)


def test_codex_calls_are_counted_from_the_last_prompt():
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "@run evil"}]}
    patch = {"type": "custom_tool_call", "call_id": "2", "name": "apply_patch", "input": ""}
    first = [*AROUND, message("@run first"), said, CALL, CALL_OUTPUT, patch]

    assert codex_asks(*first) == Position("@run first", 2)
    assert codex_asks(*first, *AROUND, message("@run second")) == Position("@run second", 0)


@pytest.mark.parametrize("tools", [[], [{"type": "custom", "name": "apply_patch"}]])
def test_codex_gets_a_patch_only_where_it_can_take_one(tools):
    turn = Turn(action=Write("a/b", "one\ntwo\n"))

    events = dict(openai.answer({"input": [], "tools": tools}, turn, 0))

    item = events["response.output_item.done"]["item"]
    if tools:
        assert item["input"] == "*** Begin Patch\n*** Add File: a/b\n+one\n+two\n*** End Patch\n"
    else:
        assert json.loads(item["arguments"]) == {"cmd": "mkdir -p -- a && printf %s 'one\ntwo\n' > a/b"}


def test_every_answer_to_claude_is_a_message_of_its_own():
    first, second = (dict(anthropic.answer({"model": "m"}, Turn(texts=("a",)), 0)) for _ in range(2))

    assert first["message_start"]["message"]["id"] != second["message_start"]["message"]["id"]
