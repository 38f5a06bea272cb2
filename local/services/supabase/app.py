"""The HTTP gateway: PostgREST's and GoTrue's paths on one port, as a Supabase project URL has them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from local.services.supabase.auth import AuthRoutes
from local.services.supabase.database import Database
from local.services.supabase.rest import RestRoutes
from local.services.supabase.tokens import Keys

PREFLIGHT_S = 3600
EXPOSED_HEADERS = ("Content-Range", "Content-Location", "Location", "X-Total-Count", "X-Supabase-Api-Version", "Link")
NO_SUCH_ENDPOINT = {404: "PGRST125", 405: "PGRST117"}  # PostgREST's codes


def create_gateway(dsn: str, jwt_secret: str, publishable_key: str, secret_key: str, public_url: str) -> Starlette:
    """The local stand-in for a Supabase project, on the PostgreSQL database at `dsn`.

    `dsn` must be a superuser's, of a database that `local.services.postgres.prepare` has made ready: each request
    switches to its caller's role. `public_url` is where clients reach the gateway; it becomes the issuer
    of the tokens, which are signed with `jwt_secret` (HS256). The two keys are compared as they stand.
    """
    database = Database(dsn)
    keys = Keys(jwt_secret, publishable_key, secret_key)

    @asynccontextmanager
    async def connected(_app: Starlette) -> AsyncIterator[None]:
        await database.open()
        try:
            yield
        finally:
            await database.close()

    any_page = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=EXPOSED_HEADERS,
        max_age=PREFLIGHT_S,
    )
    routes = [*RestRoutes(database, keys).routes(), *AuthRoutes(database, keys, public_url).routes()]
    refusals: dict[int, Any] = dict.fromkeys(NO_SUCH_ENDPOINT, _no_such_endpoint)
    return Starlette(routes=routes, middleware=[any_page], exception_handlers=refusals, lifespan=connected)


async def _no_such_endpoint(request: Request, error: HTTPException) -> Response:
    text = f"The local stack has no {request.method} {request.url.path}. It serves /rest/v1 and /auth/v1 of Supabase."
    body = {"code": NO_SUCH_ENDPOINT[error.status_code], "message": text, "details": None, "hint": None}
    return JSONResponse(body, error.status_code, error.headers)
