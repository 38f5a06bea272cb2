"""The database has its own list of agents, wherever a column names one: it is the list of the functions."""

import re

import psycopg
import pytest

from shared.domain.agents import DEFAULT_AGENT, AgentName

COLUMNS = """
    select format('%s.%s', t.oid::regclass, a.attname), pg_get_constraintdef(c.oid),
           pg_get_expr(d.adbin, d.adrelid)
    from pg_attribute a
    join pg_class t on t.oid = a.attrelid and t.relkind = 'r' and t.relnamespace = 'public'::regnamespace
    left join pg_constraint c on c.conrelid = t.oid and c.contype = 'c' and a.attnum = any(c.conkey)
    left join pg_attrdef d on d.adrelid = t.oid and d.adnum = a.attnum
    where a.attname = 'agent'
"""


@pytest.fixture(scope="module")
def columns(postgres_dsn):
    with psycopg.connect(postgres_dsn) as connection:
        return connection.execute(COLUMNS).fetchall()


def test_every_list_of_agents_is_the_list_of_the_functions(columns):
    lists = {column: set(re.findall(r"'(\w+)'::", check)) for column, check, _ in columns if check}

    assert lists.keys() >= {"tasks.agent", "runs.agent"}
    assert all(names == set(AgentName) for names in lists.values()), lists


def test_a_default_is_that_of_a_request(columns):
    defaults = {default for *_, default in columns if default}

    assert defaults == {f"'{DEFAULT_AGENT}'::text"}
