"""One suite for the task store: the real one on PostgreSQL, and the fake of the unit tests."""

import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import jwt
import psycopg
import pytest
from psycopg.types.json import Jsonb

from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.domain.agents import AgentName
from shared.domain.errors import Conflict, InvalidInput, NotFound, TooMany
from shared.domain.ports import TaskFilter
from shared.domain.secret import Secret
from shared.domain.task import TaskStatus
from shared.domain.usage import totals
from tests.fakes.new_task import new_task
from tests.fakes.task_store import FakeDatabase
from tests.sql_files import columns_of

NOON = datetime(2026, 11, 23, 12, 0, 0, 240582, tzinfo=UTC)


class FakeWorld:
    def __init__(self):
        self.database = FakeDatabase()
        self.store_of = self.database.store_of
        self.add_project, self.add_task = self.database.add_project, self.database.add_task

    def new_user(self):
        return str(uuid.uuid4())

    def add_events(self, task_id, count):
        for number in range(count):
            self.database.add_event(task_id, "note", {"number": number})

    def set_limits(self, **limits):
        for name, limit in limits.items():
            setattr(self.database, name, limit)

    def let_time_pass(self, **duration):
        self.database.starts = [(who, at - timedelta(**duration)) for who, at in self.database.starts]

    def end_all_tasks(self):
        for task in self.database.tasks.values():
            task["status"] = "completed"


class RealWorld:
    def __init__(self, gateway):
        self._gateway = gateway

    def _sql(self, statement, *values):
        with psycopg.connect(self._gateway.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchone()[0] if cursor.description else None

    def _client_of(self, user_id):
        claims = {"sub": user_id, "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 600}
        token = Secret(jwt.encode(claims, self._gateway.jwt_secret, "HS256"))
        return postgrest_client(self._gateway.url, api_key=Secret(self._gateway.publishable_key), bearer=token)

    def store_of(self, user_id):
        return SupabaseTaskStore(self._client_of(user_id))

    def new_user(self):
        email = f"{uuid.uuid4()}@example.test"
        return str(self._sql("insert into auth.users (id, email) values (gen_random_uuid(), %s) returning id", email))

    def add_project(self, user_id):
        return self._sql(
            "insert into projects (user_id, repo_url, repo_owner, repo_name, name)"
            " values (%s, 'https://github.com/o/r', 'o', 'r', 'R') returning id",
            user_id,
        )

    def add_task(self, user_id, **columns):
        row = {"user_id": user_id} | {k: Jsonb(v) if isinstance(v, list | dict) else v for k, v in columns.items()}
        marks = ", ".join(["%s"] * len(row))
        return self._sql(f"insert into tasks ({', '.join(row)}) values ({marks}) returning id", *row.values())

    def add_events(self, task_id, count):
        run_id = self._sql(
            "insert into runs (task_id, user_id, prompt, agent, status)"
            " select id, user_id, 'p', 'claude', 'completed' from tasks where id = %s returning id",
            task_id,
        )
        for number in range(count):
            event = Jsonb([{"kind": "note", "payload": {"number": number}}])
            self._sql("select append_events(%s, %s, %s)", task_id, run_id, event)

    def set_limits(self, **limits):
        for name, limit in limits.items():
            self._sql(f"update run_limits set {name} = %s", limit)

    def let_time_pass(self, **duration):
        self._sql("update run_starts set at = at - %s", timedelta(**duration))

    def end_all_tasks(self):
        self._sql("update runs set status = 'completed'")


@pytest.fixture(params=["fake", "real"])
def world(request):
    if request.param == "fake":
        return FakeWorld()
    return RealWorld(request.getfixturevalue("supabase_gateway"))


@pytest.fixture(params=["fake", "real"])
def own_world(request):
    """One that nobody else counts runs in."""
    if request.param == "fake":
        return FakeWorld()
    dsn = request.getfixturevalue("fresh_database")()
    return RealWorld(request.getfixturevalue("make_gateway")(dsn))


@pytest.fixture
def user(world):
    return world.new_user()


def test_a_new_task_is_a_pending_row_with_its_prompt_and_a_queued_run(world, user):
    store = world.store_of(user)
    run = store.create(new_task(agent=AgentName.CODEX, project_id=world.add_project(user)))
    task, log = store.get(run.task_id, owner_id=user), store.events(run.task_id, after=0, limit=9, owner_id=user)

    assert (task["status"], task["agent"], task["target_branch"]) == ("pending", "codex", "main")
    assert [(m["role"], m["content"]) for m in task["chat_messages"]] == [("user", "make it so")]
    assert (run.seq, run.created, log.task_status) == (0, True, "pending")
    assert [(event["seq"], event["kind"], event["payload"]) for event in log.events] == [
        (1, "phase", {"phase": "queued"})
    ]


def test_a_repeated_key_finds_the_first_task_but_only_the_same_users(world, user):
    first = world.store_of(user).create(new_task(idempotency_key="k", request_hash="a"))
    again = world.store_of(user).create(new_task(idempotency_key="k", request_hash="a"))
    other = world.store_of(world.new_user()).create(new_task(idempotency_key="k", request_hash="b"))

    assert again == replace(first, created=False)
    assert other.created


def test_something_else_under_the_same_key_is_refused_and_stores_nothing(world, user):
    store = world.store_of(user)
    store.create(new_task(idempotency_key="k", request_hash="a"))

    with pytest.raises(Conflict) as refused:
        store.create(new_task(idempotency_key="k", request_hash="b"))
    assert refused.value.code == "idempotency_key_reused"
    assert listed(store, user).total == 1


def test_a_foreign_or_unknown_project_is_not_found(world, user):
    for project_id in (world.add_project(world.new_user()), 987654321):
        with pytest.raises(NotFound, match="Project not found"):
            world.store_of(user).create(new_task(project_id=project_id))
    assert listed(world.store_of(user), user).total == 0


def test_a_user_has_so_many_active_runs_and_no_more(own_world):
    own_world.set_limits(active_per_user=2)
    user = own_world.new_user()
    store = own_world.store_of(user)
    for _ in range(2):
        store.create(new_task())

    with pytest.raises(TooMany) as refused:
        store.create(new_task())
    assert (refused.value.code, refused.value.shown) == ("too_many_active_runs", {"limit": 2, "current": 2})
    assert refused.value.retry_after_s == 30
    assert listed(store, user).total == 2
    assert own_world.store_of(own_world.new_user()).create(new_task()).created


def test_a_task_takes_no_longer_than_the_operator_allows(own_world):
    own_world.set_limits(max_duration_s=3600)
    user = own_world.new_user()
    store = own_world.store_of(user)

    with pytest.raises(InvalidInput) as refused:
        store.create(new_task(max_duration_s=3601))
    assert (refused.value.code, refused.value.shown) == ("max_duration_too_long", {"limit": 3600})
    assert listed(store, user).total == 0
    assert store.create(new_task(max_duration_s=3600)).created


def test_a_user_starts_so_many_runs_within_an_hour_and_no_more(own_world):
    own_world.set_limits(started_per_hour=2)
    user = own_world.new_user()
    store = own_world.store_of(user)
    for _ in range(2):
        store.create(new_task())
        own_world.end_all_tasks()
        own_world.let_time_pass(minutes=25)

    with pytest.raises(TooMany) as refused:
        store.create(new_task())
    assert (refused.value.code, refused.value.shown) == ("too_many_starts", {"limit": 2, "current": 2})
    assert 590 <= refused.value.retry_after_s <= 600  # the older one was 50 minutes ago
    assert listed(store, user).total == 2
    assert own_world.store_of(own_world.new_user()).create(new_task()).created

    own_world.let_time_pass(minutes=10)
    assert store.create(new_task()).created
    with pytest.raises(TooMany):
        store.create(new_task())


def test_a_repeated_request_is_no_start_and_knows_no_limit(own_world):
    own_world.set_limits(active_per_user=1, started_per_hour=1)
    user = own_world.new_user()
    store = own_world.store_of(user)
    first = store.create(new_task(idempotency_key="k"))

    assert store.create(new_task(idempotency_key="k")) == replace(first, created=False)


def listed(store, user, *, limit=1000, after=None, **wanted):
    return store.page(TaskFilter(**wanted), limit=limit, after=after, owner_id=user)


def ids_of(page):
    return [row["id"] for row in page.rows]


def said(*contents):
    return [{"role": "user", "content": content, "timestamp": NOON.isoformat()} for content in contents]


def test_a_listed_row_has_all_columns_and_those_that_are_heavy_are_empty(world, user):
    heavy = {"git_patch": "p", "git_diff": "d", "execution_metadata": {"file_changes": []}}
    project = world.add_project(user)
    task_id = world.add_task(user, project_id=project, chat_messages=said("x"), changed_files=["a"], **heavy)
    store = world.store_of(user)

    row, [shown] = store.get(task_id, owner_id=user), listed(store, user).rows

    assert row.pop("usage") == totals([])
    assert row.keys() == set(columns_of("tasks"))
    assert row | {"git_diff": None, "git_patch": None, "execution_metadata": {}} == shown
    assert shown["has_patch"] is True
    assert store.get_columns(task_id, ["id", "git_diff"], owner_id=user) == {"id": task_id, "git_diff": "d"}


def test_pages_end_to_end_are_all_tasks_once_and_newest_first(world, user):
    moments = [
        NOON,
        NOON + timedelta(microseconds=1),
        NOON,
        NOON - timedelta(microseconds=1),
        NOON.replace(microsecond=0),
    ]
    added = [(moment, world.add_task(user, created_at=moment.isoformat())) for moment in moments]
    world.add_task(world.new_user())
    expected = [task_id for _, task_id in sorted(added, reverse=True)]
    store = world.store_of(user)

    for limit in (1, 2, 4, 5, 6):
        page = listed(store, user, limit=limit)
        seen, sizes = ids_of(page), [len(page.rows)]
        while page.more:
            page = listed(store, user, limit=limit, after=page.rows[-1])
            seen, sizes = seen + ids_of(page), [*sizes, len(page.rows)]
            assert page.total == 5
        assert seen == expected
        assert sizes == [limit] * (5 // limit) + [5 % limit] * (5 % limit > 0)


def test_a_list_can_be_of_one_project_and_of_one_status(world, user):
    project = world.add_project(user)
    marks = [(project, "failed"), (None, "failed"), (project, "running"), (project, "failed")]
    ids = [world.add_task(user, project_id=where, status=status) for where, status in marks]
    store = world.store_of(user)

    of_project, failed = listed(store, user, project_id=project), listed(store, user, status=TaskStatus.FAILED)
    both = listed(store, user, project_id=project, status=TaskStatus.FAILED, limit=1)

    assert (ids_of(of_project), of_project.total) == ([ids[3], ids[2], ids[0]], 3)
    assert (ids_of(failed), failed.total) == ([ids[3], ids[1], ids[0]], 3)
    assert (ids_of(both), both.total, both.more) == ([ids[3]], 2, True)
    for nowhere in (987654321, -1, 2**63, -(2**70)):
        assert listed(store, user, project_id=nowhere).total == 0
    stranger = world.new_user()
    assert listed(world.store_of(stranger), stranger, project_id=project).total == 0


def test_a_search_looks_into_all_prompts_in_any_case_and_nowhere_else(world, user):
    answer = {"role": "assistant", "content": "a tale of tests", "timestamp": NOON.isoformat()}
    found = world.add_task(user, chat_messages=[*said("Fix the 100% wrong TOTAL_ü\\"), answer, *said('say "when"')])
    world.add_task(user, chat_messages=[answer, *said("100 totals")])
    world.add_task(user, chat_messages=None)
    world.add_task(world.new_user(), chat_messages=said("100% wrong"))
    store = world.store_of(user)

    for text in ("100%", "total_ü", "TOTAL_Ü", "ü\\", '"When"'):
        page = listed(store, user, search=text)
        assert (ids_of(page), page.total) == ([found], 1), text
    for text in ("tale", "t_tal", ".", "%%", "user", "timestamp"):
        assert listed(store, user, search=text).total == 0, text


def test_a_page_has_no_more_than_six_megabytes_but_at_least_one_task(world, user):
    texts = ["世" * 100_000, *["世" * 1000] * 3]
    ids = [world.add_task(user, chat_messages=said(*[text] * 19)) for text in texts]
    enormous = world.add_task(user, chat_messages=said(*["世" * 100_000] * 21))
    store = world.store_of(user)

    first = listed(store, user)
    second = listed(store, user, after=first.rows[-1])

    assert (ids_of(first), first.more, first.total) == ([enormous], True, 5)
    assert (ids_of(second), second.more) == (ids[::-1], False)


def test_nobody_elses_tasks_are_listed_whoever_is_named(world, user):
    stranger = world.new_user()
    world.add_task(stranger)

    assert listed(world.store_of(user), stranger).rows == []


def test_messages_are_appended_with_the_time_they_came(world, user):
    store, task_id = world.store_of(user), world.add_task(user, chat_messages=None)
    store.append_chat_message(task_id, "user", "hello \u2028 世界")
    store.append_chat_message(task_id, "assistant", " x" * 50_000)

    first, second = store.get(task_id, owner_id=user)["chat_messages"]

    assert (first["role"], first["content"]) == ("user", "hello \u2028 世界")
    assert (second["role"], second["content"]) == ("assistant", " x" * 50_000)
    at = datetime.fromisoformat(first["timestamp"])
    assert at.utcoffset() == timedelta(0)
    assert timedelta(0) <= datetime.now(UTC) - at < timedelta(minutes=1)


def test_a_chat_of_two_megabytes_takes_no_more(world, user):
    store = world.store_of(user)
    full = world.add_task(user, chat_messages=said(*["x" * 100_000] * 20))
    almost = world.add_task(user, chat_messages=said(*["x" * 100_000] * 19))
    store.append_chat_message(almost, "user", "x" * 100_000)

    for task_id in (full, almost):
        with pytest.raises(Conflict) as refused:
            store.append_chat_message(task_id, "user", "x")
        assert refused.value.code == "chat_full"
        assert len(store.get(task_id, owner_id=user)["chat_messages"]) == 20


def test_messages_at_once_all_stay(supabase_gateway):
    world = RealWorld(supabase_gateway)
    user = world.new_user()
    task_id, contents = world.add_task(user), {f"message {number}" for number in range(20)}
    with ThreadPoolExecutor(10) as threads:
        for content in contents:
            threads.submit(world.store_of(user).append_chat_message, task_id, "user", content)

    assert {m["content"] for m in world.store_of(user).get(task_id, owner_id=user)["chat_messages"]} == contents


@pytest.mark.parametrize("read", ["get", "get_columns", "events", "append_chat_message"])
def test_what_is_not_there_and_what_is_somebody_elses_look_the_same(world, user, read):
    stranger = world.new_user()
    foreign = world.add_task(stranger)

    def ask(task_id, owner_id):
        store = world.store_of(user)
        return {
            "get": lambda: store.get(task_id, owner_id=owner_id),
            "get_columns": lambda: store.get_columns(task_id, ["id"], owner_id=owner_id),
            "events": lambda: store.events(task_id, after=0, limit=1, owner_id=owner_id),
            "append_chat_message": lambda: store.append_chat_message(task_id, "user", "x"),
        }[read]()

    for task_id, owner_id in ((foreign, user), (foreign, stranger), (987654321, user), (2**63, user)):
        with pytest.raises(NotFound, match="Task not found"):
            ask(task_id, owner_id)


def test_the_live_log_is_read_from_any_point_in_order_and_in_pieces(world, user):
    task_id, store = world.add_task(user, status="running"), world.store_of(user)
    empty = store.events(task_id, after=0, limit=9, owner_id=user)
    world.add_events(task_id, 12)

    piece = store.events(task_id, after=8, limit=3, owner_id=user)

    assert (empty.task_status, empty.events) == ("running", [])
    assert [(event["seq"], event["payload"]["number"]) for event in piece.events] == [(9, 8), (10, 9), (11, 10)]
    assert piece.events[0].keys() == {"seq", "run_id", "kind", "payload", "at"}
    assert store.events(task_id, after=12, limit=3, owner_id=user).events == []
