"""Commands of a sandbox as envd runs them: who hears their output, when they are killed, how they end.

envd's rules, which the executor has to live with (its source: packages/envd/internal/services/process, 2026-08):

- The `timeout` of a command is a deadline for its process, background or not. Only that one process is killed:
  what it left behind goes on.
- A client that goes away ends nothing.
- Output goes to the clients that are connected; with none it is read and dropped, and nothing is replayed. A client
  that is connected but does not read holds the command up.
- The end comes after stdout and stderr are closed, so a background child that kept them holds it up. A command that
  was killed ends at once.
- How a command ended is kept for 30 s for a client that connects late.
"""

import asyncio
import fcntl
import os
import signal
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from local.services.e2b.box import Box

ENDED_IS_KEPT_S = 30  # terminatedRetentionTTL in envd's service.go
CHUNK_BYTES = 32 * 1024  # envd's stdChunkSize
QUEUED_CHUNKS = 64  # envd's outputBufferSize
SETTLE_S = 5
DRAIN_S = 0.2  # for output that is still in the pipe of a killed command


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, in `folder`. `terminal` is (columns, rows) for a PTY; `timeout_s` None means no limit."""

    argv: list[str]
    env: dict[str, str]
    cwd: str | None  # as the request names it, which `list` shows
    folder: str
    user: str
    stdin: bool
    terminal: tuple[int, int] | None
    tag: str | None
    timeout_s: float | None
    shown_env: dict[str, str]  # the request's own variables, which `list` shows


@dataclass(frozen=True, slots=True)
class Output:
    stream: str  # "stdout", "stderr" or "pty"
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """How a process ended, in the words of Go's os.ProcessState."""

    exit_code: int
    exited: bool
    status: str

    @classmethod
    def of(cls, wait_status: int) -> "Ended":
        if os.WIFSIGNALED(wait_status):
            return cls(-1, exited=False, status=f"signal: {signal_text(os.WTERMSIG(wait_status))}")
        code = os.WEXITSTATUS(wait_status)
        return cls(code, exited=True, status=f"exit status {code}")

    @property
    def error(self) -> str | None:
        return None if self.exited and self.exit_code == 0 else self.status


def signal_text(number: int) -> str:
    return (signal.strsignal(number) or str(number)).lower().partition(":")[0]  # macOS says "Killed: 9"


Event = Output | Ended


class ConnectionLost(Exception):
    """The sandbox was paused or ended while somebody listened to one of its commands."""


class Listener:
    """One client's ear on a command. Back-pressure: the command waits while 64 chunks are unread."""

    def __init__(self) -> None:
        self.gone = False
        self._queue: asyncio.Queue[Event | ConnectionLost] = asyncio.Queue(QUEUED_CHUNKS)

    async def put(self, event: Event) -> None:
        if not self.gone:
            await self._queue.put(event)

    async def next(self) -> Event:
        """Raises ConnectionLost after `cut`."""
        event = await self._queue.get()
        if isinstance(event, ConnectionLost):
            raise event
        return event

    def leave(self) -> None:
        """Nobody reads any more: let go whoever waits to put."""
        self.gone = True
        while not self._queue.empty():
            self._queue.get_nowait()

    def cut(self) -> None:
        """The way to the sandbox is gone: whoever reads next is told so."""
        self.leave()
        self._queue.put_nowait(ConnectionLost())


class Pipe:
    """A descriptor read and written without blocking the event loop."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd: int | None = fd
        self._writing = asyncio.Lock()
        self._waiting: set[asyncio.Event] = set()

    @property
    def fd(self) -> int:
        if self._fd is None:
            raise OSError("closed")
        return self._fd

    async def read(self) -> bytes:
        """Some bytes, or none at the end."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return os.read(self.fd, CHUNK_BYTES)
            except BlockingIOError:
                await self._ready(loop.add_reader, loop.remove_reader)
            except OSError:  # EIO: the last process closed its side of a terminal
                return b""

    async def write(self, data: bytes) -> None:
        """Raises OSError when either side is closed."""
        loop = asyncio.get_running_loop()
        async with self._writing:
            while data:
                try:
                    data = data[os.write(self.fd, data) :]
                except BlockingIOError:
                    await self._ready(loop.add_writer, loop.remove_writer)

    async def _ready(self, add: Callable[..., None], remove: Callable[[int], bool]) -> None:
        ready = asyncio.Event()
        add(self.fd, ready.set)
        self._waiting.add(ready)
        try:
            await ready.wait()
        finally:
            self._waiting.discard(ready)
            if self._fd is not None:
                remove(self._fd)

    def close(self) -> None:
        if self._fd is not None:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = None
            for waiting in self._waiting:
                waiting.set()


class Command:
    """A process started through the API, from its start to its end."""

    def __init__(self, spec: Spec, box: Box, pid: int, fds: list[int]) -> None:
        self.spec = spec
        self.pid = pid
        self.end: Ended | None = None
        self._box = box
        self._listeners: list[Listener] = []
        self._killed = asyncio.Event()
        pipes = [Pipe(fd) for fd in fds]
        self._terminal = pipes[0] if spec.terminal else None
        self._stdin = pipes[0] if spec.stdin and not spec.terminal else None
        self._outputs = {"pty": pipes[0]} if spec.terminal else {"stdout": pipes[-2], "stderr": pipes[-1]}
        self._started_at = box.clock()

    def add(self, listener: Listener) -> None:
        self._listeners.append(listener)

    def cut_listeners(self) -> None:
        for listener in self._listeners:
            listener.cut()

    async def tell(self, event: Event) -> None:
        self._listeners = [listener for listener in self._listeners if not listener.gone]
        for listener in self._listeners:
            await listener.put(event)

    async def run(self) -> Ended:
        """Carry the output until the process has ended."""
        outputs: asyncio.Future[Any] = asyncio.gather(
            *(self._pump(stream, pipe) for stream, pipe in self._outputs.items())
        )
        killed: asyncio.Future[Any] = asyncio.ensure_future(self._killed.wait())
        deadline = asyncio.ensure_future(self._kill_at_deadline())
        try:
            await asyncio.wait({outputs, killed}, return_when=asyncio.FIRST_COMPLETED)
            status = await self._box.exit_status(self.pid)
            await asyncio.wait({outputs}, timeout=DRAIN_S)
        finally:
            for task in (outputs, killed, deadline):
                task.cancel()
            await asyncio.gather(outputs, killed, deadline, return_exceptions=True)
            self._box.forget(self.pid)
            self.close_stdin()
            for pipe in self._outputs.values():
                pipe.close()
        self.end = Ended.of(status)
        return self.end

    async def signal(self, number: int) -> None:
        """SIGKILL and SIGTERM also stop the wait for the output to close, as in envd."""
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._killed.set()
        await self._box.ask("signal", pid=self.pid, number=number)

    async def write(self, stream: str, data: bytes) -> None:
        """Raises OSError when the command takes no such input (any more)."""
        pipe = self._terminal if stream == "pty" else self._stdin
        if pipe is None:
            raise OSError("stdin not enabled or closed" if stream == "stdin" else "no tty assigned to the process")
        await pipe.write(data)

    def close_stdin(self) -> None:
        if self._stdin is not None:
            self._stdin.close()
            self._stdin = None

    def resize(self, columns: int, rows: int) -> None:
        if self._terminal is None:
            raise OSError("tty not assigned to process")
        fcntl.ioctl(self._terminal.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    async def _pump(self, stream: str, pipe: Pipe) -> None:
        while data := await pipe.read():
            await self.tell(Output(stream, data))

    async def _kill_at_deadline(self) -> None:
        """The clock is the sandbox's, which stands still while it is paused."""
        if self.spec.timeout_s is None:
            return
        while (left := self._started_at + self.spec.timeout_s - self._box.clock()) > 0:
            await asyncio.sleep(left)
        await self.signal(signal.SIGKILL)


class CommandTable:
    """The commands of one sandbox: those that run, and for 30 s how the others ended."""

    def __init__(self, box: Box) -> None:
        self._box = box
        self._running: dict[int, Command] = {}
        self._ended: dict[int, Command] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def running(self) -> list[Command]:
        return list(self._running.values())

    def find(self, *, pid: int | None = None, tag: str | None = None, ended: bool = False) -> Command | None:
        """The command of that pid or tag; with `ended` also one that is over."""
        known = [*self._running.values(), *(self._ended.values() if ended else ())]
        return next((c for c in known if (c.pid == pid if tag is None else c.spec.tag == tag)), None)

    async def start(self, spec: Spec, listener: Listener) -> Command:
        """Start a process, followed by a task of its own. Raises Refused and BoxGone.

        A caller that is cancelled meanwhile leaves a command that runs on, as a client of envd does.
        """
        return await asyncio.shield(asyncio.ensure_future(self._start(spec, listener)))

    async def _start(self, spec: Spec, listener: Listener) -> Command:
        reply = await self._box.command(
            {
                "user": spec.user,
                "argv": spec.argv,
                "env": spec.env,
                "cwd": spec.folder,
                "stdin": spec.stdin,
                "terminal": spec.terminal,
            }
        )
        command = Command(spec, self._box, reply.value["pid"], reply.fds)
        command.add(listener)
        self._ended.pop(command.pid, None)
        self._running[command.pid] = command
        task = asyncio.create_task(self._follow(command))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return command

    async def _follow(self, command: Command) -> None:
        end = await command.run()
        self._running.pop(command.pid, None)
        self._ended[command.pid] = command
        asyncio.get_running_loop().call_later(ENDED_IS_KEPT_S, self._drop, command)
        await command.tell(end)

    def _drop(self, command: Command) -> None:
        if self._ended.get(command.pid) is command:
            del self._ended[command.pid]

    async def abandon(self) -> None:
        """Forget all of them, as an envd that ends: they run on, without a deadline and with nobody at their pipes."""
        pids, tasks = list(self._running), list(self._tasks)
        self._running.clear()
        self._ended.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for pid in pids:
            self._box.exit_status(pid).add_done_callback(partial(self._forget, pid))

    def _forget(self, pid: int, _ended: object) -> None:
        self._box.forget(pid)

    def cut_listeners(self) -> None:
        for command in [*self._running.values(), *self._ended.values()]:
            command.cut_listeners()

    async def settle(self) -> None:
        """Wait for the commands of a box that was killed, so that their pipes are closed."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=SETTLE_S)
