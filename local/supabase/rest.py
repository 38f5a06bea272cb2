"""`/rest/v1`: what PostgREST answers to the official clients."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import psycopg
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local.supabase import statements
from local.supabase.catalog import SCHEMA, Catalog, Function, Table
from local.supabase.database import Database
from local.supabase.errors import ApiError, api_error
from local.supabase.grammar import GrammarError, Preferences, Query, parse_names, parse_prefer, parse_query
from local.supabase.statements import Statement, Upsert, Writing
from local.supabase.tokens import Caller, Keys, identify

JSON = "application/json; charset=utf-8"
OBJECT = "application/vnd.pgrst.object+json"
OBJECT_UTF8 = f"{OBJECT}; charset=utf-8"
NOT_OF_THE_QUERY = frozenset({"columns", "on_conflict", "apikey"})
# Refusals that a look at the database of now, instead of the one we remember, may turn into an answer.
OUTDATED_CATALOG = frozenset({"PGRST200", "PGRST202", "PGRST204", "PGRST205"})
SYNTAX_OR_ACCESS = "42"  # SQLSTATE class of undefined columns, tables and functions


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement found: a JSON array as text, the number of its elements, and of all that match."""

    rows: str
    count: int
    total: int | None = None

    @property
    def only(self) -> str:
        """The JSON of the only element."""
        return self.rows[1:-1].strip()


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
            raise ApiError(400, "PGRST100", str(error)) from None

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
        except ValueError:
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
        return Writing(self.table, array, columns, len(rows))

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
            raise ApiError(400, "PGRST100", str(error)) from None

    def call(self) -> tuple[Function, dict[str, object], Query]:
        """The function of the path, its arguments, and the query on its result.

        The arguments are the body; or with GET the parameters that have an argument's name.
        """
        name = self.request.path_params["function"]
        if self.is_get:
            arguments: dict[str, object] = {
                key: value
                for key, value in self.request.query_params.items()
                if key in self.catalog.argument_names(name)
            }
        elif isinstance(self.json, dict):
            arguments = self.json
        else:
            raise ApiError(400, "PGRST102", "The body must be an object with the function's arguments")
        not_filters = NOT_OF_THE_QUERY | (arguments.keys() if self.is_get else frozenset())
        return self.catalog.function(name, arguments), arguments, self.query_without(not_filters)


class RestRoutes:
    """The HTTP methods on tables and functions."""

    def __init__(self, database: Database, keys: Keys) -> None:
        self._database = database
        self._keys = keys

    def routes(self) -> list[Route]:
        table, function = "/rest/v1/{table}", "/rest/v1/rpc/{function}"
        return [
            Route(function, self._endpoint(self._call), methods=["GET", "POST"]),
            Route(table, self._endpoint(self._read), methods=["GET"]),
            Route(table, self._endpoint(self._insert), methods=["POST"]),
            Route(table, self._endpoint(self._update), methods=["PATCH"]),
            Route(table, self._endpoint(self._delete), methods=["DELETE"]),
        ]

    async def _read(self, asked: Asked) -> Response:
        statement = statements.read(asked.catalog, asked.table, asked.query, count=asked.prefer.count)
        answer = await self._answer(asked, statement, read_only=True)
        return _rows_response(asked, answer, asked.query)

    async def _insert(self, asked: Asked) -> Response:
        if asked.writing.row_count == 0:
            return _changed_response(asked, Answer("[]", 0), status=201, status_without_rows=201)
        statement = statements.insert(
            asked.catalog, asked.writing, asked.query, asked.upsert, returning=asked.wants_rows
        )
        answer = await self._answer(asked, statement)
        return _changed_response(asked, answer, status=201, status_without_rows=201)

    async def _update(self, asked: Asked) -> Response:
        _refuse_to_touch_all_rows(asked.query, "UPDATE")
        if asked.writing.row_count > 1:
            raise ApiError(400, "PGRST102", "The body must be one object")
        if not asked.writing.columns:
            return _changed_response(asked, Answer("[]", 0), status=200, status_without_rows=204)
        statement = statements.update(asked.catalog, asked.writing, asked.query, returning=asked.wants_rows)
        answer = await self._answer(asked, statement)
        return _changed_response(asked, answer, status=200, status_without_rows=204)

    async def _delete(self, asked: Asked) -> Response:
        _refuse_to_touch_all_rows(asked.query, "DELETE")
        statement = statements.delete(asked.catalog, asked.table, asked.query, returning=asked.wants_rows)
        answer = await self._answer(asked, statement)
        return _changed_response(asked, answer, status=200, status_without_rows=204)

    async def _call(self, asked: Asked) -> Response:
        function, arguments, query = asked.call()
        statement = statements.call(asked.catalog, function, arguments, query, count=asked.prefer.count)
        answer = await self._answer(asked, statement, read_only=asked.is_get or function.read_only)
        if function.returns_void:
            return Response(None, 204)
        if not function.returns_set:
            return Response(answer.only, media_type=JSON)
        return _rows_response(asked, answer, query)

    def _endpoint(self, handle: Callable[[Asked], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a method: who asks, what for, and what becomes of errors."""

        async def endpoint(request: Request) -> Response:
            try:
                caller = identify(
                    self._keys,
                    request.headers.get("apikey") or request.query_params.get("apikey"),
                    request.headers.get("authorization"),
                )
                body = await request.body()
                try:
                    return await handle(Asked(request, caller, await self._database.catalog(), body))
                except ApiError as refusal:
                    if refusal.code not in OUTDATED_CATALOG:
                        raise
                    self._database.forget_catalog()
                    return await handle(Asked(request, caller, await self._database.catalog(), body))
            except ApiError as refusal:
                return refusal.as_response()

        return endpoint

    async def _answer(self, asked: Asked, statement: Statement, *, read_only: bool = False) -> Answer:
        """Run the statement as the caller. An answer that cannot be given takes the change back."""
        request = asked.request
        try:
            async with self._database.transaction(
                asked.caller.role,
                read_only=read_only,
                claims=asked.caller.claims_json,
                headers=json.dumps(dict(request.headers)),
                method=request.method,
                path=request.url.path,
            ) as connection:
                cursor = await connection.execute(statement.text, statement.values)
                answer = Answer(*(await cursor.fetchone() or ("[]", 0)))
                if asked.wants_object and answer.count != 1:
                    raise ApiError(
                        406,
                        "PGRST116",
                        "Cannot coerce the result to a single JSON object",
                        f"The result contains {answer.count} rows",
                    )
        except psycopg.Error as error:
            if (error.sqlstate or "").startswith(SYNTAX_OR_ACCESS):
                self._database.forget_catalog()
            raise api_error(error, asked.caller.role) from error
        return answer


def _rows_response(asked: Asked, answer: Answer, query: Query) -> Response:
    """The rows, or the only row, with `Content-Range: first-last/total`."""
    if answer.total is not None and query.offset > answer.total:
        raise ApiError(
            416,
            "PGRST103",
            "Requested range not satisfiable",
            f"An offset of {query.offset} was requested, but there are only {answer.total} rows.",
        )
    partial = answer.total is not None and answer.count < answer.total
    headers = {"Content-Range": _content_range(answer, query.offset)}
    return _json_response(asked, answer, 206 if partial else 200, headers)


def _changed_response(asked: Asked, answer: Answer, *, status: int, status_without_rows: int) -> Response:
    total = answer.count if asked.prefer.count else "*"
    headers = {"Content-Range": f"*/{total}"}
    if not asked.wants_rows:
        return Response(None, status_without_rows, headers)
    return _json_response(asked, answer, status, headers)


def _json_response(asked: Asked, answer: Answer, status: int, headers: dict[str, str]) -> Response:
    if asked.wants_object:
        return Response(answer.only, status, headers, media_type=OBJECT_UTF8)
    return Response(answer.rows, status, headers, media_type=JSON)


def _content_range(answer: Answer, offset: int) -> str:
    rows = f"{offset}-{offset + answer.count - 1}" if answer.count else "*"
    return f"{rows}/{'*' if answer.total is None else answer.total}"


def _refuse_to_touch_all_rows(query: Query, verb: str) -> None:
    """Hosted Supabase loads `safeupdate`, which wants a filter."""
    if not query.where:
        raise ApiError(400, "21000", f"{verb} requires a WHERE clause")
