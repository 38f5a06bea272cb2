"""Parameters in paths."""

from typing import Annotated

from fastapi import Path
from starlette.convertors import Convertor, register_url_convertor


class RowIdConvertor(Convertor[int]):
    """Digits, as a number; with more of them than any row has, still a number that no row has."""

    regex = r"[0-9]+(?!\n)"  # the router's `$` would let a line's end follow

    def convert(self, value: str) -> int:
        return int(value.lstrip("0")[:20] or 0)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("row_id", RowIdConvertor())

# The number of a row, in a path such as `/projects/{project_id:row_id}`.
RowId = Annotated[int, Path(description="The `id` of one of yours.", examples=[7], json_schema_extra={"minimum": 1})]
