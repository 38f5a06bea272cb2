"""What the task store asks of PostgREST, and what it makes of the answers."""

import json
import uuid
from dataclasses import replace

import httpx
import pytest

from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.adapters.supabase.user_store import SupabaseUserDirectory
from shared.domain.agents import AgentName
from shared.domain.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    Misconfigured,
    NotAuthenticated,
    NotFound,
    TooMany,
    Unavailable,
)
from shared.domain.ports import TaskFilter
from shared.domain.secret import Secret
from shared.domain.task import TaskStatus
from shared.domain.usage import totals
from tests.fakes.new_task import new_task

USER = str(uuid.uuid4())
NEW_TASK = new_task(agent=AgentName.CODEX, project_id=7)


class PostgREST:
    """Answers one after the other, and remembers the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def client(self):
        http = httpx.Client(transport=httpx.MockTransport(self._answer))
        return postgrest_client("https://p.supabase.co", api_key=Secret("sb_pub"), bearer=Secret("user.jwt"), http=http)

    def _answer(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return httpx.Response(status, **({"json": body} if not isinstance(body, str) else {"text": body}))


def store_answering(*answers):
    server = PostgREST(*answers)
    return SupabaseTaskStore(server.client()), server


def refusal(status, code, message="internal detail", details=None):
    return status, {"code": code, "message": message, "details": details, "hint": None}


def test_every_request_carries_the_users_own_token_and_the_publishable_key():
    store, server = store_answering((200, [{"id": 1, "runs": []}]))
    store.get(1, owner_id=USER)

    [request] = server.requests
    assert (request.headers["authorization"], request.headers["apikey"]) == ("Bearer user.jwt", "sb_pub")
    assert request.url.copy_with(query=None) == "https://p.supabase.co/rest/v1/tasks"


def test_a_read_names_its_owner_although_the_database_would_not_show_others():
    store, server = store_answering((200, [{"id": 1, "status": "pending"}]))

    assert store.get_columns(1, ["id", "status"], owner_id=USER) == {"id": 1, "status": "pending"}
    assert dict(server.requests[0].url.params) == {"select": "id,status", "id": "eq.1", "user_id": f"eq.{USER}"}


def test_the_usage_of_a_task_is_the_sum_of_its_runs_in_the_same_request():
    runs = [{"usage": {"cost_usd": 0.5, "output_tokens": 3}}, {"usage": {}}]
    store, server = store_answering((200, [{"id": 1, "runs": runs}]))

    row = store.get(1, owner_id=USER)

    assert row == {"id": 1, "usage": totals(run["usage"] for run in runs)}
    assert row["usage"]["cost_usd"] == 0.5
    assert [request.url.params["select"] for request in server.requests] == ["*,runs(usage)"]


def test_no_row_is_not_found():
    with pytest.raises(NotFound, match="Task not found"):
        store_answering((200, []))[0].get(1, owner_id=USER)


def test_an_id_beyond_bigint_is_not_even_asked_for():
    store, server = store_answering()

    with pytest.raises(NotFound, match="Task not found"):
        store.get(2**63, owner_id=USER)
    with pytest.raises(NotFound, match="Task not found"):
        store.append_chat_message(2**63, "user", "x")
    for project_id in (2**63, -(2**63) - 1):
        nothing = store.page(TaskFilter(project_id=project_id), limit=1, after=None, owner_id=USER)
        assert (nothing.rows, nothing.total, nothing.more) == ([], 0, False)
    assert server.requests == []


def test_a_page_is_one_call_and_names_only_what_is_asked_for():
    row = {"id": 8, "user_id": USER}
    store, server = store_answering((200, {"tasks": [row], "total": 12, "more": True}))

    page = store.page(TaskFilter(), limit=50, after=None, owner_id=USER)

    assert (page.rows, page.total, page.more) == ([row], 12, True)
    assert server.requests[0].url.path == "/rest/v1/rpc/list_tasks"
    assert json.loads(server.requests[0].content) == {"p_limit": 50}


def test_a_page_begins_after_the_very_moment_of_a_row():
    store, server = store_answering((200, {"tasks": [], "total": 0, "more": False}))
    wanted = TaskFilter(status=TaskStatus.FAILED, project_id=7, search="100% _")
    last = {"id": 8, "created_at": "2026-11-23T00:55:50.240582+00:00", "status": "failed"}

    store.page(wanted, limit=1, after=last, owner_id=USER)

    assert json.loads(server.requests[0].content) == {
        "p_limit": 1,
        "p_after_at": "2026-11-23T00:55:50.240582+00:00",
        "p_after_id": 8,
        "p_status": "failed",
        "p_project_id": 7,
        "p_search": "100% _",
    }


def test_a_row_of_somebody_else_would_not_be_shown():
    store, _ = store_answering((200, {"tasks": [{"id": 8, "user_id": str(uuid.uuid4())}], "total": 1, "more": False}))

    assert store.page(TaskFilter(), limit=50, after=None, owner_id=USER).rows == []


def test_a_chat_message_is_one_call():
    store, server = store_answering((204, ""))

    store.append_chat_message(7, "user", "hello")

    assert server.requests[0].url.path == "/rest/v1/rpc/append_chat_message"
    assert json.loads(server.requests[0].content) == {"p_task_id": 7, "p_role": "user", "p_content": "hello"}


def test_the_live_log_and_the_status_are_one_query():
    events = [{"seq": 4, "run_id": "r", "kind": "phase", "payload": {}, "at": "t"}]
    store, server = store_answering((200, [{"status": "running", "task_events": events}]))

    log = store.events(1, after=3, limit=200, owner_id=USER)

    assert (log.task_status, log.events) == ("running", events)
    query = dict(server.requests[0].url.params)
    assert query["select"] == "status,task_events(seq,run_id,kind,payload,at)"
    assert (query["task_events.seq"], query["task_events.order"], query["task_events.limit"]) == (
        "gt.3",
        "seq.asc",
        "200",
    )


def test_a_new_task_is_one_call_with_its_sealed_credential():
    made = {"task_id": 9, "run_id": str(uuid.uuid4()), "seq": 0, "created": True}
    store, server = store_answering((200, made))

    started = store.create(NEW_TASK)

    assert (started.task_id, started.run_id, started.seq, started.created) == tuple(made.values())
    assert server.requests[0].url.path == "/rest/v1/rpc/create_task"
    sent = json.loads(server.requests[0].content)
    assert sent["p_agent"] == "codex"
    assert sent["p_credential"]["id"] == NEW_TASK.credential_id
    assert sent["p_credential"]["kind"] == "git_token"
    assert "p_idempotency_key" not in sent
    assert "p_request_hash" not in sent


def test_an_idempotency_key_goes_with_the_hash_of_what_is_asked():
    store, server = store_answering((200, {"task_id": 9, "run_id": str(uuid.uuid4()), "seq": 0, "created": False}))

    assert not store.create(replace(NEW_TASK, idempotency_key="click-1", request_hash="ab12")).created
    sent = json.loads(server.requests[0].content)
    assert (sent["p_idempotency_key"], sent["p_request_hash"]) == ("click-1", "ab12")


@pytest.mark.parametrize(
    ("answer", "kind", "sentence", "code", "shown"),
    [
        (
            refusal(429, "PT429", "too_many_active_runs", '{"limit": 5, "current": 5, "retry_after_s": 30}'),
            TooMany,
            "Too many tasks are active. Wait for one to end, then try again.",
            "too_many_active_runs",
            {"limit": 5, "current": 5},
        ),
        (
            refusal(429, "PT429", "too_many_starts", '{"limit": 100, "current": 102, "retry_after_s": 1234}'),
            TooMany,
            "Too many tasks were started within an hour. Try again later.",
            "too_many_starts",
            {"limit": 100, "current": 102},
        ),
        (
            refusal(409, "PT409", "idempotency_key_reused"),
            Conflict,
            "This Idempotency-Key was used for a different request. Use another key.",
            "idempotency_key_reused",
            {},
        ),
        (refusal(404, "PT404", "project_not_found"), NotFound, "Project not found", "not_found", {}),
        (refusal(409, "23505", "x", '{"secret": 1}'), Conflict, "It exists already.", "conflict", {}),
    ],
)
def test_a_case_that_our_functions_name_has_its_own_code_and_sentence_and_shows_its_facts(
    answer, kind, sentence, code, shown
):
    with pytest.raises(kind) as raised:
        store_answering(answer)[0].create(NEW_TASK)

    assert (str(raised.value), raised.value.code, raised.value.shown) == (sentence, code, shown)


@pytest.mark.parametrize(("details", "seconds"), [('{"retry_after_s": 1234}', 1234), ("{}", 30), (None, 30)])
def test_the_database_says_when_to_try_again(details, seconds):
    with pytest.raises(TooMany) as raised:
        store_answering(refusal(429, "PT429", "too_many_starts", details))[0].create(NEW_TASK)

    assert raised.value.retry_after_s == seconds


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (refusal(404, "PT404"), NotFound, "Project not found"),
        (refusal(429, "PT429"), TooMany, "A limit is reached"),
        (refusal(409, "PT409"), Conflict, "Another request has changed it"),
        (refusal(400, "PT400"), InvalidInput, "cannot be accepted"),
        (refusal(409, "23505"), Conflict, "exists already"),
        (refusal(400, "23514"), InvalidInput, "refused the data"),
        (refusal(401, "PGRST301"), NotAuthenticated, "Sign in again"),
        (refusal(401, "PGRST303"), NotAuthenticated, "Sign in again"),
        (refusal(403, "42501"), Forbidden, "not allowed"),
        (refusal(404, "PGRST202"), Misconfigured, "Apply the migrations"),
        (refusal(503, "PGRST002"), Unavailable, "Try again"),
        (refusal(500, "XX000"), Unavailable, "Try again"),
        ((502, "<html>bad gateway</html>"), Unavailable, "Try again"),
        (httpx.ConnectError("refused"), Unavailable, "Try again"),
        (httpx.ReadTimeout("slow"), Unavailable, "Try again"),
    ],
)
def test_a_refusal_becomes_our_error_with_a_sentence_that_gives_nothing_away(answer, kind, sentence):
    with pytest.raises(kind, match=sentence) as raised:
        store_answering(answer)[0].create(NEW_TASK)

    assert "internal detail" not in str(raised.value)


def directory_answering(*answers):
    server = PostgREST(*answers)
    return SupabaseUserDirectory(server.client()), server


@pytest.mark.parametrize(("rows", "exists"), [([{"id": USER}], True), ([], False)])
def test_a_user_exists_when_there_is_a_row(rows, exists):
    directory, server = directory_answering((200, rows))

    assert directory.exists(USER) is exists
    assert dict(server.requests[0].url.params) == {"select": "id", "id": f"eq.{USER}"}


@pytest.mark.parametrize("answer", [(500, {"message": "x"}), (503, {"message": "x"}), httpx.ConnectError("refused")])
def test_a_database_that_is_down_is_no_missing_user_and_is_not_asked_again_and_again(answer):
    directory, server = directory_answering(answer)

    with pytest.raises(Unavailable):
        directory.exists(USER)
    assert len(server.requests) == 1


@pytest.mark.parametrize("live", [True, False])
def test_the_database_says_whether_there_is_a_live_session_of_this_browser(live):
    directory, server = directory_answering((200, live))

    assert directory.has_live_session("Mozilla/5.0") is live
    assert json.loads(server.requests[0].content) == {"p_user_agent": "Mozilla/5.0"}
