"""The README's table of endpoints, held against what the API serves."""

import json
import re
from pathlib import Path

from functions.api.document import document

ROOT = Path(__file__).parents[3]
OPERATIONS = {
    (method.upper(), re.sub(r"\{\w+\}", "{}", path)): operation
    for path, methods in json.loads(document())["paths"].items()
    for method, operation in methods.items()
}


def documented():
    """`GET` `POST /api/x` · `GET /api/y`: method and path of every operation in the table."""
    table = (ROOT / "README.md").read_text().partition("## The API")[2].partition("### ")[0]
    for entry in re.split(r"[·|]", table):
        path = re.search(r"`[A-Z]+ (/\S*)`", entry)
        for method in re.findall(r"`([A-Z]+)[ `]", entry) if path else []:
            yield method, re.sub(r"\{\w+\}", "{}", path[1])


def test_the_readme_lists_only_operations_that_exist():
    assert set(documented()) <= OPERATIONS.keys()


def test_the_readme_lists_operations_of_every_group():
    listed = {OPERATIONS[operation]["tags"][0] for operation in documented()}

    assert listed == {tag for operation in OPERATIONS.values() for tag in operation["tags"]}
