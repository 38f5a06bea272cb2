"""Reads the case files."""

from pathlib import Path

import yaml

FILES = ("contract-cases.yaml", "more-cases.yaml")


def read(file):
    """All cases of a file in their order; `meta` of more-cases.yaml explains `for_each`."""
    suite = yaml.safe_load(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    return [part for case in suite["cases"] for part in _each(case)]


def _each(case):
    if "for_each" not in case:
        return [case | {"values": {}}]
    [(names, sets)] = case["for_each"].items()
    names = names.split()
    return [
        case | {"id": f"{case['id']}.{number}", "values": dict(zip(names, _split(values, len(names)), strict=True))}
        for number, values in enumerate(sets, 1)
    ]


def _split(values, count):
    return [values] if count == 1 else values.split()
