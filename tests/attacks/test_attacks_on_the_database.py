"""A user's token, straight to PostgREST: every table, every column, every function, without our API in between."""

import itertools
import json

import httpx
import pytest


@pytest.fixture(params=["a user's own token", "nobody's"])
def database(request, stage):
    """Asks PostgREST as the attacker, or with the publishable key alone; every answer is looked at."""
    headers = {"apikey": stage.gateway.publishable_key}
    if request.param == "a user's own token":
        headers["Authorization"] = f"Bearer {stage.token(stage.attacker)}"
    with httpx.Client(base_url=f"{stage.gateway.url}/rest/v1", headers=headers, timeout=30) as client:

        def ask(method, path, **options):
            answer = client.request(method, path, **options)
            stage.tried(f"{method} {path} {options}", answer.status_code, answer.text)
            return answer

        yield ask


def name_of(table):
    return table.removeprefix("public.")


def value_for(stage, column, kind):
    """Something of the victim's, or at least something sound, for a column or an argument of this type."""
    victim = stage.victim
    if kind.startswith("timestamp"):
        return "2099-01-01T00:00:00+00:00"
    if column.endswith(("run_id",)) or (column == "id" and kind == "uuid"):
        return victim.run_ids[0]
    known = {"user_id": victim.id, "project_id": victim.project_id, "task_id": victim.task_ids["completed"]}
    if (name := column.removeprefix("p_")) in known:
        return known[name]
    return {
        "uuid": victim.id, "bigint": victim.task_ids["completed"], "integer": 1, "smallint": 1, "boolean": True,
        "jsonb": {"id": victim.credential_id, "user_id": victim.id}, "task_status": "completed",
        "run_status": "completed", "runs": {"id": victim.run_ids[0], "task_id": victim.task_ids["completed"]},
        "users": {"id": victim.id}, "projects": {"id": victim.project_id},
        "tasks": {"id": victim.task_ids["completed"]},
    }.get(kind, "x")  # fmt: skip


def test_no_table_shows_somebody_elses_rows(stage, database):
    for table in stage.tables():
        name, columns = name_of(table), [column for column, _ in stage.columns(table)]
        for query in ("select=*", "", f"or=(user_id.eq.{stage.victim.id},id.not.is.null)", "limit=1000&offset=0"):
            database("GET", f"/{name}?{query}")
        for column in columns:
            database("GET", f"/{name}?select={column}")
        for prefer in ("count=exact", "count=planned", "count=estimated"):
            database("HEAD", f"/{name}?select=*", headers={"Prefer": prefer})


def test_no_embedding_leads_to_somebody_elses_rows(stage, database):
    names = [name_of(table) for table in stage.tables()]
    for outer, inner in itertools.permutations(names, 2):
        database("GET", f"/{outer}?select=*,{inner}(*)")
        database("GET", f"/{outer}?select=*,{inner}!inner(*)")


def test_no_other_schema_is_served(stage, database):
    for schema, table in itertools.product(
        ("auth", "extensions", "pg_catalog", "information_schema", "storage", "vault"),
        ("users", "sessions", "refresh_tokens", "pg_authid", "pg_class", "tables", "secrets"),
    ):
        for headers in ({"Accept-Profile": schema}, {"Content-Profile": schema}):
            for method in ("GET", "POST", "PATCH", "DELETE"):
                body = {"json": {}} if method in {"POST", "PATCH"} else {}
                answer = database(method, f"/{table}", headers=headers, **body)
                assert answer.status_code >= 400 or schema not in str(headers) or "users" in table, answer.text


def test_no_row_can_be_added_in_somebody_elses_name(stage, database):
    for table in stage.tables():
        whole = {column: value_for(stage, column, kind) for column, kind in stage.columns(table)}
        for row in (
            whole,
            {"user_id": stage.victim.id},
            {k: v for k, v in whole.items() if k not in {"id", "has_patch"}},
        ):
            for prefer in ("return=representation", "return=minimal", "resolution=merge-duplicates"):
                database("POST", f"/{name_of(table)}", json=row, headers={"Prefer": prefer})
                database("POST", f"/{name_of(table)}?on_conflict=id", json=[row], headers={"Prefer": prefer})


def test_no_row_of_somebody_elses_and_no_protected_column_of_ones_own_can_be_changed(stage, database):
    for table in stage.tables():
        columns = stage.columns(table)
        names = {column for column, _ in columns}
        owners = [(column, who.id) for column in ("user_id", "id") for who in (stage.victim,) if column in names]
        filters = [f"{column}=eq.{owner}" for column, owner in owners] + [f"{columns[0][0]}=not.is.null"]
        for column, kind in columns:
            change = {column: value_for(stage, column, kind)}
            if table == "public.projects" and column not in {"user_id", "id", "is_test_data", "created_at"}:
                continue  # one's own may be changed; the victim's are tried below
            for where in filters:
                database(
                    "PATCH", f"/{name_of(table)}?{where}", json=change, headers={"Prefer": "return=representation"}
                )
    for column, kind in stage.columns("public.projects"):
        for where in (f"id=eq.{stage.victim.project_id}", f"user_id=eq.{stage.victim.id}"):
            database("PATCH", f"/projects?{where}", json={column: value_for(stage, column, kind)})


def test_no_row_of_somebody_elses_can_be_deleted(stage, database):
    for table in stage.tables():
        for column, kind in stage.columns(table):
            if column in {"id", "user_id", "task_id", "run_id", "project_id"}:
                database("DELETE", f"/{name_of(table)}?{column}=eq.{value_for(stage, column, kind)}")
        for value in stage.victim.ids:
            database("DELETE", f"/{name_of(table)}?id=eq.{value}", headers={"Prefer": "return=representation"})


def test_no_function_does_anything_to_somebody_elses(stage, database):
    for name, arguments, kinds in stage.functions():
        sound = {a: value_for(stage, a, kind.removeprefix("public.")) for a, kind in zip(arguments, kinds, strict=True)}
        database("POST", f"/rpc/{name}", json=sound)
        database("GET", f"/rpc/{name}?" + "&".join(f"{k}={v}" for k, v in sound.items() if not isinstance(v, dict)))
        for argument, kind in zip(arguments, kinds, strict=True):
            others = stage.victim.ids if kind in {"bigint", "uuid"} else ["x", "", "%", {}, [], None, 2**62]
            for value in others:
                database("POST", f"/rpc/{name}", json=sound | {argument: value})


def test_the_functions_of_the_executor_are_closed_to_users(stage, database):
    closed = {
        "claim_run", "seize_run", "advance_run", "finish_run", "due_runs", "expire_credentials", "append_events",
        "insert_run", "admit_start", "claimed_run", "is_test_user", "store_contents", "stored_contents",
    }  # fmt: skip
    known = {name: (arguments, kinds) for name, arguments, kinds in stage.functions()}
    assert closed <= set(known)
    for name in closed:
        arguments, kinds = known[name]
        body = {a: value_for(stage, a, kind.removeprefix("public.")) for a, kind in zip(arguments, kinds, strict=True)}
        answer = database("POST", f"/rpc/{name}", json=body)
        assert answer.status_code in {401, 403, 404}, f"{name}: {answer.status_code} {answer.text}"


def test_claims_that_nobody_signed_count_for_nothing(stage, database):
    for header, value in {
        "request.jwt.claims": json.dumps({"sub": stage.victim.id, "role": "service_role"}),
        "X-Forwarded-User": stage.victim.id,
        "role": "service_role",
        "X-Client-Info": "'; set role service_role; --",
    }.items():
        for table in stage.tables():
            database("GET", f"/{name_of(table)}?select=*", headers={header: value})
