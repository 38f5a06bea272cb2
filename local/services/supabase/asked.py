"""One request to `/rest/v1`, understood piece by piece."""

import json
from functools import cached_property
from typing import Any

from starlette.requests import Request

from local.services.supabase.catalog import SCHEMA, Catalog, Table
from local.services.supabase.cursor import GrammarError
from local.services.supabase.errors import ApiError
from local.services.supabase.grammar import Preferences, parse_names, parse_prefer, parse_query
from local.services.supabase.query import Query
from local.services.supabase.statements import Call, Upsert, Writing
from local.services.supabase.tokens import Caller

OBJECT = "application/vnd.pgrst.object+json"
ANSWERED = frozenset({"*/*", "application/*", "application/json", OBJECT})
NOT_OF_THE_QUERY = frozenset({"columns", "on_conflict", "apikey"})


class Asked:
    """One request, understood. Raises ApiError 400 for what is malformed, when it is looked at."""

    def __init__(self, request: Request, caller: Caller, catalog: Catalog, body: bytes) -> None:
        self.request = request
        self.caller = caller
        self.catalog = catalog
        self._body = body
        profile = request.headers.get("accept-profile" if self.is_get else "content-profile", SCHEMA)
        if profile != SCHEMA:
            raise ApiError(406, "PGRST106", f"Invalid schema: {profile}", hint=f"Only {SCHEMA} is exposed")
        accepted = request.headers.get("accept", "*/*")
        if not any(map(_can_answer_with, accepted.split(","))):
            raise ApiError(406, "PGRST107", f"None of these media types are available: {accepted}")

    @property
    def is_get(self) -> bool:
        return self.request.method in {"GET", "HEAD"}

    @cached_property
    def prefer(self) -> Preferences:
        return parse_prefer(self.request.headers.getlist("prefer"))

    @property
    def wants_rows(self) -> bool:
        return self.prefer.returning == "representation"

    @property
    def wants_object(self) -> bool:
        """Whether the answer must be exactly one row."""
        shows_rows = self.is_get or self.wants_rows or "function" in self.request.path_params
        return shows_rows and OBJECT in self.request.headers.get("accept", "")

    @cached_property
    def table(self) -> Table:
        return self.catalog.table(self.request.path_params["table"])

    @cached_property
    def query(self) -> Query:
        return self.query_without(NOT_OF_THE_QUERY)

    def query_without(self, names: frozenset[str]) -> Query:
        parameters = self.request.query_params.multi_items()
        try:
            return parse_query((key, value) for key, value in parameters if key not in names)
        except GrammarError as error:
            raise ApiError(400, error.code, str(error)) from None

    @cached_property
    def _text(self) -> str:
        try:
            return self._body.decode()
        except UnicodeDecodeError:
            raise ApiError(400, "PGRST102", "The body is not UTF-8") from None

    @cached_property
    def json(self) -> Any:
        try:
            return json.loads(self._text or "{}")
        except (ValueError, RecursionError):
            raise ApiError(400, "PGRST102", "Empty or invalid json") from None

    @cached_property
    def writing(self) -> Writing:
        """The rows of the body, with the columns of `columns=` or else of the first row."""
        rows = self.json if isinstance(self.json, list) else [self.json]
        if not all(isinstance(row, dict) for row in rows):
            raise ApiError(400, "PGRST102", "The body must be an object or an array of objects")
        named = self.request.query_params.get("columns")
        columns = self._names(named) if named else tuple(rows[0]) if rows else ()
        if not named and any(row.keys() != rows[0].keys() for row in rows):
            raise ApiError(400, "PGRST102", "All object keys must match")
        for column in columns:
            if column not in self.table.columns:
                raise ApiError(
                    400,
                    "PGRST204",
                    f"Could not find the '{column}' column of '{self.table.name}' in the schema cache",
                )
        array = self._text if isinstance(self.json, list) else f"[{self._text or '{}'}]"
        return Writing(self.table, array, columns, len(rows), self.prefer.missing_is_default)

    @property
    def upsert(self) -> Upsert | None:
        if self.prefer.resolution is None:
            return None
        named = self.request.query_params.get("on_conflict")
        on_conflict = self._names(named) if named else self.table.primary_key
        return Upsert(on_conflict, merge=self.prefer.resolution == "merge-duplicates") if on_conflict else None

    def _names(self, text: str) -> tuple[str, ...]:
        try:
            return parse_names(text)
        except GrammarError as error:
            raise ApiError(400, error.code, str(error)) from None

    def call(self) -> tuple[Call, Query]:
        """The call of the path's function, and the query on its result.

        The arguments are the body; or with GET the parameters that have an argument's name.
        """
        name = self.request.path_params["function"]
        arguments = self._arguments_in_url(name) if self.is_get else self.json
        if not isinstance(arguments, dict):
            raise ApiError(400, "PGRST102", "The body must be an object with the function's arguments")
        call = Call(self.catalog.function(name, arguments), arguments, from_url=self.is_get)
        return call, self.query_without(NOT_OF_THE_QUERY | (set(arguments) if self.is_get else set()))

    def _arguments_in_url(self, function_name: str) -> dict[str, str]:
        known = self.catalog.argument_names(function_name)
        return {key: value for key, value in self.request.query_params.items() if key in known}


def _can_answer_with(media_range: str) -> bool:
    kind, _, parameters = media_range.partition(";")
    return kind.strip() in ANSWERED and "nulls=stripped" not in parameters
