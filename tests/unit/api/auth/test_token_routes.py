import time
import uuid

import jwt
import pytest

from tests.fakes.tokens import JWT_SECRET, bearer, own_claims, signed, supabase_claims
from tests.unit.api.conformance import undescribed

AGENT = "Mozilla/5.0 (the browser of the session)"


def read(token):
    return jwt.decode(token, JWT_SECRET, algorithms=["HS256"], options={"verify_aud": False})


def ask(client, *, headers=None, **body):
    answer = client.post("/api/auth/token", headers=headers, json=body)
    return answer.status, answer.json()


@pytest.fixture
def compat(world):
    return world.client(token_exchange="compat")


def test_the_page_gets_an_access_token_that_the_database_accepts_as_that_user(compat, user):
    status, body = ask(compat, user_id=user)

    assert (status, body.keys()) == (200, {"access_token", "refresh_token", "expires_in"})
    claims = read(body["access_token"])
    assert claims["exp"] - claims["iat"] == body["expires_in"] == 3600
    assert uuid.UUID(claims.pop("jti"))
    del claims["iat"], claims["exp"]
    assert claims == {
        "user_id": user,
        "type": "access",
        "sub": user,
        "role": "authenticated",
        "aud": "authenticated",
    }


def test_a_refresh_token_is_no_key_to_the_database(compat, user):
    claims = read(ask(compat, user_id=user)[1]["refresh_token"])

    assert claims.keys() == {"user_id", "type", "iat", "exp", "jti"}
    assert claims["exp"] - claims["iat"] == 7 * 86_400


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "user_id is required"),
        ([], "user_id is required"),
        ({"user_id": ""}, "user_id is required"),
        ({"user_id": None}, "user_id is required"),
        ({"user_id": 0}, "user_id is required"),
        ({"user_id": "x"}, "user_id must be a UUID"),
        ({"user_id": 7}, "user_id must be a UUID"),
        ({"user_id": ["x"]}, "user_id must be a UUID"),
        (["x"], "The body must be a JSON object"),
    ],
)
def test_a_body_without_a_user_is_refused(compat, body, text):
    answer = compat.post("/api/auth/token", json=body)

    assert (answer.status, answer.json()) == (400, {"error": text, "code": "invalid_input"})


def test_nobody_gets_tokens_for_a_user_without_a_row(compat):
    assert ask(compat, user_id=str(uuid.uuid4())) == (404, {"error": "User not found", "code": "not_found"})


def test_an_upper_case_id_is_the_same_user(compat, user):
    assert read(ask(compat, user_id=user.upper())[1]["access_token"])["sub"] == user


def test_strict_wants_proof(client, user):
    status, body = ask(client, user_id=user)

    assert status == 401
    assert "Supabase access token" in body["error"]


@pytest.mark.parametrize("place", ["bearer", "body"])
def test_strict_takes_the_users_supabase_token_as_bearer_or_in_the_body(client, user, place):
    token = signed(supabase_claims(user))
    proof = {"headers": bearer(token)} if place == "bearer" else {"access_token": token}

    assert ask(client, user_id=user, **proof)[0] == 200


@pytest.mark.parametrize("claims", [{"exp": int(time.time()) - 60}, {"role": "anon"}, {"sub": str(uuid.uuid4())}])
def test_strict_refuses_an_expired_an_anonymous_and_somebody_elses_token(client, user, claims):
    assert ask(client, user_id=user, access_token=signed(supabase_claims(user, **claims)))[0] == 401


def test_strict_refuses_our_own_access_token_which_could_renew_itself_for_ever(client, user):
    status, body = ask(client, user_id=user, headers=bearer(signed(own_claims(user))))

    assert (status, body["error"]) == (401, "Invalid token type. Expected a Supabase access token")


@pytest.mark.parametrize(
    ("claims", "text"),
    [
        ({"iss": "https://other.supabase.co/auth/v1"}, "Invalid issuer"),
        ({"aud": "elsewhere"}, "Invalid audience"),
        ({"sub": str(uuid.uuid4())}, "The Supabase access token belongs to another user"),
        ({"is_anonymous": True}, "Anonymous users have no access. Sign in with an account."),
    ],
)
def test_strict_says_what_is_wrong_with_the_proof(client, user, claims, text):
    token = signed(supabase_claims(user, **claims))
    for proof in ({"headers": bearer(token)}, {"access_token": token}):
        status, answer = ask(client, user_id=user, **proof)
        assert (status, answer["error"]) == (401, text)


def test_strict_takes_the_token_in_the_body_before_the_bearer(client, user):
    proof = {"access_token": signed(supabase_claims(user)), "headers": bearer("garbage")}

    assert ask(client, user_id=user, **proof)[0] == 200


def test_session_bound_wants_a_live_session_of_the_same_browser(world, user):
    client = world.client(token_exchange="session-bound")
    world.users.sessions.add((user, AGENT))

    assert ask(client, user_id=user, headers={"User-Agent": AGENT})[0] == 200
    assert ask(client, user_id=user, headers={"User-Agent": "curl/8"})[0] == 401
    assert ask(client, user_id=user)[0] == 401
    assert ask(client, user_id=world.new_user(), headers={"User-Agent": AGENT})[0] == 401


@pytest.mark.parametrize("mode", ["strict", "session-bound", "compat"])
def test_an_outage_of_the_database_is_an_outage(world, user, mode):
    world.users.sessions.add((user, AGENT))
    world.users.down = True
    headers = bearer(signed(supabase_claims(user))) | {"User-Agent": AGENT}

    assert ask(world.client(token_exchange=mode), user_id=user, headers=headers)[0] == 503


def refresh(client, **body):
    answer = client.post("/api/auth/refresh", json=body)
    return answer.status, answer.json()


def test_the_answers_are_as_described(compat, user):
    issued = compat.post("/api/auth/token", json={"user_id": user})
    tokens = issued.json()
    refreshed = compat.post("/api/auth/refresh", json={"refresh_token": tokens["refresh_token"]})
    verified = compat.get("/api/auth/verify", headers=bearer(tokens["access_token"]))

    assert (issued.status, refreshed.status, verified.status) == (200, 200, 200)
    assert undescribed(compat, "issueTokens", issued) == []
    assert undescribed(compat, "refreshToken", refreshed) == []
    assert undescribed(compat, "verifyToken", verified) == []


def test_a_refresh_token_gives_new_access_tokens_and_stays_valid(compat, user):
    token = ask(compat, user_id=user)[1]["refresh_token"]

    answers = [refresh(compat, refresh_token=token) for _ in range(2)]

    assert [status for status, _ in answers] == [200, 200]
    assert all(body.keys() == {"access_token", "expires_in"} for _, body in answers)
    first, second = (read(body["access_token"]) for _, body in answers)
    assert (first["sub"], second["sub"]) == (user, user)
    assert first["jti"] != second["jti"]


def test_a_user_who_was_deleted_a_moment_ago_gets_no_new_token(compat, world, user, as_user):
    token = ask(compat, user_id=user)[1]["refresh_token"]
    assert compat.get("/api/auth/verify", headers=as_user).status == 200  # and is known for a minute
    world.users.existing.remove(user)

    assert refresh(compat, refresh_token=token) == (401, {"error": "User not found", "code": "not_authenticated"})


def test_a_refresh_during_an_outage_is_an_outage(compat, world, user):
    token = ask(compat, user_id=user)[1]["refresh_token"]
    world.users.down = True

    assert refresh(compat, refresh_token=token)[0] == 503


def test_a_supabase_token_does_not_refresh(compat, user):
    token = signed(supabase_claims(user))

    assert refresh(compat, refresh_token=token)[1]["error"] == "Invalid token type. Expected refresh"


def test_a_refresh_token_of_the_old_backend_is_still_accepted(compat, user):
    now = int(time.time())
    old = signed({"user_id": user, "type": "refresh", "iat": now, "exp": now + 60})

    assert refresh(compat, refresh_token=old)[0] == 200


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"type": "access"}, "Invalid token type. Expected refresh"),
        ({"type": None}, "Invalid token type. Expected refresh"),
        ({"type": "refresh", "exp": int(time.time()) - 60}, "Token has expired"),
        ({"type": "refresh", "exp": None}, "Authentication failed"),
        ({"type": "refresh", "aud": "elsewhere"}, "Invalid audience"),
        ({"type": "refresh", "user_id": None}, "Authentication failed"),
        ({"type": "refresh", "user_id": str(uuid.uuid4())}, "User not found"),
    ],
)
def test_what_is_no_refresh_token_of_a_known_user_is_refused(compat, user, changes, text):
    assert refresh(compat, refresh_token=signed(own_claims(user, **changes))) == (
        401,
        {"error": text, "code": "not_authenticated"},
    )


@pytest.mark.parametrize("body", [{}, {"refresh_token": ""}, {"refresh_token": None}])
def test_a_refresh_without_a_token_is_refused(compat, body):
    assert refresh(compat, **body) == (400, {"error": "refresh_token is required", "code": "invalid_input"})


def test_a_refused_body_is_not_repeated_in_the_answer(compat):
    answer = compat.post("/api/auth/refresh", json={"refresh_token": ["eyJ-secret"]})

    assert answer.status == 400
    assert "eyJ" not in answer.text
