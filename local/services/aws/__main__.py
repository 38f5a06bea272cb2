"""`python -m local.services.aws --port PORT` serves SQS on 127.0.0.1, by moto.

Messages live in memory only. Losing them is fine: the run's row is the truth, a message is a nudge.
"""

import argparse
import socket

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server

from local.listening import LOOPBACK, add_port_arguments, announce, listener_of, port_of


class _Quiet(MotoRequestHandler):
    """Logs failures only; a line per poll would bury them."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if not str(code).startswith("2"):
            super().log_request(code, size)


def serve(listener: socket.socket) -> None:
    """Serve SQS until the process ends."""
    sqs = DomainDispatcherApplication(create_backend_app)
    port, number = port_of(listener), listener.fileno()
    server = make_server(LOOPBACK, port, sqs, threaded=True, request_handler=_Quiet, fd=number)
    announce(listener)
    server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m local.services.aws", description="Serve SQS on 127.0.0.1.")
    add_port_arguments(parser)
    serve(listener_of(parser.parse_args()))
