"""What the pages of this repository name exists: files, tests, decisions, services."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("docs", "functions", "shared", "local", "sandbox", "supabase", "tests")
PAGES = sorted((ROOT / "docs" / "how-to").glob("*.md"))
EVERY_PAGE = sorted({*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))})
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


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_to_a_file(page):
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())

    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def test_decisions_are_numbered_without_a_gap_and_the_index_lists_each_with_its_title():
    folder = ROOT / "docs" / "decisions"
    pages = sorted(folder.glob("0*.md"))
    titles = [page.read_text().splitlines()[0] for page in pages]
    rows = re.findall(r"^\| (\d+) \| \[(.+)\]\((.+)\) \|$", (folder / "README.md").read_text(), re.MULTILINE)

    assert [f"# {number}. {title}" for number, title, _ in rows] == titles
    assert [name for _, _, name in rows] == [page.name for page in pages]
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))


def test_each_service_of_the_embedded_stack_says_what_it_covers_and_what_not():
    folders = [path.parent for path in (ROOT / "local" / "services").glob("*/__init__.py")]

    assert len(folders) > 5
    assert [folder.name for folder in folders if not (folder / "README.md").is_file()] == []


def test_the_page_on_tests_has_a_row_for_each_folder_of_tests():
    rows = set(re.findall(r"^\| `([\w/]+)` \|", (ROOT / "tests" / "README.md").read_text(), re.MULTILINE))
    folders = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")} | {"unit", "integration/runs"}

    assert rows == folders


def test_every_target_that_a_page_names_is_one_of_the_makefile():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))

    assert len(targets) > 10
    for page in EVERY_PAGE:
        named = set(re.findall(r"`make ([a-z]+)[ `]", page.read_text()))
        assert named <= targets, page
