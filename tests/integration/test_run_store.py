"""The run store: the fake that the unit tests stand on, and the real one through gateway and database, alike."""

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import get_args, get_type_hints

import pytest

from shared.domain.binary_patch import blob_id
from shared.domain.contents import parts_of
from shared.domain.errors import IllegalTransition, InvalidInput, RunFailed, TooMany
from shared.domain.ports import ClaimOutcome
from shared.domain.run import INTERNAL, Advance, Event, Finish, Phase, Result, RunChanges, RunStatus
from tests.fakes.new_task import SEALED
from tests.integration.run_databases import FakeDatabase, RealDatabase


@pytest.fixture(params=["fake", "real"])
def db(request):
    """A database that others may use at the same time."""
    if request.param == "fake":
        return FakeDatabase()
    return RealDatabase(request.getfixturevalue("supabase_gateway"))


@pytest.fixture(params=["fake", "real"])
def own_db(request):
    """A database nobody else counts runs in."""
    if request.param == "fake":
        return FakeDatabase()
    dsn = request.getfixturevalue("fresh_database")()
    return RealDatabase(request.getfixturevalue("make_gateway")(dsn))


def test_a_user_cannot_have_more_active_runs_than_the_limit(own_db):
    own_db.set_limits(active_per_user=2)
    user_id, _ = own_db.start()
    own_db.start(user_id)

    with pytest.raises(TooMany):
        own_db.start(user_id)
    own_db.start()  # another user still may


def test_claiming_admits_the_run_and_starts_the_task(db):
    user_id, started = db.start()

    claim = db.runs.claim(db.message(user_id, started))

    assert claim.outcome is ClaimOutcome.CLAIMED
    assert (claim.run.phase, claim.run.status) == (Phase.PROVISIONING, RunStatus.RUNNING)
    assert claim.run.repo_url == "https://github.com/o/r"
    assert claim.run.deadline_at > claim.run.started_at
    task = db.task(started)
    assert task["status"] == "running"
    assert task["started_at"] is not None
    assert [event["payload"]["phase"] for event in db.events(started)] == ["queued", "provisioning"]


def test_a_doubled_message_finds_the_step_taken(db):
    user_id, started = db.start()
    message = db.message(user_id, started)
    run = db.runs.claim(message).run

    assert db.runs.claim(message).outcome is ClaimOutcome.BUSY
    assert db.runs.advance(run, Advance(check_in_s=60)) == 1
    assert db.runs.claim(message).outcome is ClaimOutcome.STALE


def test_an_old_message_of_a_run_whose_next_one_was_never_sent_asks_for_it(db):
    user_id, started = db.start()
    message = db.message(user_id, started)
    db.runs.advance(db.runs.claim(message).run, Advance(check_in_s=0))

    claim = db.runs.claim(message)

    assert (claim.outcome, claim.seq) == (ClaimOutcome.OVERDUE, 1)


def claimed(db):
    user_id, started = db.start()
    return db.runs.claim(db.message(user_id, started)).run


def test_a_column_that_a_step_may_not_change_is_refused_and_nothing_changes(db):
    run = claimed(db)

    for column in ("prompt", "seq", "fence", "status", "user_id", "unheard_of"):
        with pytest.raises(InvalidInput):
            db.runs.advance(run, Advance(changes={"base_commit": "c" * 40, column: run.prompt}))

    assert db.runs.advance(run, Advance()) == run.seq + 1
    assert db.runs.seize(run.id).base_commit is None


@pytest.mark.parametrize("column", RunChanges.__annotations__)
def test_every_column_of_the_changes_is_one_of_the_run_and_is_kept(db, column):
    run = claimed(db)
    value = 7 if int in kinds(column) else "text" if str in kinds(column) else {"a": 1}

    db.runs.advance(run, Advance(changes={column: value}))

    assert getattr(db.runs.seize(run.id), column) == value


def kinds(column):
    hint = get_type_hints(RunChanges)[column]
    return {hint, *get_args(hint)}


def test_messages_for_unknown_and_ended_runs_change_nothing(db):
    user_id, started = db.start()
    message = db.message(user_id, started)
    db.runs.finish(db.runs.claim(message).run, Finish(status=RunStatus.FAILED, error="x"))

    assert db.runs.claim(message).outcome is ClaimOutcome.ENDED
    assert db.runs.claim(replace(message, run_id=str(uuid.uuid4()))).outcome is ClaimOutcome.UNKNOWN
    assert db.runs.seize(started.run_id) is None


def test_a_lease_that_ran_out_can_be_taken_over_and_its_first_holder_writes_nothing_more(db):
    user_id, started = db.start()
    message = db.message(user_id, started)
    dead = db.run_store(lease_s=0).claim(message).run
    heir = db.runs.claim(message).run

    assert heir.fence > dead.fence
    assert db.runs.advance(dead, Advance()) is None
    assert db.runs.finish(dead, Finish(status=RunStatus.COMPLETED)) is False
    assert db.runs.advance(heir, Advance()) == 1


def test_seizing_a_run_shuts_out_whoever_holds_it(db):
    holder = db.claimed()

    run = db.runs.seize(holder.id)

    assert db.runs.advance(holder, Advance()) is None
    assert db.runs.finish(run, Finish(status=RunStatus.FAILED, error_code="internal", error="Sorry.")) is True


def test_each_claim_counts_as_an_attempt_until_a_step_says_it_is_done(db):
    user_id, started = db.start()
    message = db.message(user_id, started)
    store = db.run_store(lease_s=0)
    store.claim(message)
    second = store.claim(message).run
    assert second.attempt == 2

    seq = store.advance(second, Advance(changes={"attempt": 0}))
    assert store.claim(replace(message, seq=seq)).run.attempt == 1


def test_admission_waits_for_the_users_own_and_for_the_global_limit(own_db):
    own_db.set_limits(running_per_user=1, running_in_all=2)
    user_id, first = own_db.start()
    _, second = own_db.start(user_id)
    other, third = own_db.start()
    last, fourth = own_db.start()
    running = own_db.runs.claim(own_db.message(user_id, first)).run

    waiting = own_db.runs.claim(own_db.message(user_id, second))
    assert (waiting.outcome, waiting.retry_in_s) == (ClaimOutcome.WAITING, None)
    assert own_db.runs.claim(own_db.message(other, third)).outcome is ClaimOutcome.CLAIMED
    assert own_db.runs.claim(own_db.message(last, fourth)).outcome is ClaimOutcome.WAITING

    own_db.runs.finish(running, Finish(status=RunStatus.COMPLETED))
    assert own_db.runs.claim(own_db.message(user_id, second)).outcome is ClaimOutcome.CLAIMED


def test_a_step_saves_its_changes_and_numbers_its_events(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    step = Advance(
        phase=Phase.CLONING,
        changes={"sandbox_id": "sbx1", "reader_state": {"a": [1]}, "output_offset": 7},
        events=(Event("phase", {"phase": "cloning"}), Event("agent_message", {"text": "hi"})),
    )
    seq = db.runs.advance(run, step)

    after = db.runs.claim(db.message(user_id, started, seq)).run
    assert (after.phase, after.sandbox_id, after.output_offset) == (Phase.CLONING, "sbx1", 7)
    assert after.reader_state == {"a": [1]}
    events = db.events(started)
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert [e["kind"] for e in events] == ["phase", "phase", "phase", "agent_message"]
    assert events[-1]["payload"] == {"text": "hi"}
    assert db.task(started)["container_id"] == "sbx1"


def test_a_step_cannot_jump_over_phases(db):
    run = db.claimed()

    with pytest.raises(IllegalTransition):
        db.runs.advance(run, Advance(phase=Phase.COLLECTING))


def finish_with_one_file():
    file = {"path": "a.txt", "status": "added", "mode": "100644", "before": None, "after": "é\n", "size": 3}
    return Finish(
        status=RunStatus.COMPLETED,
        message="Done.",
        result=Result(
            commit_hash="c" * 40,
            diff="diff",
            patch="patch",
            changed_files=("a.txt",),
            files=({**file, "previous_path": None, "encoding": "utf-8", "truncated": False},),
            metadata={"base_commit": "b" * 40},
        ),
        events=(Event("ended", {"status": "completed"}),),
    )


def test_the_end_of_a_run_is_stored_whole(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run

    assert db.runs.finish(run, finish_with_one_file()) is True
    assert db.runs.finish(run, finish_with_one_file()) is False

    task = db.task(started)
    assert (task["status"], task["git_diff"], task["git_patch"]) == ("completed", "diff", "patch")
    assert (task["has_patch"], task["changed_files"], task["error"]) == (True, ["a.txt"], None)
    assert task["chat_messages"][-1]["content"] == "Done."
    assert task["execution_metadata"]["base_commit"] == "b" * 40
    assert task["completed_at"] is not None
    assert [(file["path"], file["after"]) for file in db.files(started)] == [("a.txt", "é\n")]
    assert db.credentials(user_id) == []
    stored = db.run(started)
    assert (stored["status"], stored["phase"]) == ("completed", "done")
    assert stored["git_credential_id"] is None
    assert db.events(started)[-1]["kind"] == "ended"


LARGE = b"0123456789abcdef" * 150_000  # three parts


def test_contents_are_stored_in_parts_before_the_end_and_doing_it_again_does_no_harm(db):
    run = db.claimed()
    first, *others = parts_of(blob_id(LARGE), LARGE)
    assert db.runs.stored_contents(run) == set()

    assert db.runs.store_contents(run, [first])
    assert db.runs.stored_contents(run) == set()  # it is not whole yet
    for _ in range(2):
        assert db.runs.store_contents(run, [first, *others, *parts_of(blob_id(b""), b"")])

    assert db.runs.stored_contents(run) == {blob_id(LARGE), blob_id(b"")}
    assert db.runs.stored_contents(db.claimed()) == set()


def test_whoever_has_lost_the_run_stores_no_contents(db):
    holder = db.claimed()
    run = db.runs.seize(holder.id)
    parts = [*parts_of(blob_id(b"x"), b"x")]

    assert not db.runs.store_contents(holder, parts)
    assert db.runs.stored_contents(run) == set()
    assert db.runs.finish(run, Finish(status=RunStatus.FAILED))
    assert not db.runs.store_contents(run, parts)


def test_a_failed_end_keeps_what_an_earlier_run_produced(db):
    user_id, started = db.start()
    db.runs.finish(db.runs.claim(db.message(user_id, started)).run, finish_with_one_file())
    again = db.retry(user_id, started)

    db.runs.finish(
        db.runs.claim(db.message(user_id, again)).run, Finish(status=RunStatus.FAILED, error="boom", error_code="x")
    )

    task = db.task(started)
    assert (task["status"], task["error"], task["git_diff"]) == ("failed", "boom", "diff")


def half_done(path="half.txt"):
    """What has been changed so far."""
    file = {"path": path, "status": "added", "mode": "100644", "before": None, "after": "half\n", "size": 5}
    return replace(
        finish_with_one_file().result,
        patch="half a patch",
        changed_files=(path,),
        files=({**file, "previous_path": None, "encoding": "utf-8", "truncated": False},),
    )


def test_a_checkpoint_stands_where_the_result_will(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run

    assert db.runs.save_checkpoint(run, half_done("a.txt")) is True
    assert db.runs.save_checkpoint(run, half_done("b.txt")) is True

    task = db.task(started)
    assert (task["status"], task["git_patch"], task["changed_files"]) == ("running", "half a patch", ["b.txt"])
    assert task["execution_metadata"]["base_commit"] == "b" * 40
    assert [file["path"] for file in db.files(started)] == ["b.txt"]
    assert db.run(started)["seq"] == 0
    assert db.runs.advance(run, Advance(changes={"checkpoint": {"number": 1}})) == 1
    assert db.run(started)["checkpoint"] == {"number": 1}


def test_the_result_takes_its_place(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    db.runs.save_checkpoint(run, half_done())

    db.runs.finish(run, finish_with_one_file())

    assert (db.task(started)["git_patch"], db.task(started)["changed_files"]) == ("patch", ["a.txt"])
    assert [file["path"] for file in db.files(started)] == ["a.txt"]


def test_a_run_that_ends_without_a_result_leaves_it(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    db.runs.save_checkpoint(run, half_done())

    db.runs.finish(run, Finish(status=RunStatus.FAILED, error_code="sandbox_lost", error="Lost."))

    task = db.task(started)
    assert (task["status"], task["git_patch"], task["changed_files"]) == ("failed", "half a patch", ["half.txt"])
    assert [file["path"] for file in db.files(started)] == ["half.txt"]


def test_whoever_has_lost_the_run_saves_no_checkpoint(db):
    run = db.claimed()
    heir = db.runs.seize(run.id)

    assert db.runs.save_checkpoint(run, half_done()) is False
    assert db.runs.save_checkpoint(heir, half_done()) is True
    db.runs.finish(heir, finish_with_one_file())
    assert db.runs.save_checkpoint(heir, half_done()) is False


def at_work_in(db, name):
    """A run whose sandbox has this name and whose next look is far off; its handles."""
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    db.runs.advance(run, Advance(phase=Phase.CLONING, check_in_s=1000, changes={"sandbox_id": name}))
    return started


def test_runs_whose_sandbox_is_not_there_are_named_and_their_next_step_is_due(own_db):
    lost, _there, claimed = (at_work_in(own_db, name) for name in ("lost", "there", "taken"))
    own_db.runs.claim(own_db.message(str(uuid.uuid4()), claimed, 1))

    found = own_db.runs.without_sandbox({"there"}, grace_s=-1)

    assert [(message.run_id, message.seq) for message in found] == [(lost.run_id, 1)]
    assert own_db.runs.without_sandbox({"there"}, grace_s=60) == []
    assert own_db.runs.claim(found[0]).outcome is ClaimOutcome.CLAIMED


def test_what_waits_too_long_for_a_sandbox_ends_and_says_why(own_db):
    waited, running = own_db.start()[1], at_work_in(own_db, "there")
    how = {"waited": RunFailed("Too long.", error_code="queue_timeout"), "orphaned": "Nobody works on it."}

    assert own_db.runs.end_stuck(waited_s=60, **how) == 0
    assert own_db.runs.end_stuck(waited_s=-1, **how) == 1

    assert (own_db.task(waited)["status"], own_db.task(waited)["error"]) == ("failed", "Too long.")
    assert own_db.run(waited)["error_code"] == "queue_timeout"
    last = {"status": "failed", "error_code": "queue_timeout", "text": "Too long."}
    assert (own_db.events(waited)[-1]["kind"], own_db.events(waited)[-1]["payload"]) == ("ended", last)
    assert own_db.task(running)["status"] == "running"


def given_up(db, message):
    run = db.runs.claim(message).run
    db.runs.finish(run, Finish(status=RunStatus.FAILED, error_code=INTERNAL, error="Sorry."))


def test_a_run_that_was_given_up_is_replayed_once_with_its_own_git_token(db):
    user_id, started = db.start(model="opus")
    given_up(db, db.message(user_id, started))
    db.runs.expire_credentials()

    successor = db.runs.replay(started.run_id)

    assert db.runs.replay(started.run_id) is None
    assert (successor.task_id, successor.user_id, successor.seq) == (started.task_id, user_id, 0)
    run = db.runs.claim(successor).run
    assert (run.kind, run.prompt, run.model, run.trace_id) == ("retry", "make it so", "opus", "trace-1")
    assert db.runs.git_credential(run) == SEALED
    assert db.task(started)["status"] == "running"
    assert db.events(started)[-2]["payload"] == {"phase": "queued"}


def test_a_follow_up_that_was_given_up_goes_on_from_what_there_was(db):
    user_id, started = db.start()
    db.runs.finish(db.runs.claim(db.message(user_id, started)).run, finish_with_one_file())
    more = db.follow_up(user_id, started)
    given_up(db, db.message(user_id, more))

    run = db.runs.claim(db.runs.replay(more.run_id)).run

    assert (run.kind, run.prompt, run.base_commit) == ("follow_up", "more", "b" * 40)
    assert db.runs.saved_patch(run) == "patch"


def test_what_did_not_end_by_our_fault_or_has_been_asked_anew_is_not_replayed(db):
    user_id, completed = db.start()
    db.runs.finish(db.runs.claim(db.message(user_id, completed)).run, finish_with_one_file())
    user_id, retried = db.start()
    given_up(db, db.message(user_id, retried))
    db.retry(user_id, retried)
    _, queued = db.start()

    for run_id in (completed.run_id, retried.run_id, queued.run_id, str(uuid.uuid4())):
        assert db.runs.replay(run_id) is None


def test_overdue_runs_are_named_once_per_grace_period(own_db):
    user_id, started = own_db.start()
    assert own_db.runs.due(grace_s=60, limit=10) == []
    own_db.make_overdue(120)

    due = own_db.runs.due(grace_s=60, limit=10)

    assert [(m.run_id, m.seq, m.user_id, m.trace_id) for m in due] == [(started.run_id, 0, user_id, "trace-1")]
    assert own_db.runs.due(grace_s=60, limit=10) == []


def test_a_run_that_a_worker_holds_is_not_overdue(own_db):
    own_db.claimed()
    own_db.make_overdue(120)

    assert own_db.runs.due(grace_s=60, limit=10) == []


def test_sandboxes_of_runs_that_have_not_ended_are_needed(db):
    alive, dead = db.claimed(), db.claimed()
    db.runs.finish(dead, Finish(status=RunStatus.CANCELLED))
    sandboxes = {"a": alive.id, "b": dead.id, "c": str(uuid.uuid4()), "d": "no-uuid", "e": ""}

    assert db.runs.needed(sandboxes) == {"a"}
    assert db.runs.needed({}) == set()


def in_sandbox(db, sandbox_id, **kept):
    """A task whose first run has ended with a result, in this sandbox."""
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    reader_state = {"session_id": "s", "workdir": "/w"}
    changes = {"sandbox_id": sandbox_id, "agent_session_id": "s", "reader_state": reader_state}
    seq = db.runs.advance(run, Advance(changes=changes))
    run = db.runs.claim(db.message(user_id, started, seq)).run
    result = Result(
        commit_hash="c", diff="d", patch="p", changed_files=("f",), files=(), metadata={"base_commit": "b" * 40}
    )
    assert db.runs.finish(run, Finish(status=RunStatus.COMPLETED, result=result, **kept))
    return user_id, started


def next_run(db, user_id, started):
    return db.runs.claim(db.message(user_id, started)).run


def test_a_kept_sandbox_is_needed_until_its_time_is_over(db):
    sandbox_id = str(uuid.uuid4())
    _, started = in_sandbox(db, sandbox_id, keep_sandbox_s=600)
    assert db.runs.needed({sandbox_id: started.run_id}) == {sandbox_id}

    db.end_of_keeping(started)
    assert db.runs.needed({sandbox_id: started.run_id}) == set()


def test_a_follow_up_takes_over_sandbox_session_and_base(db):
    sandbox_id = str(uuid.uuid4())
    user_id, first = in_sandbox(db, sandbox_id, keep_sandbox_s=600)

    run = next_run(db, user_id, db.follow_up(user_id, first))

    assert (run.kind, run.prompt, run.base_commit) == ("follow_up", "more", "b" * 40)
    assert (run.sandbox_id, run.agent_session_id, run.reader_state["workdir"]) == (sandbox_id, "s", "/w")
    assert db.runs.needed({sandbox_id: first.run_id}) == {sandbox_id}
    assert db.runs.saved_patch(run) == "p"
    assert db.task(first)["chat_messages"][-1]["content"] == "more"
    db.runs.finish(run, Finish(status=RunStatus.FAILED))
    assert db.runs.needed({sandbox_id: first.run_id}) == set()


def test_a_follow_up_after_the_time_is_over_has_only_the_base(db):
    user_id, first = in_sandbox(db, str(uuid.uuid4()), keep_sandbox_s=600)
    db.end_of_keeping(first)

    run = next_run(db, user_id, db.follow_up(user_id, first))

    assert (run.sandbox_id, run.agent_session_id, run.reader_state) == (None, None, {})
    assert run.base_commit == "b" * 40


def test_a_retry_takes_over_the_sandbox_only_to_end_it(db):
    sandbox_id = str(uuid.uuid4())
    user_id, first = in_sandbox(db, sandbox_id, keep_sandbox_s=600)

    run = next_run(db, user_id, db.retry(user_id, first))

    assert (run.kind, run.prompt, run.sandbox_id) == ("retry", "make it so", sandbox_id)
    assert (run.agent_session_id, run.base_commit, run.reader_state) == (None, None, {})


def test_a_patch_that_was_too_large_is_told_from_none(db):
    run = db.claimed()
    assert db.runs.saved_patch(run) == ""

    result = Result(commit_hash="c", diff="d", patch=None, changed_files=("f",), files=(), metadata={})
    db.runs.finish(run, Finish(status=RunStatus.COMPLETED, result=result))
    assert db.runs.saved_patch(run) is None


def test_the_sealed_token_belongs_to_its_run_and_expires(own_db):
    run = own_db.claimed()
    assert own_db.runs.git_credential(run) == SEALED
    assert own_db.runs.git_credential(replace(run, user_id=str(uuid.uuid4()))) is None
    assert own_db.runs.expire_credentials() == 0

    own_db.make_credentials_expire()
    assert own_db.runs.expire_credentials() == 1
    assert own_db.runs.git_credential(run) is None


def test_the_preferences_of_the_runs_user_come_as_they_were_written(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    other = db.claimed()
    assert db.runs.environment(run).preferences == {}

    wanted = {"claudeCode": {"env": {"A": "ä\n", "B": 1.5, "C": True}, "credentials": None}, "theme": ["dark"]}
    db.set_preferences(user_id, wanted)

    assert db.runs.environment(run).preferences == wanted
    assert db.runs.environment(other).preferences == {}
    db.set_preferences(user_id, None)
    assert db.runs.environment(run).preferences == {}


def test_the_variables_of_the_runs_project_come_as_they_were_written(db):
    wanted = {"REGION": "eu", "COUNT": 3, "odd": [None]}
    user_id, started = db.start_in_project(env=wanted)
    run = db.runs.claim(db.message(user_id, started)).run

    assert db.runs.environment(run).project_env == wanted
    assert db.runs.environment(db.claimed()).project_env == {}


@pytest.mark.parametrize("wanted", [["db.example.org", 5], "example.org", {"a": 1}, None])
def test_the_hosts_of_the_runs_project_come_as_they_were_written(db, wanted):
    user_id, started = db.start_in_project(network=wanted)
    run = db.runs.claim(db.message(user_id, started)).run

    assert db.runs.environment(run).project_network == wanted
    assert db.runs.environment(db.claimed()).project_network is None


@pytest.mark.parametrize("value", ["[" * 3000 + "]" * 3000, "9" * 6000], ids=["brackets", "digits"])
def test_preferences_that_no_program_can_read_are_no_object_and_no_error(supabase_gateway, value):
    db = RealDatabase(supabase_gateway)
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    db.sql("update users set preferences = %s::jsonb where id = %s", f'{{"x": {value}}}', user_id)
    assert not isinstance(db.runs.environment(run).preferences, dict)


def test_a_cancelled_run_is_claimed_without_being_admitted(own_db):
    own_db.set_limits(running_in_all=1)
    own_db.claimed()
    user_id, started = own_db.start()
    own_db.cancel(user_id, started)

    run = own_db.runs.claim(own_db.message(user_id, started)).run

    assert (run.cancel_requested, run.phase, run.deadline_at) == (True, Phase.QUEUED, None)


def test_seizing_counts_no_attempt_and_changes_no_phase(db):
    user_id, started = db.start()

    run = db.runs.seize(started.run_id)

    assert (run.attempt, run.phase, run.seq) == (0, Phase.QUEUED, 0)
    assert db.runs.claim(db.message(user_id, started)).outcome is ClaimOutcome.BUSY


def test_a_busy_answer_says_when_the_lease_has_run_out(db):
    user_id, started = db.start()
    message = db.message(user_id, started)
    db.runs.claim(message)

    assert 55 <= db.runs.claim(message).retry_in_s <= 61


def test_a_held_run_has_no_overdue_step_whatever_the_message(db):
    user_id, started = db.start()
    first = db.message(user_id, started)
    seq = db.runs.advance(db.runs.claim(first).run, Advance())
    db.runs.claim(replace(first, seq=seq))

    assert db.runs.claim(first).outcome is ClaimOutcome.STALE
    assert db.runs.claim(replace(first, seq=99)).outcome is ClaimOutcome.STALE


def test_a_step_leaves_alone_what_it_does_not_name_and_can_clear_what_it_does(db):
    user_id, started = db.start()
    message = db.message(user_id, started)
    changes = {"sandbox_id": "sbx1", "error_code": "x", "exit_code": 3}
    db.runs.advance(db.runs.claim(message).run, Advance(phase=Phase.CLONING, changes=changes))

    second = db.runs.claim(replace(message, seq=1)).run
    assert (second.sandbox_id, second.error_code, second.exit_code) == ("sbx1", "x", 3)
    assert (second.status, second.fence) == (RunStatus.RUNNING, 2)

    db.runs.advance(second, Advance(changes={"error_code": None}))
    third = db.runs.claim(replace(message, seq=2)).run
    assert (third.phase, third.sandbox_id, third.error_code) == (Phase.CLONING, "sbx1", None)


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"], ids=["NUL", "half a pair"])
def test_texts_that_postgresql_cannot_store_are_refused_whole(db, text):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run

    with pytest.raises((InvalidInput, UnicodeEncodeError)):
        db.runs.advance(run, Advance(events=(Event("agent_message", {"text": text}),)))
    with pytest.raises((InvalidInput, UnicodeEncodeError)):
        db.runs.finish(run, Finish(status=RunStatus.COMPLETED, message=text))

    assert db.run(started)["seq"] == 0
    assert db.run(started)["status"] == "running"


def test_what_looks_like_an_escaped_nul_is_just_text(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run

    db.runs.advance(run, Advance(events=(Event("agent_message", {"text": r"\u0000"}),)))

    assert db.events(started)[-1]["payload"] == {"text": r"\u0000"}


def test_the_oldest_overdue_runs_come_first_and_no_more_than_asked_for(own_db):
    for _ in range(3):
        own_db.start()
    own_db.make_overdue(120)

    first = own_db.runs.due(grace_s=60, limit=2)
    rest = own_db.runs.due(grace_s=60, limit=2)

    assert (len(first), len(rest)) == (2, 1)
    assert len({message.run_id for message in first + rest}) == 3


def test_files_of_the_same_name_are_stored_once(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    end = finish_with_one_file()

    db.runs.finish(run, replace(end, result=replace(end.result, files=end.result.files * 2)))

    assert len(db.files(started)) == 1


def test_credentials_of_ended_runs_are_swept_up_when_their_end_left_them(own_db):
    user_id, started = own_db.start()
    run = own_db.runs.claim(own_db.message(user_id, started)).run
    own_db.runs.finish(run, Finish(status=RunStatus.FAILED))

    assert own_db.credentials(user_id) == []
    assert own_db.runs.expire_credentials() == 0


def test_the_deadline_is_counted_from_admission(db):
    user_id, started = db.start()

    run = db.run_store(run_timeout_s=100).claim(db.message(user_id, started)).run

    assert run.deadline_at - run.started_at == timedelta(seconds=100)


def test_a_run_may_take_as_long_as_its_user_wants_and_so_may_the_tasks_next_one(own_db):
    store = own_db.run_store(run_timeout_s=100)
    user_id, started = own_db.start(max_duration_s=7200)
    run = store.claim(own_db.message(user_id, started)).run
    store.finish(run, Finish(status=RunStatus.FAILED))
    again = own_db.retry(user_id, started)

    assert run.deadline_at - run.started_at == timedelta(seconds=7200)
    own_db.set_limits(max_duration_s=3600)  # lowered meanwhile
    run = store.claim(own_db.message(user_id, again)).run
    assert run.deadline_at - run.started_at == timedelta(seconds=3600)


def test_the_limit_of_a_runs_cost_is_that_of_the_tasks_next_run_too(db):
    user_id, started = db.start(max_cost_usd=0.25)
    run = db.runs.claim(db.message(user_id, started)).run
    db.runs.finish(run, Finish(status=RunStatus.FAILED))
    again = db.retry(user_id, started)

    assert run.max_cost_usd == 0.25
    assert db.runs.claim(db.message(user_id, again)).run.max_cost_usd == 0.25
    assert db.claimed().max_cost_usd is None
