"""Refusals: PostgREST's and GoTrue's bodies, and how an error of PostgreSQL becomes an HTTP status."""

import psycopg
from starlette.responses import JSONResponse, Response

ANONYMOUS = "anon"

# PostgREST's own table (docs: references/errors): the whole code counts first, then its class; all others are 400.
STATUS_BY_SQLSTATE = {
    "23503": 409, "23505": 409, "25006": 405, "42883": 404, "42P01": 404, "42P17": 500, "53400": 500,
    "57P01": 503, "P0001": 400,
    "08": 503, "09": 500, "0L": 403, "0P": 403, "25": 500, "28": 403, "2D": 500, "38": 500, "39": 500,
    "3B": 500, "40": 500, "53": 503, "54": 500, "55": 500, "57": 500, "58": 500, "F0": 500, "HV": 500,
    "P0": 500, "XX": 500,
}  # fmt: skip
INSUFFICIENT_PRIVILEGE = "42501"
AUTH_API_VERSION = "2024-01-01"  # the first with string codes; what current clients send
RAISED_STATUS_PREFIX = "PT"  # a function may `raise sqlstate 'PT409'` to answer with HTTP 409
FINAL_STATUSES = range(200, 600)


class ApiError(Exception):
    """An answer other than success: `status` and the four fields every PostgREST client reads."""

    def __init__(
        self, status: int, code: str, message: str, details: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.details = details
        self.hint = hint

    def as_response(self) -> Response:
        headers = {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        body = {"code": self.code, "details": self.details, "hint": self.hint, "message": self.message}
        return JSONResponse(body, self.status, headers)


def api_error(error: psycopg.Error, role: str) -> ApiError:
    """What a client of PostgREST would see of this database error."""
    code = error.sqlstate
    if code is None:  # no answer of the server, but a lost connection, or a value that cannot be sent
        if isinstance(error, psycopg.OperationalError):
            return ApiError(503, "PGRST001", "Database connection lost. Retrying the request may help.")
        return ApiError(400, "22023", str(error))
    told = error.diag
    return ApiError(
        _status(code, role), code, told.message_primary or str(error), told.message_detail, told.message_hint
    )


def _status(code: str, role: str) -> int:
    if code == INSUFFICIENT_PRIVILEGE:
        return 401 if role == ANONYMOUS else 403
    if code.startswith(RAISED_STATUS_PREFIX):
        return int(code[2:]) if code[2:].isdigit() and int(code[2:]) in FINAL_STATUSES else 500
    return STATUS_BY_SQLSTATE.get(code) or STATUS_BY_SQLSTATE.get(code[:2]) or 400


class AuthError(Exception):
    """A refusal of the Auth side: `code` is one of GoTrue's error codes, which clients compare."""

    def __init__(self, status: int, code: str, message: str, **more: object) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.more = more

    def as_response(self, api_version: str | None) -> Response:
        """In the form of the API version that the client asked for."""
        if api_version == AUTH_API_VERSION:
            body = {"code": self.code, "message": self.message, **self.more}
            return JSONResponse(body, self.status, {"x-supabase-api-version": AUTH_API_VERSION})
        return JSONResponse(
            {"code": self.status, "error_code": self.code, "msg": self.message, **self.more}, self.status
        )
