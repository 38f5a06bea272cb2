"""The API as an ASGI app."""

from fastapi import FastAPI

from functions.api.api_keys.routes import router as api_keys
from functions.api.auth.current_user import AuthState
from functions.api.auth.routes import router as auth
from functions.api.github.routes import router as github
from functions.api.health.routes import router as health
from functions.api.me.routes import router as me
from functions.api.projects.routes import router as projects
from functions.api.results.routes import router as results
from functions.api.tasks.routes import router as tasks
from functions.api.test_users.routes import router as test_users
from functions.api.usage.routes import router as usage
from functions.api.web.docs_page import router as docs_page
from functions.api.web.errors import map_errors
from functions.api.web.middleware import Cors, HeadAsGet, RequestLog, UnexpectedErrors
from functions.api.web.openapi import install_openapi
from functions.api.wiring import Ports, Wiring, cloud_ports
from shared.config import PRODUCTION, ApiSettings

ROUTERS = (health, auth, me, api_keys, projects, tasks, results, usage, github, docs_page)
OUTSIDE_PRODUCTION = (test_users,)


def create_app(settings: ApiSettings, ports: Ports | None = None) -> FastAPI:
    """The app; tests pass `ports` instead of the cloud. Opens no connection. Raises Misconfigured."""
    app = FastAPI(
        title="Async Code API",
        description="Runs coding agents on your repositories and returns reviewable diffs.",
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.wiring = Wiring(settings, ports or cloud_ports(settings))
    app.state.auth = AuthState.of(settings)
    for router in ROUTERS if settings.environment == PRODUCTION else (*ROUTERS, *OUTSIDE_PRODUCTION):
        app.include_router(router)
    install_openapi(app)
    map_errors(app)
    # The last one added is the outermost.
    app.add_middleware(HeadAsGet)
    app.add_middleware(UnexpectedErrors)
    app.add_middleware(Cors, origins=settings.cors_origins, pattern=settings.cors_origin_pattern)
    app.add_middleware(RequestLog)
    return app
