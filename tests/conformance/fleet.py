"""The sandboxes of the rig: machines with a real envd, and what E2B's orchestrator does for it."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import httpx

from local.services.e2b.box import BoxGone
from local.services.e2b.journal import Journal
from local.services.e2b.sandboxes import Fleet, IsolationUnavailable, Sandbox, Wish
from local.services.e2b.template import Template
from tests.conformance.image import Image
from tests.conformance.machines import Machines

READY_TIMEOUT_S = 60
POLL_S = 0.02
REQUEST_TIMEOUT_S = 60


class EnvdFleet(Fleet):
    """As the stand-in's fleet, of machines with `envd`, which start from the root file system `base`."""

    def __init__(
        self, root: Path, extra_path: Sequence[Path], *, envd: Path, base: Path, template: Template, journal: Journal
    ) -> None:
        programs = [path.absolute() for path in extra_path]
        self.image = Image(base, root.resolve() / "template", envd, template, programs)
        self.machines = Machines(self.image)
        super().__init__(root, extra_path, self.machines, journal, template)
        self._client = httpx.AsyncClient(timeout=REQUEST_TIMEOUT_S, trust_env=False)
        self._streams: dict[str, set[asyncio.Task[None]]] = {}

    async def open(self) -> None:
        """As for the stand-in; IsolationUnavailable also says why no machine can be made here."""
        await super().open()
        try:
            await asyncio.to_thread(self.image.build)
            await self._try_out()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await super().close()
        await self._client.aclose()

    def address(self, sandbox: Sandbox) -> str:
        """The URL of the sandbox's envd."""
        return f"http://127.0.0.1:{self.machines.port(sandbox.box.folder)}"

    def note_stream(self, sandbox: Sandbox, stream: asyncio.Task[None]) -> None:
        """Let `stream` be cut when the sandbox is paused or killed."""
        streams = self._streams.setdefault(sandbox.id, set())
        streams.add(stream)
        stream.add_done_callback(streams.discard)

    async def pause(self, sandbox_id: str) -> None:
        await super().pause(sandbox_id)
        self._cut_streams(sandbox_id)

    async def kill(self, sandbox_id: str) -> None:
        folder = self.get(sandbox_id).box.folder
        await super().kill(sandbox_id)
        self._cut_streams(sandbox_id)
        self._streams.pop(sandbox_id, None)
        self.machines.forget(folder)

    async def restart_envd(self, sandbox_id: str) -> None:
        """Kill envd, which then starts again and has forgotten what `/init` said. Raises NotFound."""
        sandbox = await self.reach(sandbox_id)
        async with sandbox.changing:
            await sandbox.box.ask("restart_envd")
            await self._until_ready(sandbox)

    async def reboot(self, sandbox_id: str) -> None:
        await super().reboot(sandbox_id)
        self._cut_streams(sandbox_id)

    async def init_envd(self, sandbox: Sandbox) -> None:
        """Wait for envd and tell it what the orchestrator tells it."""
        await self._until_ready(sandbox)
        body = {
            "accessToken": sandbox.access_token,
            "defaultUser": sandbox.template.user,
            "defaultWorkdir": sandbox.template.folder,
            "envVars": variables_of(sandbox.id, sandbox.wish),
            "timestamp": datetime.now(UTC).isoformat(),
        }
        answer = await self._client.post(f"{self.address(sandbox)}/init", json=body)
        answer.raise_for_status()

    async def _until_ready(self, sandbox: Sandbox) -> None:
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while not await self._is_healthy(sandbox):
            if sandbox.box.lost.is_set():
                raise BoxGone(sandbox.id)
            if time.monotonic() > give_up_at:
                raise TimeoutError(f"envd of {sandbox.id} did not answer in {READY_TIMEOUT_S} s")
            await asyncio.sleep(POLL_S)

    async def _is_healthy(self, sandbox: Sandbox) -> bool:
        try:
            return (await self._client.get(f"{self.address(sandbox)}/health")).is_success
        except httpx.TransportError:
            return False

    async def _try_out(self) -> None:
        """Raises IsolationUnavailable."""
        box = await self._start_box("probe", self.machines)
        lost = asyncio.create_task(box.lost.wait())
        url = f"http://127.0.0.1:{self.machines.port(box.folder)}/health"
        problem = f"envd does not answer within {READY_TIMEOUT_S} s"
        give_up_at = time.monotonic() + READY_TIMEOUT_S
        while not lost.done() and time.monotonic() < give_up_at:
            try:
                await self._client.get(url)
            except httpx.TransportError:
                await asyncio.sleep(POLL_S)
            else:
                problem = ""
                break
        lost.cancel()
        await self._discard(box)
        self.machines.forget(box.folder)
        if problem := box.complaint or problem:
            raise IsolationUnavailable(f"no machine can be started here: {problem}")

    def _cut_streams(self, sandbox_id: str) -> None:
        for stream in self._streams.get(sandbox_id, set()):
            stream.cancel()


def variables_of(sandbox_id: str, wish: Wish) -> dict[str, str]:
    """The last three envd knows by itself from Firecracker, which is not there."""
    return {**wish.env, "E2B_SANDBOX": "true", "E2B_SANDBOX_ID": sandbox_id, "E2B_TEMPLATE_ID": wish.template}
