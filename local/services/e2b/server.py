"""The local E2B server: control plane and envd on one port, for the unmodified `e2b` SDK.

Point the SDK at it with E2B_API_URL and E2B_SANDBOX_URL (the same address) and E2B_API_KEY. Not with E2B_DEBUG:
that turns kill, set_timeout and connect into no-ops.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from e2b.envd.filesystem.filesystem_connect import FilesystemASGIApplication
from e2b.envd.process.process_connect import ProcessASGIApplication
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Mount, Route

from local.services.e2b.control_plane import EXPECTED_ERRORS, ControlPlane, on_error
from local.services.e2b.envd import EnvdGuard, not_running
from local.services.e2b.filesystem_service import Files, FilesystemService
from local.services.e2b.journal import Journal
from local.services.e2b.process_service import ProcessService
from local.services.e2b.sandboxes import Fleet, IsolationChoice, NotFound
from local.services.e2b.template import Template


def create_server(
    root: Path,
    api_key: str,
    extra_path: Sequence[Path] = (),
    isolation: IsolationChoice = "auto",
    *,
    injection: bool = False,
    template: Template | None = None,
) -> Starlette:
    """An ASGI application that keeps its sandboxes below `root`.

    `extra_path` names folders of this machine that every sandbox sees, read-only: the agents' command lines. They are
    on no PATH by themselves; `isolation.agent_path` is one that begins with them. `isolation` "auto" takes bubblewrap
    where it works and warns where it does not; "bubblewrap" insists. `injection` offers secrets and rules, which are
    checked and recorded, but put into no request: for tests. `template` is what all templates are like, whatever their
    id; by default as `Template.from_dockerfile` makes one.
    Its startup clears `root` of an earlier server's sandboxes and may raise RootInUse, IsolationUnavailable
    or NotADirectoryError; its shutdown kills every sandbox. `state.fleet` is what there is of them.
    """
    fleet = Fleet(root, extra_path, isolation, Journal(on=injection), template)

    async def health(request: Request) -> Response:
        """envd's for a sandbox, where the header names one; else the server's own."""
        sandbox_id = request.headers.get("e2b-sandbox-id")
        if sandbox_id is None:
            return PlainTextResponse("ok")
        try:
            await fleet.reach(sandbox_id)
        except NotFound:
            return not_running(sandbox_id)
        return Response(status_code=204)

    envd = [
        Mount("/process.Process", EnvdGuard(ProcessASGIApplication(ProcessService(fleet)), fleet)),
        Mount("/filesystem.Filesystem", EnvdGuard(FilesystemASGIApplication(FilesystemService(fleet)), fleet)),
        Route("/files", Files(fleet), methods=["GET", "POST"]),
        Route("/health", health),
    ]
    return application(fleet, api_key, envd, injection=injection)


def application(fleet: Fleet, api_key: str, envd: Sequence[BaseRoute], *, injection: bool) -> Starlette:
    """The control plane of a fleet, with the routes to its sandboxes' envd before it."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await fleet.open()
        try:
            yield
        finally:
            await fleet.close()

    app = Starlette(
        routes=[*envd, ControlPlane(fleet, injection=injection).mount(api_key)],
        exception_handlers=dict.fromkeys(EXPECTED_ERRORS, on_error),
        lifespan=lifespan,
    )
    app.state.fleet = fleet
    return app
