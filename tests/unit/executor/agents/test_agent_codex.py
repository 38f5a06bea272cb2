"""Codex's command and output. The fixtures are recorded: see tests/fixtures/agents/record.py."""

import json
import tomllib
from pathlib import Path

import pytest

from functions.executor.agents import DRIVERS, ReaderState
from functions.executor.agents.prices import NO_TOKENS, PRICES, cost_usd
from shared.domain.agents import AgentName

RECORDED = Path(__file__).parents[3] / "fixtures" / "agents"
CODEX = DRIVERS[AgentName.CODEX]
START = ReaderState.start(workdir="/home/user/repo", model="gpt-6.1-sol")


def read(output, state=START):
    """The events of some output, and the state after it. `output` is a recorded case or lines to print."""
    if isinstance(output, str):
        output = (RECORDED / f"codex-{output}.jsonl").read_bytes()
    else:
        output = b"".join(json.dumps(line).encode() + b"\n" for line in output)
    return CODEX.read(output, state)


def payloads(events, kind):
    return [event.payload for event in events if event.kind == kind]


def completed(**item):
    return {"type": "item.completed", "item": {"id": "item_0", **item}}


def test_the_first_line_tells_the_session():
    events, state = read("work")

    assert events[0].kind == "session"
    assert events[0].payload["session_id"] == state.session_id
    assert events[0].payload["model"] == "gpt-6.1-sol"


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
    assert [use["name"] for use in payloads(events, "tool_use")] == ["shell", "apply_patch", "shell", "shell"]


def test_a_tools_result_carries_the_id_of_its_use_and_says_whether_it_worked():
    events, state = read("work")

    results = payloads(events, "tool_result")
    assert [result["id"] for result in results] == [use["id"] for use in payloads(events, "tool_use")]
    assert [result["ok"] for result in results] == [True, True, True, False]
    assert results[3]["output"] == "broken\n"
    assert state.open_tools == ()


def test_the_result_holds_the_last_word_tokens_and_their_price():
    _, state = read("work")

    assert state.result.ok
    assert state.result.text == state.last_text == "All done."
    assert state.result.usage == {
        "input_tokens": 3100,
        "cached_input_tokens": 8400,
        "cache_write_tokens": 0,
        "output_tokens": 127,
    }
    assert state.result.cost_usd == pytest.approx((3100 * 2.00 + 8400 * 0.10 + 127 * 10.00) / 1_000_000)


def test_a_follow_up_counts_only_the_tokens_it_added_to_the_session():
    _, first = read("work")

    _, second = read("follow_up", ReaderState.start(workdir="/home/user/repo", previous=first))

    assert second.session_id == first.session_id
    assert second.result.usage == {
        "input_tokens": 1900,
        "cached_input_tokens": 1500,
        "cache_write_tokens": 0,
        "output_tokens": 48,
    }


def test_a_run_that_failed_does_not_lose_the_count_of_its_session():
    _, first = read("work")
    _, failed = read("fail_429", ReaderState.start(workdir="/home/user/repo", previous=first))

    again = ReaderState.start(workdir="/home/user/repo", previous=failed)

    assert again.totals_before == first.totals


def test_the_cost_of_an_unknown_model_is_unknown():
    some = NO_TOKENS | {"output_tokens": 1}

    assert cost_usd("unheard-of", some) is None
    assert cost_usd(None, some) is None
    assert cost_usd(None, NO_TOKENS) == 0


@pytest.mark.parametrize("model", PRICES)
def test_cached_input_is_cheaper_than_fresh_input_and_output_is_dearest(model):
    price = PRICES[model]

    assert 0 < price.cached_input < price.input <= price.cache_write < price.output


@pytest.mark.parametrize(
    ("case", "code", "text"),
    [
        ("fail_400", "agent_failed", "The scripted model refuses this request."),
        ("fail_401", "agent_auth", "unexpected status 401 Unauthorized: Incorrect API key provided."),
        ("wrong_key", "agent_auth", "unexpected status 401 Unauthorized: Incorrect API key provided."),
        ("fail_403", "agent_auth", "unexpected status 403 Forbidden: Your API key does not have permission"),
        ("fail_429", "agent_rate_limited", "exceeded retry limit, last status: 429 Too Many Requests"),
        ("fail_500", "agent_overloaded", "currently experiencing high demand"),
        ("fail_529", "agent_overloaded", "Selected model is at capacity."),
        ("fail_credit", "agent_credit", "Quota exceeded. Check your plan and billing details."),
        ("fail_context", "agent_context_too_long", "ran out of room in the model's context window"),
    ],
)
def test_a_failure_has_a_stable_code_and_the_providers_words(case, code, text):
    events, state = read(case)

    assert not state.result.ok
    assert state.result.error_code == code
    assert text in state.result.text
    assert payloads(events, "result") == [state.to_json()["result"]]


def test_each_new_attempt_is_a_warning_without_the_gateways_address():
    events, _ = read("fail_401")

    assert payloads(events, "warning") == [
        {"text": "Reconnecting... 1/1 (unexpected status 401 Unauthorized: Incorrect API key provided.)"}
    ]


def test_a_complaint_of_the_program_is_a_warning_and_the_run_goes_on():
    events, state = read("unknown_model")

    assert payloads(events, "warning")[0]["text"].startswith("Model metadata for `unheard-of` not found.")
    assert state.result.ok


def test_a_program_that_was_killed_has_no_result():
    _, state = read("no_result")

    assert state.result is None
    assert state.session_id


def test_an_error_that_nothing_follows_is_remembered():
    events, state = read([{"type": "error", "message": "The disk is full."}])

    assert events == []
    assert state.last_error == "The disk is full."


def test_a_tool_that_was_not_announced_is_shown_with_its_result():
    events, _ = read([completed(type="web_search", query="how to exit vim")])

    assert [event.kind for event in events] == ["tool_use", "tool_result"]
    assert events[0].payload["title"] == "Search the web: how to exit vim"


@pytest.mark.parametrize(
    ("kinds", "title"),
    [
        (["add"], "Write a0"),
        (["update"], "Edit a0"),
        (["delete", "delete"], "Delete a0, a1"),
        (["add", "update"], "Edit a0, a1"),
        ([], "Edit"),
    ],
)
def test_a_patch_is_named_after_what_it_does(kinds, title):
    changes = [{"path": f"/home/user/repo/a{index}", "kind": kind} for index, kind in enumerate(kinds)]

    events, _ = read([completed(type="file_change", changes=changes, status="completed")])

    assert events[0].payload["title"] == title


def test_a_tool_of_a_server_shows_its_answer_or_its_error():
    tool = {"type": "mcp_tool_call", "server": "docs", "tool": "find", "arguments": {"q": "x"}}
    answer = completed(**tool, result={"content": [{"type": "text", "text": "found"}]}, status="completed")
    failure = completed(**tool, error={"message": "no such page"}, status="failed")

    events, _ = read([answer, failure])

    assert events[0].payload == {"id": "item_0", "name": "docs.find", "input": {"q": "x"}, "title": "Use docs.find"}
    assert events[1].payload == {"id": "item_0", "ok": True, "output": "found"}
    assert events[3].payload == {"id": "item_0", "ok": False, "output": "no such page"}


def test_unknown_types_are_ignored():
    lines = [
        {"type": "turn.started"},
        {"type": "from.the.future"},
        completed(type="hologram"),
        {"type": "item.completed"},
        {},
    ]

    assert read(lines)[0] == []


def test_the_first_command_leaves_every_choice_to_the_program():
    command = CODEX.command()

    assert command.argv[:5] == (
        "codex",
        "exec",
        "--json",
        "--skip-git-repo-check",
        "--dangerously-bypass-approvals-and-sandbox",
    )
    assert command.argv[-1] == "-"
    assert command.env == {}
    assert command.secret_env == ("CODEX_API_KEY",)


def test_a_follow_up_resumes_the_session_with_the_prompt_from_standard_input():
    assert CODEX.command(resume="abc-123-def").argv[-3:] == ("resume", "abc-123-def", "-")


def test_a_gateway_is_a_provider_of_its_own_that_takes_the_key_from_the_environment():
    argv = CODEX.command(model="gpt-x", base_url="http://127.0.0.1:8903/v1").argv

    settings = tomllib.loads("\n".join(each.removeprefix("--config=") for each in argv if "model_provider" in each))
    assert "--model=gpt-x" in argv
    assert settings["model_provider"] == "gateway"
    assert settings["model_providers"]["gateway"] == {
        "name": "Gateway",
        "base_url": "http://127.0.0.1:8903/v1",
        "wire_api": "responses",
        "env_key": "CODEX_API_KEY",
    }
