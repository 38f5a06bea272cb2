"""What both agents' readers know of tokens and costs while a run runs. The fixtures are recorded."""

import json
from pathlib import Path

import pytest

from functions.executor.agents import DRIVERS, ReaderState
from functions.executor.agents.prices import NO_TOKENS, PRICES, cost_usd
from shared.domain.agents import AgentName

RECORDED = Path(__file__).parents[3] / "fixtures" / "agents"
CLAUDE, CODEX = DRIVERS[AgentName.CLAUDE], DRIVERS[AgentName.CODEX]
OPUS, SOL = "claude-opus-5-5", "gpt-6.1-sol"
SESSION = "01a20757-e7ae-7e82-b82b-6dd57aa56f4e"


def start(model=None, previous=None):
    return ReaderState.start(workdir="/home/user/repo", model=model, previous=previous)


def recorded(name):
    return (RECORDED / f"{name}.jsonl").read_bytes().splitlines(keepends=True)


def read(agent, lines, state):
    for line in lines:
        _, state = agent.read(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n", state)
    return state


def message(message_id="msg_1", model=OPUS, text="", helper=None, **usage):
    content = [{"type": "text", "text": text}] if text else []
    body = {"id": message_id, "model": model, "content": content, "usage": usage}
    return {"type": "assistant", "message": body, "parent_tool_use_id": helper}


def token_count(input_tokens, cached=0, output=0):
    total = {"input_tokens": input_tokens, "cached_input_tokens": cached, "output_tokens": output}
    return json.dumps({"type": "event_msg", "payload": {"type": "token_count", "info": {"total_token_usage": total}}})


# --- Claude


@pytest.mark.parametrize("case", ["claude-work", "claude-follow_up"])
def test_claudes_messages_add_up_to_its_result_but_for_output_that_they_only_hint_at(case):
    *before_the_result, result = recorded(case)

    running = read(CLAUDE, before_the_result, start())
    ended = read(CLAUDE, [result], running)

    told = json.loads(result)["usage"]
    assert running.usage["input_tokens"] == told["input_tokens"]
    assert running.usage["cached_input_tokens"] == told["cache_read_input_tokens"]
    assert 0 < running.usage["output_tokens"] <= told["output_tokens"]
    priced = dict(running.usage, output_tokens=told["output_tokens"])
    before = 0.01662 if case == "claude-follow_up" else 0
    assert json.loads(result)["total_cost_usd"] == pytest.approx(before + cost_usd(OPUS, priced))
    assert ended.cost_usd == ended.result.cost_usd


def test_the_result_corrects_what_was_counted():
    ended = read(CLAUDE, recorded("claude-work"), start())

    told = NO_TOKENS | {"input_tokens": 3100, "cached_input_tokens": 8400, "output_tokens": 127}
    assert ended.usage == ended.result.usage == told
    assert ended.cost_usd == pytest.approx(0.01662)


def test_a_limit_of_claudes_own_tells_its_tokens_too():
    ended = read(CLAUDE, recorded("claude-budget"), start())

    assert ended.usage == NO_TOKENS | {"input_tokens": 1500, "output_tokens": 25}
    assert ended.cost_usd == pytest.approx(0.0065)


def test_a_request_that_failed_and_was_tried_again_costs_nothing():
    ended = read(CLAUDE, recorded("claude-retried"), start())

    assert (ended.usage, ended.cost_usd) == (NO_TOKENS, 0)


def test_a_message_in_many_lines_is_counted_once_even_if_a_helpers_come_in_between():
    lines = [
        message("a", input_tokens=100, output_tokens=1),
        message("b", input_tokens=10, helper="toolu_1", output_tokens=1),
        message("a", input_tokens=100, output_tokens=1),
        message("b", input_tokens=10, helper="toolu_1", output_tokens=7),
    ]

    state = read(CLAUDE, lines, start())

    assert state.usage == NO_TOKENS | {"input_tokens": 110, "output_tokens": 8}


def test_what_a_message_says_counts_as_its_output_before_the_real_number_is_known():
    lines = [message("a", text="x" * 400, output_tokens=1), message("a", text="y" * 800, output_tokens=1)]

    state = read(CLAUDE, lines, start())

    assert state.usage["output_tokens"] == 300
    assert state.cost_usd == pytest.approx(300 * PRICES[OPUS].output / 1e6)


def test_each_message_has_the_price_of_its_own_model_whatever_it_is_called():
    lines = [
        message("a", model="claude-haiku-4-5-20251001", input_tokens=1_000_000),
        message("b", model="claude-opus-5-5[1m]", cache_creation_input_tokens=1_000_000),
    ]

    assert read(CLAUDE, lines, start()).cost_usd == pytest.approx(1.00 + 5.00)


def test_a_model_without_a_price_has_tokens_and_no_cost_until_claude_tells_it():
    known, unknown = message("a", input_tokens=10), message("b", model="unheard-of", input_tokens=6)

    running = read(CLAUDE, [known, unknown], start())
    ended = read(CLAUDE, [{"type": "result", "is_error": False, "total_cost_usd": 0.5}], running)

    assert (running.usage["input_tokens"], running.cost_usd) == (16, None)
    assert ended.cost_usd == 0.5


def test_a_run_that_was_stopped_in_mid_work_is_not_paid_again_by_the_next():
    # Recorded: a session stopped by SIGTERM after these two messages, and then continued. Claude counts on.
    stopped = read(
        CLAUDE,
        [
            message("a", input_tokens=1500, output_tokens=1),
            message("b", input_tokens=400, cache_read_input_tokens=1500, output_tokens=1),
        ],
        start(),
    )
    used = {"inputTokens": 3400, "outputTokens": 61, "cacheReadInputTokens": 1500, "cacheCreationInputTokens": 0}
    result = {"type": "result", "is_error": False, "total_cost_usd": 0.01512, "modelUsage": {OPUS: used}}

    again = read(CLAUDE, [result], start(previous=ReaderState.from_json(json.loads(json.dumps(stopped.to_json())))))

    assert again.usage["input_tokens"] == 1500
    assert again.cost_usd == pytest.approx(0.01512 - stopped.cost_usd)


def test_nothing_in_a_message_makes_the_count_fail_or_shrink():
    odd = [
        message("a", input_tokens=50),
        message("a", input_tokens=-5, output_tokens="many"),
        message("a", input_tokens=2**70),
        {"type": "assistant", "message": {"id": 7, "model": ["x"], "usage": [1], "content": "text"}},
        {"type": "assistant", "message": {"usage": {"input_tokens": 1.5}, "content": [{"input": [1], "text": 3}]}},
    ]

    assert read(CLAUDE, odd, start()).usage == NO_TOKENS | {"input_tokens": 50}


# --- Codex


def test_codexs_usage_log_is_the_rollout_of_its_session():
    thread = {"type": "thread.started", "thread_id": SESSION}

    assert CODEX.usage_log(start()) is None
    assert SESSION in CODEX.usage_log(read(CODEX, [thread], start())).pattern
    assert CLAUDE.usage_log(start()) is None


def test_the_usage_log_tells_while_it_runs_what_the_last_line_tells_at_the_end():
    *before_the_end, completed = recorded("codex-work")
    running = read(CODEX, before_the_end, start(SOL))
    assert running.usage == {}

    # Recorded: the rollout's last count equals the usage of turn.completed.
    running = CODEX.read_usage_line(token_count(5700, 3400, 62), running)
    assert running.usage == NO_TOKENS | {"input_tokens": 2300, "cached_input_tokens": 3400, "output_tokens": 62}
    assert running.cost_usd == pytest.approx((2300 * 2 + 3400 * 0.1 + 62 * 10) / 1e6)

    ended = read(CODEX, [completed], CODEX.read_usage_line(token_count(11500, 8400, 127), running))
    assert ended.usage == ended.result.usage
    assert ended.usage == NO_TOKENS | {"input_tokens": 3100, "cached_input_tokens": 8400, "output_tokens": 127}


def test_a_follow_up_counts_from_where_its_session_stood():
    first = read(CODEX, recorded("codex-work"), start(SOL))

    running = CODEX.read_usage_line(token_count(13000, 8400, 150), start(SOL, previous=first))

    assert running.usage == NO_TOKENS | {"input_tokens": 1500, "output_tokens": 23}
    stopped_too = CODEX.read_usage_line(token_count(14900, 9900, 175), start(SOL, previous=running))
    assert stopped_too.usage == NO_TOKENS | {"input_tokens": 400, "cached_input_tokens": 1500, "output_tokens": 25}


def test_a_turn_that_fails_has_cost_what_the_usage_log_says():
    state = CODEX.read_usage_line(token_count(1000, 0, 100), start(SOL))

    ended = read(CODEX, [{"type": "turn.failed", "error": {"message": "no"}}], state)

    assert ended.result.usage["input_tokens"] == 1000
    assert ended.result.cost_usd == pytest.approx(0.003)


def test_a_model_without_a_price_has_tokens_and_no_cost():
    state = CODEX.read_usage_line(token_count(1000), start("unheard-of"))

    assert (state.usage["input_tokens"], state.cost_usd) == (1000, None)


@pytest.mark.parametrize(
    "line",
    [
        "",
        "[" * 100_000,
        "[]",
        '{"payload": 1}',
        '{"payload": {"type": "token_count", "info": null}}',
        '{"payload": {"type": "message", "text": "token_count"}}',
        '{"payload": {"type": "message", "info": {"total_token_usage": {"input_tokens": 9}}}}',
    ],
)
def test_a_line_of_the_usage_log_that_is_no_count_changes_nothing(line):
    state = CODEX.read_usage_line(token_count(1000), start(SOL))

    assert CODEX.read_usage_line(line, state) == state


def test_what_is_counted_survives_between_two_looks():
    state = read(CLAUDE, [message("a", input_tokens=100)], start())
    stored = ReaderState.from_json(json.loads(json.dumps(state.to_json())))

    assert read(CLAUDE, [message("a", input_tokens=100)], stored).usage["input_tokens"] == 100
