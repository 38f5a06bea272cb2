"""What a run costs while it runs: stored, told, and bounded, for both agents."""

import json

import pytest

from shared.domain.agents import AgentName
from shared.domain.run import Phase
from tests.fakes.executor import (
    CLAUDE_INIT,
    SESSION,
    changed_file,
    claude_result,
    collected,
    collects,
    json_lines,
)
from tests.fakes.sandboxes import Script

USD = 1_000_000 // 4  # input tokens of claude-opus-5-5 for one dollar
SOL_USD = 1_000_000 // 2  # of gpt-6.1-sol


def spends(message_id, dollars):
    usage = {"input_tokens": round(dollars * USD)}
    return {"type": "assistant", "message": {"id": message_id, "model": "claude-opus-5-5", "usage": usage}}


def claude_spending(*times_and_dollars, then=None, ends_at=None):
    """Claude, that spends some dollars at some seconds."""
    output = [(1, json_lines(CLAUDE_INIT))]
    output += [(at, json_lines(spends(f"m{n}", usd))) for n, (at, usd) in enumerate(times_and_dollars)]
    if then:
        output.append((ends_at, json_lines(then)))
    return Script(output=tuple(output), ends_at=ends_at)


def codex_spending(*times_and_dollars):
    """Codex, whose usage log has the sum of what it has spent at some seconds, and whose output does not."""
    count = {"type": "token_count", "info": {"total_token_usage": {}}}
    total, log = 0.0, []
    for at, dollars in times_and_dollars:
        total += dollars
        count["info"]["total_token_usage"] = {"input_tokens": round(total * SOL_USD)}
        log.append((at, json.dumps({"type": "event_msg", "payload": count})))
    thread = json_lines({"type": "thread.started", "thread_id": SESSION})
    return Script(output=((1, thread),), ends_at=None, usage_log=tuple(log))


SPENDERS = {AgentName.CLAUDE: ("Claude", claude_spending), AgentName.CODEX: ("Codex/GPT", codex_spending)}
each_agent = pytest.mark.parametrize("agent", SPENDERS)


@each_agent
def test_an_agent_that_costs_too_much_is_stopped_and_its_work_collected(world, agent):
    title, spending = SPENDERS[agent]
    world.set(max_cost_usd=2.0)
    world.scripts["agent"] = spending((5, 1.5), (60, 0.7), (600, 5.0))
    world.scripts["collect"] = collects(collected(changed_file("half.txt")))
    world.start(agent=agent)

    world.run()

    run, task = world.run_row, world.task
    assert (run["status"], run["error_code"]) == ("failed", "cost_limit")
    assert task["error"] == f"{title} agent was stopped: it cost $2.20 of at most $2.00."
    assert task["changed_files"] == ["half.txt"]
    assert run["usage"]["cost_usd"] == task["execution_metadata"]["usage"]["cost_usd"] == pytest.approx(2.2)
    assert world.sandboxes.boxes == {}


@each_agent
def test_exactly_the_limit_is_not_too_much(world, agent):
    world.set(max_cost_usd=2.0, agent_idle_timeout_s=300)
    world.scripts["agent"] = SPENDERS[agent][1]((5, 2.0))
    world.start(agent=agent)

    world.run()

    assert world.run_row["error_code"] == "agent_idle"


@each_agent
def test_a_task_may_set_itself_a_lower_limit_and_no_higher_one(world, agent):
    world.set(max_cost_usd=1.0)
    world.scripts["agent"] = SPENDERS[agent][1]((5, 0.3), (60, 3.0))
    world.start(agent=agent, max_cost_usd=0.25)
    world.run()
    assert world.task["error"].endswith("it cost $0.3000 of at most $0.2500.")

    world.start(agent=agent, max_cost_usd=50.0)
    world.run()
    assert world.task["error"].endswith("it cost $3.30 of at most $1.00.")


def test_claude_is_told_the_lower_limit(world):
    world.start(max_cost_usd=0.5)
    world.run()

    job = json.loads(world.sandboxes.last.uploaded("agent", "job.json"))
    assert "--max-budget-usd=0.500000" in job["argv"]


def test_claudes_own_end_at_the_limit_is_told_like_ours(world):
    ended = claude_result("", subtype="error_max_budget_usd", is_error=True, total_cost_usd=0.5104)
    world.scripts["agent"] = claude_spending((2, 0.1), then=ended, ends_at=9)
    world.start(max_cost_usd=0.5)
    world.run()

    assert world.run_row["error_code"] == "cost_limit"
    assert world.task["error"] == "Claude agent was stopped: it cost $0.5104 of at most $0.5000."


def test_an_agent_that_has_done_its_work_has_done_it_whatever_it_cost(world):
    world.scripts["agent"] = claude_spending((2, 0.1), then=claude_result(total_cost_usd=99.0), ends_at=4)
    world.start()
    world.run()

    assert (world.run_row["status"], world.run_row["usage"]["cost_usd"]) == ("completed", 99.0)


def test_a_cancelled_run_is_cancelled_however_dear_it_was(world):
    world.scripts["agent"] = claude_spending((5, 1.0), (20, 50.0))
    message = world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.database.request_cancel(message.task_id)
    world.clock.pass_(30)
    world.run()

    assert world.run_row["error_code"] == "cancelled"
    assert world.run_row["usage"]["cost_usd"] == pytest.approx(51.0)


def test_a_model_whose_price_is_not_known_is_not_stopped_and_its_tokens_are_kept(world):
    unknown = {"type": "assistant", "message": {"id": "m", "model": "unheard-of", "usage": {"input_tokens": 10**9}}}
    output = ((1, json_lines(CLAUDE_INIT)), (3, json_lines(unknown)))
    world.scripts["agent"] = Script(output=output, ends_at=60, exit_code=1)
    world.start()
    world.run()

    assert world.run_row["error_code"] == "agent_failed"
    assert (world.run_row["usage"]["cost_usd"], world.run_row["usage"]["input_tokens"]) == (None, 10**9)


@each_agent
def test_what_a_run_has_used_is_stored_with_each_look(world, agent):
    world.scripts["agent"] = SPENDERS[agent][1]((10, 0.5), (40, 0.25))
    world.start(agent=agent)
    seen = []

    def look():
        seen.append(world.run_row["usage"].get("cost_usd"))

    world.run(after_each=look)

    assert list(dict.fromkeys(seen)) == [None, 0.5, 0.75]


def test_whoever_watches_is_told_of_each_cent_and_of_less_once_a_minute(world):
    pennies = [(10 + n, 0.0001) for n in range(200)]
    world.set(agent_idle_timeout_s=100)
    world.scripts["agent"] = claude_spending((5, 0.5), *pennies)
    world.start()
    world.run()

    told = world.payloads("usage")
    assert told[0]["cost_usd"] == pytest.approx(0.5)
    assert set(told[0]) == {
        *("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens"),
        *("cost_usd", "model"),
    }
    assert 3 <= len(told) <= 5
    assert [t["cost_usd"] for t in told] == sorted(t["cost_usd"] for t in told)


def test_a_run_that_is_over_at_the_first_look_is_told_by_its_result_alone(world):
    world.start()
    world.run()

    assert "usage" not in world.kinds()
    assert world.payloads("result")[0]["cost_usd"] == 0.25
