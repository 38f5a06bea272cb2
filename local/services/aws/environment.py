"""The inside of a Lambda execution environment: a process that imports one handler and calls it.

    python -m local.services.aws.environment functions.api.handler:handler < SOCKET

Invocations and answers are lines of JSON on the socket that is our standard input; `lambda_runner.py` holds
the other end. Standard output belongs to the handler alone. When the other end closes, the process ends at
once, even in the middle of an invocation: an environment never outlives its Lambda service.
"""

import importlib
import json
import os
import queue
import resource
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

RESPONSE_LIMIT = 6 * 1024 * 1024 + 100  # bytes of a synchronous response, as the Lambda runtime API counts

Handler = Callable[[Any, "LambdaContext"], Any]


@dataclass(frozen=True)
class LambdaContext:
    """What Lambda's Python runtime passes as `context`, with its names and types."""

    aws_request_id: str
    invoked_function_arn: str
    function_name: str
    function_version: str
    memory_limit_in_mb: str
    log_group_name: str
    log_stream_name: str
    deadline_ms: int
    identity: None = None
    client_context: None = None
    tenant_id: None = None

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until this environment is ended; 0 when the time is over."""
        return max(self.deadline_ms - int(time.time() * 1000), 0)


def main() -> None:
    """Import the handler (INIT), then answer one invocation after the other."""
    service = _service_socket()
    invocations = _invocations(service)
    started = time.monotonic()
    try:
        handler = _import_handler(sys.argv[1])
    except Exception as error:  # noqa: BLE001 - whatever its import raises is the end of this INIT
        _log_error(error)
        _send(service, {"init_error": type(error).__name__})
        raise SystemExit(1) from None
    _send(service, {"init_ms": (time.monotonic() - started) * 1000})
    while True:
        service.sendall(_answer(handler, json.loads(invocations.get())) + b"\n")


def _service_socket() -> socket.socket:
    """Take the socket off standard input, so that neither the handler nor its children can touch it."""
    service = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    return service


def _import_handler(spec: str) -> Handler:
    module, _, name = spec.partition(":")
    handler: Handler = getattr(importlib.import_module(module), name)
    return handler


def _invocations(service: socket.socket) -> "queue.SimpleQueue[bytes]":
    """Read invocations in the background; the background is what notices that the service has gone."""
    invocations: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        with service.makefile("rb") as lines:
            for line in lines:
                invocations.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return invocations


def _answer(handler: Handler, invocation: dict[str, Any]) -> bytes:
    try:
        response = json.dumps(handler(invocation["event"], _context(invocation)))
    except Exception as error:  # noqa: BLE001 - whatever a handler raises is its answer
        _log_error(error)
        outcome = f'"error": {json.dumps(type(error).__name__)}'
    else:
        size = len(response)  # of ASCII
        outcome = f'"response": {response}' if size <= RESPONSE_LIMIT else f'"too_large": {size}'
    return f'{{"max_memory_mb": {_max_memory_mb()}, {outcome}}}'.encode()


def _context(invocation: dict[str, Any]) -> LambdaContext:
    return LambdaContext(
        aws_request_id=invocation["request_id"],
        invoked_function_arn=invocation["function_arn"],
        function_name=os.environ["AWS_LAMBDA_FUNCTION_NAME"],
        function_version=os.environ["AWS_LAMBDA_FUNCTION_VERSION"],
        memory_limit_in_mb=os.environ["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        log_group_name=os.environ["AWS_LAMBDA_LOG_GROUP_NAME"],
        log_stream_name=os.environ["AWS_LAMBDA_LOG_STREAM_NAME"],
        deadline_ms=invocation["deadline_ms"],
    )


def _log_error(error: BaseException) -> None:
    """Write the stack to the log, where Lambda writes it too; the service learns the type only."""
    print("[ERROR]", "".join(traceback.format_exception(error)), file=sys.stderr, flush=True)


def _send(service: socket.socket, message: dict[str, Any]) -> None:
    service.sendall(json.dumps(message).encode() + b"\n")


def _max_memory_mb() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)  # macOS counts bytes, Linux KiB


if __name__ == "__main__":
    main()
