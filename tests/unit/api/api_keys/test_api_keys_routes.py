import hashlib
import json
import re
import uuid
from datetime import UTC, datetime, timedelta

import jwt
import pytest

from functions.api.auth.caller import KnownUsers, authenticate
from functions.api.auth.jwks import key_finder
from functions.api.auth.tokens import Tokens
from shared.domain.api_key import ApiKey
from shared.domain.redaction import REDACTED, Redactor
from tests.fakes.tokens import JWT_SECRET, bearer, own_claims, signed
from tests.unit.api.conformance import undescribed

KEYS = "/api/api-keys"
NOT_ALLOWED = (403, "api_key_not_allowed")


def create(client, headers, **body):
    answer = client.post(KEYS, headers=headers, json={"name": "nightly", **body})
    assert answer.status == 201, answer.text
    return answer.json()["api_key"]


@pytest.fixture
def key(client, as_user):
    """A key of the user's, as it was shown."""
    return create(client, as_user)["key"]


def refused(answer):
    return answer.status, answer.json()["code"]


def test_a_new_key_is_shown_once_and_stored_as_its_hash(client, world, as_user, user):
    shown = create(client, as_user, name="  nightly build ")

    key = shown["key"]
    assert re.fullmatch(r"ac_[A-Za-z0-9_-]{43}", key)
    assert shown.keys() == {"id", "name", "hint", "created_at", "expires_at", "last_used_at", "key"}
    assert (shown["name"], shown["hint"], shown["expires_at"], shown["last_used_at"]) == (
        "nightly build",
        key[-4:],
        None,
        None,
    )
    [(stored_hash, stored)] = world.users.api_keys.items()
    assert stored_hash == hashlib.sha256(key.encode()).hexdigest()
    assert stored["user_id"] == user
    assert key not in json.dumps(stored)

    listed = client.get(KEYS, headers=as_user)
    assert undescribed(client, "listApiKeys", listed) == []
    assert listed.json() == {"status": "success", "api_keys": [{k: shown[k] for k in shown if k != "key"}]}


def test_keys_are_all_different(client, as_user):
    answer = client.post(KEYS, headers=as_user, json={"name": "nightly"})
    assert undescribed(client, "createApiKey", answer) == []
    assert len({create(client, as_user)["key"] for _ in range(5)}) == 5


def test_a_key_expires_when_it_was_asked_to(client, as_user):
    expires_at = datetime.fromisoformat(create(client, as_user, expires_in_days=90)["expires_at"])

    assert timedelta(0) <= datetime.now(UTC) + timedelta(days=90) - expires_at < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "No data provided"),
        ({"expires_in_days": 1}, "name is required"),
        ({"name": ""}, "name must have 1 to 100 characters, not only blanks"),
        ({"name": "  "}, "name must have 1 to 100 characters, not only blanks"),
        ({"name": "x" * 101}, "name must have 1 to 100 characters, not only blanks"),
        ({"name": "a\0b"}, "name must have 1 to 100 characters, not only blanks"),
        ({"name": 7}, "name must be a string"),
        ({"name": "n", "expires_in_days": 0}, "expires_in_days must be 1 or more"),
        ({"name": "n", "expires_in_days": 3651}, "expires_in_days must be 3650 or less"),
        ({"name": "n", "expires_in_days": "90"}, "expires_in_days must be a whole number"),
        ({"name": "n", "expires_in_days": True}, "expires_in_days must be a whole number"),
    ],
)
def test_a_key_that_cannot_be_made_is_refused_and_nothing_is_stored(client, world, as_user, body, text):
    answer = client.post(KEYS, headers=as_user, json=body)

    assert (answer.status, answer.json()) == (400, {"error": text, "code": "invalid_input"})
    assert world.users.api_keys == {}


@pytest.mark.parametrize(
    "body", [{"name": "x" * 100}, {"name": f" {'é' * 100} "}, {"name": "n", "expires_in_days": 3650}]
)
def test_the_longest_name_and_life_are_accepted(client, as_user, body):
    assert client.post(KEYS, headers=as_user, json=body).status == 201


def test_there_is_an_end_to_how_many_keys_one_can_have(client, as_user):
    for _ in range(50):
        create(client, as_user)

    assert refused(client.post(KEYS, headers=as_user, json={"name": "one more"})) == (409, "conflict")


def test_keys_are_listed_newest_first_and_only_to_their_owner(client, world, as_user):
    ids = [create(client, as_user)["id"] for _ in range(3)]
    create(client, bearer(signed(own_claims(world.new_user()))))

    assert [row["id"] for row in client.get(KEYS, headers=as_user).json()["api_keys"]] == ids[::-1]


def test_a_key_opens_what_its_owners_token_opens(client, world, user, key):
    assert client.get("/api/auth/verify", headers=bearer(key)).json() == {"valid": True, "user_id": user}
    assert client.get("/api/me", headers=bearer(key)).json()["user"]["id"] == user


def test_the_database_is_asked_with_a_token_of_the_owners_that_lasts_one_request(world, user):
    key = ApiKey.new()
    world.users.api_keys_of(user).create(name="n", key_hash=key.hash, hint=key.hint, expires_at=None)

    found = authenticate(
        f"Bearer {key.secret.reveal()}",
        tokens=Tokens(world.settings, key_finder(world.settings)),
        known=KnownUsers(),
        users_of=None,
        api_keys=world.users.api_key_directory,
    )

    assert (found.id, found.by_api_key) == (user, True)
    claims = jwt.decode(found.token.reveal(), JWT_SECRET, algorithms=["HS256"], audience="authenticated")
    assert claims.pop("exp") - claims.pop("iat") == 60
    assert claims == {"sub": user, "role": "authenticated", "aud": "authenticated"}


def test_a_request_with_a_key_costs_one_query_more(client, world, key, as_user):
    client.get("/api/me", headers=as_user)
    before = world.users.asked
    client.get("/api/me", headers=as_user)
    with_token = world.users.asked - before
    client.get("/api/me", headers=bearer(key))

    assert world.users.asked - before - with_token == with_token + 1


@pytest.mark.parametrize(
    "wrong", [f"ac_{'x' * 43}", "ac_", "ac_x", f"ac_{'x' * 44}", f"ac_{'x' * 42}.", f"ac_{'é' * 43}"]
)
def test_an_unknown_key_is_refused_and_not_repeated(client, wrong):
    answer = client.get("/api/auth/verify", headers=bearer(wrong))

    assert (answer.status, answer.json()) == (401, {"error": "Invalid API key", "code": "invalid_api_key"})


def test_what_has_not_the_shape_of_a_key_does_not_reach_the_database(client, world):
    client.get("/api/auth/verify", headers=bearer("ac_short"))

    assert world.users.asked == 0


def test_an_expired_key_is_refused(client, world, user):
    key = ApiKey.new()
    ended = datetime.now(UTC) - timedelta(seconds=1)
    world.users.api_keys_of(user).create(name="n", key_hash=key.hash, hint=key.hint, expires_at=ended)

    assert refused(client.get("/api/me", headers=bearer(key.secret.reveal()))) == (401, "invalid_api_key")


def test_a_revoked_key_is_refused_at_once(client, as_user):
    made = create(client, as_user)
    assert client.get("/api/me", headers=bearer(made["key"])).status == 200

    answer = client.request("DELETE", f"{KEYS}/{made['id'].upper()}", headers=as_user)

    assert (answer.status, answer.json()) == (200, {"status": "success", "message": "API key revoked"})
    assert undescribed(client, "revokeApiKey", answer) == []
    assert refused(client.get("/api/me", headers=bearer(made["key"]))) == (401, "invalid_api_key")
    assert client.request("DELETE", f"{KEYS}/{made['id']}", headers=as_user).status == 404


@pytest.mark.parametrize("key_id", ["7", "not-a-uuid", "{id}-1", "%00", "eq.1", "x" * 3000])
def test_what_names_no_key_is_not_found(client, as_user, key_id):
    answer = client.request("DELETE", f"{KEYS}/{key_id}", headers=as_user)

    assert (answer.status, answer.json()) == (404, {"error": "API key not found", "code": "not_found"})


def test_somebody_elses_key_looks_absent_and_stays(client, world, as_user):
    stranger, key = world.new_user(), ApiKey.new()
    row = world.users.api_keys_of(stranger).create(name="n", key_hash=key.hash, hint=key.hint, expires_at=None)

    for key_id in (row["id"], str(uuid.uuid4())):
        answer = client.request("DELETE", f"{KEYS}/{key_id}", headers=as_user)
        assert (answer.status, answer.json()) == (404, {"error": "API key not found", "code": "not_found"})
    assert key.hash in world.users.api_keys
    assert client.get(KEYS, headers=as_user).json()["api_keys"] == []


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("GET", KEYS, None), ("POST", KEYS, {"name": "another"}), ("POST", KEYS, {}), ("DELETE", f"{KEYS}/{{id}}", None)],
)
def test_a_key_cannot_manage_keys_so_that_a_stolen_one_does_not_outlive_its_revocation(
    client, world, key, method, path, body
):
    [row] = world.users.api_keys.values()
    answer = client.request(method, path.format(id=row["id"]), headers=bearer(key), json=body)

    assert refused(answer) == NOT_ALLOWED
    assert len(world.users.api_keys) == 1


@pytest.mark.parametrize("place", ["bearer", "body"])
def test_a_key_cannot_be_exchanged_for_tokens(client, user, key, place):
    proof = {"headers": bearer(key)} if place == "bearer" else {}
    body = {"user_id": user, "access_token": key} if place == "body" else {"user_id": user}

    assert refused(client.post("/api/auth/token", json=body, **proof)) == NOT_ALLOWED


def test_a_key_cannot_be_refreshed_into_a_token(client, key):
    assert refused(client.post("/api/auth/refresh", json={"refresh_token": key})) == NOT_ALLOWED


def test_a_key_that_cannot_be_checked_is_an_outage(client, world, key):
    world.users.down = True

    assert refused(client.get("/api/me", headers=bearer(key))) == (503, "unavailable")


def test_a_key_has_a_shape_that_logs_mask():
    key = ApiKey.new().secret.reveal()

    assert Redactor().text(f"sent {key}, got 401") == f"sent {REDACTED}, got 401"


def test_a_key_is_no_jwt_and_no_jwt_is_a_key():
    with pytest.raises(jwt.DecodeError):
        jwt.decode(ApiKey.new().secret.reveal(), JWT_SECRET, algorithms=["HS256"])
    assert jwt.encode({}, JWT_SECRET).startswith("ey")
