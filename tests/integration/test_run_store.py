"""The run functions of the database, through the real gateway and adapters; the fake passes the same suite."""

import uuid
from dataclasses import replace

import jwt
import psycopg
import pytest

from shared.adapters.postgrest_client import postgrest_client
from shared.adapters.run_store import SupabaseRunStore
from shared.adapters.task_store import SupabaseTaskStore
from shared.domain.errors import Conflict, Forbidden, IllegalTransition, NotFound, TooMany
from shared.domain.messages import RunMessage
from shared.domain.ports import ClaimOutcome, NewTask
from shared.domain.run import Advance, AgentName, Event, Finish, Phase, Result, RunStatus
from shared.domain.secret import Sealed, Secret
from shared.domain.task import NEXT, TaskStatus

SEALED = Sealed(ciphertext="c2VhbGVk", key_id="local:v1", alg="AES-256-GCM")


class Database:
    """Two ways in: as a user through the API's store, as the executor through the run store."""

    def __init__(self, gateway):
        self.gateway = gateway
        self.runs = self.run_store()

    def run_store(self, *, lease_s=60, run_timeout_s=600):
        client = postgrest_client(self.gateway.url, api_key=Secret(self.gateway.secret_key))
        return SupabaseRunStore(client, lease_s=lease_s, run_timeout_s=run_timeout_s)

    def sql(self, statement, *values):
        with psycopg.connect(self.gateway.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def new_user(self):
        user_id = str(uuid.uuid4())
        self.sql("insert into auth.users (id, email) values (%s, %s)", user_id, f"{user_id}@example.test")
        return user_id

    def client_of(self, user_id):
        claims = {"sub": user_id, "role": "authenticated", "aud": "authenticated", "exp": 4102444800}
        token = jwt.encode(claims, self.gateway.jwt_secret, "HS256")
        return postgrest_client(self.gateway.url, api_key=Secret(self.gateway.publishable_key), bearer=Secret(token))

    def start(self, user_id=None, **changes):
        user_id = user_id or self.new_user()
        task = NewTask(
            prompt="make it so",
            repo_url="https://github.com/o/r",
            branch="main",
            agent=AgentName.CLAUDE,
            project_id=None,
            credential_id=str(uuid.uuid4()),
            credential=SEALED,
            credential_hint="wxyz",
            idempotency_key=None,
            trace_id="trace-1",
        )
        started = SupabaseTaskStore(self.client_of(user_id)).create(replace(task, **changes))
        return user_id, started

    def message(self, user_id, started, seq=None):
        return RunMessage(
            task_id=started.task_id,
            run_id=started.run_id,
            seq=started.seq if seq is None else seq,
            user_id=user_id,
        )

    def claimed(self, **changes):
        user_id, started = self.start(**changes)
        return self.runs.claim(self.message(user_id, started)).run


@pytest.fixture
def db(supabase_gateway):
    return Database(supabase_gateway)


@pytest.fixture
def own_db(fresh_database, make_gateway):
    """A database nobody else counts runs in."""
    return Database(make_gateway(fresh_database()))


def test_a_started_task_is_pending_with_its_prompt_as_first_message(db):
    user_id, started = db.start(prompt="do the thing")

    task = SupabaseTaskStore(db.client_of(user_id)).get(started.task_id, owner_id=user_id)

    assert task["status"] == "pending"
    assert [(m["role"], m["content"]) for m in task["chat_messages"]] == [("user", "do the thing")]
    assert task["chat_messages"][0]["timestamp"].endswith("+00:00")


def test_the_same_idempotency_key_gives_the_same_task(db):
    user_id, first = db.start(idempotency_key="key-1")
    _, again = db.start(user_id, idempotency_key="key-1")
    _, of_another = db.start(idempotency_key="key-1")

    assert (again.task_id, again.run_id, again.created) == (first.task_id, first.run_id, False)
    assert of_another.task_id != first.task_id


def test_a_foreign_project_is_not_found(db):
    owner = db.new_user()
    [(project,)] = db.sql(
        "insert into projects (user_id, repo_url, repo_name, repo_owner, name) "
        "values (%s, 'u', 'r', 'o', 'n') returning id",
        owner,
    )

    db.start(owner, project_id=project)
    with pytest.raises(NotFound, match="Project not found"):
        db.start(project_id=project)


def test_a_user_cannot_have_more_active_runs_than_the_limit(own_db):
    own_db.sql("update run_limits set active_per_user = 2")
    user_id, _ = own_db.start()
    own_db.start(user_id)

    with pytest.raises(TooMany):
        own_db.start(user_id)
    own_db.start()  # another user still may


@pytest.mark.parametrize(
    "statement",
    [
        "update tasks set status = 'completed'",
        "insert into tasks (user_id, prompt) values (auth.uid(), 'x')",
        "delete from tasks",
        "update users set is_test_user = true",
        "select github_token from users",
        "select * from user_credentials",
        "update runs set status = 'completed'",
        "insert into task_events (task_id, seq, run_id, kind) select task_id, 99, id, 'x' from runs",
        "select claim_run(gen_random_uuid(), 0, 1, 1)",
        "select finish_run(gen_random_uuid(), 0, 'completed')",
        "select expire_credentials()",
        "select insert_run(1, 'first', 'p', 'claude', null, null, null, null)",
        "update run_limits set active_per_user = 9999",
    ],
)
def test_a_user_cannot_write_around_the_functions(db, statement):
    user_id, _ = db.start()
    claims = f'{{"sub":"{user_id}","role":"authenticated"}}'
    with psycopg.connect(db.gateway.dsn) as connection:
        connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
        connection.execute("set local role authenticated")
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.UndefinedColumn)) as refused:
            connection.execute(statement)
    assert "prompt" in str(refused.value) or isinstance(refused.value, psycopg.errors.InsufficientPrivilege)


def test_another_users_task_run_events_and_files_are_invisible(db):
    user_id, started = db.start()
    run = db.runs.claim(db.message(user_id, started)).run
    db.runs.finish(run, finish_with_one_file())
    mine, theirs = db.client_of(user_id), db.client_of(db.new_user())

    for table, column in (("tasks", "id"), ("runs", "task_id"), ("task_events", "task_id"), ("task_files", "task_id")):
        assert mine.table(table).select("*").eq(column, started.task_id).execute().data, table
        assert theirs.table(table).select("*").eq(column, started.task_id).execute().data == [], table


def test_claiming_admits_the_run_and_starts_the_task(db):
    user_id, started = db.start()

    claim = db.runs.claim(db.message(user_id, started))

    assert claim.outcome is ClaimOutcome.CLAIMED
    assert (claim.run.phase, claim.run.status) == (Phase.PROVISIONING, RunStatus.RUNNING)
    assert claim.run.repo_url == "https://github.com/o/r"
    assert claim.run.deadline_at > claim.run.started_at
    [(status, started_at)] = db.sql("select status, started_at from tasks where id = %s", started.task_id)
    assert status == "running"
    assert started_at is not None


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
    own_db.sql("update run_limits set running_per_user = 1, running_in_all = 2")
    user_id, first = own_db.start()
    _, second = own_db.start(user_id)
    other, third = own_db.start()
    last, fourth = own_db.start()
    running = own_db.runs.claim(own_db.message(user_id, first)).run

    waiting = own_db.runs.claim(own_db.message(user_id, second))
    assert waiting.outcome is ClaimOutcome.WAITING
    assert 2 <= waiting.retry_in_s <= 30
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
    store = SupabaseTaskStore(db.client_of(user_id))
    events = store.events(started.task_id, after=0, limit=100, owner_id=user_id).events
    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    assert [e["kind"] for e in events] == ["phase", "phase", "phase", "agent_message"]
    assert store.events(started.task_id, after=3, limit=100, owner_id=user_id).events == events[3:]
    assert store.get(started.task_id, owner_id=user_id)["container_id"] == "sbx1"


def test_a_step_cannot_jump_over_phases(db):
    run = db.claimed()

    with pytest.raises(IllegalTransition):
        db.runs.advance(run, Advance(phase=Phase.COLLECTING))


def finish_with_one_file():
    file = {"path": "a.txt", "status": "added", "mode": "100644", "before": None, "after": "é\n", "size": 3}
    return Finish(
        status=RunStatus.COMPLETED,
        message="Done.",
        usage={"input_tokens": 5},
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

    task = SupabaseTaskStore(db.client_of(user_id)).get(started.task_id, owner_id=user_id)
    assert (task["status"], task["git_diff"], task["git_patch"]) == ("completed", "diff", "patch")
    assert (task["has_patch"], task["changed_files"], task["error"]) == (True, ["a.txt"], None)
    assert task["chat_messages"][-1]["content"] == "Done."
    assert task["execution_metadata"]["base_commit"] == "b" * 40
    assert task["completed_at"] is not None
    assert db.sql("select path, after from task_files where task_id = %s", started.task_id) == [("a.txt", "é\n")]
    assert db.sql("select 1 from user_credentials where user_id = %s", user_id) == []


def test_a_failed_end_keeps_what_an_earlier_run_produced(db):
    user_id, started = db.start()
    db.runs.finish(db.runs.claim(db.message(user_id, started)).run, finish_with_one_file())
    again = db.client_of(user_id).rpc("create_run", {"p_task_id": started.task_id, "p_kind": "retry"}).execute().data
    message = RunMessage(task_id=started.task_id, run_id=again["run_id"], seq=again["seq"], user_id=user_id)

    db.runs.finish(db.runs.claim(message).run, Finish(status=RunStatus.FAILED, error="boom", error_code="x"))

    task = SupabaseTaskStore(db.client_of(user_id)).get(started.task_id, owner_id=user_id)
    assert (task["status"], task["error"], task["git_diff"]) == ("failed", "boom", "diff")


def test_overdue_runs_are_named_once_per_grace_period(own_db):
    user_id, started = own_db.start()
    assert own_db.runs.due(grace_s=60, limit=10) == []
    own_db.sql("update runs set next_check_at = now() - interval '2 minutes'")

    due = own_db.runs.due(grace_s=60, limit=10)

    assert [(m.run_id, m.seq, m.user_id, m.trace_id) for m in due] == [(started.run_id, 0, user_id, "trace-1")]
    assert own_db.runs.due(grace_s=60, limit=10) == []


def test_a_run_that_a_worker_holds_is_not_overdue(own_db):
    own_db.claimed()
    own_db.sql("update runs set next_check_at = now() - interval '2 minutes'")

    assert own_db.runs.due(grace_s=60, limit=10) == []


def test_only_runs_that_have_not_ended_are_live(db):
    alive, dead = db.claimed(), db.claimed()
    db.runs.finish(dead, Finish(status=RunStatus.CANCELLED))

    assert db.runs.live({alive.id, dead.id, str(uuid.uuid4())}) == {alive.id}
    assert db.runs.live(set()) == set()


def test_the_sealed_token_belongs_to_its_run_and_expires(own_db):
    run = own_db.claimed()
    assert own_db.runs.git_credential(run) == SEALED
    assert own_db.runs.git_credential(replace(run, user_id=str(uuid.uuid4()))) is None
    assert own_db.runs.expire_credentials() == 0

    own_db.sql("update user_credentials set expires_at = now() - interval '1 second'")
    assert own_db.runs.expire_credentials() == 1
    assert own_db.runs.git_credential(run) is None


def test_cancelling_marks_the_run_once_and_only_for_its_owner(db):
    user_id, started = db.start()
    cancel = {"p_task_id": started.task_id}

    db.client_of(user_id).rpc("request_cancel", cancel).execute()
    run = db.runs.claim(db.message(user_id, started)).run

    assert run.cancel_requested
    assert run.phase is Phase.QUEUED
    with pytest.raises(Exception, match="task_not_found"):
        db.client_of(db.new_user()).rpc("request_cancel", cancel).execute()
    db.runs.finish(run, Finish(status=RunStatus.CANCELLED))
    with pytest.raises(Exception, match="task_ended"):
        db.client_of(user_id).rpc("request_cancel", cancel).execute()


def test_two_messages_at_once_both_stay_in_the_chat(db):
    user_id, started = db.start()
    client = db.client_of(user_id)
    for text in ("one", "two"):
        client.rpc("append_chat_message", {"p_task_id": started.task_id, "p_role": "user", "p_content": text}).execute()

    task = SupabaseTaskStore(client).get(started.task_id, owner_id=user_id)
    assert [m["content"] for m in task["chat_messages"]] == ["make it so", "one", "two"]


def test_a_task_has_one_active_run(db):
    user_id, started = db.start()

    with pytest.raises(Exception, match="run_active"):
        db.client_of(user_id).rpc("create_run", {"p_task_id": started.task_id, "p_kind": "retry"}).execute()


def test_the_databases_statuses_are_the_domains(db):
    [(tasks,), (runs,)] = db.sql(
        "select array_agg(e.enumlabel::text) from pg_enum e join pg_type t on t.oid = e.enumtypid "
        "where t.typname in ('task_status', 'run_status') group by t.typname order by t.typname desc"
    )
    assert set(tasks) == set(TaskStatus) == set(NEXT)
    assert set(runs) == set(RunStatus)
    [(check,)] = db.sql("select pg_get_constraintdef(oid) from pg_constraint where conname = 'runs_phase_check'")
    assert all(f"'{phase}'" in check for phase in Phase)


def test_an_exposed_anon_key_reads_and_writes_nothing(db):
    anon = postgrest_client(db.gateway.url, api_key=Secret(db.gateway.publishable_key))
    for table in ("users", "projects", "tasks", "runs", "task_events", "task_files", "user_credentials"):
        with pytest.raises((Forbidden, Conflict, Exception), match="permission denied"):
            anon.table(table).select("*").execute()
