"""How the programs of the local stack get their ports.

A port that is chosen first and bound later may belong to another program by then. So the parent binds and listens,
then hands the open socket to its child (`--listen-fd`): the address is the child's before the child runs, and a request
that comes early waits. Started by hand, a program binds `--port` itself.
"""

import argparse
import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from starlette.types import ASGIApp

LOOPBACK = "127.0.0.1"
BACKLOG = 512  # requests that may wait until the program serves
SERVING = "Serving on http://"  # the line that a program prints once it answers requests


def listen(port: int = 0, host: str = LOOPBACK) -> socket.socket:
    """A socket that listens on `host`:`port`; port 0 takes any free one. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    # asyncio switches Nagle's algorithm off only where the protocol is named (48 -> 8 ms a request).
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # As servers do it: a port whose last connections linger in TIME_WAIT counts as free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # 127.0.0.1 reaches it, too
        listener.bind((host, port))
        # At once: with SO_REUSEADDR, two programs may bind the same port as long as neither of them listens.
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def listen_near(preferred: int, host: str = LOOPBACK) -> socket.socket:
    """As `listen`, on `preferred` if it is free, else on any free port."""
    try:
        return listen(preferred, host)
    except OSError:
        return listen(0, host)


def port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def url_of(listener: socket.socket) -> str:
    """Where a program of this machine reaches it."""
    host = listener.getsockname()[0]
    local = LOOPBACK if ipaddress.ip_address(host).is_unspecified else host
    return f"http://{f'[{local}]' if ':' in local else local}:{port_of(listener)}"


def add_port_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where to listen."""
    place = parser.add_mutually_exclusive_group()
    place.add_argument("--port", type=int, default=0, help=f"of {LOOPBACK}; by default any free one")
    place.add_argument("--listen-fd", type=int, help="number of a listening socket that the parent handed over")


def listener_of(arguments: argparse.Namespace) -> socket.socket:
    """The socket that the options describe. Ends the program with a sentence when the port is taken."""
    if arguments.listen_fd is not None:
        os.set_inheritable(arguments.listen_fd, False)
        given = socket.socket(fileno=arguments.listen_fd)
        return socket.socket(given.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=given.detach())
    try:
        return listen(arguments.port)
    except OSError as error:
        sys.exit(f"Port {arguments.port} of {LOOPBACK} cannot be used: {error.strerror}. Choose another with --port.")


def serve(app: "ASGIApp", listener: socket.socket, **options: Any) -> None:
    """Serve `app` with uvicorn until SIGTERM; `options` are uvicorn's. Prints `Serving on …` once it answers."""
    config = uvicorn.Config(app, **{"log_level": "warning", "access_log": False, "ws": "none", **options})
    _AnnouncingServer(config).run(sockets=[listener])


class _AnnouncingServer(uvicorn.Server):
    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in (sockets or []) if self.started else []:
            announce(listener)


def announce(listener: socket.socket) -> None:
    """Tell the parent, which reads our log, that requests are answered."""
    print(f"{SERVING}{url_of(listener).removeprefix('http://')}", file=sys.stderr, flush=True)
