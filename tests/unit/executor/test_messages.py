"""What arrives at the executor: doubled, late, early, unknown, unreadable."""

import json
import uuid
from dataclasses import replace
from datetime import timedelta

import pytest
from aws_lambda_powertools.utilities.batch.exceptions import BatchProcessingError

from functions.executor import dead_letters, handler
from functions.executor.step import on_message
from shared.domain.errors import Unavailable
from shared.domain.run import Phase


def snapshot(world):
    return json.dumps([world.database.runs, world.database.tasks, world.database.events], default=str)


@pytest.mark.parametrize("phase", [Phase.CLONING, Phase.AGENT, Phase.COLLECTING])
def test_a_message_for_another_step_changes_nothing_while_the_right_one_is_on_its_way(world, phase):
    first = world.start()
    world.until(phase)
    world.run_row["next_check_at"] += timedelta(seconds=60)
    before, commands = snapshot(world), len(world.sandboxes.last.commands)

    for seq in (0, world.run_row["seq"] - 1, world.run_row["seq"] + 1, 10_000):
        on_message(replace(first, seq=seq), world.ports)

    assert snapshot(world) == before
    assert len(world.sandboxes.last.commands) == commands
    assert world.queue.sent == []


def test_a_message_for_a_run_that_has_ended_changes_nothing(world):
    first = world.start()
    world.run()
    before = snapshot(world)

    for seq in range(world.run_row["seq"] + 1):
        on_message(replace(first, seq=seq), world.ports)

    assert snapshot(world) == before
    assert world.queue.sent == []


def test_a_message_for_an_unknown_run_is_dropped(world):
    message = world.start()
    world.queue.sent.clear()

    on_message(replace(message, run_id=str(uuid.uuid4())), world.ports)

    assert world.queue.sent == []
    assert world.sandboxes.created == []


def test_a_message_whose_step_somebody_takes_now_is_sent_again_for_when_the_lease_is_over(world):
    message = world.start()
    world.ports.runs.claim(message)
    world.queue.sent.clear()

    on_message(message, world.ports)

    assert world.queue.sent == [(message, world.ports.settings.step_lease_s + 1)]
    assert world.sandboxes.created == []


def test_an_old_message_stands_in_for_its_successor_that_was_never_sent(world):
    message = world.start()
    world.queue.down = True
    on_message(message, world.ports)
    world.queue.down = False
    world.queue.sent.clear()

    on_message(message, world.ports)

    assert [(sent.seq, delay_s) for sent, delay_s in world.queue.sent] == [(1, 0)]


def test_a_run_without_a_sandbox_asks_nobody_until_one_is_free_for_it(world):
    world.database.limits["running_in_all"] = 1
    world.start()
    world.deliver()
    second = world.start()
    world.queue.sent.clear()

    on_message(second, world.ports)

    assert world.queue.sent == []
    assert world.run_row["status"] == "queued"
    world.run()
    assert [run["status"] for run in world.database.runs.values()] == ["completed", "completed"]


def test_a_run_whose_sandbox_may_not_start_yet_asks_again_when_it_may(world):
    world.database.limits["started_per_second"] = 1
    world.start()
    world.deliver()
    second = world.start()
    world.queue.sent.clear()

    on_message(second, world.ports)

    assert world.queue.sent == [(second, 1)]


def test_whoever_cannot_be_woken_at_the_end_of_a_run_is_woken_by_the_reaper(world):
    world.database.limits["running_in_all"] = 1
    world.start()
    world.deliver()
    world.start()
    wake, failed = world.store.wake, []

    def fails_at_first():
        if not failed:
            failed.append(True)
            raise Unavailable("The database is not responding.")
        return wake()

    world.store.wake = fails_at_first
    world.run()

    assert failed
    assert [run["status"] for run in world.database.runs.values()] == ["completed", "completed"]


def test_every_message_delivered_twice_makes_the_same_run(world):
    world.start(setup_script="make")

    def twice(send=world.queue.send):
        def sends(message, *, delay_s=0):
            send(message, delay_s=delay_s)
            send(message, delay_s=delay_s)

        return sends

    world.ports = replace(world.ports, queue=type("Doubling", (), {"send": staticmethod(twice())}))
    for _ in range(400):  # doubles of doubles: it is enough that the run ends
        world.deliver()
        if world.run_row["phase"] is Phase.DONE:
            break

    assert world.task["status"] == "completed"
    assert world.sandboxes.created == ["sbx1"]
    assert [event["seq"] for event in world.events] == list(range(1, len(world.events) + 1))
    assert world.kinds().count("ended") == 1
    assert world.kinds().count("result") == 1


@pytest.mark.parametrize("lost", range(8))
def test_whichever_message_is_lost_the_reaper_sends_it_again(world, lost):
    world.start()
    send, sent = world.queue.send, []

    def lossy(message, *, delay_s=0):
        sent.append(message)
        if len(sent) - 1 != lost:
            send(message, delay_s=delay_s)

    world.queue.send = lossy

    world.run()

    assert len(sent) > lost
    assert world.task["status"] == "completed"


@pytest.mark.parametrize("phase", [Phase.CLONING, Phase.AGENT, Phase.COLLECTING])
def test_when_the_queue_is_down_the_step_is_saved_all_the_same_and_the_reaper_nudges(world, phase):
    world.start()
    world.until(phase)
    seq = world.run_row["seq"]
    world.queue.down = True

    world.deliver()

    assert world.run_row["seq"] == seq + 1
    assert world.run_row["lease_until"] is None
    world.queue.down = False
    world.run()
    assert world.task["status"] == "completed"


def test_a_step_whose_fence_was_lost_writes_nothing_and_nudges_nobody(world):
    message = world.start()
    world.until(Phase.CLONING)
    attach, lost = world.sandboxes.attach, []

    def slow(sandbox_id):
        lost.append(world.ports.runs.seize(message.run_id))
        return attach(sandbox_id)

    world.sandboxes.attach = slow
    world.deliver()
    row = world.run_row

    assert (row["phase"], row["seq"], row["fence"]) == (Phase.CLONING, 1, lost[0].fence)
    assert (world.queue.sent, world.waiting) == ([], [])
    assert "cloned" not in world.kinds()


def test_an_end_whose_fence_was_lost_neither_ends_the_run_nor_kills_the_sandbox(world):
    message = world.start()
    world.until(Phase.COLLECTING)
    attach = world.sandboxes.attach

    def slow(sandbox_id):
        world.ports.runs.seize(message.run_id)
        return attach(sandbox_id)

    world.sandboxes.attach = slow
    world.deliver()

    assert world.task["status"] == "running"
    assert world.sandboxes.killed == []


# --- the Lambda entries


class Context:
    function_name = "executor"
    memory_limit_in_mb = 512
    invoked_function_arn = "arn:aws:lambda:eu-central-1:123456789012:function:executor"
    aws_request_id = "request-1"


def sqs_event(*bodies):
    facts = {"messageAttributes": {}, "attributes": {}, "eventSource": "aws:sqs", "receiptHandle": "r"}
    return {"Records": [facts | {"messageId": str(n), "body": body} for n, body in enumerate(bodies)]}


@pytest.fixture
def entry(request, world, monkeypatch):
    module = {"handler": handler, "dead_letters": dead_letters}[request.param]
    monkeypatch.setattr(module, "ports", lambda: world.ports)
    return module


BOTH = pytest.mark.parametrize("entry", ["handler", "dead_letters"], indirect=True)
UNREADABLE = ["", "null", "[]", "{", '{"v":2}', '{"v":1,"task_id":1,"run_id":"x","seq":0,"user_id":"y"}', "\x00", "ü"]


@BOTH
@pytest.mark.parametrize("body", UNREADABLE)
def test_an_unreadable_message_is_dropped_since_nobody_will_ever_read_it(entry, world, body):
    assert entry.handler(sqs_event(body), Context()) == {"batchItemFailures": []}
    assert world.queue.sent == []


@BOTH
def test_what_a_step_raises_gives_the_message_back_to_sqs(entry, world):
    message = world.start()

    def down(*_):
        raise Unavailable("The database is not responding.")

    world.ports = replace(world.ports, runs=type("Down", (), {"claim": down, "seize": down})())

    with pytest.raises(BatchProcessingError):
        entry.handler(sqs_event(message.body()), Context())


@pytest.mark.parametrize("entry", ["handler"], indirect=True)
def test_one_message_is_one_step(entry, world):
    message = world.start()
    world.queue.sent.clear()

    assert entry.handler(sqs_event(message.body()), Context()) == {"batchItemFailures": []}

    assert world.run_row["phase"] is Phase.CLONING
    assert [(sent.seq, sent.trace_id) for sent, _ in world.queue.sent] == [(1, "trace-1")]


@pytest.mark.parametrize("entry", ["dead_letters"], indirect=True)
def test_a_dead_letter_ends_its_run_with_a_sentence_and_kills_its_sandbox(entry, world):
    message = world.start()
    world.until(Phase.AGENT)

    entry.handler(sqs_event(message.body()), Context())

    assert (world.task["status"], world.run_row["error_code"]) == ("failed", "internal")
    assert world.task["error"] == "Something went wrong on our side. Start the task again."
    assert world.sandboxes.boxes == {}
    assert world.payloads("ended") == [{"status": "failed", "error_code": "internal", "text": world.task["error"]}]


@pytest.mark.parametrize("entry", ["dead_letters"], indirect=True)
def test_a_dead_letter_also_finds_a_sandbox_whose_id_was_never_saved(entry, world):
    message = world.start()
    run = world.ports.runs.claim(message).run
    world.sandboxes.create(run)

    entry.handler(sqs_event(message.body()), Context())

    assert world.sandboxes.killed == ["sbx1"]


@pytest.mark.parametrize("entry", ["dead_letters"], indirect=True)
def test_a_dead_letter_of_a_run_that_has_ended_leaves_it_as_it_is(entry, world):
    message = world.start()
    world.run()
    before = snapshot(world)

    entry.handler(sqs_event(message.body()), Context())

    assert snapshot(world) == before


@pytest.mark.parametrize("entry", ["dead_letters"], indirect=True)
def test_a_dead_letter_of_a_cancelled_run_ends_it_as_cancelled(entry, world):
    message = world.start()
    world.until(Phase.AGENT)
    world.database.request_cancel(world.task["id"])

    entry.handler(sqs_event(message.body()), Context())

    assert world.task["status"] == "cancelled"
