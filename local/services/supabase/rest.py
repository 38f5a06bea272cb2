"""`/rest/v1`: what PostgREST answers to the official clients."""

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import psycopg
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from local.services.supabase import statements
from local.services.supabase.asked import OBJECT, Asked
from local.services.supabase.database import Database
from local.services.supabase.errors import ANONYMOUS, ApiError, api_error
from local.services.supabase.query import Query
from local.services.supabase.sql_text import Statement
from local.services.supabase.tokens import Caller, Keys, identify

JSON = "application/json; charset=utf-8"
OBJECT_UTF8 = f"{OBJECT}; charset=utf-8"
# Refusals that a look at the database of now, instead of the one we remember, may turn into an answer.
OUTDATED_CATALOG = frozenset({"PGRST200", "PGRST202", "PGRST204", "PGRST205"})
SYNTAX_OR_ACCESS = "42"  # SQLSTATE class of undefined columns, tables and functions

Handler = Callable[[Asked], Awaitable[Response]]


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
        call, query = asked.call()
        statement = statements.call(asked.catalog, call, query, count=asked.prefer.count)
        answer = await self._answer(asked, statement, read_only=asked.is_get or call.function.read_only)
        if call.function.returns_void:
            return Response(None, 204)
        if not call.function.returns_set:
            return Response(answer.only, media_type=JSON)
        return _rows_response(asked, answer, query)

    def _endpoint(self, handle: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Wrap a handler: who asks, and what becomes of errors."""

        async def endpoint(request: Request) -> Response:
            role = ANONYMOUS
            try:
                caller = identify(
                    self._keys,
                    request.headers.get("apikey") or request.query_params.get("apikey"),
                    request.headers.get("authorization"),
                )
                role = caller.role
                return await self._handled(handle, request, caller)
            except ApiError as refusal:
                return refusal.as_response()
            except RecursionError:
                return ApiError(400, "PGRST100", "The query has too many brackets inside brackets").as_response()
            except psycopg.Error as error:
                if (error.sqlstate or "").startswith(SYNTAX_OR_ACCESS):
                    self._database.forget_catalog()
                return api_error(error, role).as_response()

        return endpoint

    async def _handled(self, handle: Handler, request: Request, caller: Caller) -> Response:
        """Handle with the catalog we remember; if something is not in there, with the catalog of now."""
        body = await request.body()
        try:
            return await handle(Asked(request, caller, await self._database.catalog(), body))
        except ApiError as refusal:
            if refusal.code not in OUTDATED_CATALOG:
                raise
        self._database.forget_catalog()
        return await handle(Asked(request, caller, await self._database.catalog(), body))

    async def _answer(self, asked: Asked, statement: Statement, *, read_only: bool = False) -> Answer:
        """Run the statement as the caller. A change whose answer cannot be given is taken back."""
        request = asked.request
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
            if not read_only:
                _refuse_too_many(asked, answer)
            _refuse_all_but_one(asked, answer)
        return answer


def _refuse_too_many(asked: Asked, answer: Answer) -> None:
    at_most = asked.prefer.max_affected
    if at_most is not None and answer.count > at_most:
        text = "Query result exceeds max-affected preference constraint"
        raise ApiError(400, "PGRST124", text, f"The query affects {answer.count} rows")


def _refuse_all_but_one(asked: Asked, answer: Answer) -> None:
    if asked.wants_object and answer.count != 1:
        text = "Cannot coerce the result to a single JSON object"
        raise ApiError(406, "PGRST116", text, f"The result contains {answer.count} rows")


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
