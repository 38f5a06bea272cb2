"""Runs in sandboxes of templates that are not ours: nothing depends on what a template sets."""

import pytest

from local.services.e2b.template import Template
from local.stack import Stack
from tests.integration.e2b_servers import E2B_SERVER
from tests.integration.runs.conftest import Lab, options_in

# Login files run before every command. These print, with and without a line break, to both streams; they go elsewhere,
# change the PATH, and set what changes Python, git and shells.
NOISE = r"""
echo "Welcome to this machine"; echo "and to its login files" >&2
printf '{"state": "absent"}\n'; printf 'no line break'; printf 'none here either' >&2
cd /tmp
export PATH=/tmp/odd:/nowhere
export PYTHONPATH=/tmp/odd PYTHONHOME=/nowhere PYTHONSTARTUP=/tmp/odd/start.py PYTHONOPTIMIZE=2
export GIT_DIR=/nowhere GIT_CONFIG_GLOBAL=/nowhere GIT_TRACE=1 HOME=/nowhere TMPDIR=/nowhere LANG=xx_XX LC_ALL=xx_XX
export AGENT_USER=root AGENT_HOME=/root AGENT_PATH=/nowhere BASH_ENV=/nowhere
umask 077
alias exec=false env=false
python3() { echo "a function instead"; }
"""
# Codex runs the agent's first commands in login shells, until it has its snapshot of one. There, a login file that goes
# elsewhere takes the agent's own work along; what the executor runs must not mind, and is tried with the other agent.
WITHOUT_CD = NOISE.replace("cd /tmp\n", "")
TEMPLATES = {
    "as the Dockerfile ends": Template(),
    "another user and folder": Template(user="odd", folder="/srv/odd"),
    "a folder that does not exist": Template(folder="/nowhere"),
    "root in its home": Template(user="root", folder="/root"),
    "login files": Template(profile=NOISE, root_bashrc=NOISE),
    "all of it": Template(user="odd", folder="/srv/odd", profile=WITHOUT_CD, root_bashrc=NOISE),
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_a_run_and_its_follow_up_work_whatever_the_template_sets(tmp_path, template):
    agent = "codex" if template.profile and template.user == "odd" else "claude"
    with Stack(options_in(tmp_path, agent, sandbox_template=template, e2b_server=E2B_SERVER)) as stack:
        lab = Lab(stack, tmp_path)
        path, url = lab.repository({"README.md": "hello\n", ".asynccode/setup.sh": "echo prepared > prepared.txt\n"})
        client = lab.user()

        task_id = lab.start(client, "@append README.md: more\n@say Done.", url, agent=agent)
        task = lab.finished(client, task_id)

        assert task["status"] == "completed", task["error"]
        assert task["changed_files"] == ["README.md", "prepared.txt"]
        lab.assert_patch_makes(task, path)
        assert "Welcome" not in task["git_diff"]

        lab.control(client, task_id, "follow-up", prompt="@append README.md: and more")
        followed = lab.finished(client, task_id)

        assert (followed["status"], followed["container_id"]) == ("completed", task["container_id"])
        lab.assert_patch_makes(followed, path)
