"""supabase/schemas, as text: each object once, and what the Python code calls is there."""

import ast
import re
import tomllib
from collections import Counter

import pytest

from tests.sql_files import SCHEMAS, functions_in

ROOT = SCHEMAS.parents[1]
SQL = {file.name: file.read_text() for file in sorted(SCHEMAS.glob("*.sql"))}
CALLERS = [file for room in ("functions", "shared", "local", "bench") for file in sorted((ROOT / room).rglob("*.py"))]


def test_the_cli_reads_the_schemas():
    config = tomllib.loads((ROOT / "supabase" / "config.toml").read_text())

    (pattern,) = config["db"]["migrations"]["schema_paths"]
    assert sorted((ROOT / "supabase").glob(pattern.removeprefix("./"))) == sorted(SCHEMAS.glob("*.sql")) != []


def test_every_function_is_defined_once():
    assert [name for name, count in Counter(functions_in(SCHEMAS)).items() if count > 1] == []


@pytest.mark.parametrize("name", SQL)
def test_a_file_declares_and_changes_nothing(name):
    """What is dropped, altered or replaced would have been declared elsewhere before."""
    statements = re.findall(r"^(?:create or replace|drop|alter|update|delete)\b.*", SQL[name], re.MULTILINE)

    assert [each for each in statements if "enable row level security" not in each] == []


def names_called(file):
    """The functions of the database that a module calls, by `call(client, NAME, …)` or `client.rpc(NAME, …)`."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case (
                ast.Call(func=ast.Name("call"), args=[_, name, *_])
                | ast.Call(func=ast.Attribute(attr="rpc"), args=[name, *_])
            ):
                yield from _words(name, file)


def _words(name, file):
    match name:
        case ast.Constant(str() as word):
            yield word
        case ast.IfExp(body=one, orelse=other):
            yield from (*_words(one, file), *_words(other, file))
        case ast.Name("function") if file.name == "postgrest_client.py":
            return  # `call` itself
        case _:
            raise AssertionError(f"{file}: {ast.unparse(name)} may be any function")


def names_called_in_sql():
    """Functions that another function calls, or a trigger."""
    text = re.sub(
        r"^(?:revoke|grant)[^;]*;|^create function public\.\w+", "", "\n".join(SQL.values()), flags=re.MULTILINE
    )
    return set(re.findall(r"\bpublic\.(\w+)", text))


def test_every_function_that_python_calls_is_there():
    called = {name for file in CALLERS for name in names_called(file)}

    assert len(called) > 20
    assert called - set(functions_in(SCHEMAS)) == set()


def test_every_function_is_called():
    called = {name for file in CALLERS for name in names_called(file)} | names_called_in_sql()

    assert set(functions_in(SCHEMAS)) - called == set()
