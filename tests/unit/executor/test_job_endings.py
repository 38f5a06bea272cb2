"""How the clone, the setup script, the agent and the collector may end, and what the task's owner is told."""

import json
from dataclasses import replace

import pytest

from functions.executor.step import OUR_FAULT
from functions.executor.work import jobs
from functions.executor.work.jobs import RunFolder
from sandbox.programs.protocol import Failure
from shared.domain.agents import AgentName
from shared.domain.run import Phase
from tests.fakes.executor import (
    BASE_COMMIT,
    CLAUDE_INIT,
    GIT_TOKEN,
    Script,
    changed_file,
    claude_result,
    claude_says,
    clone_failed,
    cloned,
    collected,
    collects,
    json_lines,
    prints,
    reports,
)

RESTARTED = "the sandbox was restarted or ran out of memory"
CLONE_INTERRUPTED = f"Git clone was interrupted: {RESTARTED}. Retry the task."
FULL = "The disk of the sandbox is full."


def ended(world):
    return world.task["status"], world.run_row["error_code"], world.task["error"]


# --- the clone


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        ("auth", "git_auth", "GitHub authentication failed. Please check your GitHub token permissions."),
        ("not_found", "repository_not_found", "Repository not found or branch 'dev' does not exist."),
        ("branch_not_found", "branch_not_found", "Repository not found or branch 'dev' does not exist."),
        ("timeout", "clone_timeout", "Git clone timed out after 300 seconds. Repository might be too large."),
        ("failed", "clone_failed", "Failed to clone repository: git said no"),
        ("refused", "clone_failed", "Failed to clone repository: git said no"),
        ("of a newer clone.py", "clone_failed", "Failed to clone repository: git said no"),
    ],
)
def test_a_clone_that_fails_is_told_in_the_words_of_the_contract(world, error, code, text):
    world.scripts["clone"] = clone_failed(error)
    world.start(branch="dev")

    world.run()

    assert ended(world) == ("failed", code, text)
    assert world.payloads("ended") == [{"status": "failed", "error_code": code, "text": text}]
    assert world.sandboxes.created == world.sandboxes.killed == ["sbx1"]


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (
            Script(ends_at=None),
            "clone_timeout",
            "Git clone timed out after 300 seconds. Repository might be too large.",
        ),
        (Script(ends_at=1, exit_code=1, stderr="Traceback\nKeyError: 'x'\n"), "internal", OUR_FAULT),
        (Script(ends_at=1, exit_code=127, stderr="Cannot run python3\n"), "internal", OUR_FAULT),
        (Script(ends_at=1, output=((1, b'["not a report"]\n'),)), "internal", OUR_FAULT),
        (Script(ends_at=1, output=((1, b'{"ok": true, "base_commit": 7}\n'),)), "internal", OUR_FAULT),
        (Script(ends_at=1, exit_code=1, stderr="Traceback\nMemoryError\n"), "clone_interrupted", CLONE_INTERRUPTED),
        (Script(ends_at=1, exit_code=137, ended_by="signal"), "clone_interrupted", CLONE_INTERRUPTED),
        (Script(ends_at=None, crashes_at=1), "clone_interrupted", CLONE_INTERRUPTED),
        (clone_failed("disk_full", "fatal: No space left on device"), "sandbox_full", FULL),
        (
            Script(ends_at=1, exit_code=1, stderr="OSError: [Errno 122] Disk quota exceeded"),
            "sandbox_full",
            FULL,
        ),
    ],
    ids=[
        "hangs",
        "raises",
        "is missing",
        "prints something else",
        "reports other fields",
        "lacks memory",
        "is killed",
        "loses its supervisor",
        "says that the disk is full",
        "ends of a full disk",
    ],
)
def test_a_clone_that_does_not_come_to_its_report_fails_the_run(world, script, code, text):
    world.scripts["clone"] = script
    world.start()

    world.run()

    assert ended(world) == ("failed", code, text)


@pytest.mark.parametrize(
    ("repo_url", "branch"),
    [
        ("https://evil.example/o/r", "main"),
        ("https://user:pw@github.com/o/r", "main"),
        ("file:///etc", "main"),
        ("https://github.com/o/r", "--upload-pack=touch /tmp/x"),
        ("https://github.com/o/r", "a..b"),
    ],
)
def test_a_repository_or_branch_that_went_around_the_api_is_refused_here_too(world, repo_url, branch):
    world.start(repo_url=repo_url, branch=branch)

    world.run()

    assert ended(world)[:2] == ("failed", "repository_refused")
    uploads = world.sandboxes.last.uploads if world.sandboxes.last else []  # a refused address costs no sandbox
    assert not any("clone/" in path for path, _ in uploads)


def test_a_clone_that_takes_its_time_is_looked_at_until_it_has_ended(world):
    world.scripts["clone"] = replace(cloned(), ends_at=45, output=((45, cloned().output[0][1]),))
    world.start()

    world.run()

    starts = [argv for argv in world.sandboxes.last.commands if argv[2] == "start" and argv[3].endswith("/clone")]
    assert len(starts) == 1
    assert world.task["status"] == "completed"


def test_a_token_that_cannot_be_opened_any_more_fails_the_run_with_a_sentence(world):
    world.start()
    for row in world.database.credentials.values():
        row["sealed"] = replace(row["sealed"], key_id="local:gone")

    world.run()

    assert ended(world)[:2] == ("failed", "credential_unreadable")
    assert GIT_TOKEN not in str(world.task)


# --- the setup script


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (
            Script(ends_at=1, exit_code=2, stderr="make: *** no rule\n"),
            "setup_failed",
            "The project's setup script failed with exit code 2. make: *** no rule",
        ),
        (Script(ends_at=1, exit_code=1), "setup_failed", "The project's setup script failed with exit code 1."),
        (Script(ends_at=None), "setup_timeout", "The project's setup script timed out after 600 seconds."),
        (
            Script(ends_at=None, crashes_at=1),
            "setup_interrupted",
            f"The project's setup script was interrupted: {RESTARTED}. Retry the task.",
        ),
    ],
    ids=["fails", "fails without a word", "hangs", "loses its supervisor"],
)
def test_a_setup_script_that_fails_ends_the_run_before_the_agent(world, script, code, text):
    world.scripts["setup"] = script
    world.start(setup_script="make")

    world.run()

    assert ended(world) == ("failed", code, text)
    assert not any(path.endswith("agent/job.json") for path, _ in world.sandboxes.last.uploads)


def test_what_a_failing_setup_script_printed_is_told_before_the_failure(world):
    world.scripts["setup"] = Script(ends_at=40, exit_code=1, output=((1, b"one\n"), (20, b"two\n")))
    world.start(setup_script="make")

    world.run()

    assert "".join(event["text"] for event in world.payloads("setup_output")) == "one\ntwo\n"


def test_of_a_chatty_setup_script_the_end_of_each_look_is_kept(world):
    noise = b"".join(b"%06d\n" % n for n in range(100_000))
    world.scripts["setup"] = Script(ends_at=1, output=((1, noise),))
    world.start(setup_script="make")

    world.run()

    texts = [event["text"] for event in world.payloads("setup_output")]
    assert len(texts) == 3  # 700 kB in looks of 256 kB
    assert all(len(text) <= 8000 for text in texts)
    assert texts[-1].endswith("099999\n")
    assert world.task["status"] == "completed"


# --- the agent


INTERRUPTED = f"Claude agent was interrupted: {RESTARTED}. Retry the task, or send a follow-up to continue."


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (
            prints(CLAUDE_INIT, exit_code=1, stderr="panic: no such model\n"),
            "agent_failed",
            "Claude agent failed: panic: no such model",
        ),
        (prints(CLAUDE_INIT, exit_code=1), "agent_failed", "Claude agent failed: Unknown error"),
        (
            prints(CLAUDE_INIT, claude_says("Bye."), exit_code=0),
            "agent_no_result",
            "Claude agent failed: it ended without a result.",
        ),
        (
            prints(CLAUDE_INIT, claude_result("Invalid API key", is_error=True, api_error_status=401), exit_code=1),
            "agent_auth",
            "Claude agent failed: Invalid API key",
        ),
        (
            prints(CLAUDE_INIT, claude_result("", subtype="error_max_turns", is_error=True), exit_code=1),
            "agent_max_turns",
            "Claude agent failed: Unknown error",
        ),
        (
            prints(CLAUDE_INIT, ends_at=None),
            "agent_idle",
            "Claude agent was stopped: it printed nothing for 900 seconds.",
        ),
        (
            prints(CLAUDE_INIT, exit_code=137, ended_by="signal", stderr="Killed"),
            "agent_failed",
            "Claude agent failed: Killed",
        ),
        (
            prints(CLAUDE_INIT, exit_code=137, ended_by="signal"),
            "agent_failed",
            "Claude agent failed: it was killed by signal 9",
        ),
        (prints(CLAUDE_INIT, ends_at=None, crashes_at=7), "agent_interrupted", INTERRUPTED),
        (
            Script(ends_at=1, exit_code=127, stderr="Cannot run claude: No such file or directory\n"),
            "agent_failed",
            "Claude agent failed: Cannot run claude: No such file or directory",
        ),
    ],
    ids=[
        "exits non-zero",
        "exits non-zero without a word",
        "ends without a result",
        "says its key is refused",
        "runs out of turns",
        "falls silent",
        "is killed",
        "is killed without a word",
        "loses its supervisor",
        "is not installed",
    ],
)
def test_an_agent_that_fails_fails_the_run_and_its_changes_are_collected(world, script, code, text):
    world.scripts["agent"] = script
    world.start()

    world.run()

    assert ended(world) == ("failed", code, text)
    assert world.task["changed_files"] == ["new.txt"]
    assert world.task["git_patch"]
    assert world.payloads("ended")[0]["error_code"] == code
    assert world.sandboxes.killed == ["sbx1"]


def test_an_agent_that_prints_without_end_is_stopped(world, monkeypatch):
    monkeypatch.setattr(jobs, "MAX_OUTPUT_BYTES", 10_000)
    endless = Script(output=tuple((n, json_lines(claude_says("x" * 100))) for n in range(1000)), ends_at=None)
    world.scripts["agent"] = endless
    world.start()

    world.run()

    assert ended(world) == ("failed", "agent_output_limit", "Claude agent was stopped: it printed too much.")
    assert len(world.payloads("agent_message")) < 100


def test_an_agent_that_hangs_after_its_last_word_is_stopped_and_has_done_its_work(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=3, ends_at=None)
    world.start()

    world.run()

    assert ended(world) == ("completed", None, None)
    assert any(argv[2] == "stop" and argv[3].endswith("/agent") for argv in world.sandboxes.last.commands)


def test_an_agent_that_takes_a_moment_to_go_after_its_last_word_is_not_stopped(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=3, ends_at=6.5)
    world.start()

    world.run()

    assert ended(world) == ("completed", None, None)
    assert not any(argv[2] == "stop" for argv in world.sandboxes.last.commands)
    assert world.run_row["exit_code"] == 0


def test_what_is_left_of_an_agent_whose_supervisor_died_is_stopped_before_collecting(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, ends_at=None, crashes_at=7)
    world.start()

    world.run()

    verbs = [(argv[2], argv[3].rpartition("/")[2]) for argv in world.sandboxes.last.commands]
    assert verbs.index(("stop", "agent")) < verbs.index(("start", "collect"))


def test_that_an_agent_was_interrupted_is_told_also_when_the_step_that_saw_it_died(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("I begin."), ends_at=None, crashes_at=7)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.pass_(60)
    bench = world.sandboxes.attach(world.run_row["sandbox_id"])
    RunFolder(bench, world.run_row["id"]).stop("agent")  # and then nothing was saved

    world.run()

    assert ended(world) == ("failed", "agent_interrupted", INTERRUPTED)
    assert world.task["changed_files"] == ["new.txt"]


def test_an_agent_that_had_said_that_it_is_done_has_done_it_though_its_supervisor_died(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=5, ends_at=None, crashes_at=6)
    world.start()

    world.run()

    assert ended(world) == ("completed", None, None)


def test_an_agent_that_was_interrupted_before_the_deadline_is_not_called_late(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("I begin."), at=2, ends_at=None, crashes_at=60)
    world.start()
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.now = world.run_row["deadline_at"]
    world.clock.pass_(5)

    world.run()

    assert ended(world)[1] == "agent_interrupted"


def test_an_interrupted_run_can_be_retried_and_followed_up(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, ends_at=None, crashes_at=7)
    world.start()
    world.run_to_end()
    assert ended(world)[1] == "agent_interrupted"
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=3)

    world.follow_up()
    world.run_to_end()
    assert ended(world) == ("completed", None, None)
    world.retry()
    world.run()
    assert ended(world) == ("completed", None, None)


def test_an_agent_that_succeeded_is_believed_over_an_exit_code_of_its_own_making(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), exit_code=1)
    world.start()

    world.run()

    assert ended(world) == ("completed", None, None)
    assert world.run_row["exit_code"] == 1


def test_the_exit_code_of_an_agent_we_stopped_is_not_its_own(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, ends_at=None)
    world.start()

    world.run()

    assert (world.run_row["error_code"], world.run_row["exit_code"]) == ("agent_idle", None)


def test_an_agent_that_prints_no_json_at_all_is_told_as_a_few_warnings(world):
    world.scripts["agent"] = Script(ends_at=3, output=((1, b"Hello!\n" * 100), (2, b"\xff\xfe\x00\n")))
    world.start()

    world.run()

    assert ended(world)[1] == "agent_no_result"
    assert 1 <= len(world.payloads("warning")) <= 5


def test_the_job_of_the_agent_has_the_limits_of_this_deployment(world):
    world.set(agent_idle_timeout_s=111, max_turns=7, max_cost_usd=1.5)
    world.start(model="claude-other")
    world.until(Phase.AGENT)
    world.clock.pass_(300)
    world.deliver()

    job = json.loads(world.sandboxes.last.file("agent", "job.json"))

    left = world.run_row["deadline_at"] - world.run_row["started_at"]
    assert job["timeout_s"] < left.total_seconds() - 300 + 1
    assert (job["idle_timeout_s"], job["max_output_bytes"], job["user"]) == (111, 200 * 1024 * 1024, "agent")
    assert {"--model=claude-other", "--max-turns=7", "--max-budget-usd=1.500000"} <= set(job["argv"])


def test_the_titles_of_the_two_agents_stand_in_their_failures(world):
    world.scripts["agent"] = Script(ends_at=1, exit_code=1, stderr="no")
    world.start(agent=AgentName.CODEX)

    world.run()

    assert world.task["error"] == "Codex/GPT agent failed: no"


# --- the collector


def collect_failed(error, message):
    return reports(Failure(error, message))


def uncollected(reason):
    return "collect_failed", f"The changes could not be collected: {reason}"


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (collect_failed("failed", "The work tree is no folder."), *uncollected("The work tree is no folder.")),
        (Script(ends_at=1, exit_code=1, stderr="MemoryError\n"), *uncollected(RESTARTED)),
        (Script(ends_at=None), *uncollected("it took too long")),
        (Script(ends_at=None, crashes_at=1), *uncollected(RESTARTED)),
        (collect_failed("disk_full", "git init: No space left on device"), "sandbox_full", FULL),
        (Script(ends_at=1, exit_code=1, stderr="ValueError: x\n"), "internal", OUR_FAULT),
        (Script(ends_at=1, output=((1, b"null\n"),)), "internal", OUR_FAULT),
    ],
    ids=[
        "says why",
        "lacks memory",
        "hangs",
        "loses its supervisors",
        "has no room",
        "raises",
        "prints something else",
    ],
)
def test_a_collector_that_fails_fails_the_run(world, script, code, text):
    world.scripts["collect"] = script
    world.start()

    world.run()

    assert ended(world) == ("failed", code, text)


@pytest.mark.parametrize("end", [{"crashes_at": 0.5}, {"exit_code": 137, "ended_by": "signal"}])
def test_a_collector_that_was_interrupted_is_started_once_more(world, end):
    world.scripts["collect-2"] = world.scripts["collect"]
    world.scripts["collect"] = Script(ends_at=1, **end)
    world.start()

    world.run()

    assert ended(world) == ("completed", None, None)
    assert world.task["changed_files"] == ["new.txt"]


def test_a_result_that_is_not_the_one_the_collector_wrote_is_not_believed(world):
    good = collects(collected(changed_file("a.txt")))
    forged = json.dumps(collected(changed_file("evil.txt"))).encode()
    world.scripts["collect"] = replace(good, writes={"result.json": forged})
    world.start()

    world.run()

    assert ended(world)[:2] == ("failed", "collect_failed")
    assert world.task["changed_files"] == []


def test_a_result_that_is_missing_fails_the_run(world):
    world.scripts["collect"] = replace(collects(collected()), writes={})
    world.start()

    world.run()

    assert ended(world)[:2] == ("failed", "sandbox_file_missing")


def test_warnings_of_the_collector_are_told_and_kept(world):
    world.scripts["collect"] = collects(collected(changed_file("a"), warnings=["b is a repository of its own."]))
    world.start()

    world.run()

    assert world.payloads("warning") == [{"text": "b is a repository of its own."}]
    assert world.task["execution_metadata"]["warnings"] == ["b is a repository of its own."]


def test_a_patch_that_was_too_large_is_said_to_be(world):
    result = collected(changed_file("a"), patch=None, patch_truncated=True, diff_truncated=True)
    world.scripts["collect"] = collects(result)
    world.start()

    world.run()

    metadata = world.task["execution_metadata"]
    assert (metadata["patch_truncated"], metadata["diff_truncated"]) == (True, True)
    assert world.task["git_patch"] is None
    assert world.task["status"] == "completed"


def test_the_trees_are_kept_for_the_pull_request(world):
    world.start()

    world.run()

    metadata = world.task["execution_metadata"]
    assert (metadata["base_commit"], metadata["base_tree"], metadata["tree"]) == (BASE_COMMIT, "e" * 40, "d" * 40)


# --- the side-by-side viewer


def viewer(world, *files):
    world.scripts["collect"] = collects(collected(*files))
    world.start()
    world.run()
    return world.task["execution_metadata"]["file_changes"]


def test_the_viewer_gets_both_sides_with_words_for_one_that_does_not_exist(world):
    shown = viewer(
        world,
        changed_file("new", after="n"),
        changed_file("old", status="deleted", before="o", after=None),
        changed_file("mod", status="modified", before="a", after="b"),
        changed_file("is", status="renamed", previous_path="was", before="x", after="y"),
        changed_file("empty", after=""),
    )

    assert shown == [
        {"filename": "new", "before": "FILE_NOT_EXISTS", "after": "n"},
        {"filename": "old", "before": "o", "after": "FILE_DELETED"},
        {"filename": "mod", "before": "a", "after": "b"},
        {"filename": "is", "before": "x", "after": "y"},
        {"filename": "empty", "before": "FILE_NOT_EXISTS", "after": ""},
    ]


def test_the_viewer_gets_no_binaries_no_cut_files_and_no_submodules(world):
    shown = viewer(
        world,
        changed_file("image.png", encoding="base64", after="AAEC"),
        changed_file("huge", status="modified", before=None, after=None, truncated=True),
        changed_file("huge-new", before=None, after=None, truncated=True),
        changed_file("sub", mode="160000", after=None),
        changed_file("plain", after="p"),
    )

    assert [change["filename"] for change in shown] == ["plain"]


def test_the_viewer_gets_as_much_as_fits_its_budget_and_the_rows_get_all(world):
    big = [changed_file(f"{n}.txt", after="x" * 80_000) for n in range(4)]

    shown = viewer(world, *big, changed_file("small.txt", after="s"))

    assert [change["filename"] for change in shown] == ["0.txt", "1.txt"]
    assert len(world.database.files) == 5
