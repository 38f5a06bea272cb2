"""What whole runs cost, told by the real agent programs and bounded by us; the scripted model names the tokens."""

import re

import httpx
import pytest

AGENTS = ("claude", "codex")


def get(lab, client, path):
    answer = httpx.get(lab.stack.api_url + path, headers={"Authorization": f"Bearer {client.token}"}, timeout=60)
    answer.raise_for_status()
    return answer.json()


def start(lab, client, prompt, url, agent, **limits):
    body = {"prompt": prompt, "repo_url": url, "model": agent, "github_token": "ghp_thisTokenOpensNothing00000"}
    headers = {"Authorization": f"Bearer {client.token}"}
    answer = httpx.post(f"{lab.stack.api_url}/api/start-task", json=body | limits, headers=headers, timeout=60)
    answer.raise_for_status()
    return answer.json()["task_id"]


@pytest.mark.parametrize(("agent", "limit"), [("claude", 0.007), ("codex", 0.004)])
def test_an_agent_that_costs_too_much_is_stopped_in_mid_work_and_its_work_kept(lab, agent, limit):
    path, url = lab.repository()
    client = lab.user()
    prompt = "@write kept.txt: kept\n@run echo one\n@sleep 90\n@write never.txt: never\n@say Done."

    task_id = start(lab, client, prompt, url, agent, max_cost_usd=limit)
    task = lab.finished(client, task_id, timeout_s=60)  # it would take longer than that

    [(code, usage)] = lab.sql("select error_code, usage from runs where task_id = %s", task_id)
    assert (task["status"], code) == ("failed", "cost_limit")
    assert re.search(rf"agent was stopped: it cost \$0\.0\d+ of at most \${limit:.4f}\.$", task["error"])
    assert task["changed_files"] == ["kept.txt"]
    lab.assert_patch_makes(task, path)
    assert task["usage"]["cost_usd"] == usage["cost_usd"] > limit
    assert [
        (cost, run_usage)
        for cost, run_usage in lab.sql(
            "select cost_usd::float, output_tokens from spending where task_id = %s", task_id
        )
    ] == [(usage["cost_usd"], usage["output_tokens"])]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_run_tells_its_cost_while_it_runs_and_adds_to_its_users_total(lab, agent):
    _, url = lab.repository()
    client = lab.user()
    prompt = "@write a.txt: a\n@run echo two\n@sleep 8\n@run echo three\n@say Done."
    task_id = start(lab, client, prompt, url, agent)
    seen = []

    def ended():
        seen.append(client.task(task_id)["usage"]["cost_usd"])
        return client.status(task_id) == "completed"

    lab.until(ended)

    told = [event["payload"] for event in client.events(task_id, after=0) if event["kind"] in {"usage", "result"}]
    assert len(told) >= 2
    assert 0 < told[0]["cost_usd"] < told[-1]["cost_usd"]
    assert len(set(seen)) >= 3  # nothing, something, all
    total = get(lab, client, "/api/usage")["usage"]
    task = client.task(task_id)
    assert total["cost_usd"] == task["usage"]["cost_usd"] == pytest.approx(told[-1]["cost_usd"])
    assert [part["agent"] for part in total["by_agent"]] == [agent]
    assert get(lab, lab.user(), "/api/usage")["usage"]["runs"] == 0
