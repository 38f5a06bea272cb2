"""Who may come in: the contract's texts for our own tokens, those of the backend before us, and Supabase's."""

import base64
import json
import logging
import time
import uuid

import jwt
import pytest

from functions.api.auth.caller import KNOWN_FOR_S, KnownUsers
from functions.api.auth.jwks import COOLDOWN_S, LIFESPAN_S, FetchedKeys, key_finder
from functions.api.auth.tokens import DATABASE_TOKEN_S, Tokens
from shared.domain.errors import Misconfigured, NotAuthenticated, Unavailable
from shared.domain.redaction import REDACTED
from shared.domain.secret import Secret
from shared.observability import get_logger
from tests.fakes.tokens import (
    JWT_SECRET,
    KeyPair,
    bearer,
    forged,
    old_claims,
    own_claims,
    signed,
    supabase_claims,
)

NOW = int(time.time())
EXPECTED_ACCESS = "Invalid token type. Expected access"
REFUSED_ALGORITHM = "The specified alg value is not allowed"


def verify(client, **headers):
    answer = client.get("/api/auth/verify", headers=headers)
    return answer.status, answer.json().get("error")


@pytest.mark.parametrize(
    ("header", "text"),
    [
        (None, "Missing authorization header"),
        ("", "Missing authorization header"),
        ("Bearer", "Invalid authorization header format"),
        ("Bearer  x", "Invalid authorization header format"),
        ("Bearer a b", "Invalid authorization header format"),
        ("token", "Invalid authorization header format"),
        ("Basic abc", "Invalid authentication scheme"),
        ("Bearer garbage", "Not enough segments"),
        ("Bearer a.b.c", "Invalid header padding"),
    ],
)
def test_a_header_that_holds_no_token_is_refused_with_the_contracts_text(client, header, text):
    assert verify(client, **({} if header is None else {"Authorization": header})) == (401, text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exp": NOW - 60}, "Token has expired"),
        ({"exp": None}, "Authentication failed"),
        ({"iat": None}, "Authentication failed"),
        ({"iat": NOW + 6000}, "The token is not yet valid (iat)"),
        ({"type": "refresh"}, EXPECTED_ACCESS),
        ({"type": None, "role": None}, EXPECTED_ACCESS),
        ({"type": None, "role": "anon"}, EXPECTED_ACCESS),
        ({"type": None, "role": "service_role"}, EXPECTED_ACCESS),
        ({"user_id": None}, "Authentication failed"),
        ({"user_id": "7"}, "Authentication failed"),
        ({"user_id": 7}, "Authentication failed"),
        ({"aud": "somebody else"}, "Invalid audience"),
        ({"aud": ["somebody else"]}, "Invalid audience"),
        ({"aud": {"authenticated": True}}, "Invalid audience"),
        ({"role": "service_role"}, "Authentication failed"),
        ({"sub": "00000000-0000-4000-8000-000000000000"}, "Authentication failed"),
    ],
)
@pytest.mark.parametrize("claims_of", [own_claims, old_claims])
def test_a_signed_token_with_wrong_claims_is_refused_with_the_contracts_text(client, user, claims_of, changes, text):
    assert verify(client, **bearer(signed(claims_of(user, **changes)))) == (401, text)


@pytest.mark.parametrize("claims_of", [own_claims, old_claims, supabase_claims])
@pytest.mark.parametrize(("claim", "seconds"), [("exp", -2), ("iat", 4)])
def test_clocks_may_differ_by_some_seconds(client, user, claims_of, claim, seconds):
    token = signed(claims_of(user, **{claim: int(time.time()) + seconds}))

    assert verify(client, **bearer(token)) == (200, None)


def test_our_own_token_is_accepted_whatever_the_case_of_the_scheme(client, user):
    token = signed(own_claims(user))

    assert client.get("/api/auth/verify", headers={"Authorization": f"bEARER {token}"}).json() == {
        "valid": True,
        "user_id": user,
    }


# ---- tokens of the backend before us


@pytest.fixture
def tokens(world):
    return Tokens(world.settings, key_finder(world.settings))


def test_our_own_token_and_supabases_go_to_the_database_as_they_are(tokens, user):
    for token in map(Secret, (signed(own_claims(user)), signed(supabase_claims(user)))):
        assert tokens.user_of_access(token) == (user, token)


@pytest.mark.parametrize("kept", [{}, {"sub": None}, {"role": None}, {"sub": None, "role": None}])
def test_for_a_token_that_says_nothing_to_the_database_one_is_made_that_lasts_one_request(tokens, user, kept):
    token = Secret(signed(own_claims(user, aud=None, **kept)))
    user_id, for_database = tokens.user_of_access(token)

    assert user_id == user
    assert (for_database == token) == (kept == {})
    if kept:
        claims = jwt.decode(for_database.reveal(), JWT_SECRET, algorithms=["HS256"], audience="authenticated")
        assert claims.pop("exp") - claims.pop("iat") == DATABASE_TOKEN_S
        assert claims == {"sub": user, "role": "authenticated", "aud": "authenticated"}


def test_a_token_for_the_database_opens_nothing_here(client, tokens, user):
    assert verify(client, **bearer(tokens.for_database(user).reveal())) == (401, "Invalid issuer")


def test_whoever_was_signed_in_with_the_old_backend_still_is(client, user):
    headers = bearer(signed(old_claims(user)))

    assert verify(client, **headers) == (200, None)
    assert client.get("/api/me", headers=headers).json()["user"]["id"] == user


# ---- Supabase's tokens


@pytest.mark.parametrize("audience", ["authenticated", ["authenticated"], ["elsewhere", "authenticated"]])
def test_a_supabase_token_of_the_shared_secret_is_accepted(client, user, audience):
    assert verify(client, **bearer(signed(supabase_claims(user, aud=audience)))) == (200, None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"aud": "elsewhere"}, "Invalid audience"),
        ({"aud": ["elsewhere"]}, "Invalid audience"),
        ({"aud": None}, "Invalid audience"),
        ({"iss": "https://other.supabase.co/auth/v1"}, "Invalid issuer"),
        ({"iss": "https://project.supabase.co/auth/v1/"}, "Invalid issuer"),
        ({"iss": None}, "Invalid issuer"),
        ({"sub": "not-a-uuid"}, "Authentication failed"),
        ({"sub": None}, "Authentication failed"),
        ({"role": "anon"}, EXPECTED_ACCESS),
        ({"role": "service_role"}, EXPECTED_ACCESS),
        ({"role": None}, EXPECTED_ACCESS),
        ({"exp": NOW - 60}, "Token has expired"),
        ({"exp": None}, "Authentication failed"),
        ({"iat": None}, "Authentication failed"),
    ],
)
@pytest.mark.parametrize("published", [True, False])
def test_a_supabase_token_with_wrong_claims_is_refused(world, user, changes, text, published):
    keys, claims = KeyPair(), supabase_claims(user, **changes)
    token = keys.token(claims) if published else signed(claims)

    assert verify(world.client(supabase_jwks=keys.jwks), **bearer(token)) == (401, text)


def test_an_anonymous_user_whom_anybody_can_make_has_no_access(client, user):
    answer = client.get("/api/auth/verify", headers=bearer(signed(supabase_claims(user, is_anonymous=True))))

    assert (answer.status, answer.json()["code"]) == (401, "anonymous_user")


def test_another_issuer_can_be_named_by_the_setting(world, user):
    client = world.client(supabase_jwt_issuer="https://auth.example.com/auth/v1")
    token = signed(supabase_claims(user, iss="https://auth.example.com/auth/v1"))

    assert verify(client, **bearer(token)) == (200, None)
    assert verify(client, **bearer(signed(supabase_claims(user)))) == (401, "Invalid issuer")


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_supabase_token_of_a_published_key_is_accepted(world, user, algorithm):
    keys = KeyPair(algorithm)
    client = world.client(supabase_jwks=keys.jwks)

    assert verify(client, **bearer(keys.token(supabase_claims(user)))) == (200, None)
    assert verify(client, **bearer(signed(own_claims(user)))) == (200, None)


def test_a_published_key_signs_no_token_of_ours(world, user):
    keys = KeyPair()
    client = world.client(supabase_jwks=keys.jwks)

    assert verify(client, **bearer(keys.token(own_claims(user)))) == (401, "Invalid issuer")
    refresh = {"user_id": user, "type": "refresh", "iat": NOW, "exp": NOW + 600}
    assert client.post("/api/auth/refresh", json={"refresh_token": keys.token(refresh)}).status == 401


# ---- attacks on the signature


@pytest.mark.parametrize(
    ("key", "algorithm", "text"),
    [
        ("another secret that is long enough!", "HS256", "Signature verification failed"),
        (None, "none", REFUSED_ALGORITHM),
        (JWT_SECRET, "HS384", REFUSED_ALGORITHM),
    ],
)
def test_a_token_of_another_key_or_algorithm_is_refused(client, user, key, algorithm, text):
    assert verify(client, **bearer(jwt.encode(own_claims(user), key, algorithm=algorithm))) == (401, text)


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        ("nOnE", REFUSED_ALGORITHM),
        ("", REFUSED_ALGORITHM),
        (None, REFUSED_ALGORITHM),
        (["ES256"], REFUSED_ALGORITHM),
        ({"ES256": 1}, REFUSED_ALGORITHM),
        ("ES256K", REFUSED_ALGORITHM),
        ("EdDSA", REFUSED_ALGORITHM),
    ],
)
@pytest.mark.parametrize("signature", ["", "c2lnbmF0dXJl"])
def test_a_header_cannot_talk_us_out_of_the_signature(client, user, algorithm, text, signature):
    parts = forged({"alg": algorithm, "typ": "JWT"}, own_claims(user), b"x").split(".")

    assert verify(client, **bearer(".".join([*parts[:2], signature]))) == (401, text)


def test_a_token_without_an_algorithm_is_refused(client, user):
    assert verify(client, **bearer(forged({}, own_claims(user), JWT_SECRET.encode()))) == (
        401,
        "Algorithm not specified",
    )


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
@pytest.mark.parametrize("form", ["pem", "pem without a line end", "jwk", "jwks", "kid"])
def test_a_public_key_is_never_taken_for_a_shared_secret(world, user, algorithm, form):
    keys = KeyPair(algorithm)
    secret = {
        "pem": keys.public_pem,
        "pem without a line end": keys.public_pem.strip(),
        "jwk": json.dumps(keys.jwk).encode(),
        "jwks": keys.jwks.encode(),
        "kid": keys.kid.encode(),
    }[form]
    client = world.client(supabase_jwks=keys.jwks)

    for name in (algorithm, "HS256"):
        token = forged({"alg": name, "kid": keys.kid}, supabase_claims(user), secret)
        assert verify(client, **bearer(token)) == (401, "Signature verification failed")


def test_a_token_cannot_name_an_algorithm_that_its_key_is_not_for(world, user):
    curve, rsa = KeyPair("ES256", "curve"), KeyPair("RS256", "rsa")
    client = world.client(supabase_jwks=json.dumps({"keys": [curve.jwk, rsa.jwk]}))

    for keys, kid in ((curve, "rsa"), (rsa, "curve")):
        assert verify(client, **bearer(keys.token(supabase_claims(user), kid=kid))) == (401, REFUSED_ALGORITHM)


@pytest.mark.parametrize("place", ["jwk", "jku", "x5u", "x5c"])
def test_a_key_that_a_token_brings_along_is_ignored(world, user, place):
    published, own = KeyPair(), KeyPair()
    brought = {"jwk": own.jwk, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x", "x5c": ["MIIB"]}
    token = own.token(supabase_claims(user), **{place: brought[place]})

    assert verify(world.client(supabase_jwks=published.jwks), **bearer(token)) == (401, "Signature verification failed")


@pytest.mark.parametrize(
    ("kid", "text"),
    [
        ("key-2", "Signature verification failed"),
        ("", "Signature verification failed"),
        ("../../dev/null", "Signature verification failed"),
        ("key-1' or '1'='1", "Signature verification failed"),
        (None, "Key ID header parameter must be a string"),
        (["key-1"], "Key ID header parameter must be a string"),
        ({"key-1": 1}, "Key ID header parameter must be a string"),
    ],
)
def test_a_name_of_no_published_key_is_refused(world, user, kid, text):
    token = forged({"alg": "ES256", "kid": kid}, supabase_claims(user), b"")

    assert verify(world.client(supabase_jwks=KeyPair().jwks), **bearer(token)) == (401, text)


def test_a_token_that_names_no_key_is_refused(world, user):
    token = forged({"alg": "ES256"}, supabase_claims(user), b"")

    assert verify(world.client(supabase_jwks=KeyPair().jwks), **bearer(token)) == (401, "Signature verification failed")


def test_a_token_of_an_unpublished_key_is_refused(world, user):
    client = world.client(supabase_jwks=KeyPair("ES256").jwks)

    for stranger in (KeyPair("ES256"), KeyPair("ES256", kid="key-2"), KeyPair("RS256")):
        assert verify(client, **bearer(stranger.token(supabase_claims(user))))[0] == 401


def test_a_secret_among_the_published_keys_signs_nothing(world, user):
    oct_key = {"kty": "oct", "kid": "shared", "alg": "HS256", "k": base64.urlsafe_b64encode(b"k" * 32).decode()}
    client = world.client(supabase_jwks=json.dumps({"keys": [KeyPair().jwk, oct_key]}))
    token = forged({"alg": "HS256", "kid": "shared"}, supabase_claims(user), b"k" * 32)

    assert verify(client, **bearer(token)) == (401, "Signature verification failed")


# ---- where the published keys come from


def test_a_setting_that_is_no_jwks_with_a_public_key_is_refused_at_the_start(world):
    encryption_only = json.dumps({"keys": [KeyPair().jwk | {"use": "enc"}]})
    nameless = json.dumps({"keys": [KeyPair().jwk | {"kid": ""}]})
    for wrong in ("{}", "[]", "7", "nonsense", '{"keys":[]}', '{"keys":[{"kty":["EC"]}]}', encryption_only, nameless):
        with pytest.raises(Misconfigured, match="SUPABASE_JWKS"):
            world.client(supabase_jwks=wrong)


def test_without_the_setting_keys_come_from_the_project_at_first_use(world):
    find = key_finder(world.settings)

    assert find.__self__._fetch.__self__.uri == "https://project.supabase.co/auth/v1/.well-known/jwks.json"


class Project:
    """What the address of the published keys answers, how often it was asked, and the time."""

    def __init__(self, *answers):
        self.answers, self.asked, self.now = list(answers), 0, 1000.0
        self.keys = FetchedKeys(self._fetch, lambda: self.now)

    def _fetch(self):
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def find(self, kid, *, later=0.0):
        self.now += later
        return self.keys.find(kid)


DOWN = jwt.PyJWKClientConnectionError("timed out")


def test_published_keys_are_fetched_once_in_ten_minutes():
    project = Project(KeyPair().document)
    for _ in range(5):
        assert project.find("key-1").key_id == "key-1"
    assert project.asked == 1

    assert project.find("key-1", later=LIFESPAN_S)
    assert project.asked == 2


@pytest.mark.parametrize("document", [KeyPair().document, {"keys": []}])
def test_made_up_names_of_keys_do_not_make_us_fetch_at_each_request(document):
    project = Project(document)
    for number in range(100):
        assert project.find(f"made-up-{number}") is None
    assert project.asked == 1

    assert project.find("made-up", later=COOLDOWN_S) is None
    assert project.asked == 2


def test_a_new_key_is_found_after_the_cooldown():
    project = Project(KeyPair().document, {"keys": [KeyPair().jwk, KeyPair(kid="key-2").jwk]})

    assert project.find("key-1")
    assert project.find("key-2", later=COOLDOWN_S).key_id == "key-2"


def test_a_key_that_is_published_no_more_is_forgotten():
    project = Project(KeyPair().document, KeyPair(kid="key-2").document)

    assert project.find("key-1")
    assert project.find("key-1", later=LIFESPAN_S) is None


@pytest.mark.parametrize(
    "failure",
    [DOWN, ConnectionResetError(), json.JSONDecodeError("no JSON", "", 0), jwt.PyJWKClientError("a list"), {}],
)
def test_keys_that_cannot_be_fetched_are_an_outage_and_asked_for_again_only_after_a_while(failure):
    project = Project(failure)
    for _ in range(3):
        with pytest.raises(Unavailable):
            project.find("key-1")
    assert project.asked == 1

    project.answers = [KeyPair().document]
    assert project.find("key-1", later=COOLDOWN_S)


def test_while_keys_cannot_be_fetched_those_at_hand_stay_good_and_unknown_ones_may_exist():
    project = Project(KeyPair().document, DOWN)
    assert project.find("key-1")

    assert project.find("key-1", later=LIFESPAN_S).key_id == "key-1"
    with pytest.raises(Unavailable):
        project.find("key-2")


def test_an_outage_of_the_published_keys_does_not_touch_tokens_of_the_shared_secret(world, user):
    tokens = Tokens(world.settings, Project(DOWN).keys.find)

    with pytest.raises(Unavailable):
        tokens.user_of_access(Secret(KeyPair().token(supabase_claims(user))))
    for claims in (own_claims(user), old_claims(user), supabase_claims(user)):
        assert tokens.user_of_access(Secret(signed(claims)))[0] == user


# ---- who exists


def test_a_user_without_a_row_is_unknown(client, world, user):
    world.users.existing.remove(user)

    assert verify(client, **bearer(signed(own_claims(user)))) == (401, "User not found")


def test_a_database_that_is_down_does_not_look_like_an_unknown_user(client, world, as_user):
    world.users.down = True
    answer = client.get("/api/auth/verify", headers=as_user)

    assert (answer.status, answer.json()["code"]) == (503, "unavailable")
    assert answer.headers["retry-after"]


def test_a_known_user_is_looked_up_once_a_minute_and_an_unknown_one_each_time(world, user):
    now = [0.0]
    known, directory = KnownUsers(lambda: now[0]), world.users.directory_of(user)
    for _ in range(3):
        known.check(user, directory)
    assert world.users.asked == 1

    now[0] += KNOWN_FOR_S
    world.users.existing.clear()
    for _ in range(2):
        with pytest.raises(NotAuthenticated):
            known.check(user, directory)
    assert world.users.asked == 3


# ---- logs


@pytest.mark.parametrize("token", ["a-token-of-no-known-shape-at-all", "ac_" + "k" * 43])
def test_every_bearer_that_was_read_is_masked_in_logs_in_every_form(client, capsys, token):
    client.get("/api/auth/verify", headers=bearer(token))
    log = get_logger(f"test-{uuid.uuid4()}")
    log.setLevel(logging.INFO)
    log.info("said", extra={"plain": f"<{token}>", "encoded": f"<{base64.b64encode(token.encode()).decode()}>"})

    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["plain"], said["encoded"]) == (f"<{REDACTED}>", f"<{REDACTED}>")
