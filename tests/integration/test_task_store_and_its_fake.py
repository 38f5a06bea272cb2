"""One suite for the task store and the user directory: the real ones on PostgreSQL, and the fakes of the unit tests."""

import time
import uuid
from dataclasses import replace

import jwt
import psycopg
import pytest
from psycopg.types.json import Jsonb

from shared.adapters.postgrest_client import postgrest_client
from shared.adapters.task_store import LIST_COLUMNS, SupabaseTaskStore, SupabaseUserDirectory
from shared.domain.errors import NotFound, TooMany
from shared.domain.ports import NewTask
from shared.domain.run import AgentName
from shared.domain.secret import Sealed, Secret
from tests.fakes.task_store import FakeDatabase
from tests.fakes.user_directory import FakeUsers

AGENT = "Mozilla/5.0"


class FakeWorld:
    def __init__(self):
        self.database, self.users = FakeDatabase(), FakeUsers()
        self.store_of, self.directory_of = self.database.store_of, self.users.directory_of
        self.add_project, self.add_task = self.database.add_project, self.database.add_task

    def new_user(self):
        user_id = str(uuid.uuid4())
        self.users.existing.add(user_id)
        return user_id

    def add_session(self, user_id, *, minutes_ago):
        if minutes_ago < 70:
            self.users.sessions.add((user_id, AGENT))

    def add_events(self, task_id, count):
        for number in range(count):
            self.database.add_event(task_id, "note", {"number": number})

    def limit_active_runs(self, count):
        self.database.active_per_user = count


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

    def directory_of(self, user_id):
        return SupabaseUserDirectory(self._client_of(user_id))

    def new_user(self):
        email = f"{uuid.uuid4()}@example.test"
        return str(self._sql("insert into auth.users (id, email) values (gen_random_uuid(), %s) returning id", email))

    def add_session(self, user_id, *, minutes_ago):
        self._sql(
            "insert into auth.sessions (user_id, user_agent, refreshed_at)"
            " values (%s, %s, (now() at time zone 'utc') - %s * interval '1 minute')",
            *(user_id, AGENT, minutes_ago),
        )

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

    def limit_active_runs(self, count):
        self._sql("update run_limits set active_per_user = %s", count)


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


def new_task(**changes):
    task = NewTask(
        prompt="make it so",
        repo_url="https://github.com/o/r",
        branch="main",
        agent=AgentName.CODEX,
        project_id=None,
        credential_id=str(uuid.uuid4()),
        credential=Sealed(ciphertext="c2VhbGVk", key_id="local:v1", alg="AES-256-GCM"),
        credential_hint=None,
        idempotency_key=None,
        trace_id=None,
    )
    return replace(task, **changes)


def test_a_new_task_is_a_pending_row_with_its_prompt_and_a_queued_run(world, user):
    store = world.store_of(user)
    run = store.create(new_task(project_id=world.add_project(user)))
    task, log = store.get(run.task_id, owner_id=user), store.events(run.task_id, after=0, limit=9, owner_id=user)

    assert (task["status"], task["agent"], task["target_branch"]) == ("pending", "codex", "main")
    assert [(m["role"], m["content"]) for m in task["chat_messages"]] == [("user", "make it so")]
    assert (run.seq, run.created, log.task_status) == (0, True, "pending")
    assert [(event["seq"], event["kind"], event["payload"]) for event in log.events] == [
        (1, "phase", {"phase": "queued"})
    ]


def test_a_repeated_key_finds_the_first_task_but_only_the_same_users(world, user):
    first = world.store_of(user).create(new_task(idempotency_key="k"))
    again = world.store_of(user).create(new_task(idempotency_key="k"))
    other = world.store_of(world.new_user()).create(new_task(idempotency_key="k"))

    assert again == replace(first, created=False)
    assert other.created


def test_a_foreign_or_unknown_project_is_not_found(world, user):
    for project_id in (world.add_project(world.new_user()), 987654321):
        with pytest.raises(NotFound, match="Project not found"):
            world.store_of(user).create(new_task(project_id=project_id))
    assert world.store_of(user).list_all(owner_id=user, project_id=None) == []


def test_a_user_has_so_many_active_runs_and_no_more(own_world):
    own_world.limit_active_runs(2)
    user = own_world.new_user()
    store = own_world.store_of(user)
    for _ in range(2):
        store.create(new_task())

    with pytest.raises(TooMany):
        store.create(new_task())
    assert own_world.store_of(own_world.new_user()).create(new_task()).created


def test_a_row_has_the_same_columns_everywhere(world, user):
    task_id = world.add_task(user, git_patch="p", git_diff="d", chat_messages=[{"role": "user", "content": "x"}])
    store = world.store_of(user)

    row, [listed] = store.get(task_id, owner_id=user), store.list_all(owner_id=user, project_id=None)

    heavy = {"git_diff", "git_patch", "changed_files", "execution_metadata"}
    assert row.keys() == {*LIST_COLUMNS.split(","), *heavy, "container_id", "is_test_data"}
    assert listed == {key: row[key] for key in LIST_COLUMNS.split(",")}
    assert listed["has_patch"] is True
    assert store.get_columns(task_id, ["id", "git_diff"], owner_id=user) == {"id": task_id, "git_diff": "d"}


def test_the_list_is_newest_first_and_can_be_of_one_project(world, user):
    project = world.add_project(user)
    ids = [world.add_task(user, project_id=project_id) for project_id in (project, None, project)]
    world.add_task(world.new_user())
    store = world.store_of(user)

    assert [row["id"] for row in store.list_all(owner_id=user, project_id=None)] == ids[::-1]
    assert [row["id"] for row in store.list_all(owner_id=user, project_id=project)] == [ids[2], ids[0]]
    assert store.list_all(owner_id=user, project_id=2**63) == []


@pytest.mark.parametrize("read", ["get", "get_columns", "events"])
def test_what_is_not_there_and_what_is_somebody_elses_look_the_same(world, user, read):
    stranger = world.new_user()
    foreign = world.add_task(stranger)

    def ask(task_id, owner_id):
        store = world.store_of(user)
        return {
            "get": lambda: store.get(task_id, owner_id=owner_id),
            "get_columns": lambda: store.get_columns(task_id, ["id"], owner_id=owner_id),
            "events": lambda: store.events(task_id, after=0, limit=1, owner_id=owner_id),
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


def test_a_user_sees_that_he_exists_and_nobody_else(world, user):
    directory = world.directory_of(user)

    assert directory.exists(user)
    assert not directory.exists(world.new_user())
    assert not world.directory_of(nobody := str(uuid.uuid4())).exists(nobody)


@pytest.mark.parametrize(("minutes_ago", "live"), [(1, True), (69, True), (71, False)])
def test_a_session_is_live_for_the_same_browser_and_seventy_minutes(world, user, minutes_ago, live):
    world.add_session(user, minutes_ago=minutes_ago)

    assert world.directory_of(user).has_live_session(AGENT) is live
    assert not world.directory_of(user).has_live_session("curl/8")
    assert not world.directory_of(world.new_user()).has_live_session(AGENT)
