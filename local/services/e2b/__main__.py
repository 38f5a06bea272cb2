"""`python -m local.services.e2b --root DIR --port PORT`: the local E2B server as a process. E2B_API_KEY is its key."""

import argparse
import logging
import os
import sys
from pathlib import Path

from starlette.applications import Starlette

from local.listening import add_port_arguments, listener_of, serve, url_of
from local.services.e2b.server import create_server
from local.services.e2b.template import Template

KEEP_ALIVE_S = 310  # longer than the SDK keeps an idle connection (E2B_KEEPALIVE_EXPIRY, 300 s)
SHUTDOWN_GRACE_S = 1  # a stream to a running command would hold the shutdown up for ever


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of every server of sandboxes."""
    parser.add_argument("--root", type=Path, required=True, help="folder of the sandboxes; nothing else may be in it")
    add_port_arguments(parser)
    parser.add_argument(
        "--extra-path", type=Path, action="append", default=[], help="folder of programs that every sandbox sees"
    )
    parser.add_argument("--isolation", choices=["auto", "bubblewrap", "process"], default="auto")
    parser.add_argument(
        "--injection", action="store_true", help="offer secrets and rules; they are recorded and have no effect"
    )
    parser.add_argument(
        "--template", type=Path, help="JSON file with the template's user, folder, profile and root_bashrc"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.services.e2b", description=__doc__)
    add_arguments(parser)
    options = parser.parse_args()
    app = create_server(
        options.root,
        api_key(),
        options.extra_path,
        options.isolation,
        injection=options.injection,
        template=template_of(options),
    )
    run(app, options)


def template_of(options: argparse.Namespace) -> Template:
    return Template.read(options.template) if options.template else Template()


def api_key() -> str:
    """Ends the program where the environment has none."""
    key = os.environ.get("E2B_API_KEY")
    if not key:
        sys.exit("E2B_API_KEY is not set")
    return key


def run(app: Starlette, options: argparse.Namespace) -> None:
    """Serve until a signal comes."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    listener = listener_of(options)
    print(f"E2B_API_URL={url_of(listener)}", flush=True)
    serve(app, listener, lifespan="on", timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=SHUTDOWN_GRACE_S)


if __name__ == "__main__":
    main()
