"""`.env.example` is where an operator looks a setting up: it must know them all."""

import re
from pathlib import Path

import pytest

from shared.config import ApiSettings, ExecutorSettings
from tests.fakes.recording_environment import variables_of

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / ".env.example"
API, API_REQUIRES = variables_of(ApiSettings)
EXECUTOR, EXECUTOR_REQUIRES = variables_of(ExecutorSettings)


def blocks():
    """Each variable with its example and the comment above its block."""
    found = {}
    for block in EXAMPLE.read_text().split("\n\n"):
        comment = " ".join(line[2:] for line in block.splitlines() if line.startswith("# "))
        for name, example in re.findall(r"^#([A-Z0-9_]+)=(.*)$", block, re.MULTILINE):
            assert name not in found, f"{name} is listed twice"
            found[name] = (example, comment)
    return found


def test_every_setting_of_the_functions_is_listed_once():
    assert set(blocks()) >= API | EXECUTOR


def test_whatever_else_is_listed_is_read_by_the_local_stack():
    source = "\n".join(path.read_text() for path in (ROOT / "local").rglob("*.py"))

    assert [name for name in set(blocks()) - API - EXECUTOR if f'"{name}"' not in source] == []


@pytest.mark.parametrize("name", sorted(API | EXECUTOR))
def test_a_setting_is_explained_where_it_is_listed(name):
    assert len(blocks()[name][1].split()) > 3


@pytest.mark.parametrize("name", sorted(API_REQUIRES | EXECUTOR_REQUIRES))
def test_a_required_setting_says_so(name):
    assert "Required" in blocks()[name][1]


@pytest.mark.parametrize(
    ("settings", "required", "read"),
    [(ApiSettings, API_REQUIRES, API), (ExecutorSettings, EXECUTOR_REQUIRES, EXECUTOR)],
)
def test_what_is_shown_as_a_default_is_the_default(settings, required, read):
    shown = {
        name: example
        for name, (example, comment) in blocks().items()
        if name in read and "Required" not in comment and "No default" not in comment
    }
    needed = dict.fromkeys(required, "https://example.com/a-value-of-32-bytes-or-more")

    assert len(shown) > 5
    assert settings.from_env({**needed, **shown}) == settings.from_env(needed)


def test_a_copy_with_nothing_changed_sets_nothing():
    assert all(line.startswith("#") or not line for line in EXAMPLE.read_text().splitlines())
