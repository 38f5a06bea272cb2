"""The query language of PostgREST: URL parameters in, a `Query` value out. Pure; knows no database.

Built: select with `*`, aliases, casts, JSON paths and embedded tables (`!inner` and hints too); the filters of
OPERATORS, `not.`, and()/or(); order, limit, offset; all of them also on an embedded table (`tasks.limit`); order by an
embedded row's column, and filters on whether something is embedded (`project=is.null`).
Refused as such: aggregates, which hosted Supabase refuses too, and spreads (`...table`), which we have not built.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from local.services.supabase.cursor import BARE_NAME_ENDS, Cursor, GrammarError
from local.services.supabase.query import Column, Condition, Embed, Field, Filter, Group, Order, Query

QUANTIFIED = frozenset({"eq", "gt", "gte", "lt", "lte", "like", "ilike", "match", "imatch"})  # may have QUANTIFIERS
QUANTIFIERS = frozenset({"any", "all"})
TEXT_SEARCHES = frozenset({"fts", "plfts", "phfts", "wfts"})  # may have a language
OPERATORS = (
    QUANTIFIED
    | TEXT_SEARCHES
    | frozenset({"neq", "is", "isdistinct", "in", "cs", "cd", "ov", "sl", "sr", "nxl", "nxr", "adj"})
)
AGGREGATES = frozenset({"count", "sum", "avg", "min", "max"})
IS_VALUES = frozenset({"null", "not_null", "true", "false", "unknown"})
LOGIC = {"and": False, "or": True}


@dataclass(frozen=True, slots=True)
class Preferences:
    """The `Prefer` header, as far as we honour it."""

    returning: str = "minimal"
    count: bool = False
    resolution: str | None = None
    missing_is_default: bool = False  # what some of the inserted rows lack becomes the column's default, not null
    max_affected: int | None = None  # more changed rows than these are an error


class NotEmbedded(GrammarError):
    """A parameter is addressed to something that `select` does not embed."""

    code = "PGRST108"

    def __init__(self, name: str) -> None:
        super().__init__(f"'{name}' is not an embedded resource in this request")


class AggregateRefused(GrammarError):
    """`count()` or the like, which hosted Supabase does not allow."""

    code = "PGRST123"


def parse_query(parameters: Iterable[tuple[str, str]]) -> Query:
    """Read the parameters of one request (`columns`, `on_conflict` and function arguments left out before).

    Raises GrammarError.
    """
    remaining = [_addressed(key, value) for key, value in parameters]
    select = next((value for path, key, value in remaining if not path and key == "select"), "")
    query, used = _with_parameters(parse_select(select or "*"), (), remaining)
    for path, _, _ in remaining:
        if path not in used:
            raise NotEmbedded(".".join(path))
    return query


def parse_select(text: str) -> Query:
    """`id,owner:users(name),data->>kind` as a Query without filters."""
    cursor = Cursor(text)
    query = _select_list(cursor)
    cursor.expect_end()
    return query


def parse_prefer(headers: Sequence[str]) -> Preferences:
    """Unknown preferences are ignored, as the HTTP standard wants it."""
    pairs = [token.strip().partition("=") for header in headers for token in header.split(",")]
    values = {name.strip(): value.strip() for name, _, value in pairs}
    max_affected = values.get("max-affected", "") if values.get("handling") == "strict" else ""
    return Preferences(
        returning=values.get("return", "minimal"),
        count=values.get("count") in {"exact", "planned", "estimated"},
        resolution=values.get("resolution"),
        missing_is_default=values.get("missing") == "default",
        max_affected=int(max_affected) if max_affected.isascii() and max_affected.isdigit() else None,
    )


def parse_names(text: str) -> tuple[str, ...]:
    """A list of column names: `"a","b"` or `a,b`."""
    cursor = Cursor(text)
    names = [cursor.name()]
    while cursor.take(","):
        names.append(cursor.name())
    cursor.expect_end()
    return tuple(names)


def parse_column(text: str) -> Column:
    cursor = Cursor(text)
    column = _column(cursor, ends=BARE_NAME_ENDS)
    cursor.expect_end()
    return column


def parse_condition(column: str, text: str) -> Condition:
    """One filter parameter: `status` and `not.in.(a,b)`. Outside of lists the value is taken as it stands."""
    cursor = Cursor(text)
    condition = _condition(cursor, parse_column(column), Cursor.remainder)
    cursor.expect_end()
    return condition


def parse_group(name: str, text: str, *, negated: bool = False) -> Group:
    """`or` and `(a.eq.1,and(b.gt.2,c.is.null))`."""
    cursor = Cursor(text)
    group = Group(LOGIC[name], _group_parts(cursor), negated)
    cursor.expect_end()
    return group


def parse_order(text: str) -> tuple[Order, ...]:
    """`created_at.desc.nullslast,id`."""
    return tuple(_order_term(term) for term in _split_outside_quotes(text, ",") if term)


_Parameter = tuple[tuple[str, ...], str, str]
_NOT_FILTERS = frozenset({"select", "order", "limit", "offset"})


def _addressed(key: str, value: str) -> _Parameter:
    """Split `tasks.order` into the path of the embedded table and the parameter's own name."""
    head, arrow, tail = key.partition("->")
    *path, name = _split_outside_quotes(head, ".")
    if path and path[-1] == "not" and name in LOGIC:
        path, name = path[:-1], f"not.{name}"
    return tuple(_unquoted(part) for part in path), name + arrow + tail, value


def _with_parameters(
    query: Query, path: tuple[str, ...], parameters: Sequence[_Parameter]
) -> tuple[Query, set[tuple[str, ...]]]:
    """Give the query, and each embedded query, the parameters addressed to it; also returns the paths met."""
    own = [(key, value) for at, key, value in parameters if at == path]
    used = {path}
    embeds = []
    for embed in query.embeds:
        inner, met = _with_parameters(embed.query, (*path, embed.key), parameters)
        embeds.append(replace(embed, query=inner))
        used |= met
    single = dict(own)
    order = parse_order(single.get("order", ""))
    for term in order:
        if term.embed is not None and query.embed(term.embed) is None:
            raise NotEmbedded(term.embed)
    completed = replace(
        query,
        embeds=tuple(embeds),
        where=tuple(_filter(key, value) for key, value in own if key not in _NOT_FILTERS),
        order=order,
        limit=_whole_number(single["limit"], "limit") if "limit" in single else None,
        offset=_whole_number(single.get("offset", "0"), "offset"),
    )
    return completed, used


def _filter(key: str, value: str) -> Filter:
    name = key.removeprefix("not.")
    if name in LOGIC:
        return parse_group(name, value, negated=name != key)
    return parse_condition(key, value)


def _whole_number(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise GrammarError(f"{name} must be a whole number, not '{text}'")
    return int(text)


def _order_term(text: str) -> Order:
    by, *modifiers = _split_outside_quotes(text, ".")
    order = _ordered_by(by)
    for modifier in modifiers:
        match modifier:
            case "asc" | "desc":
                order = replace(order, descending=modifier == "desc")
            case "nullsfirst" | "nullslast":
                order = replace(order, nulls_first=modifier == "nullsfirst")
            case _:
                raise GrammarError(f"unknown order '{modifier}' in '{text}'")
    return order


def _ordered_by(text: str) -> Order:
    """`created_at`, or `project(name)` for a column of the embedded row."""
    cursor = Cursor(text)
    column = _column(cursor, ends=BARE_NAME_ENDS)
    embed = None
    if not column.steps and cursor.take("("):
        embed, column = column.name, _column(cursor, ends=BARE_NAME_ENDS)
        cursor.expect(")")
    cursor.expect_end()
    return Order(column, embed=embed)


def _select_list(cursor: Cursor) -> Query:
    fields: list[Field] = []
    embeds: list[Embed] = []
    while not cursor.at_end() and not cursor.sees(")"):
        item = _select_item(cursor)
        if isinstance(item, Embed):
            embeds.append(item)
        else:
            fields.append(item)
        if not cursor.take(","):
            break
    return Query(fields=tuple(fields), embeds=tuple(embeds))


def _select_item(cursor: Cursor) -> Field | Embed:
    if cursor.sees("..."):
        raise GrammarError("spreading an embedded resource (...) is not supported by the local stack")
    alias = None
    name = cursor.name()
    if cursor.sees(":") and not cursor.sees("::"):
        cursor.take(":")
        alias, name = name, cursor.name()
    if cursor.sees("!") or cursor.sees("("):
        return _embed(cursor, alias, name)
    column = _with_steps(cursor, name)
    cast = cursor.name() if cursor.take("::") else None
    return Field(column, alias, cast)


def _embed(cursor: Cursor, alias: str | None, target: str) -> Embed:
    hints = []
    while cursor.take("!"):
        hints.append(cursor.name())
    cursor.expect("(")
    query = _select_list(cursor)
    cursor.expect(")")
    hint = next((hint for hint in hints if hint not in {"inner", "left"}), None)
    embed = Embed(target, query, alias, hint, inner="inner" in hints)
    if not embed.shown and target.rpartition(".")[2] in AGGREGATES:  # `pages.sum()` looks like an embed of nothing
        raise AggregateRefused("Use of aggregate functions is not allowed")
    return embed


def _column(cursor: Cursor, ends: str) -> Column:
    return _with_steps(cursor, cursor.name(ends))


def _with_steps(cursor: Cursor, name: str) -> Column:
    steps: list[str | int] = []
    as_text = False
    while cursor.sees("->"):
        as_text = cursor.take("->>")
        if not as_text:
            cursor.take("->")
        step = cursor.name(BARE_NAME_ENDS + ".")
        steps.append(int(step) if step.removeprefix("-").isdecimal() else step)
    return Column(name, tuple(steps), as_text)


def _group_parts(cursor: Cursor) -> tuple[Filter, ...]:
    cursor.expect("(")
    parts = [_group_part(cursor)]
    while cursor.take(","):
        parts.append(_group_part(cursor))
    cursor.expect(")")
    return tuple(parts)


def _group_part(cursor: Cursor) -> Filter:
    cursor.skip_spaces()
    for prefix in ("", "not."):
        for name, any_of in LOGIC.items():
            if cursor.sees(f"{prefix}{name}("):
                cursor.take(prefix + name)
                return Group(any_of, _group_parts(cursor), negated=bool(prefix))
    column = _column(cursor, ends=BARE_NAME_ENDS + ".")
    cursor.expect(".")
    return _condition(cursor, column, _group_value)


def _condition(cursor: Cursor, column: Column, value: Callable[[Cursor], str]) -> Condition:
    """Read `not.eq.5`; `value` reads what follows the operator, unless that is a list."""
    negated = cursor.take("not.")
    operator, modifier = _operator(cursor)
    operand = _value_list(cursor) if operator == "in" else value(cursor)
    condition = Condition(column, operator, operand, negated, modifier)
    if operator == "is" and str(condition.value).lower() not in IS_VALUES:
        raise GrammarError(f"is.{condition.value}: expected one of {', '.join(sorted(IS_VALUES))}")
    return condition


def _operator(cursor: Cursor) -> tuple[str, str | None]:
    """Read `like(any).` as ("like", "any")."""
    operator, modifier = cursor.until(".("), None
    if cursor.take("("):
        modifier = cursor.until(")")
        cursor.expect(")")
    modifiable = operator in TEXT_SEARCHES or (operator in QUANTIFIED and modifier in QUANTIFIERS)
    if operator not in OPERATORS or (modifier is not None and not modifiable):
        raise GrammarError(f"failed to parse filter ({cursor.text}): unknown or unsupported operator")
    cursor.expect(".")
    return operator, modifier


def _value_list(cursor: Cursor) -> tuple[str, ...]:
    cursor.expect("(")
    values = []
    while not cursor.sees(")"):
        values.append(_value(cursor))
        if not cursor.take(","):
            break
    cursor.expect(")")
    return tuple(values)


def _group_value(cursor: Cursor) -> str:
    """A value inside and()/or(), which may also be a `{...}` literal (array or JSON)."""
    return cursor.balanced("{", "}") if cursor.sees("{") else _value(cursor)


def _value(cursor: Cursor) -> str:
    """One of several values: quoted as a whole, or as it stands up to the next `,` or `)`."""
    start = cursor.at
    if cursor.sees('"'):
        quoted = cursor.quoted()
        if cursor.at_end() or cursor.sees(",") or cursor.sees(")"):
            return quoted
        cursor.at = start  # supabase-js quotes `say "hi", you` without escapes
    return cursor.until(",)")


def _split_outside_quotes(text: str, separator: str) -> list[str]:
    parts, start, quoted = [], 0, False
    for at, character in enumerate(text):
        if character == '"':
            quoted = not quoted
        elif character == separator and not quoted:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _unquoted(name: str) -> str:
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name
