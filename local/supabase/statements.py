"""SQL for each kind of request. Names are quoted by psycopg, values are bound, PostgreSQL writes the JSON.

Values are bound as text without a type, so that PostgreSQL reads them as whatever the column is.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import LiteralString

from psycopg import sql

from local.supabase.catalog import SCHEMA, Catalog, Function, Relationship, Table
from local.supabase.query import Column, Condition, Embed, Field, Filter, Group, Order, Query

MAX_ROWS = 1000  # hosted Supabase's default "Max rows"

OPERATORS: dict[str, LiteralString] = {
    "eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "like", "ilike": "ilike",
    "match": "~", "imatch": "~*", "isdistinct": "is distinct from", "cs": "@>", "cd": "<@", "ov": "&&",
}  # fmt: skip
IS: dict[str, LiteralString] = {
    "null": "is null", "not_null": "is not null", "true": "is true", "false": "is false", "unknown": "is unknown",
}  # fmt: skip
# SQL's spellings that are grammar, not names of types, and so cannot be quoted.
TYPE_NAMES = {
    "int": "int4", "integer": "int4", "smallint": "int2", "bigint": "int8", "boolean": "bool", "real": "float4",
    "float": "float8", "double precision": "float8", "decimal": "numeric",
}  # fmt: skip


@dataclass(slots=True)
class Statement:
    """SQL with named placeholders, and their values."""

    text: sql.Composed = field(default_factory=lambda: sql.Composed([]))
    values: dict[str, str] = field(default_factory=dict)

    def bind(self, value: str) -> sql.Composable:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return sql.Placeholder(name)


@dataclass(frozen=True, slots=True)
class Writing:
    """What to write: the `columns` of each object in `rows`, a JSON array as text."""

    table: Table
    rows: str
    columns: Sequence[str]
    row_count: int


@dataclass(frozen=True, slots=True)
class Upsert:
    """What to do with a row that exists already, found by the columns of `on_conflict`."""

    on_conflict: Sequence[str]
    merge: bool


def read(catalog: Catalog, table: Table, query: Query, *, count: bool) -> Statement:
    """Answers with one row: the JSON array of the rows, their number, and the number of all matches or null."""
    statement = Statement()
    _Level(statement, catalog, table).answer(_qualified(table.name), query, count=count)
    return statement


def insert(catalog: Catalog, writing: Writing, query: Query, upsert: Upsert | None, *, returning: bool) -> Statement:
    """Insert the rows; a column that is not in `writing.columns` gets its default.

    Answers like `read`; without `returning` the array is empty, only the number is told.
    """
    statement = Statement()
    level = _Level(statement, catalog, writing.table)
    change = sql.SQL("insert into {} as {} ").format(_qualified(writing.table.name), level.alias)
    if writing.columns:
        change += sql.SQL("({}) ").format(_names(writing.columns))
    change += sql.SQL("select {} from {}").format(_names(writing.columns), _written_rows(statement, writing))
    if upsert is not None:
        change += _on_conflict(upsert, writing.columns)
    level.change(change, query, returning=returning)
    return statement


def update(catalog: Catalog, writing: Writing, query: Query, *, returning: bool) -> Statement:
    """Set the columns, from the only row written, wherever the filters of `query` hold. Answers like `insert`."""
    statement = Statement()
    level = _Level(statement, catalog, writing.table)
    assignments = (sql.SQL("{0} = written.{0}").format(_identifier(column)) for column in writing.columns)
    change = sql.SQL("update {} as {} set {} from {} where {}").format(
        _qualified(writing.table.name),
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
    level = _Level(statement, catalog, table)
    change = sql.SQL("delete from {} as {} where {}").format(
        _qualified(table.name), level.alias, level.conditions(query)
    )
    level.change(change, query, returning=returning)
    return statement


def call(
    catalog: Catalog, function: Function, arguments: Mapping[str, object], query: Query, *, count: bool
) -> Statement:
    """Call with the arguments given and no others, so that the function's defaults apply.

    Answers like `read`; a function that returns one value or row makes an array of one element.
    """
    statement = Statement()
    called = sql.SQL("with called as materialized ({}) ").format(_calling(statement, function, arguments))
    if function.composite:
        table = catalog.tables.get(function.table or "") or Table(function.name, frozenset(), ())
        _Level(statement, catalog, table).answer(sql.Identifier("called"), query, count=count)
    else:
        statement.text += sql.SQL("select coalesce(json_agg(value), '[]')::text, count(*), null from called")
    statement.text = called + statement.text
    return statement


def _calling(statement: Statement, function: Function, arguments: Mapping[str, object]) -> sql.Composable:
    """The select that makes the call. PostgreSQL converts each argument from JSON to the function's own type."""
    columns = sql.SQL("*") if function.composite else sql.SQL("result as value")
    name = _qualified(function.name)
    if not arguments:
        return sql.SQL("select {} from {}() as result").format(columns, name)
    types = {argument.name: argument.type for argument in function.arguments}
    declared = (
        # The type is PostgreSQL's own spelling, out of its catalog and quoted there where needed.
        sql.SQL("{} {}").format(_identifier(argument), sql.SQL(types[argument]))
        for argument in arguments
    )
    passed = (sql.SQL("{0} := given.{0}").format(_identifier(argument)) for argument in arguments)
    return sql.SQL(
        "select {columns} from json_to_record({json}::json) as given ({declared}), lateral {name}({passed}) as result"
    ).format(
        columns=sql.SQL("result.*") if function.composite else columns,
        json=statement.bind(json.dumps(arguments)),
        declared=sql.SQL(", ").join(declared),
        name=name,
        passed=sql.SQL(", ").join(passed),
    )


@dataclass(frozen=True, slots=True)
class _Level:
    """One table of the query: the requested one, or at a greater depth an embedded one."""

    statement: Statement
    catalog: Catalog
    table: Table
    depth: int = 0

    @property
    def alias(self) -> sql.Identifier:
        return sql.Identifier(f"t{self.depth}")

    def answer(self, source: sql.Composable, query: Query, *, count: bool) -> None:
        """Complete the statement with the select whose one row is the answer."""
        total: sql.Composable = sql.SQL("null")
        if count:
            total = sql.SQL("(select count(*) from {} as {} where {})").format(
                source, self.alias, self.conditions(query)
            )
        self.statement.text = sql.SQL(
            "select coalesce(json_agg(row_to_json(_page)), '[]')::text, count(*), {} from ({}) as _page"
        ).format(total, self.rows(source, query, at_most=MAX_ROWS))

    def change(self, change: sql.Composed, query: Query, *, returning: bool) -> None:
        """Complete the statement with a change, and with its rows where they are wanted."""
        if not returning:
            # Reads no column, so that a caller may write what he may not read.
            self.statement.text = sql.SQL(
                "with changed as ({} returning 1) select '[]', count(*), null from changed"
            ).format(change)
            return
        changed = sql.SQL("with changed as ({} returning {}) ").format(change, self._returned(query))
        self.answer(sql.Identifier("changed"), replace(query, where=(), limit=None, offset=0), count=False)
        self.statement.text = changed + self.statement.text

    def rows(
        self, source: sql.Composable, query: Query, *, at_most: int | None, joined: sql.Composable | None = None
    ) -> sql.Composable:
        """`select ... from source where ... order by ... limit ...`."""
        parts = [
            sql.SQL("select {} from {} as {} where {}").format(
                self._selected(query), source, self.alias, self.conditions(query)
            )
        ]
        if joined is not None:
            parts.append(sql.SQL("and {}").format(joined))
        if query.order:
            parts.append(sql.SQL("order by {}").format(sql.SQL(", ").join(map(self._order, query.order))))
        limits = [limit for limit in (query.limit, at_most) if limit is not None]
        if limits:
            parts.append(sql.SQL("limit {}::int8").format(self.statement.bind(str(min(limits)))))
        if query.offset:
            parts.append(sql.SQL("offset {}::int8").format(self.statement.bind(str(query.offset))))
        return sql.SQL(" ").join(parts)

    def conditions(self, query: Query) -> sql.Composable:
        """All filters of this level, and that there is something to embed where that was asked for."""
        required = [self._exists(embed) for embed in query.embeds if embed.inner]
        return _joined("and", [*map(self._filter, query.where), *required])

    def _selected(self, query: Query) -> sql.Composable:
        columns = [self._field(wanted) for wanted in query.fields]
        columns += [
            sql.SQL("({}) as {}").format(self._embedded(embed), _identifier(embed.key)) for embed in query.embeds
        ]
        return sql.SQL(", ").join(columns)

    def _field(self, wanted: Field) -> sql.Composable:
        if wanted.column.name == "*":
            return sql.SQL("{}.*").format(self.alias)
        value = self._column(wanted.column)
        if wanted.cast is not None:
            value = sql.SQL("({})::{}").format(value, _identifier(TYPE_NAMES.get(wanted.cast, wanted.cast)))
        return sql.SQL("{} as {}").format(value, _identifier(wanted.alias or _output_name(wanted.column)))

    def _column(self, column: Column) -> sql.Composable:
        value: sql.Composable = sql.SQL("{}.{}").format(self.alias, _identifier(column.name))
        for at, step in enumerate(column.steps, start=1):
            arrow = sql.SQL("->>" if column.as_text and at == len(column.steps) else "->")
            key = self.statement.bind(str(step))
            if isinstance(step, int):
                key = sql.SQL("{}::int4").format(key)
            value = sql.SQL("({} {} {})").format(value, arrow, key)
        return value

    def _order(self, order: Order) -> sql.Composable:
        direction = sql.SQL("desc" if order.descending else "asc")
        nulls = {None: sql.SQL(""), True: sql.SQL(" nulls first"), False: sql.SQL(" nulls last")}[order.nulls_first]
        return sql.SQL("{} {}{}").format(self._column(order.column), direction, nulls)

    def _filter(self, part: Filter) -> sql.Composable:
        if isinstance(part, Group):
            found = _joined("or" if part.any_of else "and", map(self._filter, part.parts))
        else:
            found = self._condition(part)
        return sql.SQL("(not {})").format(found) if part.negated else found

    def _condition(self, condition: Condition) -> sql.Composable:
        column, value = self._column(condition.column), condition.value
        if isinstance(value, tuple):
            return sql.SQL("({} = any ({}))").format(column, self.statement.bind(_array_literal(value)))
        if condition.operator == "is":
            return sql.SQL("({} {})").format(column, sql.SQL(IS[value.lower()]))
        if condition.operator in {"like", "ilike"}:
            value = value.replace("*", "%")
        operator = sql.SQL(OPERATORS[condition.operator])
        return sql.SQL("({} {} {})").format(column, operator, self.statement.bind(value))

    def _embedded(self, embed: Embed) -> sql.Composable:
        """The related rows as a JSON array, or the one related row as an object or null."""
        way, below = self._below(embed)
        rows = below.rows(
            _qualified(way.target), embed.query, at_most=MAX_ROWS if way.many else 1, joined=self._join(way, below)
        )
        shape = "coalesce(json_agg(row_to_json(_rows)), '[]')" if way.many else "row_to_json(_rows)"
        return sql.SQL("select {} from ({}) as _rows").format(sql.SQL(shape), rows)

    def _exists(self, embed: Embed) -> sql.Composable:
        way, below = self._below(embed)
        return sql.SQL("exists (select from {} as {} where {} and {})").format(
            _qualified(way.target), below.alias, below.conditions(embed.query), self._join(way, below)
        )

    def _below(self, embed: Embed) -> "tuple[Relationship, _Level]":
        way = self.catalog.relationship(self.table.name, embed.target, embed.hint)
        return way, replace(self, table=self.catalog.table(way.target), depth=self.depth + 1)

    def _join(self, way: Relationship, below: "_Level") -> sql.Composable:
        return _joined(
            "and",
            (
                sql.SQL("({}.{} = {}.{})").format(self.alias, _identifier(own), below.alias, _identifier(other))
                for own, other in way.pairs
            ),
        )

    def _returned(self, query: Query) -> sql.Composable:
        """The columns that the answer needs and no others: the caller may not be allowed to read them all."""
        columns = [wanted.column.name for wanted in query.fields] + [order.column.name for order in query.order]
        for embed in query.embeds:
            columns += [own for own, _ in self._below(embed)[0].pairs]
        if "*" in columns:
            return sql.SQL("{}.*").format(self.alias)
        return sql.SQL(", ").join(
            sql.SQL("{}.{}").format(self.alias, _identifier(column)) for column in dict.fromkeys(columns)
        )


def _on_conflict(upsert: Upsert, columns: Sequence[str]) -> sql.Composable:
    target = sql.SQL(" on conflict ({}) do ").format(_names(upsert.on_conflict))
    if not (upsert.merge and columns):
        return target + sql.SQL("nothing")
    assignments = (sql.SQL("{0} = excluded.{0}").format(_identifier(column)) for column in columns)
    return target + sql.SQL("update set ") + sql.SQL(", ").join(assignments)


def _written_rows(statement: Statement, writing: Writing) -> sql.Composable:
    """The JSON rows as rows of the table, so that every value has its column's type."""
    return sql.SQL("json_populate_recordset(null::{}, {}::json) as written").format(
        _qualified(writing.table.name), statement.bind(writing.rows)
    )


def _joined(word: LiteralString, parts: Iterable[sql.Composable]) -> sql.Composable:
    """`(a and b)`; `true` when there is nothing to join."""
    listed = list(parts)
    if not listed:
        return sql.SQL("true")
    return sql.SQL("({})").format(sql.SQL(f" {word} ").join(listed))


def _array_literal(values: Iterable[str]) -> str:
    """PostgreSQL's text form of an array, each element quoted."""
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in escaped) + "}"


def _output_name(column: Column) -> str:
    """What the result calls `data->a->>b`: b."""
    keys = [step for step in column.steps if isinstance(step, str)]
    return keys[-1] if keys else column.name


def _qualified(name: str) -> sql.Composable:
    return sql.SQL("{}.{}").format(_identifier(SCHEMA), _identifier(name))


def _names(columns: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(_identifier, columns))


def _identifier(name: str) -> sql.Identifier:
    """A quoted name. psycopg reads the finished text for placeholders, so a percent sign is doubled."""
    return sql.Identifier(name.replace("%", "%%"))
