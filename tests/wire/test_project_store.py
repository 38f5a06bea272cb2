"""What the project store asks of PostgREST beside what row-level security would enforce anyway."""

import json
import uuid

import httpx
import pytest

from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.project_store import SupabaseProjectStore
from shared.domain.errors import Conflict, NotFound, Unavailable
from shared.domain.secret import Secret

USER = str(uuid.uuid4())
ROW = {"id": 3, "user_id": USER, "name": "Widgets"}
NEW = {"name": "x", "repo_url": "https://github.com/acme/my_repo", "repo_owner": "acme", "repo_name": "my_repo"}
TAKEN = 409, {"code": "23505", "message": "internal detail", "details": None, "hint": None}


def store_answering(*answers):
    """A store, and the requests that it makes; each gets the next of `answers`."""
    left, requests = list(answers), []

    def answer(request):
        requests.append(request)
        status, body = left.pop(0)
        return httpx.Response(status, json=body)

    http = httpx.Client(transport=httpx.MockTransport(answer))
    client = postgrest_client("https://p.supabase.co", api_key=Secret("sb_pub"), bearer=Secret("user.jwt"), http=http)
    return SupabaseProjectStore(client), requests


def asked(request):
    return request.method, request.url.path.removeprefix("/rest/v1"), dict(request.url.params)


def test_a_change_names_the_owner_although_the_database_would_change_no_other():
    store, requests = store_answering((200, [ROW]), (200, [ROW]), (200, [ROW]))

    store.update(3, {"name": "New"}, owner_id=USER)
    store.delete(3, owner_id=USER)

    own = {"id": "eq.3", "user_id": f"eq.{USER}"}
    assert [asked(request) for request in requests] == [
        ("PATCH", "/projects", own),
        ("POST", "/rpc/list_projects", {}),
        ("DELETE", "/projects", own),
    ]
    assert [json.loads(request.content) for request in requests[:2]] == [{"name": "New"}, {"p_id": 3}]


def test_a_row_of_somebody_else_is_not_shown_should_the_database_send_it():
    foreign = (200, [ROW | {"user_id": str(uuid.uuid4())}])
    store, _ = store_answering(foreign, foreign)

    assert store.list_all(owner_id=USER) == []
    with pytest.raises(NotFound):
        store.get(3, owner_id=USER)


def test_an_id_beyond_bigint_is_not_even_asked_for():
    store, requests = store_answering()

    for ask in (store.get, store.delete, lambda i, **who: store.update(i, {"name": "x"}, **who)):
        with pytest.raises(NotFound, match="Project not found"):
            ask(2**63, owner_id=USER)
    assert requests == []


def test_of_a_repository_that_is_taken_the_other_project_is_looked_up():
    store, requests = store_answering(TAKEN, (200, [{"id": 3, "name": "Widgets"}]))

    with pytest.raises(Conflict, match=r"^You already have a project for acme/my_repo: Widgets$") as raised:
        store.create(NEW, owner_id=USER)

    assert raised.value.shown == {"project_id": 3}
    assert json.loads(requests[0].content) == NEW | {"user_id": USER}
    query = {"repo_owner": "ilike.acme", "repo_name": r"ilike.my\_repo", "user_id": f"eq.{USER}", "select": "id,name"}
    assert asked(requests[1]) == ("GET", "/projects", query)


def test_that_the_other_project_was_deleted_meanwhile_leaves_a_sentence_without_it():
    store, _ = store_answering(TAKEN, (200, []))

    with pytest.raises(Conflict, match=r"^You already have a project for acme/my_repo\.$"):
        store.create(NEW, owner_id=USER)


def test_a_database_that_is_down_is_no_missing_project():
    for ask in (
        lambda store: store.list_all(owner_id=USER),
        lambda store: store.get(3, owner_id=USER),
        lambda store: store.create(NEW, owner_id=USER),
        lambda store: store.update(3, NEW, owner_id=USER),
        lambda store: store.delete(3, owner_id=USER),
    ):
        with pytest.raises(Unavailable):
            ask(store_answering((503, {"code": "PGRST002", "message": "internal detail"}))[0])
