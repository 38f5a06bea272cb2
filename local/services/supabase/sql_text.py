"""Pieces of SQL text: names are quoted by psycopg, values are bound.

Values are bound as text without a type, so that PostgreSQL reads them as whatever the column is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import LiteralString

from psycopg import sql

from local.services.supabase.catalog import SCHEMA


@dataclass(slots=True)
class Statement:
    """SQL with named placeholders, and their values."""

    text: sql.Composed = field(default_factory=lambda: sql.Composed([]))
    values: dict[str, str] = field(default_factory=dict)

    def bind(self, value: str) -> sql.Composable:
        name = f"v{len(self.values)}"
        self.values[name] = value
        return sql.Placeholder(name)


def qualified(name: str) -> sql.Composable:
    return sql.SQL("{}.{}").format(identifier(SCHEMA), identifier(name))


def names(columns: Iterable[str]) -> sql.Composable:
    return sql.SQL(", ").join(map(identifier, columns))


def catalog_text(text: str) -> sql.SQL:
    """SQL that PostgreSQL has written itself: a type, an expression. Percent signs as for `identifier`."""
    return sql.SQL(text.replace("%", "%%"))


def identifier(name: str) -> sql.Identifier:
    """A quoted name. psycopg reads the finished text for placeholders, so a percent sign is doubled."""
    return sql.Identifier(name.replace("%", "%%"))


def joined(word: LiteralString, parts: Iterable[sql.Composable]) -> sql.Composable:
    """`(a and b)`; `true` when there is nothing to join."""
    listed = list(parts)
    if not listed:
        return sql.SQL("true")
    return sql.SQL("({})").format(sql.SQL(f" {word} ").join(listed))


def array_literal(values: Iterable[str]) -> str:
    """PostgreSQL's text form of an array, each element quoted."""
    escaped = (value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return "{" + ",".join(f'"{value}"' for value in escaped) + "}"
