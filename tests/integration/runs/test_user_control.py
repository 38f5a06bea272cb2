"""What a user does to a task, through every real part: cancel, retry, follow-up."""

from contextlib import contextmanager, nullcontext

import httpx
import pytest

from tests.integration.e2b_servers import reboot
from tests.integration.runs.conftest import git, lab_in

AGENTS = ("claude", "codex")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """One that keeps sandboxes for follow-ups."""
    with lab_in(tmp_path_factory.mktemp("patient-lab"), follow_up_window_s=600) as lab:
        yield lab


def lose_sandbox(lab, task_id):
    """Kill the task's sandbox as E2B might; nobody is told."""
    [(sandbox_id,)] = lab.sql("select container_id from tasks where id = %s", task_id)
    environment = lab.stack.executor_environment()
    url = f"{environment['E2B_API_URL']}/sandboxes/{sandbox_id}"
    httpx.delete(url, headers={"X-API-Key": environment["E2B_API_KEY"]}, timeout=60).raise_for_status()


def sandbox_of(lab, task_id):
    """The folder of the task's sandbox, while it is there."""
    [(sandbox_id,)] = lab.sql("select container_id from tasks where id = %s", task_id)
    return next((path for path in lab.sandboxes() if sandbox_id and sandbox_id in path.name), None)


def runs_of(lab, task_id):
    columns = "kind, status, sandbox_id, agent_session_id, base_commit"
    return lab.sql(f"select {columns} from runs where task_id = %s order by created_at", task_id)


def half_done(lab, client, url, agent):
    """A task whose agent has written half.txt and goes on without end, between two looks."""
    task_id = lab.start(client, "@write half.txt: half\n@hang", url, agent=agent)
    lab.until(lambda: any(e["kind"] == "tool_result" for e in client.events(task_id, after=0)))
    lab.until(lambda: lab.sql("select 1 from runs where task_id = %s and lease_until is null", task_id))
    return task_id


@pytest.mark.parametrize("agent", AGENTS)
def test_cancelling_in_the_middle_of_the_work_is_prompt_and_keeps_the_partial_diff(lab, agent):
    path, url = lab.repository()
    client = lab.user()
    task_id = half_done(lab, client, url, agent)
    # As if the run were hours old: its next look is half a minute away. Then that look's message becomes stale, and the
    # reaper has an hour: only the cancelling can have the run looked at again.
    lab.sql("update runs set started_at = now() - interval '20 minutes' where task_id = %s", task_id)
    lab.until(
        lambda: lab.sql(
            "update runs set next_check_at = now() + interval '1 hour', seq = seq + 1"
            " where task_id = %s and lease_until is null"
            " and next_check_at > now() + interval '10 s' returning 1",
            task_id,
        )
    )

    lab.cancel(client, task_id)
    lab.cancel(client, task_id)
    task = lab.finished(client, task_id)

    assert task["status"] == "cancelled"
    assert task["changed_files"] == ["half.txt"]
    lab.assert_patch_makes(task, path)
    assert lab.agent_processes() == []


@contextmanager
def held_in(lab, phase):
    """Let every run that comes to this phase take its steps again and again, until it ends."""
    lab.sql(f"""
        create function hold_run() returns trigger language plpgsql as $$
        begin new.phase := old.phase; return new; end $$;
        create trigger hold_run before update on runs for each row
        when (old.phase = '{phase}' and new.phase not in ('{phase}', 'done')) execute function hold_run()
    """)
    try:
        yield
    finally:
        lab.sql("drop function hold_run cascade")


@contextmanager
def no_sandbox_free(lab):
    """Let another user's task have the only one."""
    _, url = lab.repository()
    client = lab.user()
    task_id = half_done(lab, client, url, "claude")
    [(limit,)] = lab.sql("select running_in_all from run_limits")
    lab.sql("update run_limits set running_in_all = 1")
    try:
        yield
    finally:
        lab.sql("update run_limits set running_in_all = %s", limit)
        lab.cancel(client, task_id)
        lab.finished(client, task_id)


HOLDS = {
    "queued": no_sandbox_free,
    "provisioning": lambda lab: held_in(lab, "provisioning"),
    "cloning": lambda lab: held_in(lab, "cloning"),
    "setup": lambda _: nullcontext(),  # its script does not end
}


@pytest.mark.parametrize("phase", HOLDS)
def test_cancelling_before_the_agent_leaves_no_sandbox_and_no_process(lab, phase):
    _, url = lab.repository({"README.md": "hello\n", ".asynccode/setup.sh": "echo waiting\nsleep 600\n"})
    client = lab.user()
    with HOLDS[phase](lab):
        task_id = lab.start(client, "@write never.txt: n", url)
        lab.until(lambda: lab.sql("select 1 from runs where task_id = %s and phase = %s", task_id, phase))
        if phase == "setup":
            lab.until(lambda: any(e["kind"] == "setup_output" for e in client.events(task_id, after=0)))

        lab.cancel(client, task_id)
        task = lab.finished(client, task_id)

    [(error_code,)] = lab.sql("select error_code from runs where task_id = %s", task_id)
    assert (task["status"], error_code) == ("cancelled", "cancelled")
    assert not task["git_diff"]
    lab.until(lambda: sandbox_of(lab, task_id) is None)
    assert lab.agent_processes() == []


def test_cancelling_while_the_result_is_collected_is_too_late(lab):
    path, url = lab.repository()
    lab.sql("""
        create function cancel_run() returns trigger language plpgsql as $$
        begin new.cancel_requested_at := now(); return new; end $$;
        create trigger cancel_run before update on runs for each row
        when (old.phase = 'agent' and new.phase = 'collecting') execute function cancel_run()
    """)
    try:
        task = lab.run("@write done.txt: d", url)
    finally:
        lab.sql("drop function cancel_run cascade")

    assert (task["status"], task["changed_files"]) == ("completed", ["done.txt"])
    lab.assert_patch_makes(task, path)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("sandbox_survives", [True, False])
def test_a_follow_up_goes_on_from_the_work_so_far(lab, agent, sandbox_survives):
    path, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write one.txt: 1\n@run printf '\\000\\001' > one.bin", url, agent=agent)
    first = lab.finished(client, task_id)
    assert first["status"] == "completed", first["error"]
    lab.until(lambda: sandbox_of(lab, task_id))
    if not sandbox_survives:
        lose_sandbox(lab, task_id)

    lab.control(client, task_id, "follow-up", prompt="@append one.txt: more\n@write two.txt: 2\n@say Went on.")
    task = lab.finished(client, task_id)

    assert (task["status"], task["error"]) == ("completed", None)
    assert task["changed_files"] == ["one.bin", "one.txt", "two.txt"]
    clone = lab.assert_patch_makes(task, path)
    assert (clone / "one.txt").read_text() == "1\nmore\n"
    assert (clone / "one.bin").read_bytes() == b"\x00\x01"
    assert [m["role"] for m in task["chat_messages"]] == ["user", "assistant", "user", "assistant"]
    assert task["chat_messages"][-1]["content"] == "Went on."
    before, after = runs_of(lab, task_id)
    assert (after[0], after[1]) == ("follow_up", "completed")
    assert before[4] == after[4] == git(path, "rev-parse", "HEAD")
    assert (before[2] == after[2], before[3] == after[3]) == (sandbox_survives, sandbox_survives)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_sandbox_that_reboots_under_the_agent_loses_nothing_and_a_follow_up_goes_on(lab, agent):
    path, url = lab.repository()
    client = lab.user()
    task_id = half_done(lab, client, url, agent)

    reboot(lab.stack.urls["e2b"], lab.stack.keys.e2b_api_key, client.task(task_id)["container_id"])
    task = lab.finished(client, task_id)

    [(error_code,)] = lab.sql("select error_code from runs where task_id = %s", task_id)
    assert (task["status"], error_code) == ("failed", "agent_interrupted")
    assert task["changed_files"] == ["half.txt"]

    lab.control(client, task_id, "follow-up", prompt="@append half.txt: whole")
    followed = lab.finished(client, task_id)

    assert followed["status"] == "completed", followed["error"]
    assert "+whole" in followed["git_diff"]
    lab.assert_patch_makes(followed, path)
    assert lab.agent_processes() == []


def test_a_follow_up_counts_from_the_first_base_even_when_the_branch_has_moved(lab):
    path, url = lab.repository({"README.md": "one\n"})
    client = lab.user()
    task_id = lab.start(client, "@write new.txt: n", url)
    lab.finished(client, task_id)
    base = git(path, "rev-parse", "HEAD")
    lose_sandbox(lab, task_id)
    (path / "README.md").write_text("two\n")
    git(path, "commit", "-q", "-am", "moved")
    git(path, "push", "-q", str(lab.stack.git_root / "local" / f"{path.name}.git"), "main")

    lab.control(client, task_id, "follow-up", prompt="@write newer.txt: n")
    task = lab.finished(client, task_id)

    assert (task["status"], task["changed_files"]) == ("completed", ["new.txt", "newer.txt"])
    assert task["execution_metadata"]["base_commit"] == base


def test_a_retry_after_a_failure_starts_anew_from_the_branch(lab):
    path, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write kept.txt: kept\n@run kill -KILL $PPID", url)
    failed = lab.finished(client, task_id)
    assert failed["status"] == "failed"
    lab.sql("update runs set prompt = '@write done.txt: done' where task_id = %s", task_id)

    answer = lab.control(client, task_id, "retry")
    task = lab.finished(client, task_id)

    assert answer["run_id"] == str(lab.sql("select id from runs where task_id = %s and kind = 'retry'", task_id)[0][0])
    assert (task["status"], task["error"], task["changed_files"]) == ("completed", None, ["done.txt"])
    first, second = runs_of(lab, task_id)
    assert first[2] != second[2]
    assert not [path for path in lab.sandboxes() if first[2] in path.name]
    lab.assert_patch_makes(task, path)


def test_a_kept_sandbox_holds_no_secret_and_no_running_process(lab):
    _, url = lab.repository()
    client = lab.user()
    key = lab.stack.keys.scripted_model_key
    task_id = lab.start(client, "@run env > leak.txt; env; env > ${TMPDIR:-/tmp}/leak.txt; (sleep 300 &)", url)
    lab.finished(client, task_id)
    lab.until(lambda: lab.sql("select 1 from runs where task_id = %s and kept_until is not null", task_id))

    folder = sandbox_of(lab, task_id)

    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name == "leak.txt" for path in files)
    assert [str(path) for path in files if key.encode() in path.read_bytes()] == []
    assert lab.agent_processes() == []
