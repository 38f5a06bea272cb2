"""What the task store asks of PostgREST, and what it makes of the answers."""

import json
import uuid

import httpx
import pytest

from shared.adapters.postgrest_client import postgrest_client
from shared.adapters.task_store import PAGE_ROWS, SupabaseTaskStore, SupabaseUserDirectory
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
from shared.domain.ports import NewTask
from shared.domain.run import AgentName
from shared.domain.secret import Sealed, Secret

USER = str(uuid.uuid4())
NEW_TASK = NewTask(
    prompt="make it so",
    repo_url="https://github.com/o/r",
    branch="main",
    agent=AgentName.CODEX,
    project_id=7,
    credential_id=str(uuid.uuid4()),
    credential=Sealed(ciphertext="c2VhbGVk", key_id="k", alg="KMS"),
    credential_hint="wxyz",
    idempotency_key=None,
    trace_id="trace",
)


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


def refusal(status, code, message="internal detail"):
    return status, {"code": code, "message": message, "details": None, "hint": None}


def test_every_request_carries_the_users_own_token_and_the_publishable_key():
    store, server = store_answering((200, [{"id": 1}]))
    store.get(1, owner_id=USER)

    [request] = server.requests
    assert (request.headers["authorization"], request.headers["apikey"]) == ("Bearer user.jwt", "sb_pub")
    assert request.url.copy_with(query=None) == "https://p.supabase.co/rest/v1/tasks"


def test_a_read_names_its_owner_although_the_database_would_not_show_others():
    store, server = store_answering((200, [{"id": 1, "status": "pending"}]))

    assert store.get_columns(1, ["id", "status"], owner_id=USER) == {"id": 1, "status": "pending"}
    assert dict(server.requests[0].url.params) == {"select": "id,status", "id": "eq.1", "user_id": f"eq.{USER}"}


def test_no_row_is_not_found():
    with pytest.raises(NotFound, match="Task not found"):
        store_answering((200, []))[0].get(1, owner_id=USER)


def test_an_id_beyond_bigint_is_not_even_asked_for():
    store, server = store_answering()

    with pytest.raises(NotFound, match="Task not found"):
        store.get(2**63, owner_id=USER)
    assert store.list_all(owner_id=USER, project_id=2**63) == []
    assert server.requests == []


def test_a_long_list_is_read_page_by_page_below_the_last_id():
    first = [{"id": number} for number in range(3 * PAGE_ROWS, 2 * PAGE_ROWS, -1)]
    store, server = store_answering((200, first), (200, [{"id": 5}]))

    assert store.list_all(owner_id=USER, project_id=7) == [*first, {"id": 5}]
    queries = [dict(request.url.params) for request in server.requests]
    assert [query.get("id") for query in queries] == [None, f"lt.{2 * PAGE_ROWS + 1}"]
    for query in queries:
        assert (query["project_id"], query["order"], query["limit"]) == ("eq.7", "id.desc", str(PAGE_ROWS))
        assert not {"git_diff", "git_patch", "*"} & set(query["select"].split(","))


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


@pytest.mark.parametrize(
    ("answer", "kind", "sentence"),
    [
        (refusal(404, "PT404"), NotFound, "Project not found"),
        (refusal(429, "PT429"), TooMany, "Too many tasks are active"),
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
