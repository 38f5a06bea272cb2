"""The matchers of the case files."""

import re
from datetime import datetime

import jwt

ABSENT = object()


def _is_moment(value):
    return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None


def _is_jwt(value):
    return isinstance(value, str) and value.count(".") == 2 and isinstance(jwt.get_unverified_header(value), dict)


MATCHERS = {
    "$any": lambda value: value is not ABSENT,
    "$absent": lambda value: value is ABSENT,
    "$int": lambda value: type(value) is int,
    "$number": lambda value: type(value) in {int, float},
    "$str": lambda value: isinstance(value, str),
    "$bool": lambda value: isinstance(value, bool),
    "$list": lambda value: isinstance(value, list),
    "$object": lambda value: isinstance(value, dict),
    "$null": lambda value: value is None,
    "$str_or_null": lambda value: value is None or isinstance(value, str),
    "$iso": _is_moment,
    "$jwt": _is_jwt,
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
            fits = MATCHERS[expected](value)
        case _:
            fits = type(value) is type(expected) and value == expected
    return [] if fits else [f"{where}: {'nothing' if value is ABSENT else repr(value)} is not {expected!r}"]
