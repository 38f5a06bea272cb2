"""The rig itself: a machine is as E2B leaves it, so that what is closed in it was open before."""

import json
from collections.abc import Iterator

import httpx
import pytest
from e2b import CommandExitException, Sandbox

from sandbox import archive
from tests.conformance.image import HOSTNAME
from tests.integration.e2b_servers import Server, speak_to
from tests.waiting import wait_for

PLANTED = "#!/bin/sh\nid -u > /tmp/planted-$(id -u)\n"


@pytest.fixture(scope="module")
def running_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("e2b"))
    yield server
    server.stop()


@pytest.fixture
def sandbox(running_server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    speak_to(running_server, monkeypatch)
    sandbox = Sandbox.create("base", timeout=600)
    yield sandbox
    sandbox.kill()


def printed(sandbox: Sandbox, script: str, user: str = "agent") -> str:
    return sandbox.commands.run(script, user=user, cwd="/", timeout=60).stdout.strip()


def close(sandbox: Sandbox) -> None:
    sandbox.files.write("/root/programs.pyz", archive.archive(), user="root")
    env = "/usr/bin/env -i PATH=/usr/bin:/bin AGENT_USER=agent AGENT_HOME=/home/agent"
    said = json.loads(printed(sandbox, f"{env} /usr/bin/python3 -IS /root/programs.pyz close close", "root"))
    assert said["ok"], said["problems"]


def try_sudo(sandbox: Sandbox) -> str:
    return printed(sandbox, "sudo -n id -u", "user")


def try_ssh(sandbox: Sandbox) -> str:
    options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o PreferredAuthentications=none,password"
    return printed(sandbox, f"ssh {options} -o ConnectTimeout=20 -o BatchMode=no root@{HOSTNAME} id -u </dev/null")


def try_su(sandbox: Sandbox) -> str:
    return printed(sandbox, "su -c 'id -u' </dev/null")


def try_planting(sandbox: Sandbox) -> str:
    sandbox.files.write("/tmp/nice", PLANTED + 'exec /usr/bin/nice "$@"\n', user="agent")
    printed(sandbox, "install -m 755 /tmp/nice /usr/local/bin/nice")
    printed(sandbox, "true", "root")
    return printed(sandbox, "cat /tmp/planted-0")


WAYS = [try_sudo, try_ssh, try_su, try_planting]


@pytest.mark.parametrize("way", WAYS)
def test_each_way_leads_to_root_until_the_image_is_closed(sandbox: Sandbox, way) -> None:  # type: ignore[no-untyped-def]
    assert way(sandbox) == "0"

    printed(sandbox, "rm -f /usr/local/bin/nice /tmp/nice /tmp/planted-*", "root")
    close(sandbox)
    with pytest.raises(CommandExitException):
        way(sandbox)


def test_envd_that_starts_again_has_forgotten_what_it_was_told(running_server: Server, sandbox: Sandbox) -> None:
    before = printed(sandbox, "setsid sleep 600 </dev/null >/dev/null 2>&1 & echo $!")
    unasked = {"E2b-Sandbox-Id": sandbox.sandbox_id}
    url = f"{running_server.url}/process.Process/List"
    assert httpx.post(url, json={}, headers=unasked).status_code == 401

    running_server.restart_envd(sandbox.sandbox_id)

    assert httpx.post(url, json={}, headers=unasked).status_code == 200
    assert sandbox.commands.run("pwd; id -un").stdout.split() == ["/root", "root"]
    assert printed(sandbox, f"kill -0 {before} && echo alive") == "alive"


def test_a_reboot_keeps_files_and_ends_processes(running_server: Server, sandbox: Sandbox) -> None:
    printed(sandbox, "echo kept > ~/kept; echo gone > /tmp/gone; touch /usr/local/kept")
    printed(sandbox, "setsid sh -c 'sleep 600; true' still-here </dev/null >/dev/null 2>&1 &")
    sandbox.commands.run("sleep 600", background=True, timeout=0)

    running_server.reboot(sandbox.sandbox_id)

    assert printed(sandbox, "cat ~/kept; ls /tmp/gone /usr/local/kept 2>/dev/null || true") == "kept\n/usr/local/kept"
    assert "sleep 600" not in printed(sandbox, "cat /proc/*/cmdline 2>/dev/null | tr '\\0' ' '", "root")
    assert sandbox.commands.list() == []


def test_a_paused_machine_stands_still(sandbox: Sandbox) -> None:
    printed(sandbox, "setsid sh -c 'while true; do echo >> /tmp/ticks; sleep 0.05; done' </dev/null >/dev/null 2>&1 &")
    wait_for(lambda: printed(sandbox, "cat /tmp/ticks 2>/dev/null | wc -l") != "0")

    sandbox.pause()
    assert not sandbox.is_running()
    again = Sandbox.connect(sandbox.sandbox_id, timeout=600)

    ticks = printed(again, "wc -l < /tmp/ticks")
    wait_for(lambda: printed(again, "wc -l < /tmp/ticks") != ticks)
