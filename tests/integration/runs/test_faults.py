"""The work is killed, doubled and delayed; each run still ends once, with one sandbox."""

import random
from collections import defaultdict
from urllib.parse import urlsplit

import pytest

from functions.executor.e2b.sandboxes import E2BSandboxes
from functions.executor.replay import move
from functions.executor.step import OUR_FAULT
from local.services.aws.queue import sqs_client
from shared.domain.messages import RunMessage
from shared.domain.secret import Secret
from tests.integration.e2b_servers import LOCAL_SANDBOX

KILLS = 14


@pytest.fixture
def sandboxes(lab, monkeypatch):
    url = lab.stack.urls["e2b"]
    monkeypatch.setenv("E2B_API_URL", url)
    monkeypatch.setenv("E2B_SANDBOX_URL", url)
    deployment = f"local@{urlsplit(lab.stack.supabase_url).netloc}"
    api_key = Secret(lab.stack.keys.e2b_api_key)
    return E2BSandboxes(api_key=api_key, template="x", deployment=deployment, lease_s=60, **LOCAL_SANDBOX)


def assert_ended_once(lab, client, task_id):
    events = client.events(task_id, after=0)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert [e["kind"] for e in events].count("ended") == 1
    phases = [e["payload"]["phase"] for e in events if e["kind"] == "phase"]
    assert phases == ["queued", "provisioning", "cloning", "agent", "collecting"]
    [(status, lease)] = lab.sql("select status, lease_until from runs where task_id = %s", task_id)
    assert (status, lease) == ("completed", None)


def test_an_executor_killed_again_and_again_costs_time_and_nothing_else(lab, sandboxes):
    dice = random.Random(20261123)
    path, url = lab.repository()
    client = lab.user()
    tasks = [
        lab.start(client, f"@write a-{n}.txt: {n}\n@sleep 2\n@append README.md: {n}\n@say Done {n}.", url, agent=agent)
        for n, agent in enumerate(("claude", "codex", "claude", "codex"))
    ]
    seen = defaultdict(set)
    kills = 0

    def ended_while_killing():
        nonlocal kills
        for sandbox in sandboxes.list_ours():
            seen[sandbox.run_id].add(sandbox.id)
        running = lab.executor_environments()
        if running and kills < KILLS:
            dice.choice(running).kill()
            kills += 1
        return all(client.status(task_id) not in {"pending", "running"} for task_id in tasks)

    lab.until(ended_while_killing, timeout_s=800)

    assert kills == KILLS
    for n, task_id in enumerate(tasks):
        task = client.task(task_id)
        assert task["status"] == "completed", task["error"]
        assert task["changed_files"] == ["README.md", f"a-{n}.txt"]
        assert task["chat_messages"][-1]["content"] == f"Done {n}."
        lab.assert_patch_makes(task, path)
        assert_ended_once(lab, client, task_id)
    assert {len(ids) for ids in seen.values()} == {1}
    assert len(seen) == len(tasks)
    lab.until(lambda: not lab.sandboxes() and not lab.agent_processes())


def test_doubled_late_foreign_and_unreadable_messages_have_no_effect(lab):
    _, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write a.txt: a\n@sleep 1\n@say Done.", url)
    [(run_id,)] = lab.sql("select id::text from runs where task_id = %s", task_id)
    sqs = sqs_client(lab.stack.sqs_url)

    def send(body, delay_s=0):
        sqs.send_message(QueueUrl=lab.stack.queues.tasks, MessageBody=body, DelaySeconds=delay_s)

    unknown = "00000000-0000-4000-8000-000000000000"
    for seq in (0, 0, 0, 1, 1, 2, 3, 99):
        send(RunMessage(task_id=task_id, run_id=run_id, seq=seq, user_id=client.user_id).body(), delay_s=seq % 3)
    send(RunMessage(task_id=task_id, run_id=unknown, seq=0, user_id=client.user_id).body())
    send('{"v": 99}')
    send("not json")

    task = lab.finished(client, task_id)

    assert (task["status"], task["changed_files"]) == ("completed", ["a.txt"])
    assert_ended_once(lab, client, task_id)
    send(RunMessage(task_id=task_id, run_id=run_id, seq=5, user_id=client.user_id).body())
    waiting = [
        "ApproximateNumberOfMessages",
        "ApproximateNumberOfMessagesNotVisible",
        "ApproximateNumberOfMessagesDelayed",
    ]

    def counts(queue):
        attributes = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=waiting)["Attributes"]
        return sum(int(attributes[name]) for name in waiting)

    lab.until(lambda: counts(lab.stack.queues.tasks) == 0)
    assert counts(lab.stack.queues.dead_letters) == 0
    assert client.task(task_id) == task


def test_a_lost_message_is_sent_again_by_the_reaper(lab):
    _, url = lab.repository()
    client = lab.user()
    lab.stack.processes.stop("executor")
    try:
        task_id = lab.start(client, "@write a.txt: a\n@say Done.", url)
        sqs_client(lab.stack.sqs_url).purge_queue(QueueUrl=lab.stack.queues.tasks)
    finally:
        lab.stack.processes.restart("executor")

    assert lab.finished(client, task_id)["status"] == "completed"


def test_a_queue_that_is_down_does_not_refuse_tasks(lab):
    _, url = lab.repository()
    client = lab.user()
    lab.stack.processes.stop("sqs")
    try:
        task_id = lab.start(client, "@write a.txt: a\n@say Done.", url)
    finally:
        lab.stack.restart_queue()

    assert lab.finished(client, task_id)["status"] == "completed"


def test_a_sandbox_killed_under_the_agent_fails_the_task_clearly(lab, sandboxes):
    _, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write a.txt: a\n@hang", url)
    lab.until(lambda: any(e["kind"] == "tool_result" for e in client.events(task_id, after=0)))

    sandboxes.kill(client.task(task_id)["container_id"])

    task = lab.finished(client, task_id)
    assert task["status"] == "failed"
    assert task["error"] == "The sandbox was lost before the task could finish. Start the task again."


def test_a_lost_sandbox_leaves_what_was_saved_and_a_follow_up_goes_on_from_it(lab, sandboxes):
    path, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write half.txt: half\n@hang", url)
    lab.until(lambda: client.diff(task_id))

    sandboxes.kill(client.task(task_id)["container_id"])
    lost = lab.finished(client, task_id)
    lab.control(client, task_id, "follow-up", prompt="@append half.txt: whole\n@say Done.")
    task = lab.finished(client, task_id)

    assert (lost["status"], lost["changed_files"]) == ("failed", ["half.txt"])
    assert lost["error"].startswith("The sandbox was lost before the task could finish. Start the task again. What the")
    lab.assert_patch_makes(lost, path)
    assert (task["status"], task["error"]) == ("completed", None)
    clone = lab.assert_patch_makes(task, path)
    assert (clone / "half.txt").read_text() == "half\nwhole\n"


def test_a_step_that_fails_in_a_way_nobody_foresaw_ends_its_run_after_some_attempts(lab):
    _, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write a.txt: a\n@hang", url)
    lab.until(lambda: any(e["kind"] == "tool_result" for e in client.events(task_id, after=0)))

    lab.stack.processes.stop("executor")
    # What no code of ours writes: the next steps cannot read what the last one is said to have noted.
    lab.sql("update runs set reader_state = '{\"result\": 5}' where task_id = %s", task_id)
    lab.stack.processes.restart("executor")

    task = lab.finished(client, task_id)
    assert task["status"] == "failed"
    assert task["error"].startswith(OUR_FAULT)  # a checkpoint, where there was time for one, adds a sentence
    lab.until(lambda: not lab.sandboxes())


def test_a_dead_letter_ends_its_run_and_its_sandbox_and_can_be_replayed(lab):
    _, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write a.txt: a\n@hang", url)
    lab.until(lambda: any(e["kind"] == "tool_result" for e in client.events(task_id, after=0)))
    [(run_id,)] = lab.sql("select id::text from runs where task_id = %s", task_id)

    message = RunMessage(task_id=task_id, run_id=run_id, seq=0, user_id=client.user_id)
    sqs = sqs_client(lab.stack.sqs_url)
    sqs.purge_queue(QueueUrl=lab.stack.queues.replays)  # a run that another test had given up would hang again
    sqs.send_message(QueueUrl=lab.stack.queues.dead_letters, MessageBody=message.body())

    task = lab.finished(client, task_id)
    assert task["status"] == "failed"
    assert task["error"].startswith(OUR_FAULT)  # a checkpoint, where there was time for one, adds a sentence
    lab.until(lambda: not lab.sandboxes())

    # Once what broke is mended, `make replay` has it done again.
    lab.sql("update runs set prompt = '@write a.txt: a\n@say Done.' where task_id = %s", task_id)
    assert move(sqs, lab.stack.queues.replays, lab.stack.queues.tasks, most=10) == 1
    lab.until(lambda: client.status(task_id) == "completed")
    assert client.task(task_id)["changed_files"] == ["a.txt"]
    assert lab.sql("select kind, status::text from runs where task_id = %s order by created_at", task_id) == [
        ("first", "failed"),
        ("retry", "completed"),
    ]
