"""contract-cases.yaml against the real handler, on the embedded PostgreSQL behind the real gateway."""

import re
from datetime import datetime
from pathlib import Path

import jwt
import pytest
import yaml

SUITE = yaml.safe_load(Path(__file__).with_name("contract-cases.yaml").read_text(encoding="utf-8"))
# Endpoints of later issues. When one is built, it is taken out here and all its cases run.
LATER = re.compile(
    r"/api/(projects|validate-token|create-pr|migrate-legacy-tasks|test-users)(/|$)|/api/tasks/[^/]+/chat$"
)
LATER_NEEDS = {"fake_github"}  # of cases that look at what those endpoints did
CASES = [case for case in SUITE["cases"] if not LATER.match(case["path"]) and case.get("needs") not in LATER_NEEDS]

ABSENT = object()
MATCHERS = {
    "$any": lambda value: value is not ABSENT,
    "$int": lambda value: type(value) is int,
    "$number": lambda value: type(value) in {int, float},
    "$str": lambda value: isinstance(value, str),
    "$bool": lambda value: isinstance(value, bool),
    "$list": lambda value: isinstance(value, list),
    "$object": lambda value: isinstance(value, dict),
    "$null": lambda value: value is None,
    "$str_or_null": lambda value: value is None or isinstance(value, str),
    "$iso": lambda value: datetime.fromisoformat(value).tzinfo is not None,
    "$jwt": lambda value: value.count(".") == 2 and isinstance(jwt.get_unverified_header(value), dict),
}


def mismatches(expected, value, where="$"):
    """What of `value` is not as expected: objects may have more keys, lists may not have more elements."""
    match expected:
        case dict() if isinstance(value, dict):
            parts = [(part, value.get(key, ABSENT), f"{where}.{key}") for key, part in expected.items()]
            return [problem for part in parts for problem in mismatches(*part)]
        case list() if isinstance(value, list) and len(value) == len(expected):
            parts = [(part, value[i], f"{where}[{i}]") for i, part in enumerate(expected)]
            return [problem for part in parts for problem in mismatches(*part)]
        case str() if expected.startswith("$re:"):
            fits = isinstance(value, str) and re.search(expected.removeprefix("$re:"), value)
        case str() if expected in MATCHERS:
            fits = value is not ABSENT and MATCHERS[expected](value)
        case _:
            fits = type(value) is type(expected) and value == expected
    return [] if fits else [f"{where}: {value!r} is not {expected!r}"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_case(case, stage):
    answer = stage.send(case)

    status = case["expect_status"]
    assert answer.status in (status if isinstance(status, list) else [status]), answer.text
    if "expect_json" in case:
        assert mismatches(stage.filled(case["expect_json"]), answer.json()) == []
    found = {name: answer.headers.get(name.lower(), ABSENT) for name in case.get("expect_header", {})}
    assert mismatches(case.get("expect_header", {}), found) == []
    assert not {name.lower() for name in case.get("expect_no_header", [])} & set(answer.headers)
    if case["method"] == "HEAD":
        assert answer.body == b""
