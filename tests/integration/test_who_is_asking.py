"""Tokens and keys of every kind, from the sign-in service through the API to the database's own rules."""

import json
import secrets
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import jwt
import pytest
from mangum import Mangum

from functions.api.app import create_app
from functions.api.auth.jwks import key_finder
from shared.config import ApiSettings
from shared.domain.errors import Unavailable
from tests.fakes.lambda_client import LambdaClient
from tests.fakes.tokens import KeyPair, bearer


@pytest.fixture
def settings(supabase_gateway):
    return ApiSettings.from_env(
        {
            "ENVIRONMENT": "development",
            "SUPABASE_URL": supabase_gateway.url,
            "SUPABASE_PUBLISHABLE_KEY": supabase_gateway.publishable_key,
            "JWT_SECRET": supabase_gateway.jwt_secret,
            "TASK_QUEUE_URL": "http://127.0.0.1:9/tasks",
            "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        }
    )


@pytest.fixture
def client(settings):
    return LambdaClient(Mangum(create_app(settings), lifespan="off"))


@pytest.fixture
def signed_in(supabase_gateway):
    """What the sign-in service answers to somebody who has just signed up."""
    account = {"email": f"{secrets.token_hex(6)}@example.test", "password": secrets.token_hex(12)}
    headers = {"apikey": supabase_gateway.publishable_key}
    answer = httpx.post(f"{supabase_gateway.url}/auth/v1/signup", headers=headers, json=account)
    return answer.raise_for_status().json()


def me(client, token):
    answer = client.get("/api/me", headers=bearer(token))
    return answer.json()["user"]["id"] if answer.status == 200 else (answer.status, answer.json()["code"])


def test_a_supabase_sign_in_opens_the_api_and_is_exchanged_and_refreshed(client, signed_in):
    token, user_id = signed_in["access_token"], signed_in["user"]["id"]
    assert me(client, token) == user_id

    issued = client.post("/api/auth/token", headers=bearer(token), json={"user_id": user_id}).json()
    refreshed = client.post("/api/auth/refresh", json={"refresh_token": issued["refresh_token"]}).json()
    assert me(client, issued["access_token"]) == me(client, refreshed["access_token"]) == user_id


def test_a_token_of_the_old_backend_opens_the_same_rows(client, supabase_gateway, signed_in):
    now, user_id = int(time.time()), signed_in["user"]["id"]
    claims = {"user_id": user_id, "type": "access", "iat": now, "exp": now + 600}

    assert me(client, jwt.encode(claims, supabase_gateway.jwt_secret, "HS256")) == user_id


def test_an_api_key_opens_its_owners_rows_until_it_is_revoked(client, signed_in):
    owner, user_id = bearer(signed_in["access_token"]), signed_in["user"]["id"]
    made = client.post("/api/api-keys", headers=owner, json={"name": "ci", "expires_in_days": 1}).json()["api_key"]
    assert me(client, made["key"]) == user_id

    [listed] = client.get("/api/api-keys", headers=owner).json()["api_keys"]
    assert (listed["id"], listed["hint"], bool(listed["last_used_at"])) == (made["id"], made["key"][-4:], True)

    assert client.request("DELETE", f"/api/api-keys/{made['id']}", headers=owner).status == 200
    assert me(client, made["key"]) == (401, "invalid_api_key")


def test_a_key_changes_its_owners_profile_and_no_keys(client, signed_in):
    owner = bearer(signed_in["access_token"])
    key = client.post("/api/api-keys", headers=owner, json={"name": "ci"}).json()["api_key"]["key"]

    changed = client.request("PATCH", "/api/me", headers=bearer(key), json={"preferences": {"codex": {"env": {}}}})
    assert changed.json()["user"]["preferences"] == {"codex": {"env": {}}}
    assert client.post("/api/api-keys", headers=bearer(key), json={"name": "n"}).status == 403


@contextmanager
def project_answering(*answers):
    """An address that gives one answer (status, headers, body) after the other, the last one again and again."""
    answers, asked = list(answers), []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


def test_the_projects_keys_are_fetched_from_its_address(settings):
    keys = KeyPair("ES256")
    with project_answering((200, {}, keys.jwks.encode())) as (url, asked):
        find = key_finder(replace(settings, supabase_url=url))

        assert find("key-1").key_id == "key-1"
        assert [find(f"other-{number}") for number in range(3)] == [None] * 3
    assert asked == ["/auth/v1/.well-known/jwks.json"]


@pytest.mark.parametrize(
    "answer",
    [
        (500, {}, b""),
        (404, {}, b"{}"),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b"{}"),
        (200, {}, b"\xff"),
        (200, {"Content-Length": "5000"}, b'{"keys": ['),
        (302, {"Location": "/elsewhere"}, b""),
    ],
)
def test_an_answer_that_holds_no_keys_is_an_outage(settings, answer):
    with project_answering(answer, (200, {}, json.dumps(KeyPair().document).encode())) as (url, asked):
        find = key_finder(replace(settings, supabase_url=url))
        for _ in range(2):
            with pytest.raises(Unavailable):
                find("key-1")
    assert len(asked) == 1


def test_an_address_where_nobody_answers_is_an_outage(settings):
    with project_answering((200, {}, b"")) as (url, _):
        pass
    with pytest.raises(Unavailable):
        key_finder(replace(settings, supabase_url=url))("key-1")


def test_a_project_with_a_shared_secret_alone_publishes_no_keys(settings):
    assert key_finder(settings)("any") is None
