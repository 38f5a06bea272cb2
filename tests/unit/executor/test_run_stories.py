"""Whole runs, message by message, on fakes."""

import json

import pytest

from shared.domain.agents import AgentName
from shared.domain.run import Phase
from tests.fakes.executor import (
    ANTHROPIC_KEY,
    BASE_COMMIT,
    GIT_TOKEN,
    OPENAI_KEY,
    SESSION,
    Script,
    changed_file,
    collected,
    collects,
    json_lines,
    prints,
)

CODEX_LINES = (
    {"type": "thread.started", "thread_id": SESSION},
    {"type": "item.completed", "item": {"id": "item_1", "type": "agent_message", "text": "Done with it."}},
    {"type": "turn.completed", "usage": {"input_tokens": 1000, "cached_input_tokens": 0, "output_tokens": 100}},
)


def test_a_run_goes_through_its_phases_and_leaves_its_result(world):
    world.start(prompt="make it so")

    world.run()

    row, task = world.run_row, world.task
    assert [event["phase"] for event in world.payloads("phase")] == [
        "queued",
        "provisioning",
        "cloning",
        "agent",
        "collecting",
    ]
    assert (row["status"], row["phase"], row["error"], row["exit_code"]) == ("completed", "done", None, 0)
    assert (task["status"], task["error"], task["commit_hash"]) == ("completed", None, "c" * 40)
    assert (task["git_diff"], task["git_patch"]) == ("diff --git a/new.txt b/new.txt\n", "patch of new.txt\n")
    assert task["changed_files"] == ["new.txt"]
    assert [(m["role"], m["content"]) for m in task["chat_messages"]] == [
        ("user", "make it so"),
        ("assistant", "All done."),
    ]
    assert [(file["path"], file["after"]) for file in world.database.files] == [("new.txt", "new\n")]
    assert task["execution_metadata"]["base_commit"] == row["base_commit"] == BASE_COMMIT
    assert task["container_id"] == "sbx1"
    assert world.payloads("cloned") == [{"commit": BASE_COMMIT, "branch": "main"}]


def test_its_events_are_numbered_without_gaps_and_end_with_how_it_ended(world):
    world.start(setup_script="make")

    world.run()

    assert [event["seq"] for event in world.events] == list(range(1, len(world.events) + 1))
    assert world.kinds()[-1] == "ended"
    assert world.payloads("ended") == [
        {"status": "completed", "error_code": None, "text": None, "files": 1, "additions": 1, "deletions": 0}
    ]


def test_one_sandbox_is_made_and_none_is_left(world):
    world.start()

    world.run()

    assert world.sandboxes.created == world.sandboxes.killed == ["sbx1"]
    assert world.database.credentials == {}


def test_the_setup_script_of_the_project_runs_before_the_agent_and_its_output_is_told(world):
    world.start(setup_script="pip install -r requirements.txt")
    world.until(Phase.AGENT)
    job = json.loads(world.sandboxes.last.file("setup", "job.json"))

    world.run()

    assert (job["user"], job["cwd"], job["stdin"]) == ("agent", "repo", None)
    assert job["argv"][-2] == "pip install -r requirements.txt"
    assert "".join(event["text"] for event in world.payloads("setup_output")) == "installing\ninstalled\n"
    assert "setup" in [event["phase"] for event in world.payloads("phase")]
    assert world.task["status"] == "completed"


def test_usage_cost_and_session_of_the_agent_are_kept(world):
    world.start()

    world.run()

    usage = {
        "input_tokens": 30,
        "cached_input_tokens": 8,
        "cache_write_tokens": 2,
        "output_tokens": 12,
        "cost_usd": 0.25,
        "turns": 3,
        "duration_ms": 900,
        "model": "claude-opus-5-5",
    }
    assert world.run_row["usage"] == world.task["execution_metadata"]["usage"] == usage
    assert world.run_row["agent_session_id"] == SESSION


@pytest.mark.parametrize(("model", "cost"), [(None, 0.003), ("gpt-6-luna", 0.00015), ("gpt-unknown", None)])
def test_what_codex_costs_is_known_by_its_model_which_it_does_not_tell_itself(world, model, cost):
    world.scripts["agent"] = prints(*CODEX_LINES)
    world.start(agent=AgentName.CODEX, model=model)

    world.run()

    assert world.run_row["usage"]["cost_usd"] == cost
    assert world.run_row["usage"]["model"] == (model or "gpt-6.1-sol")
    assert world.task["chat_messages"][-1]["content"] == "Done with it."


@pytest.mark.parametrize(
    ("agent", "variable", "key"),
    [(AgentName.CLAUDE, "ANTHROPIC_API_KEY", ANTHROPIC_KEY), (AgentName.CODEX, "CODEX_API_KEY", OPENAI_KEY)],
)
def test_the_agent_gets_prompt_and_key_by_files_never_by_its_command_line(world, agent, variable, key):
    world.start(prompt="do 'this' && \"that\"", agent=agent)
    world.until(Phase.AGENT)
    world.deliver()

    box = world.sandboxes.last
    assert box.file("agent", "stdin") == b"do 'this' && \"that\""
    assert json.loads(box.uploaded("agent", "secret_env.json")) == {variable: key}
    assert not box.has_file("agent", "secret_env.json")  # the supervisor has taken it
    spoken = box.file("agent", "job.json").decode() + json.dumps(box.commands)
    assert key not in spoken
    assert GIT_TOKEN not in spoken


def test_the_git_token_reaches_the_clone_by_a_file_of_its_own(world):
    world.start(token=GIT_TOKEN)
    world.until(Phase.AGENT)

    box = world.sandboxes.last
    with_token = [path for path, data in box.uploads if GIT_TOKEN.encode() in data]
    assert with_token == [f"/root/runs/{box.run_id}/clone/git_token"]
    assert GIT_TOKEN not in json.dumps(box.commands)
    spec = json.loads(box.file("clone", "spec.json"))
    assert spec["token_file"] == "clone/git_token"
    assert (spec["url"], spec["branch"]) == ("https://github.com/o/r", "main")


def test_without_a_token_the_clone_is_told_of_none(world):
    world.start(token=None)
    world.until(Phase.AGENT)

    assert json.loads(world.sandboxes.last.file("clone", "spec.json"))["token_file"] is None
    assert not world.sandboxes.last.has_file("clone", "git_token")


def test_the_collector_is_told_the_base_and_signs_as_the_old_backend_did(world):
    world.start(prompt="Fix\nthe   thing " + "x" * 60)
    world.run()

    spec = json.loads(world.sandboxes.last.uploaded("collect", "spec.json"))

    assert (spec["base_commit"], spec["base_git"], spec["work_tree"]) == (BASE_COMMIT, "../base.git", "repo")
    assert spec["message"] == "AI: Fix the thing " + "x" * 34 + "..."
    assert (spec["author_name"], spec["author_email"]) == ("AI Assistant", "ai-assistant@e2b.dev")


def test_an_agent_that_changes_nothing_completes_the_task_and_says_so(world):
    world.scripts["collect"] = collects(collected())
    world.start()

    world.run()

    assert (world.task["status"], world.task["git_diff"], world.task["git_patch"]) == ("completed", "", "")
    assert (world.task["commit_hash"], world.task["changed_files"]) == (None, [])
    assert world.task["chat_messages"][-1]["content"] == "All done.\n\nNo files were changed."


def test_deletions_and_renames_arrive_as_they_are(world):
    gone = changed_file("gone.txt", status="deleted", mode=None, before="old\n", after=None, size=0)
    moved = changed_file("b.txt", status="renamed", previous_path="a.txt", before="x\n", after="y\n", size=2)
    world.scripts["collect"] = collects(collected(gone, moved))
    world.start()

    world.run()

    assert [(f["path"], f["previous_path"], f["status"]) for f in world.database.files] == [
        ("gone.txt", None, "deleted"),
        ("b.txt", "a.txt", "renamed"),
    ]


def test_runs_of_many_users_pass_each_other_and_all_end(world):
    world.database.limits |= {"running_per_user": 1, "running_in_all": 3}
    users = [world.start().user_id for _ in range(3)]
    for user_id in users:
        world.start(user_id=user_id)

    world.run()

    assert [task["status"] for task in world.database.tasks.values()] == ["completed"] * 6
    assert len(world.sandboxes.created) == len(set(world.sandboxes.killed)) == 6


def test_the_output_of_an_agent_is_read_in_whole_lines_however_much_it_prints(world):
    lines = [
        {"type": "assistant", "message": {"content": [{"type": "text", "text": f"{n} " * 500}]}} for n in range(1500)
    ]
    result = {"type": "result", "subtype": "success", "is_error": False, "result": "Phew."}
    world.scripts["agent"] = Script(output=((1, json_lines(*lines, result)),), ends_at=2)
    world.start()

    world.run()

    said = [event["text"] for event in world.payloads("agent_message")]
    assert [text.split()[0] for text in said] == [str(n) for n in range(1500)]
    assert world.task["chat_messages"][-1]["content"] == "Phew."
