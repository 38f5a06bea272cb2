"""What a database consists of, object by object, read from PostgreSQL's catalog. Two databases can be compared by it.

An object is described by what was declared (the type of a column, the source of a function, who may do what), never by
numbers that depend on how it was made. Columns have their place among the facts: `select *` and row types show it.
"""

import difflib
from pathlib import Path

STATEMENTS = Path(__file__).with_suffix(".sql").read_text().split("\n\n")


def catalog(connection):
    """The facts of each object, one a line, by "kind name"; and the rows that a new database has."""
    connection.execute("set local search_path = ''")  # so that every name is written with its schema
    connection.execute("set local client_min_messages = warning")
    found = {}
    for statement in STATEMENTS:
        cursor = connection.execute(statement)
        if cursor.description:
            facts = [column.name for column in cursor.description][2:]
            for kind, name, *values in cursor:
                known = zip(facts, values, strict=True)
                found[f"{kind} {name}"] = "\n".join(f"{fact}: {value}" for fact, value in known if value is not None)
    tables = [name.removeprefix("table ") for name in found if name.startswith("table ")]
    return found | {f"rows of {table}": _rows(connection, table) for table in tables}


def _rows(connection, table):
    return "\n".join(sorted(row for [row] in connection.execute(f"select to_jsonb(t)::text from {table} t")))


def differences(one, other, names=("schemas", "migrations")):
    """What two catalogs do not have in common, as a text for a person by "kind name"; empty when they are equal."""
    found = {}
    for key in sorted(one.keys() | other.keys()):
        if key not in one or key not in other:
            found[key] = f"only in {names[0] if key in one else names[1]}"
        elif one[key] != other[key]:
            found[key] = "\n".join(
                difflib.unified_diff(one[key].splitlines(), other[key].splitlines(), *names, lineterm="", n=1)
            )
    return found
