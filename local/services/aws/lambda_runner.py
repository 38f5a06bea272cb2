"""The outside of Lambda: starts execution environments and invokes handlers in them.

As in the cloud, an environment is a process of its own that serves one invocation at a time and is reused
for the next; one that runs out of time, crashes or is killed is replaced by the next invocation's.
"""

import argparse
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass
from typing import Any, Self

REGION = "us-east-1"
ACCOUNT = "123456789012"
INIT_TIMEOUT_S = 180.0  # Lambda's own limit is 10 s; a busy laptop may be much slower
KILL_WAIT_S = 5.0
# A handler that sends a message may see it delivered before it returns itself: waiting a moment spares an INIT.
SOON_S = 0.2

logger = logging.getLogger("local.lambda")


class InvocationFailed(Exception):
    """The handler gave no answer. The text names the reason, never the event."""


class HandlerRaised(InvocationFailed):
    """The handler raised; its stack is in the log."""


class ResponseTooLarge(InvocationFailed):
    """The handler's answer exceeds Lambda's 6 MB."""


class TimedOut(InvocationFailed):
    """The function's timeout is over; the environment was killed."""


class EnvironmentLost(InvocationFailed):
    """The environment's process ended in the middle, or did not get through its INIT."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """What a template says of a function. `handler` is `package.module:name`."""

    handler: str
    name: str
    timeout_s: float
    memory_mb: int = 512

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"

    def environ(self) -> dict[str, str]:
        """Our own environment, which is the function's, and what Lambda adds to it."""
        stream = f"{time.strftime('%Y/%m/%d')}/[$LATEST]{uuid.uuid4().hex}"
        return {
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            **os.environ,
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
            "_HANDLER": self.handler,
            "PYTHONUNBUFFERED": "1",  # log lines appear when they are written
        }


class Environment:
    """One execution environment. Not for two threads at a time."""

    def __init__(self, function: Function) -> None:
        """Start the process and import the handler. Raises EnvironmentLost when that fails."""
        self._function = function
        self._socket, inside = socket.socketpair()
        with inside:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "local.services.aws.environment", function.handler],
                stdin=inside.fileno(),
                env=function.environ(),
                start_new_session=True,  # Ctrl-C is for the runner, which closes its environments
            )
        try:
            init = self._receive(INIT_TIMEOUT_S)
        except InvocationFailed:
            self.close()
            raise
        if "init_error" in init:
            self.close()
            raise EnvironmentLost(f"INIT of {function.handler} failed with {init['init_error']}.")
        logger.info("INIT %s %.0f ms", function.name, init["init_ms"])

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def invoke(self, event: Any) -> Any:
        """Call the handler with `event` and return its answer. Raises InvocationFailed."""
        request_id = str(uuid.uuid4())
        started = time.monotonic()
        invocation = {
            "request_id": request_id,
            "function_arn": self._function.arn,
            "deadline_ms": int((time.time() + self._function.timeout_s) * 1000),
            "event": event,
        }
        try:
            self._send(invocation)
            answer = self._receive(self._function.timeout_s)
        except InvocationFailed:
            self.close()
            raise
        logger.debug(
            "REPORT %s RequestId: %s Duration: %.2f ms Memory Size: %d MB Max Memory Used: %d MB",
            self._function.name,
            request_id,
            (time.monotonic() - started) * 1000,
            self._function.memory_mb,
            answer["max_memory_mb"],
        )
        if "error" in answer:
            raise HandlerRaised(f"{self._function.name} raised {answer['error']}.")
        if "too_large" in answer:
            raise ResponseTooLarge(f"{self._function.name} answered {answer['too_large']} bytes.")
        return answer["response"]

    def close(self) -> None:
        """End the process, also in the middle of an invocation."""
        self._process.kill()
        self._process.wait(KILL_WAIT_S)
        self._socket.close()

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self._socket.settimeout(self._function.timeout_s)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise EnvironmentLost(f"An environment of {self._function.name} ended.") from error

    def _receive(self, timeout_s: float) -> dict[str, Any]:
        give_up_at = time.monotonic() + timeout_s
        line = bytearray()
        while not line.endswith(b"\n"):
            try:
                self._socket.settimeout(max(give_up_at - time.monotonic(), 0.001))
                chunk = self._socket.recv(1 << 20)
            except TimeoutError as error:
                raise TimedOut(f"{self._function.name} timed out after {timeout_s:.2f} seconds.") from error
            except OSError:
                chunk = b""
            if not chunk:
                raise EnvironmentLost(f"An environment of {self._function.name} ended.")
            line += chunk
        message: dict[str, Any] = json.loads(line)
        return message


class Environments:
    """Up to `most` environments of one function, started when they are needed. For many threads."""

    def __init__(self, function: Function, *, most: int) -> None:
        self._function = function
        self._places = threading.BoundedSemaphore(most)
        self._lock = threading.Condition()
        self._idle: list[Environment] = []  # the last used one is the next
        self._busy: set[Environment] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def warm_up(self) -> None:
        """Start one environment now. Raises EnvironmentLost when its INIT fails."""
        environment = Environment(self._function)
        with self._lock:
            self._idle.append(environment)

    def invoke(self, event: Any) -> Any:
        """Call the handler in an idle environment, or a new one; wait when all are busy.

        Raises InvocationFailed.
        """
        with self._places:
            environment = self._take()
            try:
                return environment.invoke(event)
            finally:
                self._give_back(environment)

    def close(self) -> None:
        """End all environments; invocations under way raise EnvironmentLost."""
        with self._lock:
            self._closed = True
            environments = [*self._idle, *self._busy]
            self._idle.clear()
        for environment in environments:
            environment.close()

    def _take(self) -> Environment:
        environment = self._idle_one() or Environment(self._function)
        with self._lock:
            if not self._closed:
                self._busy.add(environment)
                return environment
        environment.close()
        raise EnvironmentLost(f"{self._function.name} is being stopped.")

    def _idle_one(self) -> Environment | None:
        with self._lock:
            if self._busy and not self._idle:
                self._lock.wait(SOON_S)
            while self._idle:
                environment = self._idle.pop()
                if environment.is_alive():
                    return environment
                environment.close()
        return None

    def _give_back(self, environment: Environment) -> None:
        with self._lock:
            self._busy.discard(environment)
            if environment.is_alive() and not self._closed:
                self._idle.append(environment)
                self._lock.notify()
                return
        environment.close()


def add_function_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that every kind of trigger shares."""
    parser.add_argument("--handler", required=True, help="package.module:function")
    parser.add_argument("--name", help="the function's name (default: made from the handler's)")
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--memory-mb", type=int, default=512, help="what the context says; not enforced")
    parser.add_argument("--verbose", action="store_true", help="log a REPORT line per invocation")


def function_of(arguments: argparse.Namespace) -> Function:
    """Return the function the options describe, and set up our own log on stderr."""
    level = logging.DEBUG if arguments.verbose else logging.INFO
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(message)s")
    logger.setLevel(level)
    return Function(
        handler=arguments.handler,
        name=arguments.name or arguments.handler.partition(":")[0].replace(".", "-"),
        timeout_s=arguments.timeout_s,
        memory_mb=arguments.memory_mb,
    )
