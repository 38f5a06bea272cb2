"""The demo's side of HTTP: whom it signs in, and what it says where a service does not answer as it should."""

import secrets
import socket
from dataclasses import replace
from types import SimpleNamespace

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from local.client import ApiError, Client, sign_in
from local.keys import keys_of
from tests.integration.github_servers import serving_app


@pytest.fixture
def keys(tmp_path):
    return keys_of(tmp_path)


@pytest.fixture
def api():
    """An API that takes everybody at their word: the token is the id."""

    async def token(request):
        return JSONResponse({"access_token": (await request.json())["user_id"]})

    with serving_app(Starlette(routes=[Route("/api/auth/token", token, methods=["POST"])])) as url:
        yield url


@pytest.fixture
def stack(keys, api, supabase_gateway):
    return SimpleNamespace(
        keys=keys,
        api_url=api,
        supabase_url=supabase_gateway.url,
        supabase_secret_key=supabase_gateway.secret_key,
    )


@pytest.fixture
def email():
    return f"{secrets.token_hex(8)}@example.test"


def signs_in(gateway, email, password):
    answer = httpx.post(
        f"{gateway.url}/auth/v1/token?grant_type=password",
        headers={"apikey": gateway.publishable_key},
        json={"email": email, "password": password},
    )
    return answer.status_code == 200


def test_a_user_is_made_once(stack, supabase_gateway, email):
    ids = set()
    for _ in range(2):
        user_id, client = sign_in(stack, email)
        with client:
            assert client.token == user_id
        ids.add(user_id)

    assert len(ids) == 1
    assert signs_in(supabase_gateway, email, stack.keys.demo_password)


def test_a_user_from_before_the_keys_were_made_gets_the_password_that_is_shown(stack, supabase_gateway, email):
    user_id, _ = sign_in(stack, email)
    stack.keys = replace(stack.keys, demo_password="another-password")

    assert sign_in(stack, email.upper())[0] == user_id
    assert signs_in(supabase_gateway, email, "another-password")


def test_the_users_of_a_project_are_listed_only_to_find_one_that_is_known_to_be_there(stack, email):
    calls = []

    async def answer(request):
        call = f"{request.method} {request.url.path.removeprefix('/auth/v1')}"
        calls.append(call)
        known = request.app.state.known
        if call == "POST /token":
            return JSONResponse({"msg": "Invalid login credentials"}, request.app.state.no_sign_in)
        if call == "POST /admin/users":
            return JSONResponse({"msg": "registered"}, 422) if known else JSONResponse({"id": "new"})
        if call == "GET /admin/users":
            assert request.query_params["filter"] == email
            return JSONResponse({"users": [{"id": "x", "email": f"x{email}"}, {"id": "old", "email": email}]})
        return JSONResponse({})

    app = Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST", "PUT"])])
    with serving_app(app) as stack.supabase_url:
        app.state.known, app.state.no_sign_in = False, 400
        assert sign_in(stack, email)[0] == "new"
        assert calls == ["POST /token", "POST /admin/users"]
        app.state.known, app.state.no_sign_in = True, 422
        assert sign_in(stack, email)[0] == "old"
        assert calls[4:] == ["GET /admin/users", "PUT /admin/users/old"]


@pytest.fixture
def elsewhere(monkeypatch):
    """An environment with a proxy for everything and certificates that do not exist."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "/does/not/exist")


def test_no_proxy_stands_between_the_programs_of_one_machine(elsewhere, stack, email):
    user_id, client = sign_in(stack, email)
    with client, pytest.raises(ApiError, match="404"):
        client.task(1)
    assert user_id


def answering(response):
    async def answer(_request):
        return response

    return serving_app(Starlette(routes=[Route("/{path:path}", answer, methods=["GET", "POST"])]))


@pytest.mark.parametrize(
    ("response", "sentence"),
    [
        (JSONResponse({"error": "Task not found", "code": "not_found"}, 404), "404 Task not found"),
        (PlainTextResponse("<html>", 502), "502 <html>"),
        (PlainTextResponse("", 500), "500 without a word"),
        (PlainTextResponse("hello"), "no JSON object"),
        (JSONResponse(["hello"]), "no JSON object"),
        (JSONResponse(["hello"], 400), '400 \\["hello"\\]'),
    ],
)
def test_an_answer_that_is_none_is_a_sentence_with_the_address(response, sentence):
    with answering(response) as url, Client(url, "token") as client, pytest.raises(ApiError, match=sentence) as error:
        client.task(7)

    assert f"GET {url}/api/tasks/7" in str(error.value)


@pytest.mark.parametrize("service", ["api_url", "supabase_url"])
def test_a_service_that_cannot_be_reached_is_named(stack, email, service):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
    setattr(stack, service, url)

    with pytest.raises(ApiError, match=f"{url}/.*no answer"):
        sign_in(stack, email)
