import uuid
from datetime import datetime, timedelta

import jwt
import pytest

from functions.api.test_users.service import MARKS, MAX_CLEANED
from shared.domain.errors import Unavailable
from shared.domain.secret import Secret
from tests.fakes.tokens import JWT_SECRET, bearer
from tests.unit.api.conformance import undescribed

PATH = "/api/test-users"
NOBODY = "00000000-0000-4000-8000-000000000000"
ROUTES = [
    ("POST", PATH),
    ("GET", PATH),
    ("POST", f"{PATH}/cleanup"),
    ("DELETE", f"{PATH}/{NOBODY}"),
    ("POST", f"{PATH}/{NOBODY}/token"),
]


@pytest.fixture
def enabled(world):
    return world.client(test_users_enabled=True, supabase_secret_key=Secret("sb_secret_key"))


def create(client, **body):
    answer = client.post(PATH, json=body)
    assert answer.status == 201, answer.text
    return answer.json()


def refused(answer):
    return answer.status, answer.json()["error"]


# ---- who may ask


def test_in_production_the_routes_do_not_exist(world):
    client = world.client(environment="production")

    for method, path in [*ROUTES, ("GET", f"{PATH}/health")]:
        assert client.request(method, path).json() == {"error": "Not found", "code": "not_found"}
    assert not [path for path in client.get("/openapi.json").json()["paths"] if "test-users" in path]


def test_without_the_setting_the_routes_are_closed_and_touch_nothing(client, world):
    for method, path in ROUTES:
        answer = client.request(method, path, headers={"Content-Type": "text/plain"}, content=b"no JSON")
        assert refused(answer) == (403, "Test user endpoints are not enabled")
    assert world.users.asked == 0


def test_the_health_of_the_service_is_open_to_all(client, enabled):
    assert client.get(f"{PATH}/health").json() == {
        "healthy": True,
        "test_mode_enabled": False,
        "service_initialized": False,
    }
    assert undescribed(enabled, "getTestUsersHealth", enabled.get(f"{PATH}/health")) == []
    assert enabled.get(f"{PATH}/health").json() == {
        "healthy": True,
        "test_mode_enabled": True,
        "service_initialized": True,
    }


@pytest.mark.parametrize("sent", [None, "", "wrong", "shared-secre", "shared-secret ", "shäred"])
def test_where_there_is_a_secret_it_must_be_sent(world, sent):
    client = world.client(test_users_enabled=True, test_users_secret=Secret("shared-secret"))

    for method, path in ROUTES:
        answer = client.request(method, path, headers={} if sent is None else {"X-Test-Users-Secret": sent})
        assert answer.status == 401
        assert "X-Test-Users-Secret" in answer.json()["error"]
        assert "shared-secret" not in answer.text
    assert world.users.asked == 0


def test_with_the_secret_everything_works_and_the_health_needs_none(world):
    client = world.client(test_users_enabled=True, test_users_secret=Secret("shared-secret"))

    assert client.get(f"{PATH}/health").status == 200
    assert client.get(PATH, headers={"X-Test-Users-Secret": "shared-secret"}).json() == {"users": []}


# ---- create


@pytest.mark.parametrize("sent", ["nothing", "empty object"])
def test_a_test_user_ends_after_an_hour_and_comes_with_tokens(enabled, sent):
    made = create(enabled) if sent == "empty object" else enabled.request("POST", PATH).json()

    user, tokens = made["user"], made["tokens"]
    assert user.keys() == {"id", "email", "created_at", "metadata", "expires_at"}
    assert user["email"] == "test@asynccode.test"
    assert user["metadata"] == {"is_test_user": True, "ttl_hours": 1}
    created_at, expires_at = (datetime.fromisoformat(user[key]) for key in ("created_at", "expires_at"))
    assert expires_at - created_at == timedelta(hours=1)
    assert tokens.keys() == {"access_token", "refresh_token"}
    assert enabled.get("/api/auth/verify", headers=bearer(tokens["access_token"])).json()["user_id"] == user["id"]
    assert enabled.post("/api/auth/refresh", json={"refresh_token": tokens["refresh_token"]}).status == 200


def test_the_answer_to_a_new_user_is_as_described(enabled):
    assert undescribed(enabled, "createTestUser", enabled.post(PATH, json={})) == []


def test_what_the_caller_says_is_the_users_own_but_never_what_marks_a_test_user(enabled, world):
    asked = {"full_name": "Ada", "is_test_user": False, "ttl_hours": 99999, "role": "admin"}
    user = create(enabled, email="Ada.L+1@Sub.Example.TEST", metadata=asked, user_id=str(uuid.uuid4()))["user"]

    assert user["email"] == "ada.l+1@sub.example.test"
    assert user["metadata"] == {"full_name": "Ada", "role": "admin", "is_test_user": True, "ttl_hours": 1}
    row = world.users.profiles[user["id"]]
    assert row["is_test_user"] is True
    assert datetime.fromisoformat(row["expires_at"]) - datetime.fromisoformat(row["created_at"]) == timedelta(hours=1)


def test_the_metadata_may_be_null(enabled):
    assert create(enabled, metadata=None)["user"]["metadata"] == {"is_test_user": True, "ttl_hours": 1}


@pytest.mark.parametrize(
    "email", ["", "nobody", "@x.test", "a@", "a b@x.test", "a@@x.test", "a@x..test", "a@.test", "a\0@x.test"]
)
def test_an_address_that_is_none_is_refused(enabled, email):
    assert refused(enabled.post(PATH, json={"email": email})) == (400, "Invalid email format")


@pytest.mark.parametrize("email", ["a@example.com", "a@test", "a@x.test.com", "a@xtest", "a@x.tests"])
def test_an_address_that_somebody_could_own_is_refused(enabled, email):
    assert refused(enabled.post(PATH, json={"email": email})) == (
        400,
        "Test user email must use .test TLD for safety",
    )


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ([], "The body must be a JSON object"),
        (["x"], "The body must be a JSON object"),
        ({"email": 7}, "email must be a string"),
        ({"email": None}, "email must be a string"),
        ({"metadata": "x"}, "metadata must be an object"),
        ({"metadata": {"a": "\0"}}, "metadata must not contain the character NUL"),
        ({"metadata": {"a": "x" * 8192}}, "metadata may have at most 8192 bytes as JSON"),
        ({"email": f"{'a' * 250}@x.test"}, "Invalid email format"),
    ],
)
def test_what_is_no_test_user_is_refused_and_nobody_is_made(enabled, world, body, text):
    assert refused(enabled.post(PATH, json=body)) == (400, text)
    assert world.auth_admin.emails == {}


def test_an_address_that_is_taken_is_a_conflict_and_its_user_stays(enabled, world):
    first = create(enabled)["user"]
    status, error = refused(enabled.post(PATH, json={"email": "TEST@asynccode.test"}))

    assert status == 409
    assert error.startswith("Failed to create test user: ")
    assert world.users.existing == {first["id"]}


def test_a_user_whom_the_database_did_not_mark_is_removed_again(enabled, world):
    world.auth_admin.marks = False
    status, error = refused(enabled.post(PATH, json={}))

    assert (status, error.partition(":")[0]) == (500, "Failed to create test user")
    assert world.users.existing == set()
    assert world.auth_admin.emails == {}


def test_a_user_who_could_not_be_read_is_removed_again(enabled, world, monkeypatch):
    def down(*_):
        raise Unavailable("The database is not responding. Try again.")

    monkeypatch.setattr("tests.fakes.auth_admin.FakeTestUserDirectory.get", down)

    assert enabled.post(PATH, json={}).status == 503
    assert world.users.existing == set()


# ---- list, tokens, delete, cleanup


def test_the_list_has_whole_rows_of_test_users_alone_without_git_tokens(enabled, world, client, as_user):
    client.get("/api/me", headers=as_user)  # an ordinary user with a row
    ids = [create(enabled, email=f"{name}@x.test")["user"]["id"] for name in "abc"]

    assert undescribed(enabled, "listTestUsers", enabled.get(PATH)) == []
    users = enabled.get(PATH).json()["users"]
    assert [user["id"] for user in users] == ids[::-1]
    assert users[0].keys() == client.get("/api/me", headers=as_user).json()["user"].keys()
    assert "github_token" not in users[0]


def test_a_test_user_gets_new_tokens(enabled):
    user_id = create(enabled)["user"]["id"]
    answer = enabled.post(f"{PATH}/{user_id.upper()}/token")
    assert undescribed(enabled, "issueTestUserTokens", answer) == []
    tokens = answer.json()["tokens"]

    claims = jwt.decode(tokens["access_token"], JWT_SECRET, algorithms=["HS256"], audience="authenticated")
    assert (claims["sub"], claims["type"]) == (user_id, "access")
    assert jwt.decode(tokens["refresh_token"], JWT_SECRET, algorithms=["HS256"])["type"] == "refresh"


def test_a_deleted_test_user_is_gone(enabled, world):
    user_id = create(enabled)["user"]["id"]
    answer = enabled.request("DELETE", f"{PATH}/{user_id}")
    assert undescribed(enabled, "deleteTestUser", answer) == []

    assert (answer.status, answer.json()) == (200, {"message": "Test user deleted successfully"})
    assert world.users.existing == set()
    assert enabled.request("DELETE", f"{PATH}/{user_id}").status == 404
    assert create(enabled)["user"]["id"] != user_id


@pytest.mark.parametrize("who", ["an ordinary user", "nobody", "not-a-uuid", "7", "x' or '1'='1"])
def test_whoever_is_no_test_user_looks_absent_and_stays(enabled, world, client, as_user, user, who):
    client.get("/api/me", headers=as_user)
    named = {"an ordinary user": user, "nobody": str(uuid.uuid4())}.get(who, who.replace(" ", "%20"))

    assert refused(enabled.request("DELETE", f"{PATH}/{named}")) == (404, "Failed to delete test user")
    assert refused(enabled.post(f"{PATH}/{named}/token")) == (404, "Test user not found")
    assert world.users.existing == {user}


def expire(world, user_id, *, minutes_ago):
    row = world.users.profiles[user_id]
    row["expires_at"] = (datetime.fromisoformat(row["created_at"]) - timedelta(minutes=minutes_ago)).isoformat()


def test_the_cleanup_removes_who_has_expired_and_nobody_else(enabled, world, client, as_user, user):
    client.get("/api/me", headers=as_user)
    first, second, alive = (create(enabled, email=f"{name}@x.test")["user"]["id"] for name in "abc")
    expire(world, first, minutes_ago=1)
    expire(world, second, minutes_ago=90)

    answer = enabled.post(f"{PATH}/cleanup")
    assert undescribed(enabled, "cleanUpTestUsers", answer) == []

    assert answer.json() == {"message": "Cleaned up 2 expired test users", "deleted_users": [second, first]}
    assert world.users.existing == {alive, user}
    assert enabled.post(f"{PATH}/cleanup").json() == {
        "message": "Cleaned up 0 expired test users",
        "deleted_users": [],
    }


def test_a_cleanup_ends_in_time_and_the_next_one_goes_on(enabled, world):
    for number in range(MAX_CLEANED + 1):
        made = world.auth_admin.create_user(f"{number}@x.test", app_metadata=MARKS, user_metadata={})
        expire(world, made["id"], minutes_ago=1)

    counts = [len(enabled.post(f"{PATH}/cleanup").json()["deleted_users"]) for _ in range(3)]
    assert counts == [MAX_CLEANED, 1, 0]


def test_whom_somebody_else_has_just_removed_is_not_counted(enabled, world):
    first, second = (create(enabled, email=f"{name}@x.test")["user"]["id"] for name in "ab")
    for user_id in (first, second):
        expire(world, user_id, minutes_ago=1)
    world.users.existing.remove(first)

    assert enabled.post(f"{PATH}/cleanup").json()["deleted_users"] == [second]


def test_an_outage_is_an_outage(enabled, world):
    world.users.down = True

    assert {enabled.request(method, path).status for method, path in ROUTES} == {503}


def test_the_secret_is_described_as_a_header(client):
    described = client.get("/openapi.json").json()

    assert described["paths"][PATH]["get"]["security"] == [{"TestUsersSecret": []}]
    scheme = described["components"]["securitySchemes"]["TestUsersSecret"]
    assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "X-Test-Users-Secret")
    assert "security" not in described["paths"][f"{PATH}/health"]["get"]
