"""Checks that public texts are in plain English: `python -m tools.plain_english`, a part of `make lint`.

Public texts are docs/openapi.json, all pages, the settings with their comments, the help of the Makefile, and every
string of several words in the source: errors, descriptions, output of programs. Docstrings and comments of the source
are not checked.
"""

import ast
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = (
    *("*.md", "docs/**/*.md", "local/**/README.md", "tests/README.md", "functions/**/*.html"),
    *("template.yaml", "samconfig.toml", ".env.example"),
)
SOURCES = ("functions", "shared", "local", "sandbox")

# A pattern for what to avoid, and what to write instead.
AVOIDED = {
    r"(some|any|no)body": "the actor: the user, the caller, another request",
    r"who(so)?ever": "the actor: the user, the caller, a client that",
    r"anew": "again",
    r"mend(s|ed|ing)?": "fix",
    r"(tell|tells|told) of": "describe, list, report",
    r"of (mine|ours|yours|his|hers|theirs)": "own, internal, or the owner",
    r"(go|goes|going|gone|went) on (with|from)": "continue",
    r"shall": "must, will",
    r"all that is|what is more|(is|are) none (that|which)": "a noun: all data, the rest",
    r"(have|has|had) \w+( \w+)? done again": "retry",
    r"(does|do) not answer( now)?": "is not responding",
    r"the own|one's": "the user's, your",
}
_AVOIDED = {re.compile(rf"\b({pattern})\b", re.IGNORECASE): instead for pattern, instead in AVOIDED.items()}


class Text(NamedTuple):
    """A public text, and its place as `file:line` or `file#name`."""

    place: str
    text: str


def findings(text: str) -> Iterator[str]:
    """Each avoided word in `text`, with what to write instead. Code between backticks is not prose, and ignored."""
    prose = " ".join(re.sub("`[^`]*`", "", text).split())
    for pattern, instead in _AVOIDED.items():
        for match in pattern.finditer(prose):
            yield f'"{match[0]}": write {instead}'


def public_texts(root: Path) -> Iterator[Text]:
    """All public texts of the repository at `root`."""
    yield from _openapi_texts(root / "docs" / "openapi.json", root)
    for pattern in PAGES:
        for page in sorted(root.glob(pattern)):
            yield from _paragraphs(page, root)
    yield from _help_lines(root / "Makefile", root)
    for source in SOURCES:
        for path in sorted((root / source).rglob("*.py")):
            yield from _source_texts(path, root)


def _openapi_texts(path: Path, root: Path) -> Iterator[Text]:
    def walk(part: Any, where: str) -> Iterator[Text]:
        if isinstance(part, str):
            yield Text(f"{path.relative_to(root)}#{where}", part)
        children = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for name, child in children:
            yield from walk(child, f"{where}/{name}")

    yield from walk(json.loads(path.read_text(encoding="utf-8")), "")


def _paragraphs(path: Path, root: Path) -> Iterator[Text]:
    start = 1
    for paragraph in path.read_text(encoding="utf-8").split("\n\n"):
        yield Text(f"{path.relative_to(root)}:{start}", paragraph)
        start += paragraph.count("\n") + 2


def _help_lines(path: Path, root: Path) -> Iterator[Text]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        yield Text(f"{path.relative_to(root)}:{number}", line.partition("## ")[2])


def _source_texts(path: Path, root: Path) -> Iterator[Text]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        if " " in node.value.strip():  # else it is a name, such as that of the account `nobody`
            yield Text(f"{path.relative_to(root)}:{node.lineno}", node.value)


def main() -> int:
    found = [f"{place}: {finding}" for place, text in public_texts(ROOT) for finding in findings(text)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
