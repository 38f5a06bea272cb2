"""Reads supabase/schemas as text."""

import re
from pathlib import Path

SCHEMAS = Path(__file__).parents[1] / "supabase" / "schemas"
DEFINITION = re.compile(r"^create (?:or replace )?function public\.(\w+)", re.MULTILINE | re.IGNORECASE)


def functions_in(folder):
    """The functions that the files define, in their order; one that is defined twice is there twice."""
    return [name for file in sorted(folder.glob("*.sql")) for name in DEFINITION.findall(file.read_text())]


def columns_of(table):
    """The columns that the schemas give a table, in their order."""
    text = (SCHEMAS / "10_tables.sql").read_text()
    (declared,) = re.findall(rf"^create table public\.{table} \((.*?)^\);", text, re.MULTILINE | re.DOTALL)
    return [name for name in re.findall(r"^    (\w+) ", declared, re.MULTILINE) if name != "constraint"]
