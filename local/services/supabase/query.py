"""What a request wants to read, as a value: the outcome of the grammar and the input of the SQL."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column, or what a JSON path leads to: `name->1->>key` has the steps 1 and "key"."""

    name: str
    steps: tuple[str | int, ...] = ()
    as_text: bool = False  # the last arrow was `->>`


@dataclass(frozen=True, slots=True)
class Field:
    """One output column. The name `*` means all columns."""

    column: Column
    alias: str | None = None
    cast: str | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """`column operator value`; the value of `in` is a tuple.

    The modifier is `any` or `all` of the values in an array, or the language of a full-text search.
    """

    column: Column
    operator: str
    value: str | tuple[str, ...]
    negated: bool = False
    modifier: str | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Several filters joined by `or` (any_of) or `and`."""

    any_of: bool
    parts: tuple["Condition | Group", ...]
    negated: bool = False


Filter = Condition | Group


@dataclass(frozen=True, slots=True)
class Order:
    """By a column of the table; or of the one embedded row whose key is `embed`."""

    column: Column
    descending: bool = False
    nulls_first: bool | None = None
    embed: str | None = None


@dataclass(frozen=True, slots=True)
class Embed:
    """A related table inside each row. `hint` names the foreign key when several would do.

    One that selects nothing is not shown: it is there for filters (`tasks!inner()`, `tasks()` with `tasks=is.null`).
    """

    target: str
    query: "Query"
    alias: str | None = None
    hint: str | None = None
    inner: bool = False

    @property
    def key(self) -> str:
        return self.alias or self.target

    @property
    def shown(self) -> bool:
        return bool(self.query.fields or self.query.embeds)


@dataclass(frozen=True, slots=True)
class Query:
    """What to read of one table."""

    fields: tuple[Field, ...] = (Field(Column("*")),)
    embeds: tuple[Embed, ...] = ()
    where: tuple[Filter, ...] = ()
    order: tuple[Order, ...] = ()
    limit: int | None = None
    offset: int = 0

    def embed(self, key: str) -> Embed | None:
        return next((embed for embed in self.embeds if embed.key == key), None)
