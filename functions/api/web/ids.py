"""Identifiers in paths and bodies: the numbers of rows, and UUIDs."""

import re
from typing import Annotated

from fastapi import Path
from starlette.convertors import Convertor, register_url_convertor

MAX_ROW_ID = 2**63 - 1  # PostgreSQL's bigint

_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class RowIdConvertor(Convertor[int]):
    """Parses digits as a number. More digits than any row id has give a number that no row has."""

    regex = r"[0-9]+(?!\n)"  # the router's `$` would let a line's end follow

    def convert(self, value: str) -> int:
        return int(value.lstrip("0")[:20] or 0)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("row_id", RowIdConvertor())

# The number of a row, in a path such as `/projects/{project_id:row_id}`.
RowId = Annotated[int, Path(description="The `id` of one of your own.", examples=[7], json_schema_extra={"minimum": 1})]


def uuid_of(value: object) -> str | None:
    """`value` in lower case, or None when it is not a UUID as databases write it."""
    text = value.lower() if isinstance(value, str) else ""
    return text if _UUID.fullmatch(text) else None
