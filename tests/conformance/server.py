"""The server of the rig, for the unmodified e2b SDK: `python -m tests.conformance.server --envd PATH --root DIR`.

It takes the options of `python -m local.e2b` and has the same control plane; behind it are machines with a real envd.
Only root on Linux can run it.
"""

import argparse
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from local.e2b.__main__ import add_arguments, api_key, run
from local.e2b.control_plane import ApiKeyGuard
from local.e2b.journal import Journal
from local.e2b.server import application
from tests.conformance.fleet import EnvdFleet, Template
from tests.conformance.proxy import EnvdProxy


def create_server(fleet: EnvdFleet, key: str, *, injection: bool) -> Starlette:
    """An ASGI application as that of `local.e2b`."""

    async def restart_envd(request: Request) -> Response:
        await fleet.restart_envd(request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def reboot(request: Request) -> Response:
        await fleet.reboot(request.path_params["sandbox_id"])
        return Response(status_code=204)

    for_tests = Mount(
        "/_local/sandboxes/{sandbox_id}",
        routes=[
            Route("/restart-envd", restart_envd, methods=["POST"]),
            Route("/reboot", reboot, methods=["POST"]),
        ],
        middleware=[Middleware(ApiKeyGuard, api_key=key)],
    )
    return application(fleet, key, [*EnvdProxy(fleet).routes(), for_tests], injection=injection)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance.server", description=__doc__)
    add_arguments(parser)
    parser.add_argument("--envd", type=Path, required=True, help="the envd binary")
    parser.add_argument("--image", type=Path, default=Path("/"), help="a root file system; by default this machine's")
    parser.add_argument("--default-user", default="user", help="of the template")
    parser.add_argument("--default-folder", default="/home/user", help="of the template")
    options = parser.parse_args()
    fleet = EnvdFleet(
        options.root,
        options.extra_path,
        envd=options.envd,
        base=options.image.resolve(),
        template=Template(options.default_user, options.default_folder),
        journal=Journal(on=options.injection),
    )
    run(create_server(fleet, api_key(), injection=options.injection), options)


if __name__ == "__main__":
    main()
