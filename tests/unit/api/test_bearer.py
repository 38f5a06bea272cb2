"""Who may come in: the contract's texts for our own tokens, and Supabase's."""

import json
import time

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from functions.api.auth import KNOWN_FOR_S, KnownUsers
from functions.api.tokens import Tokens, published_key
from shared.domain.errors import Misconfigured, NotAuthenticated, Unavailable
from shared.domain.secret import Secret
from tests.fakes.tokens import JWT_SECRET, bearer, own_claims, signed, supabase_claims


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


NOW = int(time.time())


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"exp": NOW - 60}, "Token has expired"),
        ({"exp": None}, "Authentication failed"),
        ({"iat": NOW + 600}, "The token is not yet valid (iat)"),
        ({"type": "refresh"}, "Invalid token type. Expected access"),
        ({"type": None, "role": None}, "Invalid token type. Expected access"),
        ({"type": None, "role": "anon"}, "Invalid token type. Expected access"),
        ({"type": None, "role": "service_role"}, "Invalid token type. Expected access"),
        ({"user_id": None}, "Authentication failed"),
        ({"user_id": "7"}, "Authentication failed"),
        ({"aud": "somebody else"}, "Invalid audience"),
        ({"aud": None}, "Invalid audience"),
        ({"role": "service_role"}, "Authentication failed"),
        ({"sub": "00000000-0000-4000-8000-000000000000"}, "Authentication failed"),
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused_with_the_contracts_text(client, user, changes, text):
    assert verify(client, **bearer(signed(own_claims(user, **changes)))) == (401, text)


@pytest.mark.parametrize(
    ("key", "algorithm", "text"),
    [
        ("another secret that is long enough!", "HS256", "Signature verification failed"),
        (None, "none", "The specified alg value is not allowed"),
        (JWT_SECRET, "HS384", "The specified alg value is not allowed"),
    ],
)
def test_a_token_of_another_key_or_algorithm_is_refused(client, user, key, algorithm, text):
    assert verify(client, **bearer(jwt.encode(own_claims(user), key, algorithm=algorithm))) == (401, text)


def test_our_own_token_is_accepted_whatever_the_case_of_the_scheme(client, user):
    token = signed(own_claims(user))

    assert client.get("/api/auth/verify", headers={"Authorization": f"bEARER {token}"}).json() == {
        "valid": True,
        "user_id": user,
    }


def test_a_supabase_token_of_the_shared_secret_is_accepted(client, user):
    assert verify(client, **bearer(signed(supabase_claims(user)))) == (200, None)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"aud": "elsewhere"}, "Invalid audience"),
        ({"sub": "not-a-uuid"}, "Authentication failed"),
        ({"role": "anon"}, "Invalid token type. Expected access"),
        ({"exp": NOW - 60}, "Token has expired"),
    ],
)
def test_a_supabase_token_with_wrong_claims_is_refused(client, user, changes, text):
    assert verify(client, **bearer(signed(supabase_claims(user, **changes)))) == (401, text)


class KeyPair:
    """A signing key of a project, and its JWKS document."""

    def __init__(self, algorithm, kid="key-1"):
        self.algorithm, self.kid = algorithm, kid
        self.private = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        kind = jwt.get_algorithm_by_name(algorithm)
        public = kind.to_jwk(self.private.public_key(), as_dict=True) | {"kid": kid, "alg": algorithm, "use": "sig"}
        self.jwks = json.dumps({"keys": [public]})

    def token(self, claims, **header):
        return signed(claims, self.private, self.algorithm, kid=self.kid, **header)

    @property
    def public_pem(self):
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return self.private.public_key().public_bytes(serialization.Encoding.PEM, form)


@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_a_supabase_token_of_a_published_key_is_accepted(world, user, algorithm):
    keys = KeyPair(algorithm)
    client = world.client(supabase_jwks=keys.jwks)

    assert verify(client, **bearer(keys.token(supabase_claims(user)))) == (200, None)
    assert verify(client, **bearer(signed(own_claims(user)))) == (200, None)


def test_a_token_of_an_unpublished_key_is_refused(world, user):
    client = world.client(supabase_jwks=KeyPair("ES256").jwks)

    for stranger in (KeyPair("ES256"), KeyPair("ES256", kid="key-2"), KeyPair("RS256")):
        assert verify(client, **bearer(stranger.token(supabase_claims(user))))[0] == 401


def test_a_public_key_is_never_taken_for_a_shared_secret(world, user):
    keys = KeyPair("RS256")
    client = world.client(supabase_jwks=keys.jwks)
    header, payload, _ = signed(supabase_claims(user), "x" * 40, kid=keys.kid).split(".")
    digest = jwt.get_algorithm_by_name("HS256").sign(f"{header}.{payload}".encode(), keys.public_pem)
    forged = f"{header}.{payload}.{jwt.utils.base64url_encode(digest).decode()}"

    assert verify(client, **bearer(forged)) == (401, "Signature verification failed")


def test_a_setting_that_is_no_jwks_is_refused_at_the_start(world):
    for wrong in ("{}", "[]", "nonsense", '{"keys":[]}'):
        with pytest.raises(Misconfigured, match="SUPABASE_JWKS"):
            world.client(supabase_jwks=wrong)


def test_published_keys_that_cannot_be_fetched_are_an_outage_not_a_bad_token(world, user):
    def unreachable(_token):
        raise jwt.PyJWKClientConnectionError("timed out")

    with pytest.raises(Unavailable):
        Tokens(world.settings, unreachable).user_of_access(Secret(KeyPair("ES256").token(supabase_claims(user))))


def test_a_project_without_a_fitting_key_does_not_know_the_token(world, user):
    def none_fits(_token):
        raise jwt.PyJWKClientError("Unable to find a signing key")

    with pytest.raises(NotAuthenticated, match="Signature verification failed"):
        Tokens(world.settings, none_fits).user_of_access(Secret(KeyPair("ES256").token(supabase_claims(user))))


def test_without_the_setting_keys_come_from_the_project_at_first_use(world):
    assert published_key(world.settings).__self__.uri == "https://project.supabase.co/auth/v1/.well-known/jwks.json"


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
