"""The pages in docs/how-to name files and tests that exist."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
FILE = re.compile(r"`((?:functions|shared|local|sandbox|supabase|tests|docs|bench)/[\w./-]*)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_that_a_page_names_exists(page):
    assert [name for name in FILE.findall(page.read_text()) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    for name, test in re.findall(r"`(test_\w+\.py)::(\w+)`", page.read_text()):
        (file,) = (ROOT / "tests").rglob(name)
        assert test in {
            node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)
        }
