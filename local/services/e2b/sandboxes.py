"""The sandboxes of one server: created, listed, paused, resumed, expired and killed as by E2B's control plane."""

import asyncio
import contextlib
import fcntl
import logging
import os
import re
import secrets
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import IO, Any, Literal

from local.services.e2b.box import Box, BoxGone, Refused, close_all, empty_folder, kill_marked, remove_tree
from local.services.e2b.commands import CommandTable
from local.services.e2b.isolation import (
    MARK,
    PYTHON_PROBLEM,
    SANDBOX_PYTHON,
    SYSTEM_PATH,
    Bubblewrap,
    Isolation,
    PlainProcess,
    why_not_isolated,
)
from local.services.e2b.journal import Journal
from local.services.e2b.template import Template

logger = logging.getLogger("local.services.e2b")

SANDBOX_ID = re.compile(r"i[0-9a-f]{20}")
MAX_TIMEOUT_S = 24 * 3600  # E2B Pro; the Hobby tier has one hour
AUTO_RESUME_TIMEOUT_S = 300
PROBE_TIMEOUT_S = 50  # measured: 0.3 s; sandboxes must not lose their isolation because the machine is busy
CALL_THREADS = 32  # one blocking call to a sandbox each

IsolationChoice = Literal["auto", "bubblewrap", "process"]
State = Literal["running", "paused"]


class NotFound(Exception):
    """No such sandbox, or none in the state the call needs."""


class AlreadyPaused(Exception):
    pass


class InvalidTimeout(Exception):
    pass


class IsolationUnavailable(Exception):
    """Bubblewrap was asked for and does not work here; the text says why."""


class RootInUse(Exception):
    """Another server runs in the same folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a create request asks for. `timeout_s` counts from the creation."""

    template: str
    timeout_s: int
    metadata: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    pause_on_timeout: bool = False
    auto_resume: bool = False
    allow_internet_access: bool | None = None
    network: Mapping[str, object] | None = None


@dataclass(slots=True, kw_only=True)
class Envd:
    """What a sandbox's envd was told by `/init`. All of it is in memory: one that restarts is as this begins.

    Without an access token it asks for none.
    """

    access_token: str | None = None
    user: str = "root"
    folder: str = ""  # else the home of a request's user
    env: Mapping[str, str] = field(default_factory=dict)
    requests: set["Connection"] = field(default_factory=set)


class Connection:
    """A request that envd serves. One that is broken says no more to its client, and ends without its end."""

    def __init__(self) -> None:
        self.broken = asyncio.Event()


@dataclass(slots=True, kw_only=True)
class Sandbox:
    """One sandbox. `access_token` is what its clients know. `network` is kept and shown, not enforced."""

    id: str
    access_token: str
    wish: Wish
    template: Template
    box: Box
    commands: CommandTable
    started_at: datetime
    end_at: datetime
    state: State = "running"
    network: Mapping[str, object] | None
    allow_internet_access: bool | None
    envd: Envd = field(default_factory=Envd)
    timer: asyncio.TimerHandle | None = None
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def init_envd(self) -> None:
        """Tell envd what it has to know."""
        self.envd.access_token = self.access_token
        self.envd.user, self.envd.folder = self.template.user, self.template.folder
        self.envd.env = self.wish.env

    def end_envd(self) -> None:
        """Let envd begin again; the connections to the one before break."""
        old, self.envd = self.envd, Envd()
        for request in old.requests:
            request.broken.set()

    def environment(self, user: str) -> dict[str, str]:
        """What a command of `user` starts with; the request's own variables come on top."""
        return {
            "PATH": SYSTEM_PATH,
            "HOME": self.box.view.users[user].home,
            "USER": user,
            "LOGNAME": user,
            **self.envd.env,
            "E2B_SANDBOX": "true",
            MARK: self.id,
            "E2B_TEMPLATE_ID": self.wish.template,
        }


class Fleet:
    """All sandboxes below one folder. Use from one event loop, between `open` and `close`."""

    def __init__(
        self,
        root: Path,
        extra_path: Sequence[Path],
        isolation: IsolationChoice | Isolation,
        journal: Journal | None = None,
        template: Template | None = None,
    ) -> None:
        self.journal = journal or Journal()
        self._template = template or Template()
        self._root = root.resolve()
        self._extra_path = [path.absolute() for path in extra_path]
        self._choice = isolation
        self._isolation: Isolation | None = None
        self._sandboxes: dict[str, Sandbox] = {}
        self._creations: dict[str, asyncio.Task[Sandbox]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lock: IO[str] | None = None

    @property
    def isolation(self) -> str | None:
        """The name of the isolation; None before `open`."""
        return self._isolation.name if self._isolation else None

    async def open(self) -> None:
        """Remove what an earlier server left in the folder and find out how sandboxes are isolated here.

        Raises RootInUse, IsolationUnavailable, or NotADirectoryError for an `extra_path` that is none.
        """
        for path in self._extra_path:
            if not path.is_dir():
                raise NotADirectoryError(f"extra_path: {path} is not a folder")
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(CALL_THREADS, "e2b-call"))
        self._root.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self._root / "server.lock")
        await asyncio.to_thread(remove_leftovers, self._root)
        self._isolation = await self._choose_isolation()
        logger.info("sandboxes are isolated by %s", self._isolation.name)

    async def init_envd(self, sandbox: Sandbox) -> None:
        """The orchestrator's `/init`: after creating, after a resume from a pause and after a reboot."""
        sandbox.init_envd()

    async def close(self) -> None:
        """Kill and remove every sandbox."""
        results = await asyncio.gather(*map(self.kill, self._sandboxes), return_exceptions=True)
        for problem in results:
            if isinstance(problem, BaseException) and not isinstance(problem, NotFound):
                logger.error("a sandbox could not be removed", exc_info=problem)
        for task in [*self._tasks, *self._creations.values()]:
            task.cancel()
        if self._lock is not None:
            self._lock.close()

    async def create(self, wish: Wish, idempotency_key: str | None = None) -> Sandbox:
        """A new running sandbox; with a key that was used before, the sandbox of that time while it exists.

        How long E2B remembers a key is not documented: here it is as long as its sandbox. Raises InvalidTimeout.
        """
        key = idempotency_key or secrets.token_hex(8)
        if key not in self._creations:
            self._creations[key] = asyncio.create_task(self._create(wish, key))
        # Shielded: the client that retries after a lost connection finds the same sandbox.
        return await asyncio.shield(self._creations[key])

    def get(self, sandbox_id: str) -> Sandbox:
        """Raises NotFound."""
        if sandbox_id not in self._sandboxes:
            raise NotFound(sandbox_id)
        return self._sandboxes[sandbox_id]

    async def reach(self, sandbox_id: str) -> Sandbox:
        """The running sandbox a request to envd is for; wakes one that has auto_resume. Raises NotFound."""
        sandbox = self.get(sandbox_id)
        if sandbox.state == "paused" and sandbox.wish.auto_resume:
            sandbox, _ = await self.connect(sandbox_id, AUTO_RESUME_TIMEOUT_S)
        if sandbox.state == "paused":
            raise NotFound(sandbox_id)
        return sandbox

    def all(self) -> Iterator[Sandbox]:
        return iter(list(self._sandboxes.values()))

    def set_timeout(self, sandbox_id: str, timeout_s: int) -> None:
        """Let a running sandbox end `timeout_s` seconds from now. Raises NotFound and InvalidTimeout."""
        self._end_in(self._running(sandbox_id), timeout_s)

    async def connect(self, sandbox_id: str, timeout_s: int) -> tuple[Sandbox, bool]:
        """Resume a paused sandbox, or extend (never shorten) the life of a running one; True when it was resumed."""
        check_timeout(timeout_s)
        sandbox = self.get(sandbox_id)
        async with sandbox.changing:
            if self.get(sandbox_id).state == "running":
                if sandbox.end_at < now() + timedelta(seconds=timeout_s):
                    self._end_in(sandbox, timeout_s)
                return sandbox, False
            await sandbox.box.resume()
            await self.init_envd(sandbox)
            sandbox.state = "running"
            sandbox.started_at = now()
            self._end_in(sandbox, timeout_s)
            return sandbox, True

    async def pause(self, sandbox_id: str) -> None:
        """Stop all processes and cut all connections. Raises NotFound and AlreadyPaused."""
        sandbox = self.get(sandbox_id)
        async with sandbox.changing:
            if self.get(sandbox_id).state == "paused":
                raise AlreadyPaused(sandbox_id)
            sandbox.state = "paused"
            stop_timer(sandbox)
            await sandbox.box.pause()
            sandbox.commands.cut_listeners()

    async def restart_envd(self, sandbox_id: str) -> None:
        """Let envd end and start again, as systemd does it after a crash. Raises NotFound, also for a paused one.

        The requests to it break and the commands go on, but it knows nothing of them. What `/init` told it is gone
        until the next one, which comes with a resume or a reboot: connecting to a running sandbox sends none.
        """
        sandbox = self._running(sandbox_id)
        async with sandbox.changing:
            self._running(sandbox_id).end_envd()
            await sandbox.commands.abandon()

    async def reboot(self, sandbox_id: str) -> None:
        """End all processes and start the sandbox again with its files. Raises NotFound, also for a paused one."""
        sandbox = self._running(sandbox_id)
        async with sandbox.changing:
            self._running(sandbox_id).end_envd()
            box = Box(sandbox.id, sandbox.box.folder, sandbox.box.isolation)
            await sandbox.box.kill()
            await sandbox.commands.settle()
            for volatile in ("tmp", "run"):
                await asyncio.to_thread(empty_folder, box.folder / volatile)
            sandbox.box, sandbox.commands = box, CommandTable(box)
            box.start()
            await self.init_envd(sandbox)

    def _running(self, sandbox_id: str) -> Sandbox:
        sandbox = self.get(sandbox_id)
        if sandbox.state == "paused":
            raise NotFound(sandbox_id)
        return sandbox

    async def kill(self, sandbox_id: str) -> None:
        """End all processes of a sandbox and delete its directory. Raises NotFound."""
        sandbox = self.get(sandbox_id)
        async with sandbox.changing:
            if self._sandboxes.pop(sandbox_id, None) is None:
                raise NotFound(sandbox_id)
            self.journal.note("killed", sandbox_id=sandbox_id)
            stop_timer(sandbox)
            sandbox.commands.cut_listeners()
            await sandbox.box.kill()
            await sandbox.commands.settle()
            await asyncio.to_thread(remove_tree, sandbox.box.folder)

    async def _create(self, wish: Wish, key: str) -> Sandbox:
        try:
            check_timeout(wish.timeout_s)
            box = await self._start_box(f"i{secrets.token_hex(10)}", self._isolation)
            sandbox = self._sandbox_in(box, wish)
            try:
                await self.init_envd(sandbox)
            except BaseException:
                await self._discard(box)
                raise
        except BaseException:
            del self._creations[key]
            raise
        self._sandboxes[sandbox.id] = sandbox
        self._end_in(sandbox, wish.timeout_s)
        self._spawn(self._bury(sandbox, key))
        return sandbox

    def _sandbox_in(self, box: Box, wish: Wish) -> Sandbox:
        return Sandbox(
            id=box.sandbox_id,
            access_token=f"ea_{secrets.token_hex(20)}",
            wish=wish,
            template=self._template,
            box=box,
            commands=CommandTable(box),
            started_at=now(),
            end_at=now(),
            network=wish.network,
            allow_internet_access=wish.allow_internet_access,
        )

    async def _start_box(self, name: str, isolation: Isolation | None) -> Box:
        if isolation is None:
            raise RuntimeError("the fleet is not open")
        folder = self._root / name
        folder.mkdir()
        folder.chmod(0o755)  # it is the root directory of the sandbox, whatever our umask is
        box = Box(name, folder, isolation)
        try:
            isolation.lay_out(folder)
            box.start()
        except OSError:
            await asyncio.to_thread(remove_tree, folder)
            raise
        return box

    async def _bury(self, sandbox: Sandbox, key: str) -> None:
        """Forget a sandbox once its processes are gone, be it that somebody killed its first one."""
        while not sandbox.box.lost.is_set():
            await sandbox.box.lost.wait()
            async with sandbox.changing:
                pass  # a reboot gives it another box
        del self._creations[key]
        with contextlib.suppress(NotFound):
            await self.kill(sandbox.id)
            logger.warning("sandbox %s ended by itself: %s", sandbox.id, sandbox.box.complaint)

    def _end_in(self, sandbox: Sandbox, timeout_s: int) -> None:
        check_timeout(timeout_s)
        stop_timer(sandbox)
        sandbox.end_at = now() + timedelta(seconds=timeout_s)
        sandbox.timer = asyncio.get_running_loop().call_later(timeout_s, self._spawn_expiry, sandbox)

    def _spawn_expiry(self, sandbox: Sandbox) -> None:
        self._spawn(self._expire(sandbox))

    async def _expire(self, sandbox: Sandbox) -> None:
        with contextlib.suppress(NotFound, AlreadyPaused):
            if sandbox.wish.pause_on_timeout:
                await self.pause(sandbox.id)
            else:
                await self.kill(sandbox.id)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _choose_isolation(self) -> Isolation:
        if not isinstance(self._choice, str):
            return self._choice
        problem: str | None = None
        if self._choice != "process":
            bubblewrap = Bubblewrap(self._extra_path, self._template)
            problem = await self._problem_with(bubblewrap)
            if problem is None:
                return bubblewrap
        if self._choice == "bubblewrap":
            raise IsolationUnavailable(f"bubblewrap does not work here: {problem}")
        logger.warning("NO ISOLATION: %s", why_not_isolated(problem))  # the stack shows that line to the person
        return PlainProcess(self._extra_path, self._root / "bin", self._template)

    async def _problem_with(self, isolation: Isolation) -> str | None:
        """Start a sandbox and run python3 in it as the user with the fewest rights."""
        try:
            box = await self._start_box("probe", isolation)
        except OSError as error:  # bwrap is not installed
            return str(error)
        problem: str | None = None
        try:
            problem = await python3_problem(box)
        except TimeoutError:
            problem = f"the first sandbox did not answer in {PROBE_TIMEOUT_S} s"
        except Refused as refusal:
            problem = f"{PYTHON_PROBLEM}: {refusal}"
        except BoxGone as error:
            problem = repr(error)
        await self._discard(box)
        return box.complaint or problem

    async def _discard(self, box: Box) -> None:
        await box.kill()
        await asyncio.to_thread(remove_tree, box.folder)


async def python3_problem(box: Box) -> str | None:
    argv = [SANDBOX_PYTHON, "-IS", "-c", "import json, ssl"]
    request = {"user": "agent", "argv": argv, "env": {"PATH": SYSTEM_PATH}, "cwd": "", "stdin": False, "terminal": None}
    reply = await box.command(request)
    try:
        status = await asyncio.wait_for(box.exit_status(reply.value["pid"]), PROBE_TIMEOUT_S)
        complaint = os.read(reply.fds[-1], 4096).decode(errors="replace").strip()
    finally:
        close_all(reply.fds)
    return None if status == 0 else f"{PYTHON_PROBLEM}: {complaint}"


def now() -> datetime:
    return datetime.now(UTC)


def check_timeout(timeout_s: int) -> None:
    if not 0 <= timeout_s <= MAX_TIMEOUT_S:
        raise InvalidTimeout(f"Timeout cannot be greater than {MAX_TIMEOUT_S // 3600} hours")


def stop_timer(sandbox: Sandbox) -> None:
    if sandbox.timer is not None:
        sandbox.timer.cancel()
        sandbox.timer = None


def lock(path: Path) -> IO[str]:
    """Hold `path` until the returned file is closed or this process ends. Raises RootInUse."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise RootInUse(f"another E2B server runs in {path.parent}") from error
    return file


def remove_leftovers(root: Path) -> None:
    """End the sandboxes an earlier server in `root` could not end, and delete their directories."""
    folders = [path for path in root.iterdir() if SANDBOX_ID.fullmatch(path.name) or path.name == "probe"]
    if folders:
        kill_marked({path.name for path in folders})
        for folder in folders:
            remove_tree(folder)
        logger.info("removed %d sandboxes of an earlier server", len(folders))
