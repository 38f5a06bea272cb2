"""What the administration of the sign-in service is asked, and what becomes of its answers."""

import json
import uuid

import httpx
import pytest

from shared.adapters.supabase.auth_admin import SupabaseAuthAdmin
from shared.domain.errors import Conflict, InvalidInput, Misconfigured, NotFound, Unavailable
from shared.domain.secret import Secret

USER = str(uuid.uuid4())
LEGACY_KEY = "eyJhbGciOiJIUzI1NiJ9.eyJyb2xlIjoic2VydmljZV9yb2xlIn0.c2lnbmF0dXJl"
NOW = "2026-11-23T00:55:50.240582Z"
MADE = {
    "id": USER,
    "aud": "authenticated",
    "role": "authenticated",
    "email": "a@x.test",
    "app_metadata": {"provider": "email", "is_test_user": True},
    "user_metadata": {"full_name": "Ada"},
    "identities": [],
    "created_at": NOW,
    "updated_at": NOW,
    "is_anonymous": False,
}


def admin_answering(answer, key="sb_secret_key"):
    requests = []

    def respond(request):
        requests.append(request)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return httpx.Response(status, **({"text": body} if isinstance(body, str) else {"json": body}))

    http = httpx.Client(transport=httpx.MockTransport(respond))
    return SupabaseAuthAdmin("https://p.supabase.co", secret_key=Secret(key), http=http), requests


def test_a_user_is_made_confirmed_and_without_a_password():
    admin, requests = admin_answering((200, MADE))

    made = admin.create_user("a@x.test", app_metadata={"is_test_user": True}, user_metadata={"full_name": "Ada"})

    assert made == {"id": USER, "metadata": {"full_name": "Ada"}}
    [request] = requests
    assert (request.method, str(request.url)) == ("POST", "https://p.supabase.co/auth/v1/admin/users")
    assert json.loads(request.content) == {
        "email": "a@x.test",
        "email_confirm": True,
        "app_metadata": {"is_test_user": True},
        "user_metadata": {"full_name": "Ada"},
    }


def test_a_user_is_removed_for_good():
    admin, requests = admin_answering((200, {}))
    admin.delete_user(USER)

    [request] = requests
    assert (request.method, request.url.path) == ("DELETE", f"/auth/v1/admin/users/{USER}")
    assert json.loads(request.content) == {"should_soft_delete": False}


@pytest.mark.parametrize(("key", "authorization"), [("sb_secret_key", None), (LEGACY_KEY, f"Bearer {LEGACY_KEY}")])
def test_only_a_key_that_is_a_token_is_sent_as_one(key, authorization):
    admin, requests = admin_answering((200, {}), key)
    admin.delete_user(USER)

    assert requests[0].headers["apikey"] == key
    assert requests[0].headers.get("authorization") == authorization


def refusal(status, code):
    return status, {"error_code": code, "msg": "internal detail", "code": status}


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refusal(422, "email_exists"), Conflict),
        (refusal(422, "user_already_exists"), Conflict),
        (refusal(404, "user_not_found"), NotFound),
        (refusal(401, "no_authorization"), Misconfigured),
        (refusal(403, "not_admin"), Misconfigured),
        (refusal(400, "validation_failed"), InvalidInput),
        (refusal(422, "email_address_invalid"), InvalidInput),
        (refusal(429, "over_request_rate_limit"), Unavailable),
        (refusal(500, "unexpected_failure"), Unavailable),
        (refusal(503, "request_timeout"), Unavailable),
        ((502, "<html>bad gateway</html>"), Unavailable),
        ((200, "<html>a page</html>"), Unavailable),
        ((200, {"unexpected": True}), Unavailable),
        (httpx.ConnectError("refused"), Unavailable),
        (httpx.ReadTimeout("slow"), Unavailable),
    ],
)
def test_a_refusal_becomes_our_error_with_a_sentence_that_gives_nothing_away(answer, kind):
    admin, requests = admin_answering(answer)

    with pytest.raises(kind) as raised:
        admin.create_user("a@x.test", app_metadata={}, user_metadata={"private": "private"})
    assert "internal detail" not in str(raised.value)
    assert "private" not in json.dumps(raised.value.for_log())
    assert len(requests) == 1
