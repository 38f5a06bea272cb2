"""The whole stack, as `make demo` starts it, and users who give it tasks."""

import os
import subprocess
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from local.client import sign_in
from local.mirrors import publish
from local.processes import PROJECT_ROOT
from local.stack import Stack, StackOptions
from sandbox import archive
from shared.domain.agents import AgentName
from tests.integration.e2b_servers import E2B_SERVER
from tests.integration.runs.demos import demo  # noqa: F401  # fixtures are found by their names

WAIT_S = 280  # the limit of a whole test is a little longer
GIT_ENV = {
    **{key: value for key, value in os.environ.items() if not key.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "A",
    "GIT_AUTHOR_EMAIL": "a@example.test",
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.test",
}


def git(folder, *arguments, stdin=None):
    argv = ["git", "-c", "safe.directory=*", *arguments]
    done = subprocess.run(argv, cwd=folder, env=GIT_ENV, input=stdin, capture_output=True, timeout=120, check=True)
    return done.stdout.decode().strip()


class Lab:
    """A stack to give tasks to, and a look behind it."""

    def __init__(self, stack, folder):
        self.stack = stack
        self.folder = folder

    def user(self, name=None):
        user_id, client = sign_in(self.stack, f"{name or uuid.uuid4().hex}@example.test")
        client.user_id = user_id
        return client

    def repository(self, files=None, *, token=None):
        """A repository with these files (str, bytes, or ("link", target)), published; its path and its URL."""
        name = f"repo-{uuid.uuid4().hex[:8]}"
        path = self.folder / name
        path.mkdir(parents=True)
        git(path, "init", "-q", "-b", "main")
        for file, content in (files or {"README.md": "hello\n"}).items():
            target = path / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, tuple):
                target.symlink_to(content[1])
            else:
                target.write_bytes(content if isinstance(content, bytes) else content.encode())
        git(path, "add", "-A")
        git(path, "commit", "-q", "-m", "base")
        publish(self.stack.git_root, "local", name, path)
        if token:
            (self.stack.git_root / "local" / f"{name}.git" / "required-token").write_text(token)
        return path, f"{self.stack.git_url}/local/{name}"

    def start(self, client, prompt, url, *, agent="claude", branch="main", token="ghp_thisTokenOpensNothing00000"):
        return client.start_task(prompt=prompt, repo_url=url, branch=branch, model=agent, github_token=token)

    def finished(self, client, task_id, *, timeout_s=WAIT_S):
        self.until(lambda: client.status(task_id) in {"completed", "failed", "cancelled"}, timeout_s=timeout_s)
        return client.task(task_id)

    def run(self, prompt, url, **how):
        client = self.user()
        return self.finished(client, self.start(client, prompt, url, **how))

    def control(self, client, task_id, verb, **body):
        """Ask the API to `cancel`, `retry` or `follow-up`; its answer."""
        headers = {"Authorization": f"Bearer {client.token}"}
        url = f"{self.stack.api_url}/api/tasks/{task_id}/{verb}"
        answer = httpx.post(url, json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def cancel(self, client, task_id):
        return self.control(client, task_id, "cancel")

    def until(self, condition, *, timeout_s=WAIT_S):
        give_up_at = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < give_up_at, f"not within {timeout_s} s; logs in {self.stack.logs}"
            time.sleep(0.2)

    def sql(self, statement, *values):
        with psycopg.connect(self.stack.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def sandboxes(self):
        """Folders of sandboxes that have not been killed."""
        root = self.stack.sandboxes_root
        return [path for path in root.iterdir() if (path / "home").is_dir() or (path / "root").is_dir()]

    def executor_environments(self):
        """The processes that execute steps, one invocation at a time each."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if process.cmdline()[-1:] == ["functions.executor.handler:handler"]:
                    found.append(process)
        return found

    def agent_processes(self):
        """Agent programs and supervisors that are running below this test's process."""
        words = ("stream-json", "codex exec", "codex --", archive.NAME)
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                command = " ".join(process.cmdline())
                if any(word in command for word in words):
                    found.append(command)
        return found

    def assert_patch_makes(self, task, path):
        """The stored patch, applied to the base with plain git, gives exactly the tree that the sandbox had."""
        clone = self.folder / f"clone-{uuid.uuid4().hex[:8]}"
        git(self.folder, "clone", "-q", str(path), str(clone))
        git(clone, "apply", "--index", "--whitespace=nowarn", "-", stdin=task["git_patch"].encode())
        assert git(clone, "write-tree") == task["execution_metadata"]["tree"]
        return clone


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    """Its sandboxes are gone as soon as their run has ended."""
    with lab_in(tmp_path_factory.mktemp("lab"), follow_up_window_s=0) as lab:
        yield lab


def options_in(folder, *agents, **others):
    """Of a stack of its own, on free ports."""
    cache = PROJECT_ROOT / ".local" / "cache"
    return StackOptions(data=folder / "data", cache=cache, agents=agents, preferred_ports={}, **others)


@contextmanager
def lab_in(folder, *, follow_up_window_s):
    options = options_in(
        folder,
        *AgentName,
        executors=4,
        step_lease_s=8,
        setup_timeout_s=20,
        checkpoint_every_s=10,
        retry_visibility_s=2,
        reaper_every_s=3,
        reaper_grace_s=3,
        follow_up_window_s=follow_up_window_s,
        e2b_server=E2B_SERVER,
    )
    with Stack(options) as stack:
        yield Lab(stack, Path(folder))
