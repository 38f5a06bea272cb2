"""SQL for each kind of request."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from psycopg import sql

from local.services.supabase.catalog import Catalog, Function, Table
from local.services.supabase.level import Level
from local.services.supabase.query import Column, Field, Query
from local.services.supabase.sql_text import Statement, catalog_text, identifier, names, qualified

VALUE = "value"  # what we call the column of a function that returns no rows but values


@dataclass(frozen=True, slots=True)
class Writing:
    """What to write: the `columns` of each object in `rows`, a JSON array as text.

    A column that some of the objects lack becomes null there; or its default, if `missing_is_default`.
    """

    table: Table
    rows: str
    columns: Sequence[str]
    row_count: int
    missing_is_default: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A function and its arguments: JSON values, or texts out of a URL."""

    function: Function
    arguments: Mapping[str, object]
    from_url: bool


@dataclass(frozen=True, slots=True)
class Upsert:
    """What to do with a row that exists already, found by the columns of `on_conflict`."""

    on_conflict: Sequence[str]
    merge: bool


def read(catalog: Catalog, table: Table, query: Query, *, count: bool) -> Statement:
    """Answers with one row: the JSON array of the rows, their number, and the number of all matches or null."""
    statement = Statement()
    Level(statement, catalog, table).answer(qualified(table.name), query, count=count)
    return statement


def insert(catalog: Catalog, writing: Writing, query: Query, upsert: Upsert | None, *, returning: bool) -> Statement:
    """Insert the rows; a column that is not in `writing.columns` gets its default.

    Answers like `read`; without `returning` the array is empty, only the number is told.
    """
    statement = Statement()
    level = Level(statement, catalog, writing.table)
    change = sql.SQL("insert into {} as {} ").format(qualified(writing.table.name), level.alias)
    if writing.columns:
        change += sql.SQL("({}) ").format(names(writing.columns))
    change += sql.SQL("select {} from {}").format(names(writing.columns), _written_rows(statement, writing))
    if upsert is not None:
        change += _on_conflict(upsert, writing.columns)
    level.change(change, query, returning=returning)
    return statement


def update(catalog: Catalog, writing: Writing, query: Query, *, returning: bool) -> Statement:
    """Set the columns, from the only row written, wherever the filters of `query` hold. Answers like `insert`."""
    statement = Statement()
    level = Level(statement, catalog, writing.table)
    assignments = (sql.SQL("{0} = _written.{0}").format(identifier(column)) for column in writing.columns)
    change = sql.SQL("update {} as {} set {} from {} where {}").format(
        qualified(writing.table.name),
        level.alias,
        sql.SQL(", ").join(assignments),
        _written_rows(statement, writing),
        level.conditions(query),
    )
    level.change(change, query, returning=returning)
    return statement


def delete(catalog: Catalog, table: Table, query: Query, *, returning: bool) -> Statement:
    """Delete wherever the filters of `query` hold. Answers like `insert`."""
    statement = Statement()
    level = Level(statement, catalog, table)
    change = sql.SQL("delete from {} as {} where {}").format(
        qualified(table.name), level.alias, level.conditions(query)
    )
    level.change(change, query, returning=returning)
    return statement


def call(catalog: Catalog, call: Call, query: Query, *, count: bool) -> Statement:
    """Call with the arguments given and no others, so that the function's defaults apply.

    Answers like `read`; a function that returns one value or row makes an array of one element.
    """
    statement = Statement()
    function, called = call.function, sql.Identifier("_called")
    calling = _calling(statement, call)
    if function.composite:
        table = catalog.tables.get(function.table or "") or Table(function.name)
        Level(statement, catalog, table).answer(called, query, count=count)
    else:
        values = replace(query, fields=(Field(Column(VALUE)),), embeds=())
        Level(statement, catalog, Table(function.name)).answer(called, values, count=count, element=VALUE)
    statement.text = sql.SQL("with _called as materialized ({}) ").format(calling) + statement.text
    return statement


def _calling(statement: Statement, call: Call) -> sql.Composable:
    """The select that makes the call. PostgreSQL converts each argument to the function's own type."""
    types = {argument.name: catalog_text(argument.type) for argument in call.function.arguments}
    given: sql.Composable = sql.SQL("")
    if call.from_url or not call.arguments:
        passed = [
            sql.SQL("{} := {}::{}").format(identifier(name), statement.bind(str(value)), types[name])
            for name, value in call.arguments.items()
        ]
    else:
        declared = (sql.SQL("{} {}").format(identifier(name), types[name]) for name in call.arguments)
        given = sql.SQL("json_to_record({}::json) as _given ({}), lateral ").format(
            statement.bind(json.dumps(call.arguments)), sql.SQL(", ").join(declared)
        )
        passed = [sql.SQL("{0} := _given.{0}").format(identifier(name)) for name in call.arguments]
    return sql.SQL("select {} from {}{}({}) as _result").format(
        sql.SQL("_result.*") if call.function.composite else sql.SQL("_result as {}").format(sql.Identifier(VALUE)),
        given,
        qualified(call.function.name),
        sql.SQL(", ").join(passed),
    )


def _on_conflict(upsert: Upsert, columns: Sequence[str]) -> sql.Composable:
    target = sql.SQL(" on conflict ({}) do ").format(names(upsert.on_conflict))
    if not (upsert.merge and columns):
        return target + sql.SQL("nothing")
    assignments = (sql.SQL("{0} = excluded.{0}").format(identifier(column)) for column in columns)
    return target + sql.SQL("update set ") + sql.SQL(", ").join(assignments)


def _written_rows(statement: Statement, writing: Writing) -> sql.Composable:
    """The JSON rows as rows of the table, so that every value has its column's type."""
    rows = sql.SQL("{}::json").format(statement.bind(writing.rows))
    if writing.missing_is_default:
        rows = sql.SQL("(select json_agg({} || _given) from jsonb_array_elements({}::jsonb) as _given)").format(
            _defaults(statement, writing), rows
        )
    return sql.SQL("json_populate_recordset(null::{}, {}) as _written").format(qualified(writing.table.name), rows)


def _defaults(statement: Statement, writing: Writing) -> sql.Composable:
    """An object with the default of each written column that has one."""
    pairs = (
        sql.SQL("{}::text, {}").format(statement.bind(column), catalog_text(writing.table.defaults[column]))
        for column in writing.columns
        if column in writing.table.defaults
    )
    return sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs))
