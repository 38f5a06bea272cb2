"""envd's process service: the RPCs behind `sandbox.commands` and `sandbox.pty`."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from connectrpc.code import Code
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from e2b.envd.process import process_pb as pb
from e2b.envd.process.process_connect import Process
from protobuf import Oneof

from local.services.e2b.box import BoxGone, Refused
from local.services.e2b.commands import Command, ConnectionLost, Ended, Event, Listener, Spec
from local.services.e2b.envd import connection_lost, rpc_error, user_of
from local.services.e2b.sandboxes import Fleet, NotFound, Sandbox

KEEPALIVE_S = 90  # envd's default; the SDK asks for 50
SIGNALS = {pb.Signal.SIGKILL: signal.SIGKILL, pb.Signal.SIGTERM: signal.SIGTERM}

Context = RequestContext[Any, Any]


class ProcessService(Process):
    """Starts commands in the sandbox the request's header names."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def start(self, request: pb.StartRequest, ctx: Context) -> AsyncIterator[pb.StartResponse]:
        sandbox = self._sandbox(ctx)
        asked = request.process or pb.ProcessConfig()
        self._fleet.journal.note(
            "start", sandbox_id=sandbox.id, cmd=asked.cmd, args=list(asked.args), envs=dict(asked.envs)
        )
        listener = Listener()
        try:
            command = await sandbox.commands.start(spec_of(request, sandbox, ctx), listener)
            async for event in self._events(sandbox, command, listener, ctx):
                yield pb.StartResponse(event=event)
        except Refused as refused:
            raise rpc_error(refused) from refused
        except BoxGone as gone:
            raise connection_lost(sandbox.id) from gone
        finally:
            listener.leave()

    async def connect(self, request: pb.ConnectRequest, ctx: Context) -> AsyncIterator[pb.ConnectResponse]:
        sandbox = self._sandbox(ctx)
        command = find(sandbox, request.process, ended=True)
        listener = Listener()
        command.add(listener)
        try:
            async for event in self._events(sandbox, command, listener, ctx):
                yield pb.ConnectResponse(event=event)
        finally:
            listener.leave()

    async def list(self, _request: pb.ListRequest, ctx: Context) -> pb.ListResponse:
        return pb.ListResponse(processes=[info_of(command) for command in self._sandbox(ctx).commands.running()])

    async def send_signal(self, request: pb.SendSignalRequest, ctx: Context) -> pb.SendSignalResponse:
        command = find(self._sandbox(ctx), request.process)
        if request.signal not in SIGNALS:
            raise ConnectError(Code.UNIMPLEMENTED, f"invalid signal: {request.signal}")
        await command.signal(SIGNALS[request.signal])
        return pb.SendSignalResponse()

    async def send_input(self, request: pb.SendInputRequest, ctx: Context) -> pb.SendInputResponse:
        await write(find(self._sandbox(ctx), request.process), request.input)
        return pb.SendInputResponse()

    async def stream_input(self, request: AsyncIterator[pb.StreamInputRequest], ctx: Context) -> pb.StreamInputResponse:
        command: Command | None = None
        async for message in request:
            match message.event:
                case Oneof(value=pb.StreamInputRequest.StartEvent() as start):
                    command = find(self._sandbox(ctx), start.process)
                case Oneof(value=pb.StreamInputRequest.DataEvent() as data):
                    if command is None:
                        raise ConnectError(Code.INVALID_ARGUMENT, "input came before the process it is for")
                    await write(command, data.input)
        return pb.StreamInputResponse()

    async def close_stdin(self, request: pb.CloseStdinRequest, ctx: Context) -> pb.CloseStdinResponse:
        command = find(self._sandbox(ctx), request.process)
        if command.spec.terminal:
            raise ConnectError(Code.UNKNOWN, "cannot close stdin of a PTY process, send Ctrl+D (0x04) instead")
        command.close_stdin()
        return pb.CloseStdinResponse()

    async def update(self, request: pb.UpdateRequest, ctx: Context) -> pb.UpdateResponse:
        command = find(self._sandbox(ctx), request.process)
        if size := request.pty and request.pty.size:
            try:
                command.resize(size.cols, size.rows)
            except OSError as error:
                raise ConnectError(Code.INTERNAL, str(error)) from error
        return pb.UpdateResponse()

    def _sandbox(self, ctx: Context) -> Sandbox:
        """The guard has let the request through, yet the sandbox may have ended since."""
        sandbox_id = ctx.request_headers.get("e2b-sandbox-id", "")
        try:
            return self._fleet.get(sandbox_id)
        except NotFound as error:
            raise connection_lost(sandbox_id) from error

    async def _events(
        self, sandbox: Sandbox, command: Command, listener: Listener, ctx: Context
    ) -> AsyncIterator[pb.ProcessEvent]:
        """The stream of one client: the pid first, then what it hears, a keep-alive when that is nothing."""
        yield process_event("start", pb.ProcessEvent.StartEvent(pid=command.pid))
        if command.end is not None:
            yield event_of(command.end)
            return
        keepalive_s = float(ctx.request_headers.get("keepalive-ping-interval", str(KEEPALIVE_S)))
        while True:
            left_s = keepalive_s if ctx.timeout_ms is None else ctx.timeout_ms / 1000
            try:
                event = await within(min(keepalive_s, left_s), listener.next)
            except ConnectionLost as lost:
                raise connection_lost(sandbox.id) from lost
            if event is not None:
                yield event_of(event)
                if isinstance(event, Ended):
                    return
            elif left_s < keepalive_s:
                raise ConnectError(Code.DEADLINE_EXCEEDED, "the command's timeout has passed")
            else:
                yield process_event("keepalive", pb.ProcessEvent.KeepAlive())


async def within(seconds: float, read: Callable[[], Awaitable[Event]]) -> Event | None:
    """What `read` returns, or None when it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await read()
    except TimeoutError:
        return None


def spec_of(request: pb.StartRequest, sandbox: Sandbox, ctx: Context) -> Spec:
    process = request.process or pb.ProcessConfig()
    user = user_of(sandbox, ctx.request_headers)
    size = request.pty and (request.pty.size or pb.PTY.Size(cols=80, rows=24))
    return Spec(
        argv=[process.cmd, *process.args],
        env={**sandbox.environment(user), **process.envs},
        cwd=process.cwd if process.has_field("cwd") else None,
        folder=process.cwd or sandbox.envd.folder,
        user=user,
        stdin=request.stdin if request.has_field("stdin") else True,
        terminal=(size.cols, size.rows) if size else None,
        tag=request.tag if request.has_field("tag") else None,
        timeout_s=ctx.timeout_ms / 1000 if ctx.timeout_ms is not None else None,
        shown_env=dict(process.envs),
    )


def find(sandbox: Sandbox, selector: pb.ProcessSelector | None, *, ended: bool = False) -> Command:
    """Raises ConnectError NOT_FOUND."""
    match selector and selector.selector:
        case Oneof(value=int() as pid):
            command, what = sandbox.commands.find(pid=pid, ended=ended), f"pid {pid}"
        case Oneof(value=str() as tag):
            command, what = sandbox.commands.find(tag=tag, ended=ended), f"tag {tag}"
        case _:
            raise ConnectError(Code.UNIMPLEMENTED, "the request selects no process")
    if command is None:
        raise ConnectError(Code.NOT_FOUND, f"process with {what} not found")
    return command


async def write(command: Command, data: pb.ProcessInput | None) -> None:
    match data and data.input:
        case Oneof(field=stream, value=chunk):
            try:
                await command.write(stream, chunk)
            except OSError as error:
                raise ConnectError(Code.INTERNAL, f"error writing to {stream}: {error}") from error


def event_of(event: Event) -> pb.ProcessEvent:
    if isinstance(event, Ended):
        end = pb.ProcessEvent.EndEvent(exit_code=event.exit_code, exited=event.exited, status=event.status)
        if event.error is not None:
            end.error = event.error
        return process_event("end", end)
    output: Any = Oneof(event.stream, event.data)
    return process_event("data", pb.ProcessEvent.DataEvent(output=output))


def process_event(kind: str, value: object) -> pb.ProcessEvent:
    event: Any = Oneof(kind, value)  # its type ties the name to the value, which no variable can express
    return pb.ProcessEvent(event=event)


def info_of(command: Command) -> pb.ProcessInfo:
    spec = command.spec
    config = pb.ProcessConfig(cmd=spec.argv[0], args=spec.argv[1:], envs=spec.shown_env, cwd=spec.cwd)
    return pb.ProcessInfo(config=config, pid=command.pid, tag=spec.tag)
