"""The gateway as the official Supabase client sees it, and the facts of the wire that the client hides."""

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import jwt
import psycopg
import pytest
from postgrest.exceptions import APIError
from supabase import create_client
from supabase_auth.errors import AuthApiError, AuthWeakPasswordError

from local.listening import listen
from local.processes import ProcessGroup

ROOT = Path(__file__).parents[2]
SCHEMA = """
create table public.authors (
    id int primary key generated always as identity,
    owner uuid not null default auth.uid(),
    name text not null unique,
    tags text[] not null default '{}',
    facts jsonb not null default '{}',
    born date,
    secret_note text
);
create table public.books (
    id int primary key generated always as identity,
    author_id int not null constraint books_author_id_fkey references public.authors (id),
    editor_id int constraint books_editor_id_fkey references public.authors (id),
    title text not null,
    pages int,
    constraint books_title_key unique (author_id, title)
);
create table public.portraits (
    author_id int primary key references public.authors (id),
    file text
);
alter table public.authors enable row level security;
create policy own on public.authors to authenticated using (owner = auth.uid()) with check (owner = auth.uid());
revoke all on public.authors from authenticated;
grant select (id, owner, name, tags, facts, born), insert, update, delete on public.authors to authenticated;

create table public.log (id int generated always as identity, note text not null);
revoke all on public.log from anon, authenticated;
grant insert on public.log to anon;

create function public.add(a int, b int default 10) returns int language sql immutable as 'select a + b';
create function public.shout(words text[], extra jsonb) returns jsonb language sql immutable
    as $$ select jsonb_build_object('first', upper(words[1]), 'extra', extra) $$;
create function public.one_author(wanted text) returns public.authors language sql stable
    as 'select * from public.authors where name = wanted';
create function public.some_authors() returns setof public.authors language sql stable
    as 'select * from public.authors order by name';
create function public.some_words() returns setof text language sql stable as $$ values ('a'), ('b') $$;
create function public.pair() returns table (left_one int, right_one text) language sql stable as $$ values (1, 'x') $$;
create function public.one_column() returns table (number int) language sql stable as 'values (1), (2)';
create function public.write_log(note text) returns void language sql as 'insert into public.log (note) values (note)';
create function public.who() returns jsonb language sql stable
    as $$ select jsonb_build_object('uid', auth.uid(), 'role', auth.role(), 'user', current_user) $$;
create function public.refuse(code text, message text) returns void language plpgsql as $$
    begin raise exception using errcode = code, message = message, detail = 'because', hint = 'try again'; end $$;
create function public.for_service_only() returns int language sql as 'select 1';
revoke all on function public.for_service_only() from public, anon, authenticated;
"""


@pytest.fixture(scope="module")
def gateway(fresh_database, make_gateway):
    dsn = fresh_database()
    with psycopg.connect(dsn) as connection:
        connection.execute(SCHEMA)
    return make_gateway(dsn)


@pytest.fixture
def service(gateway):
    return create_client(gateway.url, gateway.secret_key)


@pytest.fixture
def anonymous(gateway):
    return create_client(gateway.url, gateway.publishable_key)


@pytest.fixture
def sign_up(gateway):
    """A factory of signed-in clients, each a new user."""

    def make():
        client = create_client(gateway.url, gateway.publishable_key)
        client.auth.sign_up({"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"})
        return client

    return make


@pytest.fixture
def ada(sign_up):
    return sign_up()


@pytest.fixture
def wire(gateway):
    """Plain HTTP with the secret key."""
    with httpx.Client(base_url=gateway.url, headers={"apikey": gateway.secret_key}, timeout=120) as client:
        yield client


@pytest.fixture
def library(service, ada):
    """Two authors of Ada's and three books. Names are unique per test, so that tests can share a database."""
    mark = uuid.uuid4().hex[:8]
    owner = ada.auth.get_user().user.id
    rows = [
        {"name": f"{mark} Le Guin", "tags": ["sf", "essay"], "facts": {"n": 1, "city": {"name": "Portland"}}},
        {"name": f"{mark} Borges", "tags": ["essay"], "facts": {"n": 2}},
    ]
    rows = [{"owner": owner, **row} for row in rows]
    le_guin, borges = service.table("authors").insert(rows).execute().data
    books = [
        {"author_id": le_guin["id"], "editor_id": borges["id"], "title": "The Dispossessed", "pages": 341},
        {"author_id": le_guin["id"], "editor_id": None, "title": "The Lathe of Heaven", "pages": 184},
        {"author_id": borges["id"], "editor_id": None, "title": 'Ficciones, "1944"', "pages": None},
    ]
    service.table("books").insert(books).execute()
    service.table("portraits").insert({"author_id": borges["id"], "file": "borges.png"}).execute()
    return {"le_guin": le_guin, "borges": borges, "ids": [le_guin["id"], borges["id"]]}


def names(response):
    return [row["name"].split(" ", 1)[1] for row in response.data]


def titles(response):
    return [row["title"] for row in response.data]


class TestReading:
    def test_all_columns_or_some_renamed_cast_and_taken_out_of_json(self, service, library):
        query = service.table("authors").select("who:name, pages:facts->n, city:facts->city->>name, owner::text")
        row = query.eq("id", library["le_guin"]["id"]).single().execute().data
        assert row == {
            "who": library["le_guin"]["name"], "pages": 1, "city": "Portland", "owner": library["le_guin"]["owner"]
        }  # fmt: skip

    @pytest.mark.parametrize(
        ("narrow", "expected"),
        [
            (lambda q: q.eq("pages", 184), ["The Lathe of Heaven"]),
            (lambda q: q.neq("pages", 184), ["The Dispossessed"]),
            (lambda q: q.gt("pages", 184).lte("pages", 341), ["The Dispossessed"]),
            (lambda q: q.is_("pages", "null"), ['Ficciones, "1944"']),
            (lambda q: q.not_.is_("pages", "null").lt("pages", 200), ["The Lathe of Heaven"]),
            (lambda q: q.in_("title", ['Ficciones, "1944"', "nothing"]), ['Ficciones, "1944"']),
            (lambda q: q.in_("pages", []), []),
            (lambda q: q.like("title", "The%"), ["The Dispossessed", "The Lathe of Heaven"]),
            (lambda q: q.ilike("title", "*HEAVEN"), ["The Lathe of Heaven"]),
            (lambda q: q.like_all_of("title", "The%,%of%"), ["The Lathe of Heaven"]),
            (lambda q: q.ilike_any_of("title", "ficc%,%heaven"), ['Ficciones, "1944"', "The Lathe of Heaven"]),
            (lambda q: q.filter("title", "match", "^Fic+"), ['Ficciones, "1944"']),
            (lambda q: q.filter("title", "imatch", "^the d"), ["The Dispossessed"]),
            (lambda q: q.filter("pages", "isdistinct", "184"), ['Ficciones, "1944"', "The Dispossessed"]),
            (lambda q: q.filter("pages", "eq(any)", "{184,341}"), ["The Dispossessed", "The Lathe of Heaven"]),
            (lambda q: q.filter("title", "wfts(english)", "dispossess"), ["The Dispossessed"]),
            (lambda q: q.match({"title": "The Dispossessed", "pages": 341}), ["The Dispossessed"]),
            (lambda q: q.or_("pages.eq.1,and(pages.gt.300,title.like.*D*)"), ["The Dispossessed"]),
            (lambda q: q.or_('title.eq."Ficciones, \\"1944\\"",pages.in.(1,2)'), ['Ficciones, "1944"']),
            (lambda q: q.eq("title", "'; drop table public.books; --"), []),
        ],
    )  # fmt: skip
    def test_filters(self, service, library, narrow, expected):
        query = narrow(service.table("books").select("title").in_("author_id", library["ids"]))
        assert titles(query.order("title").execute()) == expected

    @pytest.mark.parametrize(
        ("narrow", "expected"),
        [
            (lambda q: q.contains("tags", ["sf"]), ["Le Guin"]),
            (lambda q: q.overlaps("tags", ["sf", "essay"]), ["Borges", "Le Guin"]),
            (lambda q: q.contained_by("tags", ["essay"]), ["Borges"]),
            (lambda q: q.contains("facts", {"city": {"name": "Portland"}}), ["Le Guin"]),
            (lambda q: q.eq("facts->>n", "2"), ["Borges"]),
            (lambda q: q.eq("facts->city->>name", "Portland"), ["Le Guin"]),
        ],
    )
    def test_filters_on_arrays_and_json(self, service, library, narrow, expected):
        query = narrow(service.table("authors").select("name").in_("id", library["ids"]))
        assert names(query.order("name").execute()) == expected

    def test_order_with_nulls_first_or_last_and_a_range(self, service, library):
        query = service.table("books").select("title").in_("author_id", library["ids"])
        assert titles(query.order("pages", desc=True, nullsfirst=True).order("id").range(0, 1).execute()) == [
            'Ficciones, "1944"',
            "The Dispossessed",
        ]

    def test_a_count_counts_beyond_the_page(self, service, library):
        query = service.table("books").select("title", count="exact").in_("author_id", library["ids"])
        response = query.order("id").limit(1).execute()
        assert (len(response.data), response.count) == (1, 3)

    def test_a_head_request_only_counts(self, service, library):
        query = service.table("books").select("*", count="exact", head=True).in_("author_id", library["ids"])
        assert query.execute().count == 3

    def test_an_offset_beyond_the_counted_rows_is_refused(self, wire, library):
        answer = wire.get("/rest/v1/books?pages=eq.-1&offset=5", headers={"Prefer": "count=exact"})
        assert (answer.status_code, answer.json()["code"]) == (416, "PGRST103")

    def test_no_more_than_a_thousand_rows_at_once(self, gateway, service):
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute("create table public.many as select n from generate_series(1, 1005) n")
        assert len(service.table("many").select("n").limit(5000).execute().data) == 1000

    def test_one_row_wanted_and_none_or_several_found(self, service, library):
        for condition in (-1, library["le_guin"]["id"]):
            with pytest.raises(APIError) as refused:
                service.table("books").select("*").eq("author_id", condition).single().execute()
            assert refused.value.code == "PGRST116"
        assert service.table("books").select("*").eq("id", -1).maybe_single().execute() is None

    def test_what_the_schema_does_not_have(self, service):
        for query, code in [
            (service.table("nothing").select("*"), "PGRST205"),
            (service.table("books").select("nothing"), "42703"),
            (service.table("books").select("nothing(id)"), "PGRST200"),
            (service.table("books").select("id").filter("id", "wat", "x"), "PGRST100"),
            (service.table("books").select("pages.sum()"), "PGRST123"),
            (service.table("books").select("id").csv(), "PGRST107"),
            (service.table("books").select("id").eq("id", "not a number"), "22P02"),
        ]:
            with pytest.raises(APIError) as refused:
                query.execute()
            assert refused.value.code == code

    def test_brackets_without_end_are_the_callers_mistake(self, wire):
        for query in ("or=" + "(and" * 5000, "select=" + "books(" * 5000):
            answer = wire.get(f"/rest/v1/books?{query}")
            assert (answer.status_code, answer.json()["code"]) == (400, "PGRST100")

    def test_names_are_never_sql(self, wire):
        for query in (
            'select=id,"x\\"; drop table books"',
            "select=a%25s:title&limit=1",
            'order=id"%3Bselect',
            "id;--=eq.1",
        ):
            assert wire.get(f"/rest/v1/books?{query}").status_code in (200, 400)
        assert wire.get("/rest/v1/books?select=a%25s:title&limit=1").status_code == 200


class TestEmbedding:
    def test_the_row_a_foreign_key_points_to(self, service, library):
        query = service.table("books").select("title, author:authors!books_author_id_fkey(name)")
        row = query.eq("title", "The Dispossessed").eq("author_id", library["ids"][0]).single().execute().data
        assert row == {"title": "The Dispossessed", "author": {"name": library["le_guin"]["name"]}}

    def test_a_foreign_key_column_names_the_way_and_may_lead_nowhere(self, service, library):
        query = service.table("books").select("title, editor:editor_id(name)").in_("author_id", library["ids"])
        found = {row["title"]: row["editor"] for row in query.execute().data}
        assert found["The Dispossessed"] == {"name": library["borges"]["name"]}
        assert found["The Lathe of Heaven"] is None

    def test_the_rows_that_point_here_ordered_limited_and_nested(self, service, library):
        query = service.table("authors").select("name, books!books_author_id_fkey(title, editor:editor_id(name))")
        query = query.eq("id", library["ids"][0]).order("title", foreign_table="books").limit(1, foreign_table="books")
        assert query.single().execute().data["books"] == [
            {"title": "The Dispossessed", "editor": {"name": library["borges"]["name"]}}
        ]

    def test_one_to_one_is_an_object(self, service, library):
        query = service.table("authors").select("name, portraits(file)").in_("id", library["ids"]).order("name")
        assert [row["portraits"] for row in query.execute().data] == [{"file": "borges.png"}, None]

    def test_an_inner_embed_with_a_filter_leaves_out_rows_without_match(self, service, library):
        query = service.table("authors").select("name, books!books_author_id_fkey!inner(title)")
        query = query.in_("id", library["ids"]).gt("books.pages", 300)
        response = query.execute()
        assert names(response) == ["Le Guin"]
        assert response.data[0]["books"] == [{"title": "The Dispossessed"}]

    def test_two_ways_are_one_too_many(self, service):
        with pytest.raises(APIError) as refused:
            service.table("books").select("title, authors(name)").execute()
        assert refused.value.code == "PGRST201"

    def test_a_filter_on_something_not_embedded_is_refused(self, wire):
        answer = wire.get("/rest/v1/books?select=id&authors.name=eq.x")
        assert (answer.status_code, answer.json()["code"]) == (400, "PGRST108")

    def test_the_embedded_row_orders_and_filters_the_rows_around_it(self, service, library):
        query = service.table("books").select("title, author:author_id(name), editor:editor_id()")
        query = query.in_("author_id", library["ids"])
        by_author = query.order("author(name)", desc=True).order("title").execute()
        assert titles(by_author) == ["The Dispossessed", "The Lathe of Heaven", 'Ficciones, "1944"']
        assert all(row.keys() == {"title", "author"} for row in by_author.data), "an embed of nothing is not shown"
        assert titles(query.not_.is_("editor", "null").execute()) == ["The Dispossessed"]

    def test_messages_about_columns_name_the_table(self, wire):
        message = wire.get("/rest/v1/books?select=nothing").json()["message"]
        assert message == "column books.nothing does not exist"


class TestWriting:
    def test_inserting_one_answers_with_the_row_and_its_defaults(self, ada):
        name = uuid.uuid4().hex
        [row] = ada.table("authors").insert({"name": name}).select("id, name, tags, facts").execute().data
        assert (row["name"], row["tags"], row["facts"]) == (name, [], {})

    def test_inserting_several_keeps_arrays_json_and_nulls(self, service, ada):
        owner = ada.auth.get_user().user.id
        rows = [
            {
                "owner": owner,
                "name": uuid.uuid4().hex,
                "tags": ["a", 'b"c'],
                "facts": {"ä": [1, None]},
                "born": "1929-10-21",
            },
            {"owner": owner, "name": uuid.uuid4().hex, "tags": [], "facts": {}, "born": None},
        ]
        stored = service.table("authors").insert(rows).execute().data
        assert [{key: row[key] for key in rows[0]} for row in stored] == rows

    def test_a_minimal_insert_needs_no_right_to_read(self, anonymous, service):
        note = uuid.uuid4().hex
        anonymous.table("log").insert({"note": note}, returning="minimal").execute()
        assert len(service.table("log").select("note").eq("note", note).execute().data) == 1
        with pytest.raises(APIError) as refused:
            anonymous.table("log").insert({"note": note}).execute()
        assert refused.value.code == "42501"

    def test_the_answer_reads_only_the_columns_it_shows(self, ada):
        """A column that the user may not read would otherwise forbid the whole insert."""
        ada.table("authors").insert({"name": uuid.uuid4().hex}).select("id").execute()
        with pytest.raises(APIError) as refused:
            ada.table("authors").insert({"name": uuid.uuid4().hex}).execute()
        assert refused.value.code == "42501"

    def test_a_body_of_empty_objects_inserts_rows_of_defaults(self, gateway, wire):
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute("create table public.counters (id int generated always as identity, n int default 7)")
        answer = wire.post("/rest/v1/counters", json=[{}, {}], headers={"Prefer": "return=representation"})
        assert [row["n"] for row in answer.json()] == [7, 7]
        assert wire.post("/rest/v1/counters", json=[], headers={"Prefer": "return=representation"}).json() == []

    def test_updating_the_rows_that_match(self, service, library):
        change = service.table("books").update({"pages": 1}).eq("author_id", library["ids"][0]).gt("pages", 200)
        assert titles(change.execute()) == ["The Dispossessed"]
        assert service.table("books").update({"pages": 1}).eq("id", -1).execute().data == []

    def test_an_update_can_answer_with_embedded_rows(self, service, library):
        change = service.table("books").update({"pages": 2}).eq("author_id", library["ids"][1])
        [row] = change.select("title, author:author_id(name)").execute().data
        assert row["author"] == {"name": library["borges"]["name"]}

    def test_upserts_merge_or_ignore_by_the_named_columns(self, service, library):
        row = {"author_id": library["ids"][0], "title": "The Dispossessed", "pages": 387}
        [merged] = service.table("books").upsert(row, on_conflict="author_id,title").execute().data
        assert merged["pages"] == 387
        row["pages"] = 1
        ignored = service.table("books").upsert(row, on_conflict="author_id,title", ignore_duplicates=True).execute()
        assert ignored.data == []
        assert service.table("books").select("pages").eq("id", merged["id"]).single().execute().data == {"pages": 387}

    def test_an_upsert_finds_the_primary_key_by_itself(self, service, library):
        row = {"author_id": library["ids"][1], "file": "other.png"}
        assert service.table("portraits").upsert(row).execute().data == [row]

    def test_deleting_answers_with_what_is_gone(self, service, library):
        gone = service.table("books").delete().eq("author_id", library["ids"][0]).order("id").execute()
        assert sorted(titles(gone)) == ["The Dispossessed", "The Lathe of Heaven"]

    def test_a_change_of_every_row_is_refused_as_on_hosted_supabase(self, wire):
        for answer in (wire.patch("/rest/v1/books", json={"pages": 1}), wire.delete("/rest/v1/books")):
            assert (answer.status_code, answer.json()["code"]) == (400, "21000")

    def test_a_change_that_was_to_hit_one_row_but_hits_several_is_taken_back(self, wire, service, library):
        answer = wire.patch(
            f"/rest/v1/books?author_id=eq.{library['ids'][0]}&select=*",
            json={"pages": 9999},
            headers={"Prefer": "return=representation", "Accept": "application/vnd.pgrst.object+json"},
        )
        assert (answer.status_code, answer.json()["code"]) == (406, "PGRST116")
        assert service.table("books").select("id").eq("pages", 9999).execute().data == []

    def test_a_change_of_more_rows_than_allowed_is_taken_back(self, service, library):
        change = service.table("books").delete().eq("author_id", library["ids"][0])
        with pytest.raises(APIError) as refused:
            change.max_affected(1).execute()
        assert refused.value.code == "PGRST124"
        assert len(service.table("books").select("id").eq("author_id", library["ids"][0]).execute().data) == 2

    def test_what_some_rows_lack_gets_its_default_on_request(self, gateway, wire, service):
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute(
                """create table public.lamps (id int generated by default as identity, "50%" text default '50%',
                   lit bool not null default false, twice bool generated always as (lit) stored)"""
            )
        rows = [{"50%": "a"}, {"lit": True}, {"id": 9}]
        assert wire.post("/rest/v1/lamps?columns=id,50%25,lit", json=rows).json()["code"] == "23502"
        lit = service.table("lamps").insert(rows, default_to_null=False).execute().data
        assert [(row["50%"], row["lit"]) for row in lit] == [("a", False), ("50%", True), ("50%", False)]
        assert lit[2]["id"] == 9

    def test_violated_constraints_are_conflicts(self, wire, library):
        taken = {"author_id": library["ids"][0], "title": "The Dispossessed"}
        nobody = {"author_id": -1, "title": "x"}
        for row, code in ((taken, "23505"), (nobody, "23503")):
            answer = wire.post("/rest/v1/books", json=row)
            assert (answer.status_code, answer.json()["code"]) == (409, code)
            assert answer.json().keys() == {"code", "message", "details", "hint"}

    def test_bodies_that_cannot_be_rows(self, wire):
        for body, code in (
            ("{", "PGRST102"),
            ("[" * 100_000, "PGRST102"),
            ("[1]", "PGRST102"),
            ('[{"title": "x"}, {"pages": 1}]', "PGRST102"),
            ('{"nothing": 1}', "PGRST204"),
        ):
            answer = wire.post("/rest/v1/books", content=body)
            assert (answer.status_code, answer.json()["code"]) == (400, code)

    def test_a_zero_character_is_the_callers_mistake(self, wire):
        assert wire.post("/rest/v1/log", json={"note": "a\0b"}).status_code == 400
        assert wire.get("/rest/v1/log?note=eq.a%00b").status_code == 400


class TestConnections:
    def test_after_the_database_cut_all_connections_answers_come_again(self, gateway, wire):
        with psycopg.connect(gateway.dsn) as connection:
            cut = connection.execute(
                """select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where application_name = 'supabase-gateway' and datname = current_database()"""
            ).fetchone()[0]
        assert cut > 0
        statuses = [wire.get("/rest/v1/books?limit=1").status_code for _ in range(cut + 1)]
        assert statuses[-1] == 200
        assert set(statuses) <= {200, 503}, "503 invites the client to try again"


class TestFunctions:
    def test_a_value(self, service):
        assert service.rpc("add", {"a": 1, "b": 2}).execute().data == 3

    def test_an_argument_left_out_has_its_default(self, service):
        assert service.rpc("add", {"a": 1}).execute().data == 11
        assert service.rpc("add", {"a": 1}, get=True).execute().data == 11

    def test_arrays_and_json_go_in_and_json_comes_out(self, service):
        extra = {"x": [1, None, "ä"]}
        found = service.rpc("shout", {"words": ["hi", 'a"b,c'], "extra": extra}).execute().data
        assert found == {"first": "HI", "extra": extra}

    def test_a_row_is_an_object_and_a_missing_row_an_object_of_nulls(self, service, library):
        found = service.rpc("one_author", {"wanted": library["borges"]["name"]}).execute().data
        assert found["id"] == library["borges"]["id"]
        missing = service.rpc("one_author", {"wanted": "nobody"}).execute().data
        assert set(missing.values()) == {None}

    def test_a_set_of_rows_can_be_filtered_and_embedded_like_its_table(self, service, library):
        query = service.rpc("some_authors").select("name, portraits(file)").in_("id", library["ids"]).limit(1)
        assert query.execute().data == [{"name": library["borges"]["name"], "portraits": {"file": "borges.png"}}]

    def test_a_set_of_values_and_a_table_of_columns(self, service):
        assert service.rpc("some_words").execute().data == ["a", "b"]
        assert service.rpc("pair").execute().data == [{"left_one": 1, "right_one": "x"}]
        assert service.rpc("one_column").execute().data == [{"number": 1}, {"number": 2}]
        page = service.rpc("some_words", count="exact").limit(1).execute()
        assert (page.data, page.count) == (["a"], 2)

    def test_arguments_in_a_url_are_read_as_their_types(self, wire):
        words = {"words": '{hi,"a,b"}', "extra": '{"x": [1, null]}'}
        assert wire.get("/rest/v1/rpc/shout", params=words).json() == {"first": "HI", "extra": {"x": [1, None]}}
        refused = wire.get("/rest/v1/rpc/add?a=one")
        assert (refused.status_code, refused.json()["code"]) == (400, "22P02")

    def test_nothing_comes_out_of_void(self, wire, service):
        note = uuid.uuid4().hex
        answer = wire.post("/rest/v1/rpc/write_log", json={"note": note})
        assert (answer.status_code, answer.content) == (204, b"")
        assert len(service.table("log").select("id").eq("note", note).execute().data) == 1

    def test_get_may_not_write(self, wire):
        assert wire.get("/rest/v1/rpc/write_log?note=x").status_code == 405

    @pytest.mark.parametrize(
        ("code", "status"),
        [
            ("P0001", 400),
            ("PT404", 404),
            ("PT409", 409),
            ("PT429", 429),
            ("PT100", 500),
            ("PTXYZ", 500),
            ("40001", 500),
            ("23505", 409),
            ("57014", 500),
        ],
    )
    def test_what_a_function_raises_becomes_a_status(self, wire, code, status):
        answer = wire.post("/rest/v1/rpc/refuse", json={"code": code, "message": "no"})
        assert answer.status_code == status
        assert answer.json() == {"code": code, "message": "no", "details": "because", "hint": "try again"}

    def test_a_call_that_fits_no_function(self, service):
        for name, arguments in (("nothing", {}), ("add", {}), ("add", {"a": 1, "c": 2})):
            with pytest.raises(APIError) as refused:
                service.rpc(name, arguments).execute()
            assert refused.value.code == "PGRST202"

    def test_a_function_made_after_the_first_request_is_found(self, gateway, service):
        service.rpc("add", {"a": 1}).execute()
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute("create or replace function public.late() returns int language sql as 'select 5'")
        assert service.rpc("late").execute().data == 5


class TestRights:
    def test_row_level_security_decides_by_the_users_token(self, ada, sign_up):
        name = uuid.uuid4().hex
        ada.table("authors").insert({"name": name}).select("id").execute()
        assert len(ada.table("authors").select("id").eq("name", name).execute().data) == 1
        assert sign_up().table("authors").select("id").eq("name", name).execute().data == []

    def test_rows_cannot_be_given_to_somebody_else(self, ada, sign_up):
        other = sign_up().auth.get_user().user.id
        with pytest.raises(APIError) as refused:
            ada.table("authors").insert({"name": uuid.uuid4().hex, "owner": other}).select("id").execute()
        assert refused.value.code == "42501"

    def test_who_is_asking(self, anonymous, service, ada):
        user = ada.auth.get_user().user.id
        assert anonymous.rpc("who").execute().data == {"uid": None, "role": "anon", "user": "anon"}
        assert service.rpc("who").execute().data == {"uid": None, "role": "service_role", "user": "service_role"}
        assert ada.rpc("who").execute().data == {"uid": user, "role": "authenticated", "user": "authenticated"}

    def test_a_users_token_outranks_the_secret_key(self, gateway, ada):
        token = ada.auth.get_session().access_token
        headers = {"apikey": gateway.secret_key, "Authorization": f"Bearer {token}"}
        answer = httpx.post(f"{gateway.url}/rest/v1/rpc/who", headers=headers, json={})
        assert answer.json()["role"] == "authenticated"

    def test_no_request_inherits_the_rights_of_the_one_before(self, gateway, anonymous, service):
        for _ in range(12):  # more than the pool has connections
            assert service.rpc("for_service_only").execute().data == 1
            with pytest.raises(APIError):
                anonymous.rpc("for_service_only").execute()

    def test_a_missing_right_is_401_for_nobody_and_403_for_a_user(self, gateway, ada):
        url = f"{gateway.url}/rest/v1/rpc/for_service_only"
        key = {"apikey": gateway.publishable_key}
        token = {"Authorization": f"Bearer {ada.auth.get_session().access_token}"}
        assert httpx.post(url, headers=key, json={}).status_code == 401
        assert httpx.post(url, headers=key | token, json={}).status_code == 403

    def test_a_token_of_our_own_api_is_accepted(self, gateway):
        user = str(uuid.uuid4())
        claims = {"sub": user, "user_id": user, "type": "access", "role": "authenticated", "aud": "authenticated"}
        token = jwt.encode(claims | {"exp": time.time() + 60}, gateway.jwt_secret, algorithm="HS256")
        headers = {"apikey": gateway.publishable_key, "Authorization": f"Bearer {token}"}
        assert httpx.post(f"{gateway.url}/rest/v1/rpc/who", headers=headers, json={}).json()["uid"] == user

    def test_bad_tokens_are_refused(self, gateway):
        good = {"sub": str(uuid.uuid4()), "role": "authenticated", "exp": time.time() + 60}
        secret = gateway.jwt_secret
        bad = {
            "expired": (jwt.encode(good | {"exp": time.time() - 600}, secret, algorithm="HS256"), "PGRST303"),
            "signed by another": (jwt.encode(good, "x" * 64, algorithm="HS256"), "PGRST301"),
            "unsigned": (jwt.encode(good, None, algorithm="none"), "PGRST301"),
            "other algorithm": (jwt.encode(good, secret, algorithm="HS512"), "PGRST301"),
            "not a token": ("sb_publishable_something_else", "PGRST301"),
            "superuser": (jwt.encode(good | {"role": "postgres"}, secret, algorithm="HS256"), "22023"),
        }
        for token, code in bad.values():
            headers = {"apikey": gateway.publishable_key, "Authorization": f"Bearer {token}"}
            answer = httpx.get(f"{gateway.url}/rest/v1/books", headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, code)

    def test_without_a_key_there_is_no_answer(self, gateway):
        for headers in ({}, {"apikey": "wrong"}):
            assert httpx.get(f"{gateway.url}/rest/v1/books", headers=headers).status_code == 401
            assert httpx.post(f"{gateway.url}/auth/v1/signup", headers=headers, json={}).status_code == 401

    def test_only_the_public_schema_is_exposed(self, wire):
        answer = wire.get("/rest/v1/users", headers={"Accept-Profile": "auth"})
        assert (answer.status_code, answer.json()["code"]) == (406, "PGRST106")

    def test_a_browser_of_any_page_may_ask(self, gateway):
        asked = {
            "Origin": "https://app.example.com",
            "Access-Control-Request-Method": "PATCH",
            "Access-Control-Request-Headers": "authorization,apikey,content-type,prefer,x-client-info,accept-profile",
        }
        preflight = httpx.options(f"{gateway.url}/rest/v1/books", headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "prefer" in preflight.headers["access-control-allow-headers"]
        refused = httpx.get(f"{gateway.url}/rest/v1/books", headers={"Origin": "https://app.example.com"})
        assert refused.headers["access-control-allow-origin"] == "*", "an error must be readable too"
        assert "Content-Range" in refused.headers["access-control-expose-headers"]

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/storage/v1/bucket", 404), ("GET", "/rest/v1/a/b", 404), ("PUT", "/rest/v1/books", 405)],
    )
    def test_what_is_not_served_says_so(self, wire, method, path, status):
        answer = wire.request(method, path)
        assert answer.status_code == status
        assert answer.json()["message"].startswith(f"The local stack has no {method} {path}.")


@pytest.fixture
def account():
    return {"email": f"{uuid.uuid4().hex}@example.com", "password": "correct horse"}


class TestAuth:
    def test_signing_up_signs_in(self, anonymous, account):
        session = anonymous.auth.sign_up(account | {"options": {"data": {"full_name": "Ada"}}}).session
        user = anonymous.auth.get_user().user
        assert user.email == account["email"]
        assert user.user_metadata == {"full_name": "Ada"}
        assert anonymous.auth.get_claims()["claims"]["sub"] == user.id == session.user.id

    def test_the_access_token_says_what_hosted_supabase_says(self, gateway, anonymous, account):
        session = anonymous.auth.sign_up(account).session
        claims = jwt.decode(session.access_token, gateway.jwt_secret, algorithms=["HS256"], audience="authenticated")
        assert claims["iss"] == f"{gateway.url}/auth/v1"
        assert claims["sub"] == session.user.id
        assert claims["email"] == account["email"]
        assert claims["role"] == "authenticated"
        assert claims["exp"] - claims["iat"] == session.expires_in == 3600
        assert claims["is_anonymous"] is False
        assert claims["app_metadata"] == {"provider": "email", "providers": ["email"]}
        assert uuid.UUID(claims["session_id"])

    @pytest.mark.parametrize(
        ("change", "code"),
        [
            ({"password": "wrong horse"}, "invalid_credentials"),
            ({"email": "nobody@example.com"}, "invalid_credentials"),
        ],
    )
    def test_a_wrong_password_and_an_unknown_address_look_the_same(self, anonymous, account, change, code):
        anonymous.auth.sign_up(account)
        with pytest.raises(AuthApiError, match="Invalid login credentials") as refused:
            anonymous.auth.sign_in_with_password(account | change)
        assert refused.value.code == code

    def test_sign_ups_that_cannot_be(self, anonymous, account):
        anonymous.auth.sign_up(account)
        with pytest.raises(AuthApiError) as refused:
            anonymous.auth.sign_up(account | {"email": account["email"].upper()})
        assert refused.value.code == "user_already_exists"
        with pytest.raises(AuthWeakPasswordError):
            anonymous.auth.sign_up({"email": "weak@example.com", "password": "short"})
        with pytest.raises(AuthApiError) as refused:
            anonymous.auth.sign_up({"email": "not an address", "password": "correct horse"})
        assert refused.value.code == "validation_failed"

    def test_passwords_are_stored_as_hashes(self, gateway, anonymous, account):
        anonymous.auth.sign_up(account)
        with psycopg.connect(gateway.dsn) as connection:
            [(stored,)] = connection.execute(
                "select encrypted_password from auth.users where email = %s", (account["email"],)
            )
        assert stored.startswith("scrypt$")
        assert account["password"] not in stored

    def test_a_session_row_tells_where_it_is_used(self, gateway, ada):
        session_id = ada.auth.get_claims()["claims"]["session_id"]

        def row():
            with psycopg.connect(gateway.dsn) as connection:
                return connection.execute(
                    "select user_agent, ip::text, refreshed_at from auth.sessions where id = %s", (session_id,)
                ).fetchone()

        user_agent, address, refreshed_at = row()
        assert user_agent.startswith("python-httpx/")
        assert address.startswith("127.0.0.1")
        assert refreshed_at is None
        ada.auth.refresh_session()
        assert row()[2] is not None

    def test_refreshing_gives_a_new_token_of_the_same_session(self, ada):
        old = ada.auth.get_session()
        new = ada.auth.refresh_session().session
        assert new.refresh_token != old.refresh_token
        assert ada.auth.get_claims()["claims"]["session_id"] == decoded(old)["session_id"]

    def test_a_refresh_token_used_again_at_once_gives_the_current_one(self, gateway, ada):
        """Two tabs of a browser refresh at the same moment."""
        old = ada.auth.get_session().refresh_token
        assert refresh(gateway, old).json()["refresh_token"] == refresh(gateway, old).json()["refresh_token"]

    def test_a_refresh_token_used_again_much_later_ends_the_session(self, gateway, ada):
        first = ada.auth.get_session().refresh_token
        second = refresh(gateway, first).json()["refresh_token"]
        third = refresh(gateway, second).json()["refresh_token"]
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute(
                "update auth.refresh_tokens set updated_at = now() - interval '1 minute' where token = %s", (first,)
            )
        stolen = refresh(gateway, first)
        assert (stolen.status_code, stolen.json()["error_code"]) == (400, "refresh_token_already_used")
        assert refresh(gateway, third).status_code == 400

    def test_an_unknown_refresh_token(self, gateway):
        answer = refresh(gateway, "unknown")
        assert (answer.status_code, answer.json()["error_code"]) == (400, "refresh_token_not_found")

    def test_signing_out_ends_the_sessions(self, gateway, anonymous, account):
        anonymous.auth.sign_up(account)
        session = anonymous.auth.get_session()
        anonymous.auth.sign_out()
        with pytest.raises(AuthApiError) as refused:
            anonymous.auth.get_user(session.access_token)
        assert refused.value.code == "session_not_found"
        assert refresh(gateway, session.refresh_token).status_code == 400

    def test_signing_out_here_leaves_other_devices_alone(self, gateway, anonymous, account):
        other = create_client(gateway.url, gateway.publishable_key)
        anonymous.auth.sign_up(account)
        other.auth.sign_in_with_password(account)
        anonymous.auth.sign_out({"scope": "local"})
        assert other.auth.get_user().user.email == account["email"]

    def test_signing_out_elsewhere_leaves_this_device_alone(self, gateway, anonymous, account):
        other = create_client(gateway.url, gateway.publishable_key)
        anonymous.auth.sign_up(account)
        other.auth.sign_in_with_password(account)
        anonymous.auth.sign_out({"scope": "others"})
        assert anonymous.auth.get_user().user.email == account["email"]
        with pytest.raises(AuthApiError):
            other.auth.get_user()

    def test_a_session_that_has_ended_cannot_end_others(self, gateway, anonymous, account):
        other = create_client(gateway.url, gateway.publishable_key)
        anonymous.auth.sign_up(account)
        other.auth.sign_in_with_password(account)
        headers = {
            "apikey": gateway.publishable_key,
            "Authorization": f"Bearer {other.auth.get_session().access_token}",
        }
        unknown = httpx.post(f"{gateway.url}/auth/v1/logout?scope=all", headers=headers)
        assert (unknown.status_code, unknown.json()["error_code"]) == (400, "validation_failed")
        assert httpx.post(f"{gateway.url}/auth/v1/logout?scope=local", headers=headers).status_code == 204
        again = httpx.post(f"{gateway.url}/auth/v1/logout", headers=headers)
        assert (again.status_code, again.json()["error_code"]) == (403, "session_not_found")
        assert anonymous.auth.get_user().user.email == account["email"]

    def test_a_new_password_is_another_one_and_ends_other_sessions(self, gateway, anonymous, account):
        other = create_client(gateway.url, gateway.publishable_key)
        anonymous.auth.sign_up(account)
        other.auth.sign_in_with_password(account)
        with pytest.raises(AuthApiError) as refused:
            anonymous.auth.update_user({"password": account["password"]})
        assert refused.value.code == "same_password"
        assert other.auth.get_user().user.email == account["email"]
        anonymous.auth.update_user({"password": "another horse"})
        assert anonymous.auth.get_user().user.email == account["email"]
        with pytest.raises(AuthApiError):
            other.auth.get_user()

    def test_the_page_to_return_to_changes_nothing(self, gateway, account):
        headers = {"apikey": gateway.publishable_key, "x-supabase-api-version": "2024-01-01"}
        body = account | {"data": {}, "gotrue_meta_security": {}, "code_challenge": None, "code_challenge_method": None}
        url = f"{gateway.url}/auth/v1/signup?redirect_to=http%3A%2F%2Flocalhost%3A3000%2F"
        assert httpx.post(url, headers=headers, json=body).json()["user"]["email"] == account["email"]
        again = httpx.post(url, headers=headers, json=body)
        assert (again.status_code, again.json()["code"]) == (422, "user_already_exists")

    def test_users_change_their_own_account(self, anonymous, account):
        anonymous.auth.sign_up(account | {"options": {"data": {"a": 1, "b": 2}}})
        changed = anonymous.auth.update_user({"data": {"b": None, "c": 3}, "password": "another horse"}).user
        assert changed.user_metadata == {"a": 1, "c": 3}
        anonymous.auth.sign_in_with_password(account | {"password": "another horse"})

    def test_a_token_that_is_no_token(self, anonymous):
        with pytest.raises(AuthApiError) as refused:
            anonymous.auth.get_user("a.b.c")
        assert refused.value.code == "bad_jwt"

    def test_administrators_create_find_change_and_delete_users(self, service, anonymous, account):
        user = service.auth.admin.create_user(
            account | {"email_confirm": True, "user_metadata": {"a": 1}, "app_metadata": {"plan": "pro"}}
        ).user
        assert user.app_metadata == {"provider": "email", "providers": ["email"], "plan": "pro"}
        assert user.id in {listed.id for listed in service.auth.admin.list_users()}
        assert len(service.auth.admin.list_users(page=1, per_page=1)) == 1
        service.auth.admin.update_user_by_id(user.id, {"app_metadata": {"plan": "free"}, "password": "another horse"})
        assert service.auth.admin.get_user_by_id(user.id).user.app_metadata["plan"] == "free"
        anonymous.auth.sign_in_with_password(account | {"password": "another horse"})
        service.auth.admin.delete_user(user.id)
        for missing in (user.id, str(uuid.uuid4())):
            with pytest.raises(AuthApiError) as refused:
                service.auth.admin.get_user_by_id(missing)
            assert refused.value.code == "user_not_found"

    def test_an_address_is_taken_once(self, service, account):
        service.auth.admin.create_user(account)
        with pytest.raises(AuthApiError) as refused:
            service.auth.admin.create_user(account)
        assert refused.value.code == "email_exists"

    def test_only_the_secret_key_administers(self, gateway, ada):
        for bearer in (gateway.publishable_key, ada.auth.get_session().access_token):
            headers = {"apikey": gateway.publishable_key, "Authorization": f"Bearer {bearer}"}
            answer = httpx.get(f"{gateway.url}/auth/v1/admin/users", headers=headers)
            assert (answer.status_code, answer.json()["error_code"]) == (403, "not_admin")

    def test_a_new_user_gets_a_profile_by_our_trigger(self, service, account):
        user = service.auth.admin.create_user(account | {"user_metadata": {"full_name": "Ada L."}}).user
        row = service.table("users").select("email, full_name").eq("id", user.id).single().execute().data
        assert row == {"email": account["email"], "full_name": "Ada L."}

    def test_a_failing_trigger_on_a_new_user_fails_the_sign_up_as_a_whole(self, gateway, anonymous, account):
        with psycopg.connect(gateway.dsn) as connection:
            connection.execute(
                """create function public.no_robots() returns trigger language plpgsql as $$
                   begin if new.email like 'robot%' then raise exception 'no robots'; end if; return new; end $$;
                   create trigger no_robots after insert on auth.users for each row execute function public.no_robots();
                """
            )
        robot = account | {"email": f"robot-{account['email']}"}
        with pytest.raises(AuthApiError) as refused:
            anonymous.auth.sign_up(robot)
        assert refused.value.code == "unexpected_failure"
        with pytest.raises(AuthApiError, match="Invalid login credentials"):
            anonymous.auth.sign_in_with_password(robot)

    def test_what_the_local_stack_cannot_do_says_so(self, gateway):
        headers = {"apikey": gateway.publishable_key}
        recover = httpx.post(f"{gateway.url}/auth/v1/recover", headers=headers, json={"email": "a@example.com"})
        assert recover.json()["error_code"] == "email_provider_disabled"
        assert httpx.get(f"{gateway.url}/auth/v1/authorize?provider=github").status_code == 400

    def test_open_endpoints(self, gateway):
        assert httpx.get(f"{gateway.url}/auth/v1/health").json()["name"] == "GoTrue"
        assert httpx.get(f"{gateway.url}/auth/v1/settings").json()["external"]["email"] is True
        assert httpx.get(f"{gateway.url}/auth/v1/.well-known/jwks.json").json() == {"keys": []}


class TestTheFrontend:
    """The requests of the existing web frontend, on the project's own tables."""

    def test_the_dashboard_reads_tasks_with_their_project(self, supabase_gateway):
        service = create_client(supabase_gateway.url, supabase_gateway.secret_key)
        browser = create_client(supabase_gateway.url, supabase_gateway.publishable_key)
        email = f"{uuid.uuid4().hex}@example.com"
        user = browser.auth.sign_up({"email": email, "password": "correct horse"}).user
        new = {
            "user_id": user.id,
            "repo_url": "https://github.com/a/b",
            "repo_name": "b",
            "repo_owner": "a",
            "name": "B",
        }
        [project] = browser.table("projects").insert(new).execute().data
        service.table("tasks").insert({"user_id": user.id, "project_id": project["id"]}).execute()

        columns = "*,project:projects(id,name,repo_name,repo_owner)"
        query = browser.table("tasks").select(columns).eq("user_id", user.id).order("created_at", desc=True)

        [task] = query.execute().data
        assert task["status"] == "pending"
        assert task["project"] == {"id": project["id"], "name": "B", "repo_name": "b", "repo_owner": "a"}
        with pytest.raises(APIError) as refused:
            browser.table("tasks").update({"status": "completed"}).eq("id", task["id"]).execute()
        assert refused.value.code == "42501"


class Tenants:
    """Ada and Mallory, each with rows in the project's tables."""

    READABLE = """
        select c.relname, coalesce(string_agg(a.attname, ','), '*')
        from pg_class c left join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
            and has_column_privilege('authenticated', c.oid, a.attnum, 'select')
        where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'v') group by c.relname order by c.relname
    """
    FOREIGN_KEYS = """
        select k.conname, own.relname, target.relname from pg_constraint k
        join pg_class own on own.oid = k.conrelid join pg_class target on target.oid = k.confrelid
        where k.contype = 'f' and own.relnamespace = 'public'::regnamespace
            and target.relnamespace = 'public'::regnamespace order by k.conname
    """

    def __init__(self, gateway):
        self.gateway = gateway
        self.ada, self.mallory = self.new_user("ada"), self.new_user("mallory")
        self.tables = dict(self.sql(self.READABLE))  # what a user may read: columns by table
        run_of_ada = self.new_run(self.ada, self.new_project(self.ada))
        self.new_run(self.mallory, self.new_project(self.mallory))
        self.adas = [str(self.ada), "ada's", str(run_of_ada)]  # one of them stands in each row of hers

    def let_tasks_point_into_each_others_projects(self):
        """What no user can do, but what a fault of ours might."""
        self.sql("update tasks t set project_id = (select id from projects p where p.user_id <> t.user_id)")

    def sql(self, statement, *values):
        with psycopg.connect(self.gateway.dsn) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def new_user(self, name):
        return self.sql("insert into auth.users (email) values (%s) returning id", f"{name}@example.com")[0][0]

    def new_project(self, user):
        whose = "ada's" if user == self.ada else "mallory's"
        columns = "user_id, name, repo_url, repo_name, repo_owner"
        values = (user, whose, f"https://github.com/o/{user}", str(user), "o")
        return self.sql(f"insert into projects ({columns}) values (%s, %s, %s, %s, %s) returning id", *values)[0][0]

    def new_run(self, user, project):
        """A task with a run, an event and a file."""
        task = self.sql("insert into tasks (user_id, project_id) values (%s, %s) returning id", user, project)[0][0]
        columns = "task_id, user_id, prompt, agent"
        run = self.sql(f"insert into runs ({columns}) values (%s, %s, 'p', 'claude') returning id", task, user)[0][0]
        self.sql("insert into task_events (task_id, seq, run_id, kind) values (%s, 0, %s, 'phase')", task, run)
        self.sql("insert into task_files (task_id, run_id, path, status) values (%s, %s, 'f', 'added')", task, run)
        return run

    def client_of(self, user):
        claims = {"sub": str(user), "role": "authenticated", "aud": "authenticated", "exp": time.time() + 600}
        token = jwt.encode(claims, self.gateway.jwt_secret, algorithm="HS256")
        headers = {"apikey": self.gateway.publishable_key, "Authorization": f"Bearer {token}"}
        return httpx.Client(base_url=f"{self.gateway.url}/rest/v1", headers=headers, timeout=120)

    def reads(self):
        """Every table, and every table embedded in every other one by each key in both directions."""
        yield from (f"/{table}?select={columns}" for table, columns in self.tables.items())
        for key, own, target in self.sql(self.FOREIGN_KEYS):
            for outer, inner in ((own, target), (target, own)):
                for join in (key, f"{key}!inner"):
                    yield f"/{outer}?select={self.tables[outer]},embedded:{inner}!{join}({self.tables[inner]})"

    def rows_of_ada(self):
        everything = {table: self.sql(f"select to_jsonb(t)::text from {table} t order by 1") for table in self.tables}
        return {
            table: [row for (row,) in rows if any(mark in row for mark in self.adas)]
            for table, rows in everything.items()
        }


@pytest.fixture
def tenants(fresh_database, make_gateway):
    return Tenants(make_gateway(fresh_database()))


class TestTenants:
    """On the project's own tables: what a user must never reach, in any form of request."""

    def test_no_form_of_reading_shows_a_row_of_another_user(self, tenants):
        tenants.let_tasks_point_into_each_others_projects()
        with tenants.client_of(tenants.mallory) as mallory:
            answers = {path: mallory.get(path).text for path in tenants.reads()}
        assert {path: text for path, text in answers.items() if any(mark in text for mark in tenants.adas)} == {}
        assert "mallory's" in answers[f"/projects?select={tenants.tables['projects']}"]

    def test_the_same_requests_show_her_own_rows_to_the_owner(self, tenants):
        """Otherwise the test above would prove nothing."""
        with tenants.client_of(tenants.ada) as ada:
            shown = {path for path in tenants.reads() if any(mark in ada.get(path).text for mark in tenants.adas)}
        tables = {path.removeprefix("/").partition("?")[0] for path in shown}
        assert tables >= {"users", "projects", "tasks", "runs", "task_events", "task_files"}
        assert any("embedded:task_files" in path for path in shown)

    def test_no_filter_or_count_tells_that_a_row_of_another_user_exists(self, tenants):
        tenants.let_tasks_point_into_each_others_projects()
        counting = {"Prefer": "count=exact"}
        with tenants.client_of(tenants.mallory) as mallory:
            for condition in (
                f"projects?select=id&user_id=eq.{tenants.ada}",
                f"projects?select=id&or=(user_id.eq.{tenants.ada},name.like.ada*)",
                f"users?select=id&id=in.({tenants.ada})",
                "tasks?select=id,projects!inner()&projects.name=like.ada*",
                "tasks?select=id,projects(id)&projects=not.is.null",
                f"runs?select=id,tasks!inner(id)&tasks.user_id=eq.{tenants.ada}",
            ):
                answer = mallory.head(f"/{condition}", headers=counting)
                assert (answer.status_code, answer.headers["content-range"]) == (200, "*/0"), condition

    def test_no_change_reaches_a_row_of_another_user(self, tenants):
        before = tenants.rows_of_ada()
        assert all(before[table] for table in ("users", "projects", "tasks", "runs", "task_events", "task_files"))
        with tenants.client_of(tenants.mallory) as mallory:
            for table in tenants.tables:
                [column] = tenants.sql(
                    "select attname from pg_attribute where attrelid = %s::regclass and attnum = 1", table
                )[0]
                for returning in ("return=minimal", "return=representation"):
                    everything, wanted = f"/{table}?{column}=not.is.null", {"Prefer": returning}
                    for answer in (
                        mallory.patch(everything, headers=wanted, json={"user_id": str(tenants.mallory)}),
                        mallory.patch(everything, headers=wanted, json={"name": "stolen", "full_name": "stolen"}),
                        mallory.patch(f"{everything}&columns=name", headers=wanted, json={"name": "stolen"}),
                        mallory.post(f"/{table}", headers=wanted, json={"user_id": str(tenants.ada)}),
                        mallory.delete(everything, headers=wanted),
                    ):
                        assert answer.status_code < 500
                        assert not any(mark in answer.text for mark in tenants.adas)
        assert tenants.rows_of_ada() == before

    def test_users_write_tasks_and_their_rights_only_through_functions(self, tenants):
        with tenants.client_of(tenants.ada) as ada:
            for answer in (
                ada.post("/tasks", json={"user_id": str(tenants.ada)}),
                ada.patch("/tasks?id=gt.0", json={"status": "completed"}),
                ada.delete("/tasks?id=gt.0"),
                ada.patch(f"/users?id=eq.{tenants.ada}", json={"is_test_user": True}),
                ada.patch(f"/users?id=eq.{tenants.ada}", json={"github_token": "x"}),
                ada.get("/api_keys?select=key_hash"),
                ada.get("/api_keys?select=*"),
                ada.get("/api_keys?select=id&key_hash=not.is.null"),
                ada.get("/api_keys?select=id&order=key_hash"),
                ada.get("/users?select=id,api_keys(key_hash)"),
            ):
                assert (answer.status_code, answer.json()["code"]) == (403, "42501")


class TestTheProgram:
    def test_it_serves_until_it_is_told_to_stop(self, postgres_dsn, tmp_path):
        secrets = {"JWT_SECRET": "j" * 32, "SUPABASE_PUBLISHABLE_KEY": "sb_a", "SUPABASE_SECRET_KEY": "sb_secret_b"}
        environment = os.environ | secrets | {"DATABASE_URL": postgres_dsn}
        with ProcessGroup(tmp_path) as group:
            program = group.start(
                "supabase", [sys.executable, "-m", "local.services.supabase"], env=environment, listener=listen()
            )
            url = f"{program.url}/rest/v1/projects?id=eq.-1"
            assert httpx.get(url, headers={"apikey": "sb_secret_b"}).json() == []
            program.guard.terminate()  # the guard hands it on and ends as its program does
            assert program.guard.wait(30) == 0

    def test_it_names_every_setting_that_is_missing(self):
        argv = [sys.executable, "-m", "local.services.supabase"]
        environment = {"PATH": os.environ["PATH"], "JWT_SECRET": "j" * 32}
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2
        assert "SUPABASE_PUBLISHABLE_KEY, SUPABASE_SECRET_KEY, DATABASE_URL" in done.stderr


def decoded(session):
    return jwt.decode(session.access_token, options={"verify_signature": False})


def refresh(gateway, token):
    return httpx.post(
        f"{gateway.url}/auth/v1/token?grant_type=refresh_token",
        headers={"apikey": gateway.publishable_key},
        json={"refresh_token": token},
    )
