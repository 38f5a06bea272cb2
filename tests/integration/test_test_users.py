"""One suite for test users: the sign-in service's own administration on PostgreSQL, and the fakes of the unit tests."""

import secrets
import time
import uuid
from datetime import UTC, datetime, timedelta

import jwt
import psycopg
import pytest
from mangum import Mangum

from functions.api.app import create_app
from shared.adapters.supabase.auth_admin import SupabaseAuthAdmin
from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.user_store import SupabaseProfileStore, SupabaseTestUserDirectory
from shared.config import ApiSettings
from shared.domain.errors import Conflict, InvalidInput, Misconfigured, NotFound, Unavailable
from shared.domain.secret import Secret
from tests.fakes.auth_admin import FakeAuthAdmin, FakeTestUserDirectory
from tests.fakes.lambda_client import LambdaClient
from tests.fakes.tokens import bearer
from tests.fakes.user_directory import FakeUsers

MARKS = {"is_test_user": True, "ttl_hours": 1}


class FakeWorld:
    def __init__(self):
        self.users = FakeUsers()
        self.auth, self.directory = FakeAuthAdmin(self.users), FakeTestUserDirectory(self.users)

    def profile(self, user_id):
        return self.users.profile_of(user_id).get(owner_id=user_id)

    def expire(self, user_id, at):
        self.users.profiles[user_id]["expires_at"] = at.isoformat()


class RealWorld:
    def __init__(self, gateway):
        self.gateway = gateway
        key = Secret(gateway.secret_key)
        self.auth = SupabaseAuthAdmin(gateway.url, secret_key=key)
        self.directory = SupabaseTestUserDirectory(postgrest_client(gateway.url, api_key=key))

    def profile(self, user_id):
        claims = {"sub": user_id, "role": "authenticated", "exp": int(time.time()) + 60}
        token = Secret(jwt.encode(claims, self.gateway.jwt_secret, "HS256"))
        client = postgrest_client(self.gateway.url, api_key=Secret(self.gateway.publishable_key), bearer=token)
        return SupabaseProfileStore(client).get(owner_id=user_id)

    def expire(self, user_id, at):
        self.sql("update public.users set expires_at = %s where id = %s", at, user_id)

    def sql(self, statement, *values):
        with psycopg.connect(self.gateway.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchone() if cursor.description else None


@pytest.fixture
def real_world(supabase_gateway):
    return RealWorld(supabase_gateway)


@pytest.fixture(params=["fake", "real"])
def world(request):
    return FakeWorld() if request.param == "fake" else request.getfixturevalue("real_world")


def new_email():
    return f"{secrets.token_hex(6)}@example.test"


def make(world, **changes):
    asked = {"email": new_email(), "app_metadata": MARKS, "user_metadata": {}} | changes
    return world.auth.create_user(asked.pop("email"), **asked)["id"]


def test_a_marked_user_is_a_test_user_for_an_hour(world):
    email = new_email()
    made = world.auth.create_user(email.upper(), app_metadata=MARKS, user_metadata={"full_name": "Ada", "n": [1]})

    assert made["metadata"].items() >= {"full_name": "Ada", "n": [1]}.items()
    row = world.directory.get(made["id"])
    assert row == world.profile(made["id"])
    assert (row["email"], row["full_name"], row["is_test_user"]) == (email, "Ada", True)
    created_at, expires_at = (datetime.fromisoformat(row[key]) for key in ("created_at", "expires_at"))
    assert expires_at - created_at == timedelta(hours=1)


def test_marks_in_the_users_own_metadata_mark_nobody(world):
    user_id = make(world, app_metadata={}, user_metadata=MARKS)

    assert world.profile(user_id)["is_test_user"] is False
    with pytest.raises(NotFound, match="Test user not found"):
        world.directory.get(user_id)


def test_a_taken_address_is_a_conflict(world):
    email = new_email()
    first = make(world, email=email)

    with pytest.raises(Conflict):
        make(world, email=email.upper())
    assert world.directory.get(first)["email"] == email


def test_a_removed_user_is_gone_and_cannot_be_removed_again(world):
    user_id = make(world)
    world.auth.delete_user(user_id)

    for ask in (world.directory.get, world.auth.delete_user):
        with pytest.raises(NotFound):
            ask(user_id)


def test_the_list_has_test_users_alone_newest_first(world):
    make(world, app_metadata={})
    mine = [make(world) for _ in range(3)]

    rows = world.directory.list_all()
    assert [row["id"] for row in rows if row["id"] in mine] == mine[::-1]
    assert all(row["is_test_user"] for row in rows)
    assert rows[0].keys() == world.profile(mine[0]).keys()


def test_those_whose_time_is_over_come_longest_ago_first(world):
    now = datetime.now(UTC)
    mine = [make(world) for _ in range(4)]
    for user_id, minutes_ago in zip(mine, (5, 90, 0, -5), strict=True):
        world.expire(user_id, now - timedelta(minutes=minutes_ago))

    assert [user_id for user_id in world.directory.expired(now, limit=1000) if user_id in mine] == [
        mine[1],
        mine[0],
        mine[2],
    ]
    assert len(world.directory.expired(now, limit=1)) == 1


# ---- the real sign-in service


def test_an_address_that_the_service_does_not_take_is_bad_input(real_world):
    with pytest.raises(InvalidInput):
        real_world.auth.create_user("no address", app_metadata=MARKS, user_metadata={})


def test_a_wrong_key_is_the_operators_to_mend_and_is_not_shown(supabase_gateway):
    auth = SupabaseAuthAdmin(supabase_gateway.url, secret_key=Secret("sb_secret_wrong"))

    with pytest.raises(Misconfigured, match="SUPABASE_SECRET_KEY") as refused:
        auth.delete_user(str(uuid.uuid4()))
    assert "sb_secret_wrong" not in f"{refused.value} {refused.value.for_log()}"


def test_the_publishable_key_makes_nobody(supabase_gateway):
    auth = SupabaseAuthAdmin(supabase_gateway.url, secret_key=Secret(supabase_gateway.publishable_key))

    with pytest.raises(Misconfigured):
        auth.create_user(new_email(), app_metadata=MARKS, user_metadata={})


def test_a_service_that_does_not_answer_is_an_outage():
    with pytest.raises(Unavailable):
        SupabaseAuthAdmin("http://127.0.0.1:9", secret_key=Secret("sb_secret_x")).delete_user(str(uuid.uuid4()))


# ---- the whole way


@pytest.fixture
def client(supabase_gateway):
    environment = {
        "ENVIRONMENT": "development",
        "ENABLE_TEST_USERS": "true",
        "SUPABASE_URL": supabase_gateway.url,
        "SUPABASE_PUBLISHABLE_KEY": supabase_gateway.publishable_key,
        "SUPABASE_SECRET_KEY": supabase_gateway.secret_key,
        "JWT_SECRET": supabase_gateway.jwt_secret,
        "TASK_QUEUE_URL": "http://127.0.0.1:9/tasks",
        "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    }
    return LambdaClient(Mangum(create_app(ApiSettings.from_env(environment)), lifespan="off"))


def test_a_test_user_lives_works_and_ends(client, real_world):
    made = client.post("/api/test-users", json={"email": new_email(), "metadata": {"full_name": "Ada"}})
    assert made.status == 201, made.text
    user, token = made.json()["user"], made.json()["tokens"]["access_token"]

    me = client.get("/api/me", headers=bearer(token)).json()["user"]
    assert (me["id"], me["full_name"], me["is_test_user"]) == (user["id"], "Ada", True)
    assert user["id"] in [row["id"] for row in client.get("/api/test-users").json()["users"]]
    project = {"name": "P", "repo_url": "https://github.com/acme/widgets"}
    assert client.post("/api/projects", headers=bearer(token), json=project).json()["project"]["is_test_data"] is True
    assert client.post(f"/api/test-users/{user['id']}/token").json()["tokens"].keys() == made.json()["tokens"].keys()

    real_world.expire(user["id"], datetime.now(UTC) - timedelta(minutes=1))
    assert user["id"] in client.post("/api/test-users/cleanup").json()["deleted_users"]
    assert real_world.sql("select count(*) from auth.users where id = %s", user["id"]) == (0,)
    assert real_world.sql("select count(*) from public.projects where user_id = %s", user["id"]) == (0,)
    assert client.post(f"/api/test-users/{user['id']}/token").status == 404


def test_an_ordinary_user_is_out_of_reach(client, real_world):
    user_id = make(real_world, app_metadata={})

    assert client.request("DELETE", f"/api/test-users/{user_id}").status == 404
    assert client.post(f"/api/test-users/{user_id}/token").status == 404
    assert real_world.sql("select count(*) from auth.users where id = %s", user_id) == (1,)
