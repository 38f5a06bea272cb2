"""The query language of PostgREST, as the gateway of the local stack reads it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local.services.supabase import grammar, level
from local.services.supabase.cursor import GrammarError
from local.services.supabase.grammar import (
    AggregateRefused,
    NotEmbedded,
    Preferences,
    parse_column,
    parse_condition,
    parse_group,
    parse_names,
    parse_order,
    parse_prefer,
    parse_query,
    parse_select,
)
from local.services.supabase.query import Column, Condition, Embed, Field, Group, Order, Query


def eq(column, value):
    return Condition(Column(column), "eq", value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("*", Field(Column("*"))),
        ("title", Field(Column("title"))),
        (" title ", Field(Column("title"))),
        ('"a,b.c(d)"', Field(Column("a,b.c(d)"))),
        (r'"say \"hi\""', Field(Column('say "hi"'))),
        ("name:title", Field(Column("title"), alias="name")),
        ("pages::text", Field(Column("pages"), cast="text")),
        ("n:pages::double precision", Field(Column("pages"), alias="n", cast="double precision")),
        ("facts->city", Field(Column("facts", ("city",)))),
        ("facts->list->0->>name", Field(Column("facts", ("list", 0, "name"), as_text=True))),
        ("facts->-1", Field(Column("facts", (-1,)))),
        ("first-name", Field(Column("first-name"))),
        ("k:facts->>k::int", Field(Column("facts", ("k",), as_text=True), alias="k", cast="int")),
    ],
)
def test_a_selected_column(text, expected):
    assert parse_select(text).fields == (expected,)


def test_selected_columns_and_embedded_tables_nest():
    query = parse_select("id, project:projects!fk(name,owner:users!inner(id)),logs(*)")

    owner = Embed("users", Query(fields=(Field(Column("id")),)), alias="owner", inner=True)
    project = Embed("projects", Query(fields=(Field(Column("name")),), embeds=(owner,)), alias="project", hint="fk")
    logs = Embed("logs", Query())
    assert query == Query(fields=(Field(Column("id")),), embeds=(project, logs))


@pytest.mark.parametrize(
    "text", ["a b(", "projects(id", "projects(id))", "projects(,)", "...projects(id)", ":a", "a:", '"a', "a->", "a::"]
)  # fmt: skip
def test_a_selection_that_is_none(text):
    with pytest.raises(GrammarError):
        parse_select(text)


def test_an_embed_of_nothing_is_there_for_filters_only():
    [files, tasks] = parse_select("id,files(path),tasks!inner()").embeds
    assert (files.shown, tasks.shown) == (True, False)
    assert tasks == Embed("tasks", Query(fields=()), inner=True)


@pytest.mark.parametrize("text", ["count()", "n:count()", "pages.sum()", "id,tasks(pages.max())"])
def test_aggregates_are_refused_by_name(text):
    with pytest.raises(AggregateRefused) as refused:
        parse_select(text)
    assert refused.value.code == "PGRST123"


@pytest.mark.parametrize(
    ("text", "operator", "value", "negated"),
    [
        ("eq.5", "eq", "5", False),
        ("eq.", "eq", "", False),
        ("not.eq.5", "eq", "5", True),
        ("eq.not.eq.5", "eq", "not.eq.5", False),
        ('eq.a,b)"', "eq", 'a,b)"', False),
        ("is.null", "is", "null", False),
        ("not.is.NULL", "is", "NULL", True),
        ("in.(1,2)", "in", ("1", "2"), False),
        ("in.()", "in", (), False),
        (r'in.("a,b","c\"d",e f)', "in", ("a,b", 'c"d', "e f"), False),
        ('cs.{"a":[1]}', "cs", '{"a":[1]}', False),
        ("like.*x*", "like", "*x*", False),
        ("fts.a & b", "fts", "a & b", False),
        ("adj.[1,2)", "adj", "[1,2)", False),
        ('in.("say "hi"",x)', "in", ('"say "hi""', "x"), False),  # as supabase-js writes it
    ],
)
def test_a_filter(text, operator, value, negated):
    assert parse_condition("c", text) == Condition(Column("c"), operator, value, negated)


def test_a_filter_on_any_or_all_of_several_values_or_in_a_language():
    assert parse_condition("c", "like(any).{a*,b*}") == Condition(Column("c"), "like", "{a*,b*}", modifier="any")
    assert parse_condition("c", "not.eq(all).{1,2}") == Condition(Column("c"), "eq", "{1,2}", True, modifier="all")
    assert parse_condition("c", "wfts(english).x") == Condition(Column("c"), "wfts", "x", modifier="english")
    assert parse_group("or", "(c.gt(any).{1,2},d.eq.1)").parts[0].modifier == "any"


@pytest.mark.parametrize("text", ["5", "", "eq", "wat.5", "is.5", "in.1,2", "in.(1", 'in.("1', "in.(1)x"])
def test_a_filter_that_is_none(text):
    with pytest.raises(GrammarError):
        parse_condition("c", text)


@pytest.mark.parametrize("text", ["eq(some).1", "neq(any).1", "eq(any.1", "eq(any)1", "(any).1"])
def test_a_modifier_that_is_none(text):
    with pytest.raises(GrammarError):
        parse_condition("c", text)


def test_every_operator_and_modifier_has_its_sql():
    of_their_own = {"in", "is"}
    assert of_their_own | level.OPERATORS.keys() | level.TEXT_QUERIES.keys() == grammar.OPERATORS
    assert level.QUANTIFIERS.keys() == grammar.QUANTIFIERS
    assert level.IS.keys() == grammar.IS_VALUES


def test_filters_joined_by_and_and_or():
    group = parse_group("or", '(a.eq.1,b.not.in.(x,"y,z"),not.and(c.is.null,d->>k.eq."v)"),e.cs.{1,2})')

    deep = Condition(Column("d", ("k",), as_text=True), "eq", "v)")
    assert group == Group(
        any_of=True,
        parts=(
            eq("a", "1"),
            Condition(Column("b"), "in", ("x", "y,z"), negated=True),
            Group(any_of=False, parts=(Condition(Column("c"), "is", "null"), deep), negated=True),
            Condition(Column("e"), "cs", "{1,2}"),
        ),
    )


def test_a_column_may_be_called_like_a_connective():
    assert parse_group("and", "(or.eq.1,and_more.eq.2)").parts == (eq("or", "1"), eq("and_more", "2"))


@pytest.mark.parametrize("text", ["", "()", "a.eq.1", "(a.eq.1", "(a.eq.1))", "(a)", "(a.wat.1)", "(a.cs.{1)"])
def test_a_group_that_is_none(text):
    with pytest.raises(GrammarError):
        parse_group("or", text)


def test_order_terms():
    assert parse_order("a,b.desc,c.asc.nullslast,d->>k.desc.nullsfirst") == (
        Order(Column("a")),
        Order(Column("b"), descending=True),
        Order(Column("c"), nulls_first=False),
        Order(Column("d", ("k",), as_text=True), descending=True, nulls_first=True),
    )
    assert parse_order('project(name).desc,project("odd,name)")') == (
        Order(Column("name"), descending=True, embed="project"),
        Order(Column("odd,name)"), embed="project"),
    )


@pytest.mark.parametrize("text", ["a.sideways", "project(name", "project(name)x", "project()", "a->b(c)"])
def test_an_order_that_is_none(text):
    with pytest.raises(GrammarError):
        parse_order(text)


def test_parameters_become_one_query():
    query = parse_query(
        [
            ("select", "id"),
            ("status", "eq.open"),
            ("or", "(a.eq.1)"),
            ("not.and", "(b.eq.2)"),
            ("data->>k", "eq.v"),
            ("order", "id.desc"),
            ("limit", "5"),
            ("offset", "10"),
        ]
    )
    assert query == Query(
        fields=(Field(Column("id")),),
        where=(
            eq("status", "open"),
            Group(any_of=True, parts=(eq("a", "1"),)),
            Group(any_of=False, parts=(eq("b", "2"),), negated=True),
            Condition(Column("data", ("k",), as_text=True), "eq", "v"),
        ),
        order=(Order(Column("id"), descending=True),),
        limit=5,
        offset=10,
    )


def test_two_filters_of_one_column_both_count():
    assert parse_query([("n", "gt.1"), ("n", "lt.5")]).where == (
        Condition(Column("n"), "gt", "1"),
        Condition(Column("n"), "lt", "5"),
    )


def test_parameters_of_an_embedded_table_reach_it_by_its_alias():
    [tasks] = parse_query(
        [
            ("select", "*,jobs:tasks(id,files(path))"),
            ("jobs.status", "eq.open"),
            ("jobs.order", "id"),
            ("jobs.limit", "1"),
            ("jobs.or", "(a.eq.1)"),
            ("jobs.files.path", "like.*.py"),
            ("jobs.files.not.or", "(b.eq.2)"),
        ]
    ).embeds
    [files] = tasks.query.embeds
    assert tasks.query.where == (eq("status", "open"), Group(any_of=True, parts=(eq("a", "1"),)))
    assert (tasks.query.order, tasks.query.limit) == ((Order(Column("id")),), 1)
    assert files.query.where == (
        Condition(Column("path"), "like", "*.py"),
        Group(any_of=True, parts=(eq("b", "2"),), negated=True),
    )


@pytest.mark.parametrize(
    "parameters", [[("limit", "-1")], [("limit", "many")], [("offset", "1.5")], [("order", "a.b")]]
)
def test_parameters_that_cannot_be(parameters):
    with pytest.raises(GrammarError):
        parse_query(parameters)


@pytest.mark.parametrize("parameter", [("tasks.status", "eq.open"), ("tasks.limit", "1"), ("order", "tasks(id)")])
def test_parameters_of_something_that_is_not_embedded(parameter):
    with pytest.raises(NotEmbedded, match="'tasks' is not an embedded resource"):
        parse_query([("select", "id,files(path)"), parameter])


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], Preferences()),
        (["return=representation"], Preferences(returning="representation")),
        (["return=representation,count=exact"], Preferences(returning="representation", count=True)),
        (["resolution=ignore-duplicates, return=minimal"], Preferences(resolution="ignore-duplicates")),
        (["count=exact", "tx=rollback, nonsense"], Preferences(count=True)),
        (["missing=default"], Preferences(missing_is_default=True)),
        (["handling=strict, max-affected=3"], Preferences(max_affected=3)),
        (["max-affected=3"], Preferences()),
        (["handling=strict,max-affected=-1"], Preferences()),
    ],
)
def test_preferences(headers, expected):
    assert parse_prefer(headers) == expected


def test_lists_of_names():
    assert parse_names('"a","b c",d') == ("a", "b c", "d")


@given(st.text(alphabet='ab1.,:()!"->*{}\\ not.eq.in.is', max_size=40))
def test_whatever_comes_is_understood_or_refused(text):
    for parse in (
        parse_select,
        parse_column,
        parse_order,
        parse_names,
        lambda text: parse_condition("c", text),
        lambda text: parse_group("or", text),
        lambda text: parse_query([(text, "eq.1"), ("select", text), ("order", text), ("limit", text)]),
    ):
        with suppress(GrammarError):
            parse(text)
