"""What a query wants of one table, as SQL: columns, filters, order, embedded tables. PostgreSQL writes the JSON."""

from dataclasses import dataclass, replace
from typing import LiteralString

from psycopg import sql

from local.services.supabase.catalog import Catalog, Relationship, Table
from local.services.supabase.errors import ApiError
from local.services.supabase.query import Column, Condition, Embed, Field, Filter, Group, Order, Query
from local.services.supabase.sql_text import Statement, array_literal, identifier, joined, qualified

MAX_ROWS = 1000  # hosted Supabase's default "Max rows"

OPERATORS: dict[str, LiteralString] = {
    "eq": "=", "neq": "<>", "gt": ">", "gte": ">=", "lt": "<", "lte": "<=", "like": "like", "ilike": "ilike",
    "match": "~", "imatch": "~*", "isdistinct": "is distinct from", "cs": "@>", "cd": "<@", "ov": "&&",
    "sl": "<<", "sr": ">>", "nxr": "&<", "nxl": "&>", "adj": "-|-",
}  # fmt: skip
QUANTIFIERS: dict[str, LiteralString] = {"any": "any", "all": "all"}
TEXT_QUERIES: dict[str, LiteralString] = {
    "fts": "to_tsquery", "plfts": "plainto_tsquery", "phfts": "phraseto_tsquery", "wfts": "websearch_to_tsquery",
}  # fmt: skip
IS: dict[str, LiteralString] = {
    "null": "is null", "not_null": "is not null", "true": "is true", "false": "is false", "unknown": "is unknown",
}  # fmt: skip
# SQL's spellings that are grammar, not names of types, and so cannot be quoted.
TYPE_NAMES = {
    "int": "int4", "integer": "int4", "smallint": "int2", "bigint": "int8", "boolean": "bool", "real": "float4",
    "float": "float8", "double precision": "float8", "decimal": "numeric",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Level:
    """One table of the query: the requested one, or at a greater depth an embedded one."""

    statement: Statement
    catalog: Catalog
    table: Table
    depth: int = 0

    @property
    def alias(self) -> sql.Identifier:
        """As PostgREST calls it, because PostgreSQL's messages about columns show it."""
        return identifier(f"{self.table.name}_{self.depth}" if self.depth else self.table.name)

    def answer(self, source: sql.Composable, query: Query, *, count: bool, element: str | None = None) -> None:
        """Complete the statement with the select whose one row is the answer.

        The array has the rows as objects; or of each row only the column `element`.
        """
        total: sql.Composable = sql.SQL("null")
        if count:
            total = sql.SQL("(select count(*) from {} as {} where {})").format(
                source, self.alias, self.conditions(query)
            )
        shape = sql.SQL("row_to_json(_page)") if element is None else sql.SQL("_page.{}").format(identifier(element))
        self.statement.text = sql.SQL(
            "select coalesce(json_agg({}), '[]')::text, count(*), {} from ({}) as _page"
        ).format(shape, total, self.rows(source, query, at_most=MAX_ROWS))

    def change(self, change: sql.Composed, query: Query, *, returning: bool) -> None:
        """Complete the statement with a change, and with its rows where they are wanted."""
        if not returning:
            # Reads no column, so that a caller may write what he may not read.
            self.statement.text = sql.SQL(
                "with _changed as ({} returning 1) select '[]', count(*), null from _changed"
            ).format(change)
            return
        changed = sql.SQL("with _changed as ({} returning {}) ").format(change, self._returned(query))
        self.answer(sql.Identifier("_changed"), replace(query, where=(), limit=None, offset=0), count=False)
        self.statement.text = changed + self.statement.text

    def rows(
        self, source: sql.Composable, query: Query, *, at_most: int | None, related: sql.Composable | None = None
    ) -> sql.Composable:
        """`select ... from source where ... order by ... limit ...`."""
        parts = [
            sql.SQL("select {} from {} as {} where {}").format(
                self._selected(query), source, self.alias, self.conditions(query)
            )
        ]
        if related is not None:
            parts.append(sql.SQL("and {}").format(related))
        if query.order:
            terms = (self._order(order, query) for order in query.order)
            parts.append(sql.SQL("order by {}").format(sql.SQL(", ").join(terms)))
        limits = [limit for limit in (query.limit, at_most) if limit is not None]
        if limits:
            parts.append(sql.SQL("limit {}::int8").format(self.statement.bind(str(min(limits)))))
        if query.offset:
            parts.append(sql.SQL("offset {}::int8").format(self.statement.bind(str(query.offset))))
        return sql.SQL(" ").join(parts)

    def conditions(self, query: Query) -> sql.Composable:
        """All filters of this level, and that there is something to embed where that was asked for."""
        required = [self._exists(embed) for embed in query.embeds if embed.inner]
        return joined("and", [*(self._filter(part, query) for part in query.where), *required])

    def _selected(self, query: Query) -> sql.Composable:
        columns = [self._field(wanted) for wanted in query.fields]
        columns += [
            sql.SQL("({}) as {}").format(self._embedded(embed), identifier(embed.key))
            for embed in query.embeds
            if embed.shown
        ]
        return sql.SQL(", ").join(columns)

    def _field(self, wanted: Field) -> sql.Composable:
        if wanted.column.name == "*":
            return sql.SQL("{}.*").format(self.alias)
        value = self._column(wanted.column)
        if wanted.cast is not None:
            value = sql.SQL("({})::{}").format(value, identifier(TYPE_NAMES.get(wanted.cast, wanted.cast)))
        return sql.SQL("{} as {}").format(value, identifier(wanted.alias or _output_name(wanted.column)))

    def _column(self, column: Column) -> sql.Composable:
        value: sql.Composable = sql.SQL("{}.{}").format(self.alias, identifier(column.name))
        if column.steps:
            value = sql.SQL("to_jsonb({})").format(value)  # arrays and rows have elements, too
        for at, step in enumerate(column.steps, start=1):
            arrow = sql.SQL("->>" if column.as_text and at == len(column.steps) else "->")
            key = self.statement.bind(str(step))
            if isinstance(step, int):
                key = sql.SQL("{}::int4").format(key)
            value = sql.SQL("({} {} {})").format(value, arrow, key)
        return value

    def _order(self, order: Order, query: Query) -> sql.Composable:
        embed = query.embed(order.embed) if order.embed is not None else None
        value = self._column(order.column) if embed is None else self._column_of_embedded(order.column, embed)
        direction = sql.SQL("desc" if order.descending else "asc")
        nulls = {None: sql.SQL(""), True: sql.SQL(" nulls first"), False: sql.SQL(" nulls last")}[order.nulls_first]
        return sql.SQL("{} {}{}").format(value, direction, nulls)

    def _column_of_embedded(self, column: Column, embed: Embed) -> sql.Composable:
        way, below = self._below(embed)
        if way.many:
            raise ApiError(
                400,
                "PGRST118",
                f"A related order on '{embed.key}' is not possible",
                f"'{self.table.name}' and '{embed.key}' do not form a many-to-one or one-to-one relationship",
            )
        return sql.SQL("(select {} from {} as {} where {})").format(
            below._column(column), qualified(way.target), below.alias, self._join(way, below)
        )

    def _filter(self, part: Filter, query: Query) -> sql.Composable:
        if isinstance(part, Group):
            found = joined("or" if part.any_of else "and", (self._filter(inner, query) for inner in part.parts))
        elif embed := query.embed(part.column.name):
            found = self._whether_embedded(part, embed)
        else:
            found = self._condition(part)
        return sql.SQL("(not {})").format(found) if part.negated else found

    def _whether_embedded(self, condition: Condition, embed: Embed) -> sql.Composable:
        """`project=is.null`: no row is embedded."""
        presence = str(condition.value).lower()
        if condition.operator != "is" or presence not in {"null", "not_null"}:
            raise ApiError(
                400,
                "PGRST120",
                f"Bad operator on the '{embed.key}' embedded resource",
                "Only is null or not is null filters are allowed on embedded resources",
            )
        exists = self._exists(embed)
        return sql.SQL("(not {})").format(exists) if presence == "null" else exists

    def _condition(self, condition: Condition) -> sql.Composable:
        column, value = self._column(condition.column), condition.value
        if isinstance(value, tuple):
            return sql.SQL("({} = any ({}))").format(column, self.statement.bind(array_literal(value)))
        if condition.operator == "is":
            return sql.SQL("({} {})").format(column, sql.SQL(IS[value.lower()]))
        if condition.operator in TEXT_QUERIES:
            return sql.SQL("({} @@ {})").format(column, self._text_query(condition))
        if condition.operator in {"like", "ilike"}:
            value = value.replace("*", "%")
        compared = self.statement.bind(value)
        if condition.modifier is not None:
            compared = sql.SQL("{} ({})").format(sql.SQL(QUANTIFIERS[condition.modifier]), compared)
        return sql.SQL("({} {} {})").format(column, sql.SQL(OPERATORS[condition.operator]), compared)

    def _text_query(self, condition: Condition) -> sql.Composable:
        values = (condition.modifier, str(condition.value))
        arguments = [self.statement.bind(value) for value in values if value is not None]
        return sql.SQL("{}({})").format(sql.SQL(TEXT_QUERIES[condition.operator]), sql.SQL(", ").join(arguments))

    def _embedded(self, embed: Embed) -> sql.Composable:
        """The related rows as a JSON array, or the one related row as an object or null."""
        way, below = self._below(embed)
        rows = below.rows(
            qualified(way.target), embed.query, at_most=MAX_ROWS if way.many else 1, related=self._join(way, below)
        )
        shape = "coalesce(json_agg(row_to_json(_rows)), '[]')" if way.many else "row_to_json(_rows)"
        return sql.SQL("select {} from ({}) as _rows").format(sql.SQL(shape), rows)

    def _exists(self, embed: Embed) -> sql.Composable:
        way, below = self._below(embed)
        return sql.SQL("exists (select from {} as {} where {} and {})").format(
            qualified(way.target), below.alias, below.conditions(embed.query), self._join(way, below)
        )

    def _below(self, embed: Embed) -> "tuple[Relationship, Level]":
        way = self.catalog.relationship(self.table.name, embed.target, embed.hint)
        return way, replace(self, table=self.catalog.table(way.target), depth=self.depth + 1)

    def _join(self, way: Relationship, below: "Level") -> sql.Composable:
        return joined(
            "and",
            (
                sql.SQL("({}.{} = {}.{})").format(self.alias, identifier(own), below.alias, identifier(other))
                for own, other in way.pairs
            ),
        )

    def _returned(self, query: Query) -> sql.Composable:
        """The columns that the answer needs and no others: the caller may not be allowed to read them all."""
        columns = [wanted.column.name for wanted in query.fields]
        columns += [order.column.name for order in query.order if order.embed is None]
        for embed in query.embeds:
            columns += [own for own, _ in self._below(embed)[0].pairs]
        if "*" in columns:
            return sql.SQL("{}.*").format(self.alias)
        return sql.SQL(", ").join(
            sql.SQL("{}.{}").format(self.alias, identifier(column)) for column in dict.fromkeys(columns)
        )


def _output_name(column: Column) -> str:
    """What the result calls `data->a->>b`: b."""
    keys = [step for step in column.steps if isinstance(step, str)]
    return keys[-1] if keys else column.name
