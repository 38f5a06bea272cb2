"""One suite for users, profiles and API keys: the real stores on PostgreSQL, and the fakes of the unit tests."""

import json
import secrets
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import psycopg
import pytest
from psycopg.types.json import Jsonb

from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.user_store import (
    SupabaseApiKeyDirectory,
    SupabaseApiKeyStore,
    SupabaseProfileStore,
    SupabaseUserDirectory,
)
from shared.domain.api_key import ApiKey
from shared.domain.errors import Conflict, InvalidInput, NotFound
from shared.domain.secret import Secret
from tests.fakes.user_directory import FakeUsers

AGENT = "Mozilla/5.0"
PROFILE_KEYS = {
    "id",
    "email",
    "full_name",
    "avatar_url",
    "github_username",
    "preferences",
    "created_at",
    "updated_at",
    "is_test_user",
    "expires_at",
}


class FakeWorld:
    def __init__(self):
        self.users = FakeUsers()
        self.directory_of, self.profile_of = self.users.directory_of, self.users.profile_of
        self.api_keys_of, self.api_key_directory = self.users.api_keys_of, self.users.api_key_directory

    def new_user(self):
        user_id = str(uuid.uuid4())
        self.users.existing.add(user_id)
        return user_id

    def add_session(self, user_id, *, minutes_ago):
        if minutes_ago < 70:
            self.users.sessions.add((user_id, AGENT))

    def store_preferences(self, user_id, preferences):
        self.users.profile_of(user_id).get(owner_id=user_id)
        self.users.profiles[user_id]["preferences"] = preferences


class RealWorld:
    def __init__(self, gateway):
        self._gateway = gateway

    def sql(self, statement, *values):
        with psycopg.connect(self._gateway.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchone()[0] if cursor.description else None

    def token_of(self, user_id):
        claims = {"sub": user_id, "role": "authenticated", "aud": "authenticated", "exp": int(time.time()) + 600}
        return Secret(jwt.encode(claims, self._gateway.jwt_secret, "HS256"))

    def _client(self, bearer=None):
        return postgrest_client(self._gateway.url, api_key=Secret(self._gateway.publishable_key), bearer=bearer)

    def get(self, path, *, bearer=None):
        headers = {"apikey": self._gateway.publishable_key}
        headers |= {"Authorization": f"Bearer {bearer.reveal()}"} if bearer else {}
        return httpx.get(f"{self._gateway.url}/rest/v1/{path}", headers=headers)

    def directory_of(self, user_id):
        return SupabaseUserDirectory(self._client(self.token_of(user_id)))

    def profile_of(self, user_id):
        return SupabaseProfileStore(self._client(self.token_of(user_id)))

    def api_keys_of(self, user_id):
        return SupabaseApiKeyStore(self._client(self.token_of(user_id)))

    def api_key_directory(self):
        return SupabaseApiKeyDirectory(self._client())

    def new_user(self):
        email = f"{uuid.uuid4()}@example.test"
        return str(self.sql("insert into auth.users (id, email) values (gen_random_uuid(), %s) returning id", email))

    def add_session(self, user_id, *, minutes_ago):
        self.sql(
            "insert into auth.sessions (user_id, user_agent, refreshed_at)"
            " values (%s, %s, (now() at time zone 'utc') - %s * interval '1 minute')",
            *(user_id, AGENT, minutes_ago),
        )

    def store_preferences(self, user_id, preferences):
        value = None if preferences is None else Jsonb(preferences)
        self.sql("update public.users set preferences = %s where id = %s", value, user_id)


@pytest.fixture
def real_world(supabase_gateway):
    return RealWorld(supabase_gateway)


@pytest.fixture(params=["fake", "real"])
def world(request):
    return FakeWorld() if request.param == "fake" else request.getfixturevalue("real_world")


@pytest.fixture
def user(world):
    return world.new_user()


# ---- who exists


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


def test_an_anonymous_user_has_no_session_that_counts(real_world):
    user = real_world.new_user()
    real_world.add_session(user, minutes_ago=1)
    real_world.sql("update auth.users set is_anonymous = true where id = %s", user)

    assert not real_world.directory_of(user).has_live_session(AGENT)


# ---- profiles


def test_a_profile_has_what_its_owner_may_read(world, user):
    row = world.profile_of(user).get(owner_id=user)

    assert row.keys() == PROFILE_KEYS
    assert (row["id"], row["preferences"], row["is_test_user"], row["full_name"]) == (user, {}, False, None)
    assert row["email"].endswith("@example.test")


def test_what_is_named_is_changed_null_clears_it_and_the_rest_stays(world, user):
    store = world.profile_of(user)
    store.update({"full_name": "Ada", "avatar_url": "https://a.example/x", "github_username": "ada"}, owner_id=user)
    row = store.update({"avatar_url": None}, owner_id=user)

    assert row.keys() == PROFILE_KEYS
    assert (row["full_name"], row["avatar_url"], row["github_username"]) == ("Ada", None, "ada")
    assert store.get(owner_id=user) == row


def test_a_change_is_dated(world, user):
    store = world.profile_of(user)
    before = store.get(owner_id=user)
    after = store.update({"full_name": "Ada"}, owner_id=user)

    assert after["created_at"] == before["created_at"]
    assert datetime.fromisoformat(after["updated_at"]) > datetime.fromisoformat(before["updated_at"])


@pytest.mark.parametrize("stored", [None, {}, {"claudeCode": {"env": {"A": "1"}}, "editor": {"theme": "dark"}}])
def test_sections_of_the_preferences_replace_and_remove_each_alone(world, user, stored):
    world.store_preferences(user, stored)
    store = world.profile_of(user)
    changes = {"claudeCode": {"env": {"B": "2"}}, "codex": {"env": {}}, "gone": None}

    row = store.update({"preferences": changes}, owner_id=user)
    assert row["preferences"] == (stored or {}) | {"claudeCode": {"env": {"B": "2"}}, "codex": {"env": {}}}

    row = store.update({"preferences": {"codex": None}}, owner_id=user)
    assert "codex" not in row["preferences"]
    assert store.update({"preferences": {}}, owner_id=user)["preferences"] == row["preferences"]
    assert store.update({"full_name": "Ada"}, owner_id=user)["preferences"] == row["preferences"]
    assert store.update({"preferences": None}, owner_id=user)["preferences"] == {}


def test_only_a_whole_section_can_be_null(world, user):
    row = world.profile_of(user).update({"preferences": {"a": {"b": None}}}, owner_id=user)

    assert row["preferences"] == {"a": {"b": None}}


def test_who_does_not_exist_has_no_profile(world):
    nobody = str(uuid.uuid4())

    with pytest.raises(NotFound, match="User not found"):
        world.profile_of(nobody).get(owner_id=nobody)
    with pytest.raises(NotFound, match="User not found"):
        world.profile_of(nobody).update({"full_name": "x"}, owner_id=nobody)


def test_nobody_reads_or_changes_somebody_elses_profile(world, user):
    stranger = world.new_user()

    for store, owner in ((world.profile_of(user), stranger), (world.profile_of(stranger), user)):
        with pytest.raises(NotFound):
            store.get(owner_id=owner)
        with pytest.raises(NotFound):
            store.update({"preferences": {"x": 1}}, owner_id=owner)


def test_more_preferences_than_fit_are_refused_and_nothing_changes(real_world):
    user = real_world.new_user()
    store = real_world.profile_of(user)
    before = store.update({"preferences": {"a": "x" * 100_000}}, owner_id=user)

    with pytest.raises(InvalidInput, match="preferences together are too long") as refused:
        store.update({"preferences": {"b": "private" * 10_000}}, owner_id=user)
    assert "private" not in json.dumps(refused.value.for_log())
    assert store.get(owner_id=user) == before


def test_two_sections_that_are_changed_at_once_both_stay(real_world):
    user = real_world.new_user()
    store = real_world.profile_of(user)
    with ThreadPoolExecutor(4) as threads:
        names = [f"section-{number}" for number in range(12)]
        list(threads.map(lambda name: store.update({"preferences": {name: {"x": 1}}}, owner_id=user), names))

    assert store.get(owner_id=user)["preferences"].keys() == set(names)


def test_a_user_cannot_change_what_decides_rights(real_world):
    user = real_world.new_user()
    store = real_world.profile_of(user)
    before = store.get(owner_id=user)

    after = store.update(
        {"is_test_user": True, "expires_at": "2030-01-01T00:00:00Z", "email": "x@y.z", "id": str(uuid.uuid4())},
        owner_id=user,
    )
    assert {**after, "updated_at": None} == {**before, "updated_at": None}


def test_a_profile_can_be_read_whole_and_its_git_token_column_stays_empty(real_world):
    user = real_world.new_user()

    answer = real_world.get("users?select=*", bearer=real_world.token_of(user))
    assert (answer.status_code, answer.json()[0]["github_token"]) == (200, None)
    with pytest.raises(psycopg.errors.CheckViolation):
        real_world.sql("update public.users set github_token = 'ghp_secret' where id = %s", user)


# ---- API keys


def add_key(world, user, *, name="nightly", expires_at=None):
    key = ApiKey.new()
    row = world.api_keys_of(user).create(name=name, key_hash=key.hash, hint=key.hint, expires_at=expires_at)
    return key, row


def test_a_key_leads_to_its_owner_and_shows_when_it_was_used(world, user):
    key, row = add_key(world, user)
    assert row.keys() == {"id", "name", "hint", "created_at", "expires_at", "last_used_at"}
    assert (row["name"], row["hint"], row["expires_at"], row["last_used_at"]) == ("nightly", key.hint, None, None)

    assert world.api_key_directory().user_of(key.hash) == user
    [listed] = world.api_keys_of(user).list_all(owner_id=user)
    assert datetime.fromisoformat(listed.pop("last_used_at"))
    assert listed == {name: row[name] for name in listed}


def test_an_unknown_and_an_expired_key_lead_to_nobody(world, user):
    expired, _ = add_key(world, user, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    valid, row = add_key(world, user, expires_at=datetime.now(UTC) + timedelta(days=1))

    assert world.api_key_directory().user_of(ApiKey.new().hash) is None
    assert world.api_key_directory().user_of(expired.hash) is None
    assert world.api_key_directory().user_of(valid.hash) == user
    assert datetime.fromisoformat(row["expires_at"]) > datetime.now(UTC)


def test_a_revoked_key_leads_to_nobody_at_once(world, user):
    (key, row), (other, _) = add_key(world, user), add_key(world, user)
    assert world.api_key_directory().user_of(key.hash) == user

    world.api_keys_of(user).revoke(row["id"], owner_id=user)

    assert world.api_key_directory().user_of(key.hash) is None
    assert world.api_key_directory().user_of(other.hash) == user
    with pytest.raises(NotFound, match="API key not found"):
        world.api_keys_of(user).revoke(row["id"], owner_id=user)


def test_keys_are_listed_newest_first_to_their_owner_alone(world, user):
    stranger = world.new_user()
    ids = [add_key(world, user, name=f"key {number}")[1]["id"] for number in range(3)]
    add_key(world, stranger)

    assert [row["id"] for row in world.api_keys_of(user).list_all(owner_id=user)] == ids[::-1]
    assert world.api_keys_of(user).list_all(owner_id=stranger) == []


def test_nobody_revokes_somebody_elses_key(world, user):
    stranger = world.new_user()
    key, row = add_key(world, stranger)

    for owner in (user, stranger):
        with pytest.raises(NotFound, match="API key not found"):
            world.api_keys_of(user).revoke(row["id"], owner_id=owner)
    assert world.api_key_directory().user_of(key.hash) == stranger


def test_a_user_has_so_many_keys_and_no_more(world, user):
    for _ in range(50):
        add_key(world, user)

    with pytest.raises(Conflict, match="Revoke one first"):
        add_key(world, user)
    assert add_key(world, world.new_user())


def test_two_keys_made_at_once_do_not_pass_the_limit(real_world):
    user = real_world.new_user()
    for _ in range(48):
        add_key(real_world, user)

    def make(_):
        try:
            return bool(add_key(real_world, user))
        except Conflict:
            return False

    with ThreadPoolExecutor(6) as threads:
        assert sum(threads.map(make, range(6))) == 2


def test_a_key_ends_with_its_owner(real_world):
    user = real_world.new_user()
    key, _ = add_key(real_world, user)
    real_world.sql("delete from auth.users where id = %s", user)

    assert real_world.api_key_directory().user_of(key.hash) is None


def test_a_use_is_noted_once_a_minute(real_world):
    user = real_world.new_user()
    key, row = add_key(real_world, user)

    def used_at():
        real_world.api_key_directory().user_of(key.hash)
        return real_world.sql("select last_used_at from public.api_keys where id = %s", row["id"])

    first = used_at()
    assert used_at() == first
    real_world.sql("update public.api_keys set last_used_at = now() - interval '61 seconds' where id = %s", row["id"])
    assert used_at() > first


def test_a_hash_is_out_of_every_users_reach(real_world):
    user = real_world.new_user()
    key, row = add_key(real_world, user)

    for bearer in (real_world.token_of(user), real_world.token_of(real_world.new_user()), None):
        for path in ("api_keys", "api_keys?select=key_hash", f"api_keys?key_hash=eq.{key.hash}&select=id"):
            answer = real_world.get(path, bearer=bearer)
            assert answer.status_code in {401, 403}, answer.text
            assert key.hash not in answer.text
    shown = real_world.get("api_keys?select=id", bearer=real_world.token_of(user)).json()
    assert shown == [{"id": row["id"]}]


def test_nobody_makes_a_key_without_signing_in(real_world):
    answer = httpx.post(
        f"{real_world._gateway.url}/rest/v1/rpc/create_api_key",
        headers={"apikey": real_world._gateway.publishable_key},
        json={"p_name": "n", "p_key_hash": secrets.token_hex(32), "p_hint": "abcd"},
    )

    assert answer.status_code in {401, 403}
