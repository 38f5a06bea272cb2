"""`python -m local.e2b --root DIR --port PORT`: the local E2B server as a process. E2B_API_KEY is its key."""

import argparse
import logging
import os
import socket
import sys
from pathlib import Path

import uvicorn

from local.e2b.server import create_server

KEEP_ALIVE_S = 310  # longer than the SDK keeps an idle connection (E2B_KEEPALIVE_EXPIRY, 300 s)
SHUTDOWN_GRACE_S = 1  # a stream to a running command would hold the shutdown up for ever


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.e2b", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the sandboxes; nothing else may be in it")
    parser.add_argument("--port", type=int, default=0, help="on 127.0.0.1; 0 takes a free one")
    parser.add_argument(
        "--extra-path", type=Path, action="append", default=[], help="folder put first on PATH in every sandbox"
    )
    parser.add_argument("--isolation", choices=["auto", "bubblewrap", "process"], default="auto")
    parser.add_argument(
        "--injection", action="store_true", help="offer secrets and rules; they are recorded and have no effect"
    )
    return parser.parse_args()


def listen(port: int) -> socket.socket:
    """Bound with an explicit protocol: asyncio switches Nagle's algorithm off only for such a socket (48 -> 8 ms)."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen()
    return listener


def main() -> None:
    options = arguments()
    api_key = os.environ.get("E2B_API_KEY")
    if not api_key:
        sys.exit("E2B_API_KEY is not set")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    app = create_server(options.root, api_key, options.extra_path, options.isolation, injection=options.injection)
    listener = listen(options.port)
    print(f"E2B_API_URL=http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    config = uvicorn.Config(
        app,
        log_level="warning",
        ws="none",
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
