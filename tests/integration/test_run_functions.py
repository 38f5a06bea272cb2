"""What the database itself enforces: rights, ownership, limits and the user's functions, through the real gateway."""

import psycopg
import pytest

from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.domain.errors import Conflict, Forbidden, NotFound, RunFailed
from shared.domain.run import Finish, Phase, RunStatus
from shared.domain.secret import Secret
from shared.domain.task import NEXT, TaskStatus
from tests.fakes.new_task import OPTIONS, option_values
from tests.integration.run_databases import RealDatabase


@pytest.fixture
def db(supabase_gateway):
    return RealDatabase(supabase_gateway)


def test_a_started_task_is_pending_with_its_prompt_as_first_message(db):
    user_id, started = db.start(prompt="do the thing")

    task = SupabaseTaskStore(db.client_of(user_id)).get(started.task_id, owner_id=user_id)

    assert task["status"] == "pending"
    assert [(m["role"], m["content"]) for m in task["chat_messages"]] == [("user", "do the thing")]
    assert task["chat_messages"][0]["timestamp"].endswith("+00:00")


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_an_option_of_a_new_task_is_kept_in_its_row_or_its_runs(db, name):
    user_id, value = db.new_user(), option_values(name)[0]
    if name == "project_id":
        [(value,)] = db.sql(
            "insert into projects (user_id, repo_url, repo_name, repo_owner, name) "
            "values (%s, 'u', 'r', 'o', 'n') returning id",
            user_id,
        )
    _, started = db.start(user_id, **{name: value})

    [(row,)] = db.sql(
        "select to_jsonb(r) || to_jsonb(t) from tasks t join runs r on r.task_id = t.id where t.id = %s",
        started.task_id,
    )
    assert row[name] == value


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


@pytest.mark.parametrize(
    "statement",
    [
        "update tasks set status = 'completed'",
        "insert into tasks (user_id, prompt) values (auth.uid(), 'x')",
        "delete from tasks",
        "update users set is_test_user = true",
        "update users set github_token = 'x'",
        "select key_hash from api_keys",
        "select * from user_credentials",
        "update runs set status = 'completed'",
        "insert into task_events (task_id, seq, run_id, kind) select task_id, 99, id, 'x' from runs",
        "select claim_run(gen_random_uuid(), 0, 1, 1)",
        "select finish_run(gen_random_uuid(), 0, 'completed')",
        "select expire_credentials()",
        "select save_checkpoint(gen_random_uuid(), 0, '{}', '[]')",
        "select end_stuck(0, 'x', 'x', 'x')",
        "select replay_run(gen_random_uuid())",
        "select runs_without_sandbox('{}', 0)",
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
    db.runs.finish(run, Finish(status=RunStatus.COMPLETED))
    file = "insert into task_files (run_id, task_id, path, status) values (%s, %s, 'a.txt', 'added')"
    db.sql(file, run.id, run.task_id)
    mine, theirs = db.client_of(user_id), db.client_of(db.new_user())

    for table, column in (("tasks", "id"), ("runs", "task_id"), ("task_events", "task_id"), ("task_files", "task_id")):
        assert mine.table(table).select("*").eq(column, started.task_id).execute().data, table
        assert theirs.table(table).select("*").eq(column, started.task_id).execute().data == [], table


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


def test_an_active_task_of_the_old_backend_that_nobody_works_on_is_ended(fresh_database, make_gateway):
    db = RealDatabase(make_gateway(fresh_database()))
    user_id, started = db.start()
    insert = (
        "insert into tasks (user_id, repo_url, target_branch, agent, status) values (%s, 'u', 'main', 'claude', %s)"
    )
    for status in ("pending", "running", "completed"):
        db.sql(insert, user_id, status)
    waited = RunFailed("Too long.", error_code="queue_timeout")

    assert db.runs.end_stuck(waited_s=3600, waited=waited, orphaned="Nobody works on it.") == 0
    db.sql("alter table tasks disable trigger user")
    db.sql("update tasks set updated_at = now() - interval '2 hours'")
    db.sql("alter table tasks enable trigger user")
    assert db.runs.end_stuck(waited_s=3600, waited=waited, orphaned="Nobody works on it.") == 2

    ended = db.sql("select status::text, error from tasks where id <> %s order by id", started.task_id)
    assert ended == [("failed", "Nobody works on it."), ("failed", "Nobody works on it."), ("completed", None)]
    assert db.task(started)["status"] == "pending"


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
