"""The API as an ASGI app."""

from fastapi import FastAPI

from functions.api.deps import Ports, wire
from functions.api.errors import map_errors
from functions.api.middleware import AnswerUnexpected, Cors, HeadAsGet, RequestLog
from functions.api.openapi import describe
from functions.api.routes import (
    api_keys,
    auth,
    docs,
    files,
    github,
    health,
    legacy,
    me,
    projects,
    start_task,
    task_control,
    task_lists,
    tasks,
    test_users,
    usage,
)
from shared.config import PRODUCTION, ApiSettings

ROUTERS = (
    health.router,
    auth.router,
    me.router,
    api_keys.router,
    projects.router,
    start_task.router,
    task_lists.router,
    tasks.router,
    files.router,
    task_control.router,
    usage.router,
    github.router,
    legacy.router,
    docs.router,
)
OUTSIDE_PRODUCTION = (test_users.router,)


def create_app(settings: ApiSettings, ports: Ports | None = None) -> FastAPI:
    """The app; `ports` stands in for the cloud in tests. Opens no connection. Raises Misconfigured."""
    app = FastAPI(
        title="Async Code API",
        description="Runs coding agents on your repositories and hands back reviewable diffs.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.wiring = wire(settings, ports)
    for router in ROUTERS if settings.environment == PRODUCTION else (*ROUTERS, *OUTSIDE_PRODUCTION):
        app.include_router(router)
    describe(app)
    map_errors(app)
    # The last one added is the outermost.
    app.add_middleware(HeadAsGet)
    app.add_middleware(AnswerUnexpected)
    app.add_middleware(Cors, origins=settings.cors_origins, pattern=settings.cors_origin_pattern)
    app.add_middleware(RequestLog)
    return app
