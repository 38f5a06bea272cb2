"""`python -m local.aws --port PORT` serves SQS on 127.0.0.1, by moto.

Messages live in memory only. Losing them is fine: the run's row is the truth, a message is a nudge.
"""

import argparse

from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import make_server


class _Quiet(MotoRequestHandler):
    """Logs failures only; a line per poll would bury them."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        if not str(code).startswith("2"):
            super().log_request(code, size)


def serve(port: int) -> None:
    """Serve SQS on 127.0.0.1:`port` until the process ends."""
    sqs = DomainDispatcherApplication(create_backend_app)
    make_server("127.0.0.1", port, sqs, threaded=True, request_handler=_Quiet).serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m local.aws", description="Serve SQS on 127.0.0.1.")
    parser.add_argument("--port", type=int, required=True)
    serve(parser.parse_args().port)
