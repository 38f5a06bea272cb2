"""An agent tries to become root in a sandbox that is as E2B's build scripts leave it.

Each way is tried twice: in a sandbox that was closed, where it must lead nowhere, and in one that was not, where it
must lead to root. So the test proves itself. sudo, su, sshd and setuid programs give no power in bubblewrap: of these
it is checked that the closing sees them and takes them away.
"""

import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass

import pytest
from e2b import Sandbox

from functions.executor.e2b.sandboxes import E2BSandboxes
from functions.executor.work import closing
from functions.executor.work.jobs import JobSpec, RunFolder
from shared.domain.errors import RunFailed
from shared.domain.network import OPEN_NETWORK
from shared.domain.secret import Secret
from tests.bubblewrap import bubblewrap_works
from tests.fakes.new_run import new_run
from tests.integration.e2b_servers import API_KEY, LOCAL_SANDBOX, REAL_ENVD, Server, speak_to
from tests.waiting import wait_for

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or not (REAL_ENVD or bubblewrap_works()),
    reason="a sandbox has users of its own in root's bubblewrap only",
)

# What the agent plants: run as root, it leaves a mark where only root can, and then does what it stands for.
MARK = "/root/reached"
PAYLOAD = f"""#!/bin/sh
[ "$(/usr/bin/id -u)" = 0 ] && echo reached >> {MARK}
"""
PLANT = """
plant() {{ printf '%s' {payload} > "$1" && chmod 755 "$1"; }}
""".format(payload="'" + PAYLOAD.replace("'", "'\\''") + "'")


@dataclass(frozen=True, kw_only=True)
class Way:
    """`hole`: what is wrong with the image beside what E2B does. `attack`: by the agent. `then`: what root does.

    `refused`: the hole cannot be closed, so no agent is started.
    """

    hole: str = "true"
    attack: str
    then: str = "true"
    refused: bool = False


def planted(program, then="true"):
    plant = f"plant /usr/local/bin/{program} && printf 'exec /usr/bin/{program} \"$@\"\\n' >> /usr/local/bin/{program}"
    return Way(attack=plant, then=then)


LISTEN = (
    "import socket, time; s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); print('listening', flush=True);"
    "time.sleep(4)"
)
WAYS = {
    "nice, which envd starts": planted("nice"),
    "ionice, which envd starts": planted("ionice"),
    "socat, which envd starts": Way(attack=f'plant /usr/local/bin/socat; python3 -c "{LISTEN}"'),
    "python3": planted("python3", "python3 -c pass"),
    "git": planted("git", "git --version"),
    "a program of another name": planted("ls", "ls /"),
    "sbin": Way(attack="plant /usr/local/sbin/id", then="id"),
    "the folder itself, replaced": Way(
        attack="mv /usr/local/bin /usr/local/old && mkdir /usr/local/bin && plant /usr/local/bin/true",
        then="command true; env true",
    ),
    "a script of cron": Way(
        hole="mkdir -p /etc/cron.hourly; chmod 777 /etc/cron.hourly",
        attack="plant /etc/cron.hourly/job",
        then="for job in /etc/cron.hourly/*; do $job; done",
    ),
    "the profile": Way(
        hole="chmod 666 /etc/profile", attack="plant /tmp/p; echo '. /tmp/p' >> /etc/profile", then="true"
    ),
    "a file that the profile sources": Way(
        hole=(
            "mkdir -p /etc/profile.d; chmod 777 /etc/profile.d;"
            "echo 'for f in /etc/profile.d/*.sh; do . $f; done' >> /etc/profile"
        ),
        attack="plant /etc/profile.d/x.sh",
    ),
    "root's own login file": Way(
        hole="chmod 777 /root; touch /root/.bashrc; chmod 666 /root/.bashrc",
        attack="plant /tmp/p; echo '. /tmp/p' >> /root/.bashrc",
    ),
    "the programs of the run": Way(
        hole="chmod 777 /root /root/runs /root/runs/*",
        attack=(
            "cd /root/runs/* && rm programs.pyz && printf 'import os\\nos.system(\"/tmp/p\")\\n' > programs.pyz;"
            "plant /tmp/p"
        ),
    ),
    "the configuration of root's git": Way(
        hole="mkdir -p -m 777 /etc/base && cd /etc/base && git init -q && chmod -R 777 .",
        attack="plant /tmp/p; printf '[core]\\nfsmonitor = /tmp/p\\n' >> /etc/base/.git/config",
        then="cd /etc/base && git -c safe.directory=* status",
    ),
    "a hook of root's git": Way(
        hole="mkdir -p -m 777 /etc/base && cd /etc/base && git init -q && mkdir -p .git/hooks && chmod -R 777 .",
        attack="plant /etc/base/.git/hooks/post-checkout",
        then=(
            "cd /etc/base && git -c safe.directory=* -c user.name=x -c user.email=x@x commit -q --allow-empty -m x;"
            "git -c safe.directory=* checkout -q -b other"
        ),
    ),
    "a path file of Python": Way(
        hole="mkdir -p -m 777 /usr/local/lib/site",
        attack="plant /tmp/p; printf 'import os; os.system(\"/tmp/p\")\\n' > /usr/local/lib/site/x.pth",
        then=f"{LOCAL_SANDBOX['python']} -c 'import site; site.addsitedir(\"/usr/local/lib/site\")'",
    ),
    "a link on root's path that leads to the agent": Way(
        hole="ln -s /home/agent/tool /usr/local/bin/tool",
        attack="plant /home/agent/tool",
        then="tool",
        refused=True,
    ),
    "a folder of the user's on root's path": Way(
        hole="chmod 755 /usr/local /usr/local/*; chown agent /usr/local/bin",
        attack="plant /usr/local/bin/ls",
        then="ls /",
    ),
    "a folder of the agent's group on root's path": Way(
        hole="chmod 755 /usr/local /usr/local/*; chgrp agent /usr/local/bin; chmod 775 /usr/local/bin",
        attack="plant /usr/local/bin/ls",
        then="ls /",
    ),
    "the group root": Way(
        hole=(
            "sed -i 's/^root:x:0:.*/root:x:0:agent/' /etc/group;"
            "chmod 755 /usr/local /usr/local/*; chmod 775 /usr/local/bin"
        ),
        attack="plant /usr/local/bin/ls",
        then="ls /",
        refused=True,
    ),
    "a socket of a container engine": Way(
        refused=True,
        hole=(
            f'{LOCAL_SANDBOX["python"]} -c "import os, socket; s = socket.socket(socket.AF_UNIX);'
            "s.bind('/run/docker.sock'); os.chmod('/run/docker.sock', 0o666); s.listen();\n"
            "if os.fork() == 0:\n os.setsid(); [os.close(n) for n in (0, 1, 2)]\n"
            ' while True: os.system(s.accept()[0].recv(999).decode())"'
        ),
        attack=(
            'plant /tmp/p; python3 -c "import socket; s = socket.socket(socket.AF_UNIX);'
            "s.connect('/run/docker.sock'); s.sendall(b'/tmp/p'); s.close()\""
        ),
    ),
}


@pytest.fixture(scope="module")
def running_server():
    with tempfile.TemporaryDirectory(prefix="e2b-") as folder:
        server = Server(folder, "--isolation", "bubblewrap")
        yield server
        server.stop()


@pytest.fixture
def machine(running_server, monkeypatch):
    """A new sandbox: the SDK's, and the run's folder in it."""
    speak_to(running_server, monkeypatch)
    sandboxes = E2BSandboxes(api_key=Secret(API_KEY), template="t", deployment="test", lease_s=300, **LOCAL_SANDBOX)
    run = new_run()
    sandbox_id = sandboxes.create(run, OPEN_NETWORK)
    folder = RunFolder(sandboxes.attach(sandbox_id), run.id)
    folder.install()
    yield Sandbox.connect(sandbox_id), folder
    sandboxes.kill(sandbox_id)


def tried(machine, way, *, closed):
    """What has become of the attack: refused (no agent was started), reached, or nothing."""
    sandbox, folder = machine
    as_root(sandbox, way.hole)
    if closed:
        try:
            closing.close(folder)
        except RunFailed:
            return "refused"
    spec = JobSpec(argv=("bash", "-c", PLANT + way.attack), user="agent", timeout_s=60)
    folder.start("attack", spec, wait_s=30)
    for act in (lambda: folder.look("attack"), lambda: as_root(sandbox, way.then)):
        with suppress(Exception):  # what the attack breaks is not the question
            act()
    return "reached" if has_mark(sandbox) else "nothing"


def as_root(sandbox, command):
    """As an operator would, or E2B: along the PATH that envd gives."""
    sandbox.commands.run(command, user="root", cwd="/", timeout=60)


def has_mark(sandbox):
    return sandbox.files.exists(MARK, user="root")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_in_a_closed_sandbox_no_way_leads_to_root(machine, way):
    assert tried(machine, way, closed=True) == ("refused" if way.refused else "nothing")


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_in_an_open_sandbox_each_of_them_does(machine, way):
    assert tried(machine, way, closed=False) == "reached"


# --- what bubblewrap itself prevents: the closing sees it, and takes it away

HOLES = {
    "a setuid program": ("cp /bin/sh /usr/local/bin/sh2; chmod 4755 /usr/local/bin/sh2", "/usr/local/bin/sh2"),
    "a setgid program": ("cp /bin/sh /usr/local/bin/sh2; chmod 2755 /usr/local/bin/sh2", "/usr/local/bin/sh2"),
    "root without a password": ("true", "root has an empty password"),
    "a user without a password": ("true", "user has an empty password"),
}


def checked(folder, verb="check"):
    return json.loads(folder.run(closing.PROGRAM, verb, timeout_s=60))


@pytest.mark.parametrize(("hole", "named"), HOLES.values(), ids=HOLES)
def test_a_login_or_a_program_that_gives_rights_is_named_and_taken_away(machine, hole, named):
    sandbox, folder = machine
    as_root(sandbox, "chmod -R go-w /usr/local /code")  # so that the list of problems is short
    as_root(sandbox, hole)

    assert any(named in problem for problem in checked(folder)["problems"])
    assert checked(folder, "close")["ok"]
    assert checked(folder) == {"ok": True, "problems": [], "closed": []}
    shadow = sandbox.files.read("/etc/shadow", user="root")
    assert not [line for line in shadow.splitlines() if line.split(":")[1] == ""]
    if sandbox.files.exists("/etc/sudoers", user="root"):  # there is none in a real image without sudo
        assert "NOPASSWD" not in sandbox.files.read("/etc/sudoers", user="root")


@pytest.mark.parametrize("user", ["root", "agent", "user"])
def test_a_process_that_was_left_in_a_kept_sandbox_is_found(machine, user):
    sandbox, folder = machine
    closing.close(folder)
    assert closing.is_still_closed(folder)

    sandbox.commands.run("sleep 600", user=user, background=True)
    wait_for(lambda: not closing.is_still_closed(folder))

    as_root(sandbox, "kill $(cat /proc/[0-9]*/stat | awk '$2 == \"(sleep)\" {print $1}')")
    wait_for(lambda: closing.is_still_closed(folder))


def test_what_an_agent_has_opened_since_is_found(machine):
    sandbox, folder = machine
    closing.close(folder)

    as_root(sandbox, "chmod 777 /usr/local/bin")

    assert not closing.is_still_closed(folder)
