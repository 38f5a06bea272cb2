"""What the exposed schema contains: tables, foreign keys and functions, read from PostgreSQL's own catalog."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from local.services.supabase.errors import ApiError

SCHEMA = "public"
ARGUMENT_IN = frozenset("ibv")  # pg_proc.proargmodes: in, inout, variadic
COMPOSITE = "c"  # pg_type.typtype


@dataclass(frozen=True, slots=True)
class Table:
    """A table or view. `defaults` are SQL expressions of the columns that have one."""

    name: str
    columns: frozenset[str] = frozenset()
    primary_key: tuple[str, ...] = ()
    defaults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """`table.columns` refers to `target.target_columns`. `unique`: at most one row refers to each target row."""

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    target_columns: tuple[str, ...]
    unique: bool

    def answers_to(self, hint: str) -> bool:
        return hint == self.name or (hint,) == self.columns


@dataclass(frozen=True, slots=True)
class Relationship:
    """How rows of one table lead to rows of `target`: pairs of (own column, target's column)."""

    target: str
    pairs: tuple[tuple[str, str], ...]
    many: bool


@dataclass(frozen=True, slots=True)
class Argument:
    name: str
    type: str  # as PostgreSQL spells it
    optional: bool


@dataclass(frozen=True, slots=True)
class Function:
    """`composite` results are rows; `table` names the table they have the type of, if any."""

    name: str
    arguments: tuple[Argument, ...]
    returns_set: bool
    returns_void: bool
    composite: bool
    table: str | None
    read_only: bool

    def accepts(self, given: Collection[str]) -> bool:
        known = {argument.name for argument in self.arguments}
        required = {argument.name for argument in self.arguments if not argument.optional}
        return required <= set(given) <= known


@dataclass(frozen=True, slots=True)
class Catalog:
    """All of the schema. Lookups raise ApiError with PostgREST's "schema cache" codes."""

    tables: Mapping[str, Table]
    foreign_keys: tuple[ForeignKey, ...]
    functions: tuple[Function, ...]

    def table(self, name: str) -> Table:
        if name not in self.tables:
            raise ApiError(404, "PGRST205", f"Could not find the table '{SCHEMA}.{name}' in the schema cache")
        return self.tables[name]

    def function(self, name: str, given: Collection[str]) -> Function:
        """The function of this name that can be called with exactly the `given` argument names."""
        found = [function for function in self.functions if function.name == name and function.accepts(given)]
        if not found:
            sought = f"{SCHEMA}.{name}" + (f"({', '.join(sorted(given))})" if given else " without parameters")
            raise ApiError(
                404,
                "PGRST202",
                f"Could not find the function {sought} in the schema cache",
                f"Searched for the function {sought}, but no matches were found in the schema cache.",
                hint=self._signatures(name),
            )
        if len(found) > 1:
            raise ApiError(300, "PGRST203", f"More than one function {SCHEMA}.{name} fits", hint=self._signatures(name))
        return found[0]

    def argument_names(self, function_name: str) -> frozenset[str]:
        return frozenset(
            argument.name
            for function in self.functions
            if function.name == function_name
            for argument in function.arguments
        )

    def relationship(self, table: str, target: str, hint: str | None) -> Relationship:
        """The one way from `table` to `target`: a table's name, or a foreign key's name or column."""
        found = [
            (key.name, relationship)
            for key in self.foreign_keys
            for relationship in _directions(key, table, target)
            if hint is None or key.answers_to(hint) or hint == relationship.target
        ]
        if len(found) > 1:
            candidates = ", ".join(f"'{target}!{name}'" for name, _ in found)
            raise ApiError(
                300,
                "PGRST201",
                f"Could not embed because more than one relationship was found for '{table}' and '{target}'",
                hint=f"Try changing '{target}' to one of the following: {candidates}.",
            )
        if not found:
            using = f" using the hint '{hint}'" if hint else ""
            raise ApiError(
                400,
                "PGRST200",
                f"Could not find a relationship between '{table}' and '{target}' in the schema cache",
                f"Searched for a foreign key relationship between '{table}' and '{target}'{using}"
                f" in the schema '{SCHEMA}', but no matches were found.",
            )
        return found[0][1]

    def _signatures(self, name: str) -> str | None:
        known = [
            f"{name}({', '.join(argument.name for argument in function.arguments)})"
            for function in self.functions
            if function.name == name
        ]
        return f"Known: {'; '.join(known)}" if known else None


def _directions(key: ForeignKey, table: str, target: str) -> list[Relationship]:
    ways = []
    if key.table == table and (key.target == target or key.answers_to(target)):
        ways.append(Relationship(key.target, tuple(zip(key.columns, key.target_columns, strict=True)), many=False))
    if key.target == table and key.table == target:
        pairs = tuple(zip(key.target_columns, key.columns, strict=True))
        ways.append(Relationship(key.table, pairs, many=not key.unique))
    return ways


async def read_catalog(connection: AsyncConnection[TupleRow]) -> Catalog:
    """Read it all: three queries, a few milliseconds."""
    tables = await (await connection.execute(_TABLES, (SCHEMA,))).fetchall()
    keys = await (await connection.execute(_FOREIGN_KEYS, (SCHEMA, SCHEMA))).fetchall()
    functions = await (await connection.execute(_FUNCTIONS, (SCHEMA, SCHEMA))).fetchall()
    return Catalog(
        tables={
            name: Table(name, frozenset(columns), tuple(primary), defaults)
            for name, columns, primary, defaults in tables
        },
        foreign_keys=tuple(
            ForeignKey(name, table, tuple(columns), target, tuple(target_columns), unique)
            for name, table, columns, target, target_columns, unique in keys
        ),
        functions=tuple(_function(row) for row in functions),
    )


def _function(row: TupleRow) -> Function:
    name, names, modes, types, default_count, returns_set, void, kind, table, has_columns, volatility = row
    in_names = [n for n, mode in zip(names, modes or "i" * len(names), strict=False) if mode in ARGUMENT_IN]
    first_optional = len(types) - default_count
    return Function(
        name=name,
        arguments=tuple(
            Argument(argument, type_, optional=at >= first_optional)
            for at, (argument, type_) in enumerate(zip(in_names, types, strict=False))
        ),
        returns_set=returns_set,
        returns_void=void,
        composite=kind == COMPOSITE or has_columns,
        table=table,
        read_only=volatility != "v",
    )


_TABLES = """
select c.relname,
    array(select attname::text from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped),
    array(select a.attname::text from pg_index i join pg_attribute a on a.attrelid = c.oid and a.attnum = any (i.indkey)
          where i.indrelid = c.oid and i.indisprimary),
    (select coalesce(json_object_agg(a.attname, coalesce(
             pg_get_expr(d.adbin, d.adrelid),
             format('nextval(%%L)', pg_get_serial_sequence(c.oid::regclass::text, a.attname)))), '{}')
     from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
         and (d.oid is not null or a.attidentity = 'd'))
from pg_class c
where c.relnamespace = to_regnamespace(%s) and c.relkind in ('r', 'p', 'v', 'm', 'f')
"""

_FOREIGN_KEYS = """
with keys as (
    select k.conname, k.conrelid, k.confrelid, k.conkey,
        array(select a.attname::text from unnest(k.conkey) with ordinality u (n, o)
              join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.n order by u.o) as columns,
        array(select a.attname::text from unnest(k.confkey) with ordinality u (n, o)
              join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.n order by u.o) as target_columns
    from pg_constraint k
    where k.contype = 'f' and k.conparentid = 0
)
select keys.conname, own.relname, keys.columns, target.relname, keys.target_columns,
    exists (select from pg_constraint u
            where u.conrelid = keys.conrelid and u.contype in ('p', 'u')
              and u.conkey @> keys.conkey and u.conkey <@ keys.conkey)
from keys
join pg_class own on own.oid = keys.conrelid
join pg_class target on target.oid = keys.confrelid
where own.relnamespace = to_regnamespace(%s) and target.relnamespace = to_regnamespace(%s)
order by keys.conname
"""

_FUNCTIONS = """
select p.proname, coalesce(p.proargnames, '{}'), p.proargmodes::text[],
    array(select format_type(t, null) from unnest(p.proargtypes) with ordinality u (t, o) order by o),
    p.pronargdefaults, p.proretset, p.prorettype = 'void'::regtype,
    t.typtype::text, c.relname, coalesce(p.proargmodes::text[] && '{t,b,o}', p.prorettype = 'record'::regtype),
    p.provolatile::text
from pg_proc p
join pg_type t on t.oid = p.prorettype
left join pg_class c
    on c.oid = t.typrelid and c.relkind in ('r', 'p', 'v', 'm', 'f') and c.relnamespace = to_regnamespace(%s)
where p.pronamespace = to_regnamespace(%s) and p.prokind = 'f'
    and p.prorettype not in ('trigger'::regtype, 'event_trigger'::regtype)
order by p.oid
"""
