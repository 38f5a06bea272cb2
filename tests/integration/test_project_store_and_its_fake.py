"""One suite for the project store: the real one on PostgreSQL, and the fake of the unit tests."""

import threading
import uuid

import jwt
import psycopg
import pytest

from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.project_store import SupabaseProjectStore
from shared.domain.errors import Conflict, Forbidden, InvalidInput, NotFound
from shared.domain.secret import Secret
from tests.fakes.project_store import FakeProjectStore
from tests.fakes.task_store import FakeDatabase

KEYS = {
    *("id", "user_id", "repo_url", "repo_name", "repo_owner", "name", "description", "is_active", "settings"),
    *("created_at", "updated_at", "is_test_data", "task_count", "completed_tasks", "active_tasks"),
}
FAR_FUTURE = 4102444800


class FakeWorld:
    def __init__(self):
        self._database = FakeDatabase()
        self.add_task = self._database.add_task

    def store_of(self, user_id):
        return FakeProjectStore(self._database, user_id)

    def new_user(self):
        return str(uuid.uuid4())

    def tasks_of(self, project_id):
        return [task for task in self._database.tasks.values() if task["project_id"] == project_id]

    def make_older(self, project_id):
        self._database.projects[project_id]["created_at"] = "2020-01-01T00:00:00+00:00"


class RealWorld:
    def __init__(self, gateway):
        self._gateway = gateway

    def _sql(self, statement, *values):
        with psycopg.connect(self._gateway.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def store_of(self, user_id):
        claims = {"sub": user_id, "role": "authenticated", "aud": "authenticated", "exp": FAR_FUTURE}
        token = Secret(jwt.encode(claims, self._gateway.jwt_secret, "HS256"))
        api_key = Secret(self._gateway.publishable_key)
        return SupabaseProjectStore(postgrest_client(self._gateway.url, api_key=api_key, bearer=token))

    def new_user(self):
        user_id = str(uuid.uuid4())
        self._sql("insert into auth.users (id, email) values (%s, %s)", user_id, f"{user_id}@example.test")
        return user_id

    def add_task(self, user_id, *, project_id, status="pending"):
        values = (user_id, project_id, status)
        self._sql("insert into tasks (user_id, project_id, status) values (%s, %s, %s)", *values)

    def tasks_of(self, project_id):
        return self._sql("select id from tasks where project_id = %s", project_id)

    def make_older(self, project_id):
        self._sql("update projects set created_at = '2020-01-01' where id = %s", project_id)


@pytest.fixture(params=["fake", "real"])
def world(request):
    return FakeWorld() if request.param == "fake" else RealWorld(request.getfixturevalue("supabase_gateway"))


@pytest.fixture
def user(world):
    return world.new_user()


@pytest.fixture
def store(world, user):
    return world.store_of(user)


def columns(repository="r", **changes):
    own = {"repo_url": f"https://github.com/o/{repository}", "repo_owner": "o", "repo_name": repository}
    return own | {"name": repository.title(), "description": "", "settings": {}} | changes


def test_a_new_project_is_a_whole_row_without_tasks(store, user):
    settings = {"setup_script": "npm ci", "größe": [1.5, None, True]}
    made = store.create(columns(description=None, settings=settings), owner_id=user)

    assert made.keys() == KEYS
    assert (made["user_id"], made["is_active"], made["is_test_data"]) == (user, True, False)
    assert (made["description"], made["settings"]) == (None, settings)
    assert (made["task_count"], made["completed_tasks"], made["active_tasks"]) == (0, 0, 0)
    assert store.get(made["id"], owner_id=user) == made
    assert store.list_all(owner_id=user) == [made]


def test_the_list_is_newest_first(world, store, user):
    ids = [store.create(columns(name), owner_id=user)["id"] for name in ("a", "b", "c")]
    world.make_older(ids[2])

    assert [row["id"] for row in store.list_all(owner_id=user)] == [ids[1], ids[0], ids[2]]


def test_the_tasks_of_each_project_are_counted_by_their_state(world, store, user):
    busy, quiet = (store.create(columns(name), owner_id=user)["id"] for name in ("busy", "quiet"))
    for status in ("pending", "running", "completed", "completed", "failed", "cancelled"):
        world.add_task(user, project_id=busy, status=status)

    counts = {
        row["id"]: (row["task_count"], row["completed_tasks"], row["active_tasks"])
        for row in store.list_all(owner_id=user)
    }

    assert counts == {busy: (6, 2, 2), quiet: (0, 0, 0)}
    assert store.get(busy, owner_id=user)["task_count"] == 6
    assert store.update(busy, {"name": "Busy"}, owner_id=user)["task_count"] == 6


def test_what_is_changed_changes_and_the_rest_stays(store, user):
    made = store.create(columns(settings={"a": 1}), owner_id=user)
    changes = columns("other", name="Other", description="new", settings={"b": 2}, is_active=False)

    changed = store.update(made["id"], changes, owner_id=user)

    assert changed == made | changes | {"updated_at": changed["updated_at"]}
    assert changed["updated_at"] > made["updated_at"]
    assert store.update(made["id"], {"description": None}, owner_id=user)["name"] == "Other"


def test_no_changes_are_none_at_all(store, user):
    made = store.create(columns(), owner_id=user)

    assert store.update(made["id"], {}, owner_id=user) == made


def test_a_deleted_project_takes_its_tasks_with_it_and_no_others(world, store, user):
    gone, kept = (store.create(columns(name), owner_id=user)["id"] for name in ("gone", "kept"))
    for project_id in (gone, kept):
        world.add_task(user, project_id=project_id)

    store.delete(gone, owner_id=user)

    assert [row["id"] for row in store.list_all(owner_id=user)] == [kept]
    assert (len(world.tasks_of(gone)), len(world.tasks_of(kept))) == (0, 1)
    with pytest.raises(NotFound, match="Project not found"):
        store.delete(gone, owner_id=user)


ASK = {
    "get": lambda store, project_id, owner_id: store.get(project_id, owner_id=owner_id),
    "update": lambda store, project_id, owner_id: store.update(project_id, {"name": "Mine"}, owner_id=owner_id),
    "no update": lambda store, project_id, owner_id: store.update(project_id, {}, owner_id=owner_id),
    "delete": lambda store, project_id, owner_id: store.delete(project_id, owner_id=owner_id),
}


@pytest.mark.parametrize("ask", ASK)
def test_what_is_not_there_and_what_is_somebody_elses_look_the_same_and_stay(world, store, user, ask):
    stranger = world.new_user()
    theirs = world.store_of(stranger).create(columns(), owner_id=stranger)
    mine = store.create(columns("mine"), owner_id=user)

    for project_id, owner_id in (
        (theirs["id"], user),
        (theirs["id"], stranger),
        (mine["id"], stranger),
        (987654321, user),
        (2**63, user),
    ):
        with pytest.raises(NotFound, match="Project not found"):
            ASK[ask](store, project_id, owner_id)

    assert store.list_all(owner_id=stranger) == []
    assert world.store_of(stranger).list_all(owner_id=stranger) == [theirs]
    assert store.list_all(owner_id=user) == [mine]


def test_nothing_is_made_in_somebody_elses_name(world, store):
    stranger = world.new_user()

    with pytest.raises(Forbidden):
        store.create(columns(), owner_id=stranger)
    assert world.store_of(stranger).list_all(owner_id=stranger) == []


SPELLINGS = [
    {"repo_url": "https://github.com/o/my_repo"},
    {"repo_url": "https://github.com/o/my_repo.git"},
    {"repo_url": " https://GitHub.com/o/my_repo/\n"},
    {"repo_url": "git@github.com:o/my_repo.git"},
    {"repo_url": "https://github.com/O/My_Repo", "repo_owner": "O", "repo_name": "My_Repo"},
]


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("first", SPELLINGS[::3])
def test_a_second_project_of_a_repository_is_refused_however_it_is_spelt(store, user, first, spelling):
    known = store.create(columns("my_repo") | first, owner_id=user)
    store.create(columns("my-repo"), owner_id=user)
    other = store.create(columns("other"), owner_id=user)
    again = columns("my_repo") | spelling

    for refused in (
        lambda: store.create(again, owner_id=user),
        lambda: store.update(other["id"], again, owner_id=user),
    ):
        with pytest.raises(Conflict, match=r"You already have a project for [oO]/[mM]y_[rR]epo: My_Repo") as raised:
            refused()
        assert (raised.value.code, raised.value.shown) == ("project_exists", {"project_id": known["id"]})

    assert len(store.list_all(owner_id=user)) == 3
    assert store.get(other["id"], owner_id=user) == other
    assert store.update(known["id"], again, owner_id=user)["repo_url"] == again["repo_url"]


def test_other_users_other_owners_and_other_hosts_have_repositories_of_the_same_name(world, store, user):
    elsewhere = {"repo_url": "https://git.example/o/r"}
    store.create(columns(), owner_id=user)
    store.create(columns(repo_url="https://github.com/x/r", repo_owner="x"), owner_id=user)
    store.create(columns() | elsewhere, owner_id=user)
    other = world.new_user()
    world.store_of(other).create(columns(), owner_id=other)

    # Which of the two it is, the sentence leaves open.
    with pytest.raises(Conflict, match=r"already have a project for o/r\.$") as raised:
        store.create(columns() | elsewhere, owner_id=user)
    assert raised.value.shown == {}
    assert len(store.list_all(owner_id=user)) == 3


@pytest.mark.parametrize(
    "nul", [{"name": "a\0b"}, {"description": "\0"}, {"settings": {"a": ["\0"]}}, {"settings": {"\0": 1}}]
)
def test_what_the_database_cannot_store_is_refused_and_changes_nothing(store, user, nul):
    made = store.create(columns(), owner_id=user)

    for refused in (
        lambda: store.create(columns("other", **nul), owner_id=user),
        lambda: store.update(made["id"], nul, owner_id=user),
    ):
        with pytest.raises(InvalidInput, match="must not contain the character NUL"):
            refused()
    assert store.list_all(owner_id=user) == [made]


def test_of_requests_at_once_for_one_repository_one_makes_the_project(supabase_gateway):
    world = RealWorld(supabase_gateway)
    user, outcomes = world.new_user(), []
    together = threading.Barrier(len(SPELLINGS), timeout=120)

    def create(spelling):
        store = world.store_of(user)
        together.wait()
        try:
            outcomes.append(store.create(columns("my_repo") | spelling, owner_id=user)["id"])
        except Conflict as refused:
            outcomes.append(refused.code)

    threads = [threading.Thread(target=create, args=(spelling,)) for spelling in SPELLINGS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)

    [made] = world.store_of(user).list_all(owner_id=user)
    assert sorted(outcomes, key=str) == sorted([made["id"], *["project_exists"] * (len(SPELLINGS) - 1)], key=str)
