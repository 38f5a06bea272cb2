"""What an agent has changed is saved while it works, so that a lost sandbox takes little with it."""

import itertools
import json
from datetime import datetime, timedelta

import pytest

from functions.executor.work.collection import TIMEOUT_S
from sandbox.programs.protocol import CollectReport, Failure
from shared.domain.errors import InvalidInput, RunFailed, Unavailable
from shared.domain.run import Phase
from tests.fakes.executor import (
    CLAUDE_INIT,
    GIT_TOKEN,
    SETTINGS,
    Script,
    changed_file,
    claude_result,
    claude_says,
    collected,
    collects,
    json_lines,
    reports,
)

EVERY_S = SETTINGS.checkpoint_every_s
LONG_S = 3000


@pytest.fixture
def world(world):
    """One whose agent works for 50 minutes."""
    said = tuple((at, json_lines(claude_says(f"Minute {at // 60}"))) for at in range(0, LONG_S, 60))
    last = (LONG_S, json_lines(claude_result()))
    world.scripts["agent"] = Script(output=((0, json_lines(CLAUDE_INIT)), *said, last), ends_at=LONG_S)
    return world


def checkpoints(world):
    return [job for job in world.sandboxes.last.jobs if "/checkpoint-" in job]


def let_work(world, seconds):
    """Deliver messages until the agent has worked so long; the moments at which something was saved."""
    saves, save = [], world.store.save_checkpoint

    def noting(run, result):
        saves.append(world.clock.now)
        return save(run, result)

    world.store.save_checkpoint = noting
    world.until(Phase.AGENT)
    until = world.clock.now + timedelta(seconds=seconds)
    while world.clock.now < until:
        world.deliver()
    return saves


def finds(*files, tree="9" * 40):
    return collects(collected(*files, tree=tree), into="checkpoint.json")


def test_what_was_changed_so_far_stands_in_the_task_while_the_agent_works(world):
    world.start()

    let_work(world, EVERY_S + 120)

    task = world.task
    assert (task["status"], task["git_patch"]) == ("running", "patch of half.txt\n")
    assert task["changed_files"] == ["half.txt"]
    assert [file["path"] for file in world.database.files] == ["half.txt"]
    assert task["execution_metadata"]["base_commit"] == world.run_row["base_commit"]
    assert datetime.fromisoformat(task["execution_metadata"]["checkpoint_at"]) < world.clock.now


def test_whoever_watches_is_told_which_files_have_changed(world):
    world.start()

    let_work(world, LONG_S - 200)

    assert world.payloads("changes") == [
        {"additions": 1, "deletions": 0, "files": 1, "changed_files": ["half.txt"]},
    ]


def test_no_more_than_some_minutes_pass_between_two_of_them(world):
    for n in range(1, 20):
        world.scripts[f"checkpoint-{n}"] = finds(changed_file(f"{n}.txt"), tree=f"{n:040x}")
    world.start()
    began = world.clock.now

    saves = [began, *let_work(world, LONG_S - 200)]

    gaps = [(later - earlier).total_seconds() for earlier, later in itertools.pairwise(saves)]
    assert len(gaps) >= 6
    assert max(gaps) <= EVERY_S + 2 * 90 + 10  # a pause before it begins, and one before it is fetched


def test_one_that_finds_nothing_new_is_not_written_again(world):
    world.start()

    saves = let_work(world, LONG_S - 200)

    assert len(saves) == 1
    assert len(checkpoints(world)) > 5


def test_a_short_run_has_none(world):
    world.scripts["agent"] = Script(output=((0, json_lines(CLAUDE_INIT, claude_result())),), ends_at=EVERY_S - 60)
    world.start()

    world.run()

    assert checkpoints(world) == []
    assert world.task["execution_metadata"]["checkpoint_at"] is None


def test_the_result_replaces_the_last_checkpoint(world):
    world.start()

    world.run()

    assert world.task["status"] == "completed"
    assert (world.task["changed_files"], world.task["git_patch"]) == (["new.txt"], "patch of new.txt\n")
    assert [file["path"] for file in world.database.files] == ["new.txt"]
    assert world.task["execution_metadata"]["checkpoint_at"] is None


def test_a_lost_sandbox_leaves_the_last_checkpoint_and_says_so(world):
    world.start()
    let_work(world, EVERY_S + 120)
    saved_at = datetime.fromisoformat(world.task["execution_metadata"]["checkpoint_at"])
    world.sandboxes.boxes.clear()

    world.run()

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "sandbox_lost")
    assert world.task["changed_files"] == ["half.txt"]
    assert world.task["error"].endswith(f" What the agent had changed by {saved_at:%H:%M} UTC is kept.")


def test_a_follow_up_of_a_lost_sandbox_begins_with_the_last_checkpoint(world):
    world.start()
    let_work(world, EVERY_S + 120)
    world.sandboxes.boxes.clear()
    world.run()
    world.follow_up()

    world.until(Phase.CLONING)
    world.deliver()

    assert world.sandboxes.last.uploaded("clone", "patch") == b"patch of half.txt\n"
    spec = json.loads(world.sandboxes.last.uploaded("clone", "spec.json"))
    assert spec["commit"] == world.task["execution_metadata"]["base_commit"]


def test_it_works_with_low_priority_and_nobody_waits_for_it(world):
    world.scripts["checkpoint"] = Script(ends_at=None)
    world.start()
    world.until(Phase.AGENT)
    before = world.clock.now
    while not world.run_row["checkpoint"]:
        world.deliver()
        assert world.clock.now - before < timedelta(seconds=EVERY_S + 100)

    job = json.loads(world.sandboxes.last.uploaded("checkpoint-1", "job.json"))
    assert (job["argv"][0], job["niceness"]) == ("collect", 10)
    spec = json.loads(world.sandboxes.last.uploaded("checkpoint-1", "spec.json"))
    assert spec["limits"]["file_bytes"] == spec["limits"]["row_bytes"]  # nothing that a row would not hold
    assert (spec["out"], spec["contents_out"]) == ("checkpoint.json", None)  # it clears no folder of the result's
    assert world.run_row["checkpoint"]["running"]


def test_while_one_is_at_work_no_other_is_begun_until_its_time_is_over(world):
    world.scripts["checkpoint"] = Script(ends_at=None)
    world.start()

    let_work(world, EVERY_S + TIMEOUT_S - 60)
    assert len(checkpoints(world)) == 1

    let_work(world, 2 * EVERY_S)
    assert len(checkpoints(world)) == 2


@pytest.mark.parametrize(
    "script",
    [
        reports(Failure("failed", "disk full")),
        Script(ends_at=1, output=((1, b"Traceback"),), exit_code=1),
        Script(ends_at=1, crashes_at=0.5),
        # it tells of a result that is another by now
        reports(CollectReport(bytes=1, sha256="0", tree="1", files=1)),
    ],
)
def test_one_that_fails_is_tried_again_and_does_the_run_no_harm(world, script):
    world.scripts["checkpoint-1"] = script
    world.start()

    assert len(let_work(world, LONG_S - 200)) == 1
    world.run()

    assert world.task["status"] == "completed"


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("The database refused the data."),
        Unavailable("The database is not responding."),
        RunFailed("A file is missing in the sandbox.", error_code="sandbox_file_missing"),
    ],
)
def test_one_that_cannot_be_saved_is_tried_again_and_does_the_run_no_harm(world, error):
    save, refused = world.store.save_checkpoint, []

    def refusing(run, result):
        if len(refused) < 2:
            refused.append(True)
            raise error
        return save(run, result)

    world.store.save_checkpoint = refusing
    world.start()
    world.run()

    assert len(refused) == 2
    assert world.task["status"] == "completed"


def test_what_is_saved_has_no_secret_of_the_run(world):
    world.database.preferences["u"] = None
    world.scripts["checkpoint"] = finds(changed_file("half.txt", after=f"token = {GIT_TOKEN}\n"))
    world.start()

    let_work(world, EVERY_S + 120)

    [file] = world.database.files
    assert GIT_TOKEN not in file["after"]
    assert GIT_TOKEN not in json.dumps(world.task, default=str)


def test_whoever_has_lost_the_run_tells_of_no_checkpoint(world):
    world.store.save_checkpoint = lambda *_: False
    world.start()

    let_work(world, 2 * EVERY_S)

    assert world.payloads("changes") == []
    assert "tree" not in world.run_row["checkpoint"]


def test_a_message_that_was_put_aside_names_the_run_that_was_given_up(world):
    def broken(*_):
        raise ValueError

    world.forgives = (*world.forgives, ValueError)
    world.box.open = broken
    world.start()
    world.run()

    [(message, _)] = world.replays.sent
    assert (message.run_id, message.replay) == (world.run_row["id"], True)
