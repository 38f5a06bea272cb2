"""One sandbox on this machine: its directory, its first process (`sandbox_init`) and the calls to it."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from local.services.e2b.isolation import MARK, Isolation

CALL_TIMEOUT_S = 60  # the SDK's own default request timeout
KILL_TIMEOUT_S = 10


class Refused(Exception):
    """The sandbox answered no. `code` is the Connect code in lower case; `status` that of a file call."""

    def __init__(self, code: str, message: str, pid: int, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.pid = pid
        self.status = status


class BoxGone(Exception):
    """The sandbox's first process does not answer any more, so neither does anything else in it."""


@dataclass(frozen=True, slots=True)
class Reply:
    value: Any
    fds: list[int]


class Box:
    """A directory and the processes that live in it.

    `start`, `kill` and `exit_status` belong to the event loop's thread; `call` may run in any thread.
    `lost` is set when the processes are gone, for whatever reason. `complaint` is what init or bubblewrap printed,
    after `kill`.
    """

    def __init__(self, sandbox_id: str, folder: Path, isolation: Isolation) -> None:
        self.sandbox_id = sandbox_id
        self.folder = folder
        self.isolation = isolation
        self.view = isolation.view(folder)
        self.lost = asyncio.Event()
        self.complaint = ""
        self._exits: dict[int, asyncio.Future[int]] = {}
        self._paused_at: float | None = None
        self._paused_s = 0.0
        self._sending = threading.Lock()
        self._unread = b""
        self._control: socket.socket | None = None
        self._init: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the first process in a directory that is laid out, in the event loop's thread. Raises OSError.

        Does not wait for it: calls queue in the socket until it reads them. If it cannot start, the box is lost.
        """
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            # --die-with-parent means the thread that started it, so not in a worker thread
            self._init = subprocess.Popen(
                [*self.isolation.command(self.folder), str(theirs.fileno()), json.dumps(self.view.for_init())],
                pass_fds=[theirs.fileno()],
                env={"PATH": os.environ.get("PATH", os.defpath), MARK: self.sandbox_id},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        self._control = ours
        asyncio.get_running_loop().add_reader(ours, self._on_control, ours)

    async def command(self, request: dict[str, Any]) -> Reply:
        """Start a command: `sandbox_init.start` with its answer. Raises Refused and BoxGone."""
        request = {**request, "argv": self.isolation.localized(self.folder, request["argv"])}
        try:
            return await asyncio.to_thread(self.call, {"op": "start", **request}, b"c")
        except Refused as refused:  # init will report the end of that child, too
            pid = refused.pid
            self.exit_status(pid).add_done_callback(lambda _: self.forget(pid))
            raise

    async def ask(self, op: str, **request: Any) -> Reply:
        """Any other operation of `sandbox_init`, by name. Raises Refused and BoxGone."""
        return await asyncio.to_thread(self.call, {"op": op, **request})

    def call(self, request: dict[str, Any], kind: bytes = b"f") -> Reply:
        """Blocks until init's child has answered. The caller owns the descriptors of the reply."""
        ours, theirs = socket.socketpair()
        with ours:
            ours.settimeout(CALL_TIMEOUT_S)
            try:
                with theirs:
                    self._hand_over(theirs, kind)
                ours.sendall(json.dumps(request).encode())
                ours.shutdown(socket.SHUT_WR)
                answer, fds = read_answer(ours)
            except OSError as error:
                raise BoxGone(self.sandbox_id) from error
        if "refused" in answer:
            close_all(fds)
            raise Refused(answer["refused"], answer["message"], answer["pid"], answer["status"])
        return Reply(answer["ok"], fds)

    def _hand_over(self, call: socket.socket, kind: bytes) -> None:
        with self._sending:
            if self._control is None:
                raise BoxGone(self.sandbox_id)
            socket.send_fds(self._control, [kind], [call.fileno()])

    def exit_status(self, pid: int) -> asyncio.Future[int]:
        """The wait status of a command that was started, once it has ended (SIGKILL when the box is lost)."""
        if pid not in self._exits:
            self._exits[pid] = asyncio.get_running_loop().create_future()
            if self.lost.is_set():
                self._exits[pid].set_result(signal.SIGKILL)
        return self._exits[pid]

    def forget(self, pid: int) -> None:
        self._exits.pop(pid, None)

    def clock(self) -> float:
        """Seconds on a clock that stands still while the box is paused."""
        return (self._paused_at or time.monotonic()) - self._paused_s

    async def pause(self) -> None:
        """Stop every process of the sandbox (SIGSTOP)."""
        await self.ask("signal", pid=0, number=signal.SIGSTOP)
        self._paused_at = time.monotonic()

    async def resume(self) -> None:
        await self.ask("signal", pid=0, number=signal.SIGCONT)
        if self._paused_at is not None:
            self._paused_s += time.monotonic() - self._paused_at
            self._paused_at = None

    async def kill(self) -> None:
        """End every process of the sandbox, those that left their session too. Its directory stays."""
        self._hang_up()
        if self._init is not None:
            init, self._init = self._init, None
            self.complaint = await asyncio.to_thread(end_processes, init)
            if init.returncode != 0 or sys.platform != "linux":  # else the kernel or init has seen to it
                await asyncio.to_thread(kill_marked, {self.sandbox_id})

    def _on_control(self, control: socket.socket) -> None:
        try:
            data = control.recv(1 << 16)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._hang_up()
            return
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            pid, status = map(int, line.split())
            if not (ended := self.exit_status(pid)).done():
                ended.set_result(status)

    def _hang_up(self) -> None:
        """Close our end, which makes init end everything, and tell whoever waits."""
        with self._sending:
            if self._control is not None:
                asyncio.get_running_loop().remove_reader(self._control)
                self._control.close()
                self._control = None
        self.lost.set()
        for future in self._exits.values():
            if not future.done():
                future.set_result(signal.SIGKILL)


def read_answer(call: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Everything up to the end of the answer; the last line counts (a start that failed takes its pid back)."""
    data, fds = b"", list[int]()
    while True:
        chunk, new_fds, _, _ = socket.recv_fds(call, 1 << 16, 4)
        fds += new_fds
        if not chunk:
            break
        data += chunk
    for fd in fds:
        os.set_inheritable(fd, False)
    if not data:
        raise ConnectionError("the sandbox closed the call without an answer")
    return json.loads(data.splitlines()[-1]), fds


def close_all(fds: Iterable[int]) -> None:
    for fd in fds:
        os.close(fd)


def end_processes(init: subprocess.Popen[bytes]) -> str:
    """Wait for init, which ends the others when we hang up; the text is what it complained about."""
    try:
        _, complaint = init.communicate(timeout=KILL_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(psutil.NoSuchProcess):
            kill_tree(psutil.Process(init.pid))
        _, complaint = init.communicate(timeout=KILL_TIMEOUT_S)
    return complaint.decode(errors="replace").strip()


def kill_marked(sandbox_ids: set[str]) -> None:
    """Kill every process of these sandboxes that its environment gives away, and what descends from it."""
    give_up = time.monotonic() + KILL_TIMEOUT_S
    while (found := [p for p in psutil.process_iter() if mark_of(p) in sandbox_ids]) and time.monotonic() < give_up:
        for process in found:
            kill_tree(process)
        time.sleep(0.01)


def mark_of(process: psutil.Process) -> str | None:
    try:
        return None if process.status() == psutil.STATUS_ZOMBIE else process.environ().get(MARK)
    except (psutil.Error, OSError):  # gone, or another user's
        return None


def kill_tree(process: psutil.Process) -> None:
    """Kill a process and its descendants, those that we may kill and that have not ended meanwhile."""
    family = [process]
    with contextlib.suppress(psutil.Error):
        family += process.children(recursive=True)
    for member in family:
        with contextlib.suppress(psutil.Error):
            member.kill()


def empty_folder(folder: Path) -> None:
    """Delete what is in a folder that lies directly in a sandbox's. Nothing where the sandbox put something else."""
    if folder.is_symlink() or not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()


def remove_tree(folder: Path) -> None:
    """Delete a sandbox's directory or one in it, folders an agent made unreadable included. Follows no symlink."""
    folder.chmod(0o700)
    for parent, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(parent, name)
            if not path.is_symlink():
                path.chmod(0o700)
    shutil.rmtree(folder)
