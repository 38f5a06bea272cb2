"""The README's table of endpoints, held against what the API serves."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def documented():
    """`GET` `POST /api/x` · `GET /api/y`: method and path of every operation in the table."""
    table = (ROOT / "README.md").read_text().partition("## The API")[2].partition("### ")[0]
    for entry in re.split(r"[·|]", table):
        path = re.search(r"`[A-Z]+ (/\S*)`", entry)
        for method in re.findall(r"`([A-Z]+)[ `]", entry) if path else []:
            yield method, re.sub(r"\{\w+\}", "{}", path[1])


def test_the_readme_lists_every_operation_and_no_other(world):
    paths = world.client(test_users_enabled=True).get("/openapi.json").json()["paths"]
    served = {(method.upper(), re.sub(r"\{\w+\}", "{}", path)) for path, methods in paths.items() for method in methods}

    assert set(documented()) == served
