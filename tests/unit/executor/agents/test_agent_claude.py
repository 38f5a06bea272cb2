"""Claude Code's command and output. The fixtures are recorded: see tests/fixtures/agents/record.py."""

import json
from pathlib import Path

import pytest

from functions.executor.agents import DRIVERS, ReaderState
from shared.domain.agents import AgentName

RECORDED = Path(__file__).parents[3] / "fixtures" / "agents"
CLAUDE = DRIVERS[AgentName.CLAUDE]


def read(output, state=None):
    """The events of some output, and the state after it. `output` is a recorded case or lines to print."""
    if isinstance(output, str):
        output = (RECORDED / f"claude-{output}.jsonl").read_bytes()
    else:
        output = b"".join(json.dumps(line).encode() + b"\n" for line in output)
    return CLAUDE.read(output, state or ReaderState.start(workdir="/home/user/repo"))


def payloads(events, kind):
    return [event.payload for event in events if event.kind == kind]


def assistant(*blocks, **more):
    return {"type": "assistant", "message": {"content": list(blocks)}, "parent_tool_use_id": None} | more


def test_the_first_line_tells_the_session():
    events, state = read("work")

    assert events[0].kind == "session"
    assert events[0].payload["session_id"] == state.session_id
    assert events[0].payload["model"] == "claude-opus-5-5"
    assert events[0].payload["cli_version"] == "2.1.330"


def test_what_the_agent_says_and_does_becomes_events_in_order():
    events, _ = read("work")

    assert [event.kind for event in events] == [
        "session",
        "agent_message",
        *["tool_use", "tool_result"] * 4,
        "agent_message",
        "result",
    ]
    assert [use["title"] for use in payloads(events, "tool_use")] == [
        "$ ls",
        "Write src/app.py",
        "$ printf %s 'Says hello. …",
        "$ echo broken >&2; exit 3",
    ]
    assert payloads(events, "tool_use")[1]["input"] == {"file_path": "src/app.py", "content": 'print("hello")\n'}


def test_a_tools_result_carries_the_id_of_its_use_and_says_whether_it_worked():
    events, _ = read("work")

    results = payloads(events, "tool_result")
    assert [result["id"] for result in results] == [use["id"] for use in payloads(events, "tool_use")]
    assert [result["ok"] for result in results] == [True, True, True, False]
    assert results[3]["output"] == "Exit code 3\nbroken"


def test_the_result_holds_the_last_word_turns_tokens_cost_and_time():
    _, state = read("work")

    assert state.result.ok
    assert state.result.error_code is None
    assert state.result.text == state.last_text == "All done."
    assert state.result.turns == 5
    assert state.result.usage == {
        "input_tokens": 3100,
        "cached_input_tokens": 8400,
        "cache_write_tokens": 0,
        "output_tokens": 127,
    }
    assert state.result.cost_usd == pytest.approx(0.01662)
    assert state.result.duration_ms > 0


def test_a_follow_up_costs_only_what_it_added_to_the_session():
    _, first = read("work")

    _, second = read("follow_up", ReaderState.start(workdir="/home/user/repo", previous=first))

    assert second.session_id == first.session_id
    assert second.totals["cost_usd"] == pytest.approx(first.result.cost_usd + second.result.cost_usd)
    assert second.result.cost_usd == pytest.approx(0.00886)


def test_a_follow_up_of_a_session_that_was_lost_costs_all_it_reports():
    _, first = read("work")
    lost = ReaderState.start(workdir="/home/user/repo", previous=first)

    _, second = read([{"type": "result", "is_error": False, "total_cost_usd": 0.01}], lost)

    assert second.result.cost_usd == 0.01


@pytest.mark.parametrize(
    ("case", "code", "text"),
    [
        ("fail_400", "agent_failed", "the scripted model refuses this request"),
        ("fail_401", "agent_auth", "Invalid API key"),
        ("wrong_key", "agent_auth", "Invalid API key"),
        ("fail_403", "agent_auth", "does not have permission"),
        ("fail_429", "agent_rate_limited", "rate limit"),
        ("retried", "agent_rate_limited", "rate limit"),
        ("fail_500", "agent_overloaded", "Internal server error"),
        ("fail_529", "agent_overloaded", "Overloaded"),
        ("fail_credit", "agent_credit", "Credit balance is too low"),
        ("fail_context", "agent_context_too_long", "Prompt is too long"),
        ("budget", "agent_budget_exceeded", "Reached maximum budget"),
        ("max_turns", "agent_max_turns", "Reached maximum number of turns (1)"),
        ("unknown_session", "agent_failed", "No conversation found"),
    ],
)
def test_a_failure_has_a_stable_code_and_the_providers_words(case, code, text):
    events, state = read(case)

    assert not state.result.ok
    assert state.result.error_code == code
    assert text in state.result.text
    assert payloads(events, "result") == [state.to_json()["result"]]


def test_an_api_error_is_not_shown_as_something_the_agent_said():
    events, _ = read("fail_401")

    assert payloads(events, "agent_message") == []


def test_a_result_called_success_may_be_a_failure():
    recorded = (RECORDED / "claude-fail_500.jsonl").read_text().splitlines()[-1]
    assert json.loads(recorded)["subtype"] == "success"

    _, state = read([json.loads(recorded)])

    assert not state.result.ok


def test_an_older_result_that_only_its_subtype_calls_an_error_is_a_failure():
    _, state = read([{"type": "result", "subtype": "error_max_turns", "is_error": False}])

    assert state.result.error_code == "agent_max_turns"


def test_each_new_attempt_is_a_warning():
    events, _ = read("retried")

    assert payloads(events, "warning") == [
        {"text": "The model's API did not answer (429: rate_limit). Trying again, 1 of 1."}
    ]


def test_a_program_that_was_killed_has_no_result():
    events, state = read("no_result")

    assert state.result is None
    assert state.session_id
    assert events[-1].payload["title"] == "$ kill -KILL $PPID"


def test_every_block_of_a_line_is_read():
    line = assistant(
        {"type": "thinking", "thinking": "Hm."},
        {"type": "text", "text": "One."},
        {"type": "tool_use", "id": "t1", "name": "Read", "input": {"file_path": "/home/user/repo/a.py"}},
        {"type": "tool_use", "id": "t2", "name": "Sing", "input": {}},
        {"type": "text", "text": "Two."},
    )

    events, state = read([line])

    kinds = ["thinking", "agent_message", "tool_use", "tool_use", "agent_message"]
    assert [event.kind for event in events] == kinds
    assert [use["title"] for use in payloads(events, "tool_use")] == ["Read a.py", "Sing"]
    assert state.last_text == "Two."


def test_what_a_helper_says_stays_out_of_the_conversation_but_its_tools_show():
    helper = assistant(
        {"type": "text", "text": "I am a helper."},
        {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}},
        parent_tool_use_id="toolu_1",
    )

    events, state = read([assistant({"type": "text", "text": "I am not."}), helper])

    assert [event.kind for event in events] == ["agent_message", "tool_use"]
    assert state.last_text == "I am not."


def test_a_tools_answer_in_blocks_is_joined():
    answer = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a"}, {"type": "image"}]}

    events, _ = read([{"type": "user", "message": {"content": [answer]}}])

    assert events[0].payload == {"id": "t1", "ok": True, "output": "a\n[image]"}


def test_long_inputs_and_outputs_are_cut():
    use = {"type": "tool_use", "id": "t", "name": "Write", "input": {"file_path": "a", "content": "x" * 9_000}}
    answer = {"type": "tool_result", "tool_use_id": "t", "content": "y" * 9_000}

    events, _ = read([assistant(use), {"type": "user", "message": {"content": [answer]}}])

    assert events[0].payload["input"]["content"] == "x" * 2_000 + "… (7,000 more characters)"
    assert events[1].payload["output"] == "y" * 2_000 + "… (7,000 more characters)"


def test_unknown_types_are_ignored():
    lines = [
        {"type": "rate_limit_event", "rate_limit_info": {}},
        {"type": "system", "subtype": "compact_boundary"},
        {"type": "from_the_future", "message": 1},
        assistant({"type": "hologram"}),
        {},
    ]

    assert read(lines)[0] == []


def test_a_session_id_that_could_be_an_option_is_refused():
    events, state = read([{"type": "system", "subtype": "init", "session_id": "--dangerous"}])

    assert events == []
    assert state.session_id is None


def test_the_first_command_leaves_every_choice_to_the_program():
    command = CLAUDE.command()

    assert command.argv == (
        "claude",
        "-p",
        "--output-format=stream-json",
        "--verbose",
        "--dangerously-skip-permissions",
    )
    assert "ANTHROPIC_BASE_URL" not in command.env
    assert command.env["DISABLE_AUTOUPDATER"] == "1"
    assert command.secret_env == ("ANTHROPIC_API_KEY",)


def test_the_command_passes_on_what_is_asked_for():
    command = CLAUDE.command(
        model="claude-x", base_url="http://127.0.0.1:8901", max_turns=30, max_cost_usd=2.5, resume="abc-123-def"
    )

    assert command.argv[5:] == (
        "--model=claude-x",
        "--max-turns=30",
        "--max-budget-usd=2.500000",
        "--resume=abc-123-def",
    )
    assert command.env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8901"
