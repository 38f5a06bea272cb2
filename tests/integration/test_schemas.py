"""supabase/schemas and supabase/migrations make the same database: one is made from each, every object is compared."""

import random

import psycopg
import pytest

from local.services.postgres import prepare
from tests.catalog import catalog, differences
from tests.integration.conftest import MIGRATIONS
from tests.sql_files import SCHEMAS, functions_in

EXAMPLES = 12  # of each kind of change; all of them would take minutes
PUBLIC = "'public'::regnamespace"
TABLES = f"(select oid, oid::regclass as name from pg_class where relnamespace = {PUBLIC} and relkind = 'r')"
COLUMNS = f"(select t.name, a.* from {TABLES} t join pg_attribute a on a.attrelid = t.oid and a.attnum > 0)"
FUNCTIONS = f"(select *, oid::regprocedure as name from pg_proc where pronamespace = {PUBLIC})"

# For each kind of change, SQL that gives the statements of such changes for the objects that there are.
CHANGES = {
    "another body of a function": f"""
        select replace(pg_get_functiondef(oid), prosrc, prosrc || '-- changed' || chr(10)) from {FUNCTIONS} f""",
    "a function that is missing": f"select format('drop function %s cascade', name) from {FUNCTIONS} f",
    "another property of a function": f"""
        select format('alter function %s %s', name, change) from {FUNCTIONS} f, unnest(array[
            case when prosecdef then 'security invoker' else 'security definer' end, 'reset search_path', 'cost 1',
            'strict', case when provolatile = 'v' then 'stable' else 'volatile' end]) as change""",
    "a missing right on a function": f"""
        select format('revoke execute on function %s from %s', name, a.grantee::regrole)
        from {FUNCTIONS} f, aclexplode(proacl) a""",
    "one more right on a function": f"""
        select format('grant execute on function %s to anon', name) from {FUNCTIONS} f
        where not has_function_privilege('anon', oid, 'execute')""",
    "a missing right on a table or sequence": f"""
        select format('revoke %s on %s from %s', a.privilege_type, c.oid::regclass, a.grantee::regrole)
        from pg_class c, aclexplode(c.relacl) a where relnamespace = {PUBLIC}""",
    "a missing right on a column": f"""
        select format('revoke %s (%I) on %s from %s', r.privilege_type, attname, name, r.grantee::regrole)
        from {COLUMNS} a, aclexplode(attacl) r""",
    "a missing right on a schema, or on what is made in it later": """
        select format('revoke usage on schema public from %s', role) from unnest(array['anon', 'service_role']) as role
        union all
        select format('alter default privileges in schema public revoke all on %s from anon', kind)
        from unnest(array['tables', 'sequences', 'functions']) as kind""",
    "a policy that is missing": "select format('drop policy %I on %s', polname, polrelid::regclass) from pg_policy",
    "another condition of a policy": """
        select format('alter policy %I on %s %s (true)', polname, polrelid::regclass, part)
        from pg_policy, unnest(array[case when polqual is not null then 'using' end,
            case when polwithcheck is not null then 'with check' end]) as part
        where part is not null""",
    "other roles of a policy": """
        select format('alter policy %I on %s to anon', polname, polrelid::regclass) from pg_policy""",
    "another state of row-level security": f"""
        select format('alter table %s %s row level security', name, change)
        from {TABLES} t, unnest(array['disable', 'force']) as change""",
    "a missing default of a column": f"""
        select format('alter table %s alter column %I drop default', name, attname) from {COLUMNS} a
        where atthasdef and attgenerated = ''""",
    "another default of a column": f"""
        select format('alter table %s alter column %I set default null', name, attname) from {COLUMNS} a
        where atthasdef and attgenerated = ''""",
    "a column that is missing": f"""
        select format('alter table %s drop column %I cascade', name, attname) from {COLUMNS} a""",
    "a column with another name": f"select format('alter table %s rename %I to other', name, attname) from {COLUMNS} a",
    "one more column": f"select format('alter table %s add column more integer', name) from {TABLES} t",
    "a column at another place": f"""
        select format('alter table %1$s drop column %2$I cascade; alter table %1$s add column %2$I %3$s',
            name, attname, format_type(atttypid, atttypmod)) from {COLUMNS} a""",
    "a column that may be null": f"""
        select format('alter table %s alter column %I drop not null', name, attname) from {COLUMNS} a
        where attnotnull and not exists (
            select from pg_index i where i.indrelid = a.attrelid and indisprimary and attnum = any (indkey))""",
    "an index that is missing": f"""
        select format('drop index %s', indexrelid::regclass) from pg_index join pg_class c on c.oid = indexrelid
        where relnamespace = {PUBLIC} and not exists (select from pg_constraint where conindid = indexrelid)""",
    "a constraint that is missing": f"""
        select format('alter table %s drop constraint %I cascade', conrelid::regclass, conname)
        from pg_constraint where connamespace = {PUBLIC} and contype <> 'n'""",
    "a trigger that is missing": """
        select format('drop trigger %I on %s', tgname, tgrelid::regclass) from pg_trigger where not tgisinternal""",
    "a trigger that is disabled": """
        select format('alter table %s disable trigger %I', tgrelid::regclass, tgname)
        from pg_trigger where not tgisinternal""",
    "one more value of an enum": f"""
        select format('alter type %s add value ''more''', oid::regtype) from pg_type
        where typnamespace = {PUBLIC} and typtype = 'e'""",
    "another comment": f"""
        select format('comment on column %s.%I is ''other''', name, attname) from {COLUMNS} a
        union all select format('comment on table %s is ''other''', name) from {TABLES} t
        union all select format('comment on function %s is ''other''', name) from {FUNCTIONS} f""",
    "other rows in a new database": "select 'update public.run_limits set active_per_user = 49'",
}


@pytest.fixture(scope="module")
def migrated(fresh_database):
    """A connection to a database that the migrations made."""
    with psycopg.connect(fresh_database()) as connection:
        yield connection


@pytest.fixture(scope="module")
def declared(new_database):
    """A connection to a database that the schemas made."""
    dsn = new_database()
    prepare(dsn, SCHEMAS)
    with psycopg.connect(dsn) as connection:
        yield connection


def test_the_schemas_declare_what_the_migrations_lead_to(declared, migrated):
    found = differences(catalog(declared), catalog(migrated))

    assert not found, "\n".join(
        [
            "supabase/schemas and supabase/migrations make different databases. Change both.",
            *(f"\n{name}:\n{text}" for name, text in found.items()),
        ]
    )


@pytest.mark.parametrize("kind", CHANGES)
def test_the_comparison_finds(migrated, kind):
    before = catalog(migrated)
    changes = [change for [change] in migrated.execute(CHANGES[kind])]
    assert changes
    for change in random.Random(kind).sample(changes, min(EXAMPLES, len(changes))):
        with migrated.transaction(force_rollback=True):
            migrated.execute(change)
            assert differences(before, catalog(migrated)), change


def test_a_difference_is_shown_by_the_lines_that_differ(migrated):
    before = catalog(migrated)
    with migrated.transaction(force_rollback=True):
        migrated.execute("alter table public.tasks alter column target_branch set default 'trunk'")
        migrated.execute("drop index public.idx_tasks_status")
        found = differences(before, catalog(migrated), ("schemas", "migrations"))

    assert found.keys() == {"column public.tasks target_branch", "index public.idx_tasks_status"}
    assert found["index public.idx_tasks_status"] == "only in schemas"
    changed = [line for line in found["column public.tasks target_branch"].splitlines()[3:] if line[0] in "+-"]
    assert changed == ["-default: 'main'::text", "+default: 'trunk'::text"]


def test_every_function_of_the_database_stands_in_the_schemas(migrated):
    names = {name for [name] in migrated.execute(f"select proname from {FUNCTIONS} f")}

    assert names == set(functions_in(SCHEMAS))


def test_one_function_is_open_to_callers_who_have_not_signed_in(migrated):
    rights = f"select proname from {FUNCTIONS} f where has_function_privilege('anon', oid, 'execute')"

    assert migrated.execute(rights).fetchall() == [("user_of_api_key",)]


def test_every_table_has_row_level_security(migrated):
    unprotected = f"select name from {TABLES} t join pg_class c on c.oid = t.oid where not relrowsecurity"

    assert migrated.execute(unprotected).fetchall() == []


def test_the_migrations_begin_with_one_baseline():
    first, *later = sorted(MIGRATIONS.glob("*.sql"))

    assert first.name == "20261128000000_baseline.sql"
    assert all(file.name > first.name for file in later)
