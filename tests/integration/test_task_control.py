"""Cancel, retry, follow-up and progress, as the database decides them: through the API's own store."""

import pytest

from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.domain.errors import Conflict, NotFound
from shared.domain.ports import NewRun
from shared.domain.run import Finish, RunKind, RunStatus
from tests.integration.run_databases import RealDatabase


@pytest.fixture
def db(supabase_gateway):
    return RealDatabase(supabase_gateway)


@pytest.fixture
def own_db(fresh_database, make_gateway):
    """A database in which nobody else queues."""
    return RealDatabase(make_gateway(fresh_database()))


def store_of(db, user_id):
    return SupabaseTaskStore(db.client_of(user_id))


def ended(db, **changes):
    user_id, started = db.start(**changes)
    db.runs.finish(db.runs.claim(db.message(user_id, started)).run, Finish(status=RunStatus.FAILED, error="x"))
    return user_id, started


def again(started, kind=RunKind.RETRY, **changes):
    asked = {"prompt": "more" if kind is RunKind.FOLLOW_UP else None, "token": None, "idempotency_key": None}
    return NewRun(task_id=started.task_id, kind=kind, trace_id="t", **asked | changes)


def refused(do, *arguments):
    with pytest.raises((Conflict, NotFound)) as error:
        do(*arguments)
    return error.value.code


@pytest.mark.parametrize("kind", [RunKind.RETRY, RunKind.FOLLOW_UP])
def test_an_ended_task_is_queued_again_and_only_once_at_a_time(db, kind):
    user_id, first = ended(db)
    tasks = store_of(db, user_id)

    run = tasks.create_run(again(first, kind))

    assert (run.task_id, run.seq, run.created) == (first.task_id, 0, True)
    task = db.task(first)
    assert (task["status"], task["error"], task["completed_at"]) == ("pending", None, None)
    assert refused(tasks.create_run, again(first, kind)) == "run_active"
    assert refused(store_of(db, db.new_user()).create_run, again(first, kind)) == "not_found"


def test_a_repeated_key_gives_the_same_run_and_another_request_under_it_is_refused(db):
    user_id, first = ended(db, idempotency_key="start", request_hash="a")
    tasks = store_of(db, user_id)

    run = tasks.create_run(again(first, idempotency_key="k", request_hash="h"))

    repeated = tasks.create_run(again(first, idempotency_key="k", request_hash="h"))
    assert (repeated.run_id, repeated.created) == (run.run_id, False)
    assert refused(tasks.create_run, again(first, idempotency_key="k", request_hash="i")) == "idempotency_key_reused"
    assert (
        refused(tasks.create_run, again(first, idempotency_key="start", request_hash="h")) == "idempotency_key_reused"
    )


def test_a_task_from_elsewhere_can_be_gone_on_with_but_has_nothing_to_retry(db):
    user_id = db.new_user()
    columns = "user_id, repo_url, target_branch, agent, status"
    statement = f"insert into tasks ({columns}) values (%s, 'https://github.com/o/r', 'main', 'claude', 'failed')"
    [(task_id,)] = db.sql(f"{statement} returning id", user_id)
    _, somebody = db.start(user_id)
    legacy = type(somebody)(task_id=task_id, run_id="", seq=0, created=True)

    assert refused(store_of(db, user_id).create_run, again(legacy)) == "nothing_to_retry"
    assert store_of(db, user_id).create_run(again(legacy, RunKind.FOLLOW_UP)).created


def test_cancelling_names_the_step_and_whether_somebody_takes_it_now(db):
    user_id, started = db.start()
    tasks = store_of(db, user_id)
    waiting = tasks.request_cancel(started.task_id)
    run = db.runs.claim(db.message(user_id, started)).run
    held = tasks.request_cancel(started.task_id)

    assert (waiting.run_id, waiting.seq, waiting.at_work) == (started.run_id, 0, False)
    assert (held.seq, held.at_work) == (0, True)
    db.runs.finish(run, Finish(status=RunStatus.CANCELLED))
    assert refused(tasks.request_cancel, started.task_id) == "task_ended"
    assert refused(store_of(db, db.new_user()).request_cancel, started.task_id) == "not_found"


def test_progress_tells_phase_and_place_among_users_who_take_turns(own_db):
    users = [own_db.new_user() for _ in range(2)]
    first, second = (own_db.start(users[0])[1] for _ in range(2))
    others = own_db.start(users[1])[1]

    def progress(user_id, started):
        found = store_of(own_db, user_id).run_progress(started.task_id)
        assert found["run_id"] == started.run_id
        return found["phase"], found["queue_position"]

    assert [progress(users[0], run) for run in (first, second)] == [("queued", 0), ("queued", 2)]
    assert progress(users[1], others) == ("queued", 1)
    run = own_db.runs.claim(own_db.message(users[0], first)).run
    assert progress(users[0], first) == ("provisioning", None)
    own_db.runs.finish(run, Finish(status=RunStatus.COMPLETED))
    assert progress(users[0], first) == (None, None)
    nobodys = {"run_id": None, "phase": None, "queue_position": None}
    assert store_of(own_db, users[1]).run_progress(first.task_id) == nobodys
