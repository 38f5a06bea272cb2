"""A whole run inside the sandbox: clone, agent and collect as supervised jobs, the agent as another user."""

import json
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from sandbox.programs.protocol import JobReport, JobRequest, LookRequest, from_json, to_json
from tests.sandbox_programs import command, install

AGENT = """
import os, pathlib, subprocess
pathlib.Path("a.txt").write_text("two")
pathlib.Path("new.txt").write_text("made by " + os.environ["USER"])
pathlib.Path("secret.txt").write_text("mine alone")
os.chmod("secret.txt", 0)
subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@a", "commit", "-qam", "mine"], check=True)
for place in RUN, RUN + "/base.git":
    try:
        print(os.listdir(place))
    except PermissionError:
        print("closed")
"""


@pytest.fixture
def places(tmp_path):
    """A folder of root's, which is closed, and the home of `nobody`, which plays the agent."""
    root, home = tmp_path / "root", Path("/tmp") / f"agent-{os.getpid()}"  # the parents of tmp_path are closed too
    (root / "runs" / "r1").mkdir(parents=True)
    root.chmod(0o700)
    home.mkdir(mode=0o755)
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(home, nobody.pw_uid, nobody.pw_gid)
    install(root / "runs" / "r1")
    yield root, home
    shutil.rmtree(home)


@pytest.fixture
def origin(tmp_path):
    origin = tmp_path / "origin"
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "init", "-q", "-b", "main", origin], check=True)
    (origin / "a.txt").write_text("one\n")
    subprocess.run(["git", "-C", origin, "add", "-A"], check=True)
    subprocess.run(["git", "-C", origin, *identity, "commit", "-q", "-m", "base"], check=True)
    return origin


@pytest.fixture
def run_job(places):
    root, home = places
    run = root / "runs" / "r1"
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(root),
        "AGENT_USER": "nobody" if os.getuid() == 0 else "",
        "AGENT_HOME": str(home),
    }

    def run_job(name, argv, user, cwd):
        """Run it to its end; what it printed."""
        (run / name).mkdir()
        limits = {"timeout_s": 60, "max_output_bytes": 1_000_000, "stop_grace_s": 1}
        (run / name / "job.json").write_text(to_json(JobRequest(argv=argv, cwd=cwd, user=user, **limits)))
        look = to_json(LookRequest(wait_s=30))
        line = command("runs/r1/programs.pyz", "supervisor", "start", f"runs/r1/{name}", look)
        done = subprocess.run(line, cwd=root, env=environment, capture_output=True, check=True, timeout=60)
        report = from_json(JobReport, done.stdout)
        assert (report.state, report.exit_code, report.stderr_tail) == ("ended", 0, "")
        return report.chunk.decode()

    return run_job


def test_clone_agent_and_collect_as_jobs(places, origin, run_job):
    root, _ = places
    run = root / "runs" / "r1"
    spec = {"url": f"file://{origin}", "branch": "main", "depth": 50, "token_file": None, "base_git": "base.git"}
    (run / "clone.json").write_text(json.dumps({**spec, "work_tree": "repo", "timeout_s": 60}))

    cloned = json.loads(run_job("clone", ["clone", "clone.json"], "root", "runs/r1"))
    assert cloned["ok"], cloned
    told = run_job("agent", ["python3", "-c", f"RUN = {str(run)!r}\n{AGENT}"], "agent", "repo")
    if os.getuid() == 0:
        assert told == "closed\nclosed\n"
    who = {"author_name": "Ada", "author_email": "ada@example.com", "message": "AI: x", "limits": {}}
    base = {"base_git": "base.git", "base_commit": cloned["base_commit"], "work_tree": "repo", "out": "result.json"}
    (run / "collect.json").write_text(json.dumps({**base, **who}))
    collected = json.loads(run_job("collect", ["collect", "collect.json"], "root", "runs/r1"))

    assert collected["ok"], collected
    result = json.loads((run / "result.json").read_text())
    who_made_it = "nobody" if os.getuid() == 0 else pwd.getpwuid(os.getuid()).pw_name
    files = {file["path"]: file["after"] for file in result["files"]}
    assert files["new.txt"] == f"made by {who_made_it}"
    if os.getuid() == 0:
        assert files["secret.txt"] == "mine alone"
    assert (run / "result.json").stat().st_mode & 0o777 == 0o600
