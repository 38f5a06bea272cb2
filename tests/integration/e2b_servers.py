"""A local E2B server in a process of its own: the stand-in, or in `make conformance` the one with a real envd."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from local.stack import STAND_IN
from shared.config import SANDBOX_AGENT_PATH
from tests.conformance.settings import server_of

PROJECT = Path(__file__).parents[2]
API_KEY = "e2b_local_key"
PATIENCE_S = 60
# The module to run, and options beside those of `python -m local.services.e2b`. All tests take their server from here.
E2B_SERVER = server_of(os.environ)
REAL_ENVD = E2B_SERVER != STAND_IN
# How E2BSandboxes finds programs in a sandbox of this server.
LOCAL_SANDBOX = {"python": "/opt/python/bin/python3", "agent_path": "/opt/python/bin:/usr/bin:/bin"}
if REAL_ENVD:
    LOCAL_SANDBOX = {"python": "/usr/bin/python3", "agent_path": SANDBOX_AGENT_PATH}
# Two sandboxes or secrets a page, so that a handful of them fill several.
PROGRAM = (
    "import local.services.e2b.control_plane as c, local.services.e2b.secrets_api as s; c.PAGE_SIZE = s.PAGE_SIZE = 2;"
    "import runpy, sys; runpy.run_module(sys.argv.pop(1), run_name='__main__')"
)


class Server:
    """`options` are those of `python -m local.services.e2b`."""

    def __init__(self, folder, *options):
        module, *own = E2B_SERVER
        argv = [sys.executable, "-c", PROGRAM, module, "--root", f"{folder}/root", *own, *options]
        env = {**os.environ, "E2B_API_KEY": API_KEY}
        with Path(folder, "log").open("a") as log:
            self.process = subprocess.Popen(argv, cwd=PROJECT, env=env, stdout=subprocess.PIPE, stderr=log, text=True)
        name, _, self.url = self.process.stdout.readline().strip().partition("=")
        assert name == "E2B_API_URL", Path(folder, "log").read_text()

        self._begin = 0

    def begin_journal(self):
        """What is in it by now is of no interest any more."""
        self._begin += len(self.journal())

    def journal(self):
        answer = httpx.get(f"{self.url}/journal", headers={"X-API-KEY": API_KEY})
        return answer.raise_for_status().json()[self._begin :]

    def restart_envd(self, sandbox_id):
        restart_envd(self.url, API_KEY, sandbox_id)

    def reboot(self, sandbox_id):
        reboot(self.url, API_KEY, sandbox_id)

    def stop(self):
        self.process.terminate()
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()


def speak_to(server, monkeypatch):
    """Make the SDK use this server."""
    for name in ("E2B_API_URL", "E2B_SANDBOX_URL"):
        monkeypatch.setenv(name, server.url)
    monkeypatch.setenv("E2B_API_KEY", API_KEY)


def restart_envd(url, api_key, sandbox_id):
    """Let the sandbox's envd crash: the server at `url` starts it again, and it has forgotten everything."""
    _local(url, api_key, f"{sandbox_id}/restart-envd")


def reboot(url, api_key, sandbox_id):
    """Let the sandbox's machine boot again: its processes are gone, its files are there."""
    _local(url, api_key, f"{sandbox_id}/reboot")


def _local(url, api_key, what):
    answer = httpx.post(f"{url}/_local/sandboxes/{what}", headers={"X-API-KEY": api_key}, timeout=PATIENCE_S)
    answer.raise_for_status()
