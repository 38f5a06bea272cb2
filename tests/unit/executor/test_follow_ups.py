"""Runs after the first: in the sandbox that was kept, in a new one with the saved changes, or all anew."""

import json

import pytest

from sandbox.programs.protocol import Failure
from shared.domain.agents import AgentName
from shared.domain.errors import Unavailable
from shared.domain.run import Phase
from tests.fakes.executor import (
    ANTHROPIC_KEY,
    BASE_COMMIT,
    CLAUDE_INIT,
    GIT_TOKEN,
    SESSION,
    changed_file,
    claude_result,
    clone_failed,
    collected,
    collects,
    prints,
    reports,
)
from tests.fakes.sandboxes import Script

WINDOW_S = 600


@pytest.fixture
def ended(world):
    """A task whose first run has ended; its sandbox is kept."""
    world.start()
    world.run_to_end()
    return world


def phases_of_last_run(world):
    return [e["payload"]["phase"] for e in world.events if e["kind"] == "phase" and e["run_id"] == world.run_row["id"]]


def agent_argv(world):
    return json.loads(world.sandboxes.last.files[f"/root/runs/{world.run_row['id']}/agent/job.json"])["argv"]


def test_the_sandbox_of_an_ended_run_is_paused_for_as_long_as_a_follow_up_may_come(ended):
    [box] = ended.sandboxes.boxes.values()
    assert box.paused

    ended.clock.pass_(WINDOW_S - 60)
    ended.run()

    assert ended.sandboxes.boxes == {}


def test_without_a_window_it_is_killed_at_once_and_nothing_is_searched_for(world):
    world.set(follow_up_window_s=0)
    world.start()
    world.run_to_end()

    assert world.sandboxes.killed == ["sbx1"]
    assert not any(path.endswith("wipe_secrets/spec.json") for path, _ in world.sandboxes.last.uploads)


@pytest.mark.parametrize(
    "script", [reports(Failure("failed")), Script(ends_at=None), Script(ends_at=1, exit_code=1), Script(crashes_at=1)]
)
def test_a_sandbox_that_may_hold_a_secret_is_not_kept(world, script):
    world.scripts["wipe_secrets"] = script
    world.start()
    world.run_to_end()

    assert world.task["status"] == "completed"
    assert world.sandboxes.killed == ["sbx1"]


def test_what_is_to_be_forgotten_gets_there_by_a_file_that_is_gone(ended):
    box = ended.sandboxes.last
    sent = json.loads(box.uploaded("wipe_secrets", "secret_env.json"))

    assert (sent["OUR_SECRETS"], sent["USERS_SECRETS"]) == (json.dumps([ANTHROPIC_KEY]), json.dumps([GIT_TOKEN]))
    assert not box.has_file("wipe_secrets", "secret_env.json")
    assert json.loads(box.file("wipe_secrets", "spec.json")) == {
        "files": [".claude/.credentials.json"],
        "work_tree": "repo",
    }


USERS_KEY = {"claudeCode": {"env": {"ANTHROPIC_API_KEY": "a-key-of-the-user"}}}


def test_our_key_is_forgotten_also_where_the_user_has_brought_one_since(world):
    user_id = world.start().user_id
    world.until(Phase.COLLECTING)
    world.database.preferences[user_id] = USERS_KEY
    world.run_to_end()

    sent = json.loads(world.sandboxes.last.uploaded("wipe_secrets", "secret_env.json"))
    assert json.loads(sent["OUR_SECRETS"]) == [ANTHROPIC_KEY]
    assert "a-key-of-the-user" in json.loads(sent["USERS_SECRETS"])


def test_work_is_kept_also_where_the_user_has_taken_the_only_key_away_since(world):
    world.set_model(AgentName.CLAUDE, key=None)
    user_id = world.start().user_id
    world.database.preferences[user_id] = USERS_KEY
    world.until(Phase.COLLECTING)
    world.database.preferences[user_id] = {}
    world.run_to_end()

    assert world.task["status"] == "completed"
    assert world.task["git_diff"]


def test_a_run_without_a_result_leaves_no_sandbox(world):
    world.scripts["clone"] = clone_failed("auth")
    world.start()
    world.run_to_end()

    assert world.sandboxes.boxes == {}


def test_a_follow_up_goes_on_in_the_same_sandbox_and_session(ended):
    totals = claude_result("Went on.", total_cost_usd=0.75)
    ended.scripts["agent"] = prints(CLAUDE_INIT, totals)
    ended.scripts["collect"] = collects(collected(changed_file("new.txt"), changed_file("second.txt")))

    ended.follow_up("and now this")
    ended.run_to_end()

    assert ended.sandboxes.created == ["sbx1"]
    assert phases_of_last_run(ended) == ["queued", "provisioning", "agent", "collecting"]
    assert f"--resume={SESSION}" in agent_argv(ended)
    assert ended.run_row["base_commit"] == BASE_COMMIT
    assert ended.run_row["usage"]["cost_usd"] == 0.5  # the session's 0.75, less the first run's 0.25
    assert (ended.task["status"], ended.task["changed_files"]) == ("completed", ["new.txt", "second.txt"])
    said = [(m["role"], m["content"]) for m in ended.task["chat_messages"]]
    assert said[2:] == [("user", "and now this"), ("assistant", "Went on.")]


def test_a_follow_up_in_a_new_sandbox_begins_with_the_saved_changes(ended):
    ended.sandboxes.boxes.clear()

    ended.follow_up()
    ended.run_to_end()

    box, run_id = ended.sandboxes.last, ended.run_row["id"]
    spec = json.loads(box.files[f"/root/runs/{run_id}/clone/spec.json"])
    assert ended.sandboxes.created == ["sbx1", "sbx2"]
    assert phases_of_last_run(ended) == ["queued", "provisioning", "cloning", "agent", "collecting"]
    assert (spec["commit"], spec["patch_file"]) == (BASE_COMMIT, "clone/patch")
    assert box.files[f"/root/runs/{run_id}/clone/patch"] == b"patch of new.txt\n"
    assert not [argument for argument in agent_argv(ended) if argument.startswith("--resume")]
    assert ended.task["status"] == "completed"


def test_saved_changes_that_do_not_fit_any_more_fail_the_run_and_stay_saved(ended):
    ended.sandboxes.boxes.clear()
    ended.scripts["clone"] = clone_failed("patch_conflict")

    ended.follow_up()
    ended.run_to_end()

    assert (ended.task["status"], ended.run_row["error_code"]) == ("failed", "patch_conflict")
    assert ended.task["git_patch"] == "patch of new.txt\n"


def test_changes_that_were_too_large_to_be_saved_are_not_silently_dropped(world):
    world.scripts["collect"] = collects(collected(changed_file("big.bin"), patch=None))
    world.start()
    world.run_to_end()
    world.sandboxes.boxes.clear()

    world.follow_up()
    world.run_to_end()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "patch_missing")


def test_a_follow_up_of_a_run_that_came_to_nothing_starts_from_the_branch(world):
    good = world.scripts["clone"]
    world.scripts["clone"] = clone_failed("auth")
    world.start()
    world.run_to_end()
    world.scripts["clone"] = good

    world.follow_up()
    world.run_to_end()

    spec = json.loads(world.sandboxes.last.files[f"/root/runs/{world.run_row['id']}/clone/spec.json"])
    assert (spec["commit"], spec["patch_file"], world.task["status"]) == (None, None, "completed")


def test_a_sandbox_that_cannot_be_resumed_is_given_up_for_a_new_one(ended):
    attach = ended.sandboxes.attach

    def stuck(sandbox_id):
        if sandbox_id == "sbx1":
            raise Unavailable("The sandbox is not responding.")
        return attach(sandbox_id)

    ended.sandboxes.attach = stuck
    ended.follow_up()
    ended.run_to_end()

    assert ended.task["status"] == "completed"
    assert ended.sandboxes.killed[0] == "sbx1"
    assert ended.sandboxes.created == ["sbx1", "sbx2"]


def test_a_retry_kills_the_sandbox_that_was_kept_before_it_makes_its_own(ended):
    ended.retry()
    ended.until(Phase.CLONING)

    assert ended.sandboxes.killed == ["sbx1"]
    assert list(ended.sandboxes.boxes) == ["sbx2"]
    ended.run_to_end()
    assert (ended.run_row["prompt"], ended.task["status"]) == ("make it so", "completed")


def test_a_follow_up_that_is_cancelled_in_the_queue_makes_no_sandbox(ended):
    ended.follow_up()
    ended.database.request_cancel(ended.task["id"])
    ended.run_to_end()

    assert ended.task["status"] == "cancelled"
    assert ended.sandboxes.created == ["sbx1"]
    assert ended.task["git_patch"] == "patch of new.txt\n"
