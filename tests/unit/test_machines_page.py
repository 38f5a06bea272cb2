"""docs/machines.md promises nothing that no test holds."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "machines.md"
ROWS = [line for line in PAGE.read_text().splitlines() if re.search(r"`test_\w+\.py::", line)]


def names_of_tests_in(name):
    (file,) = (ROOT / "tests").rglob(name)
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_row_of_its_tables_names_a_test():
    tables = re.findall(r"^\|.*\| test \|\n\|[-|]+\n((?:\|.*\n)+)", PAGE.read_text(), re.MULTILINE)

    assert len(tables) >= 3
    assert [row for table in tables for row in table.splitlines() if row not in ROWS] == []


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("|")[1].strip()[:60])
def test_the_test_of_a_row_exists(row):
    for file, test in re.findall(r"`(test_\w+\.py)::(\w+)`", row):
        assert test in names_of_tests_in(file)
