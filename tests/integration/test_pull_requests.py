"""From an agent's work tree to a pull request: all of it is real, but GitHub is our stand-in."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from mangum import Mangum

from functions.api.app import create_app
from shared.config import ApiSettings
from shared.domain.messages import RunMessage
from shared.domain.run import Advance, Finish, Phase, Result, RunStatus
from tests.fakes.lambda_client import LambdaClient
from tests.fakes.tokens import bearer, own_claims, signed
from tests.integration.github_servers import ENVIRONMENT, Git, bare_repository, serving
from tests.integration.run_databases import RealDatabase
from tests.sandbox_programs import command, install

LIMITS = {"files": 1000, "file_bytes": 1_000_000, "total_bytes": 8_000_000}
FOUND = {
    "README.md": b"# r\n\none\ntwo\n",
    "windows.txt": b"one\r\ntwo\r\nthree",
    "logo": bytes(range(256)) * 8,
    "run.sh": b"#!/bin/sh\n",
    "old name.txt": b"".join(b"line %d\n" % number for number in range(40)),
    "gone": b"gone\n",
    "folder/file": b"x\n",
    "was a file": b"y\n",
    "to be a link": b"z\n",
    "kept/as it is": b"kept\n",
}


def work(tree):
    """What an agent could do."""
    (tree / "README.md").write_bytes(b"# r\n\nONE\ntwo\n++ three\n")
    (tree / "windows.txt").write_bytes(b"one\r\nTWO\r\nthree")
    (tree / "logo").write_bytes(bytes(range(255)) * 8)
    (tree / "run.sh").chmod(0o755)
    (tree / "gone").unlink()
    (tree / "old name.txt").rename(tree / "new name.txt")
    with (tree / "new name.txt").open("a") as renamed:
        renamed.write("one more\n")
    shutil.rmtree(tree / "folder")
    (tree / "folder").write_bytes(b"a file now\n")
    (tree / "was a file").unlink()
    (tree / "was a file").mkdir()
    (tree / "was a file" / "inner").write_bytes(b"")
    (tree / "to be a link").unlink()
    (tree / "to be a link").symlink_to("README.md")
    (tree / "grün").mkdir()
    (tree / "grün" / 'ü "quoted"\t.txt').write_bytes("Größe\n".encode("latin-1"))
    (tree / "empty").touch()
    (tree / "large.bin").write_bytes(b"\0\1\2\3" * 10_000)


class World:
    """The API, somebody who is signed in, and the repository o/r at GitHub."""

    def __init__(self, folder, gateway, github_url):
        self.database = RealDatabase(gateway)
        self.user = self.database.new_user()
        self.folder = folder
        self.github = Git(folder / "github" / "o" / "r.git")
        settings = {
            "ENVIRONMENT": "development",
            "SUPABASE_URL": gateway.url,
            "SUPABASE_PUBLISHABLE_KEY": gateway.publishable_key,
            "JWT_SECRET": gateway.jwt_secret,
            "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
            "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            "GITHUB_API_URL": github_url,
        }
        app = create_app(ApiSettings.from_env(settings))
        self._client = LambdaClient(Mangum(app, lifespan="off"))
        self._headers = bearer(signed(own_claims(self.user), gateway.jwt_secret))

    def collected(self, **limits):
        """What collect.py makes of an agent's work on a fresh clone of main."""
        run, home = self.folder / "run", self.folder / "home"
        run.mkdir()
        programs = install(run)
        git = Git(self.folder)
        git("clone", "-q", "--bare", str(self.github.folder), str(run / "base.git"))
        git("clone", "-q", str(self.github.folder), str(home / "repo"))
        work(home / "repo")
        spec = {
            "base_git": "base.git",
            "base_commit": self.github("rev-parse", "main"),
            "work_tree": "repo",
            "message": "AI: do it",
            "author_name": "AI",
            "author_email": "ai@example.test",
            "limits": LIMITS | limits,
            "out": "result.json",
        }
        (run / "spec.json").write_text(json.dumps(spec))
        subprocess.run(
            command(programs, "collect", "spec.json"),
            env=ENVIRONMENT | {"AGENT_USER": "", "AGENT_HOME": str(home)},
            check=True,
            timeout=60,
        )
        return json.loads((run / "result.json").read_text())

    def finished(self, result):
        """A task whose run ended with that result, as the executor writes it; its id."""
        _, started = self.database.start(self.user)
        run = self.database.runs.claim(self.database.message(self.user, started)).run
        changes = {"base_commit": result["base_commit"]}
        seq = self.database.runs.advance(run, Advance(phase=Phase.PROVISIONING, changes=changes))
        message = RunMessage(task_id=run.task_id, run_id=run.id, seq=seq, user_id=self.user)
        stored = Result(
            commit_hash=result["commit"],
            diff=result["diff"],
            patch=result["patch"],
            changed_files=tuple(result["changed_files"]),
            files=tuple(result["files"]),
            metadata={"tree": result["tree"]},
        )
        end = Finish(status=RunStatus.COMPLETED, result=stored)
        assert self.database.runs.finish(self.database.runs.claim(message).run, end)
        return run.task_id

    def propose(self, task_id, github_token="tok"):
        body = {"github_token": github_token}
        return self._client.post(f"/api/create-pr/{task_id}", headers=self._headers, json=body)

    def task(self, task_id):
        return self._client.get(f"/api/tasks/{task_id}", headers=self._headers).json()["task"]

    def tree(self, branch):
        return self.github("rev-parse", f"{branch}^{{tree}}")

    def references(self):
        return self.github("for-each-ref", "--format=%(refname) %(objectname)").splitlines()


@pytest.fixture
def world(tmp_path, supabase_gateway):
    source = tmp_path / "source"
    for name, content in FOUND.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(content)
    git, bare = Git(source), bare_repository(tmp_path / "github", "o", "r")
    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "Begin")
    git("push", "-q", str(bare.folder), "main")
    with serving(tmp_path / "github") as url:
        yield World(tmp_path, supabase_gateway, url)


@pytest.fixture
def result(world):
    return world.collected()


def test_the_branch_has_the_very_tree_that_the_agent_left(world, result):
    base = world.github("rev-parse", "main")
    task_id = world.finished(result)

    answer = world.propose(task_id)

    branch = f"claude-code-{task_id}"
    url = "https://github.com/o/r/pull/1"
    assert (answer.status, answer.json()) == (
        200,
        {
            "status": "success",
            "pr_url": url,
            "pr_number": 1,
            "branch": branch,
            "files_updated": result["files_changed"],
        },
    )
    assert world.tree(branch) == result["tree"] != result["base_tree"]
    assert world.github("log", "--format=%P|%an|%cn|%B", "-1", branch).strip() == (
        f"{base}|octo|AI Assistant|Claude Code: make it so"
    )
    row = world.task(task_id)
    assert (row["pr_branch"], row["pr_number"], row["pr_url"]) == (branch, 1, url)
    assert world.propose(task_id).json() == answer.json()


def test_a_clone_of_the_branch_holds_what_the_agent_wrote(world, result):
    task_id = world.finished(result)
    world.propose(task_id)

    clone = world.folder / "clone"
    source = str(world.github.folder)
    Git(world.folder)("clone", "-q", "--branch", f"claude-code-{task_id}", source, str(clone))

    assert (clone / "windows.txt").read_bytes() == b"one\r\nTWO\r\nthree"
    assert (clone / "to be a link").readlink() == Path("README.md")
    assert (clone / "run.sh").stat().st_mode & 0o111
    assert (clone / "was a file" / "inner").read_bytes() == b""
    assert (clone / "large.bin").read_bytes() == b"\0\1\2\3" * 10_000
    assert (clone / "kept" / "as it is").read_bytes() == b"kept\n"
    assert not (clone / "gone").exists()
    assert not (clone / "old name.txt").exists()


@pytest.mark.parametrize(
    "limits", [{"files": 3}, {"file_bytes": 100}, {"total_bytes": 0}], ids=["few files", "small files", "no contents"]
)
def test_what_was_too_much_to_store_comes_from_the_patch(world, limits):
    result = world.collected(**limits)
    task_id = world.finished(result)

    answer = world.propose(task_id)

    assert (answer.status, answer.json().get("files_updated")) == (200, result["files_changed"]), answer.text
    assert world.tree(f"claude-code-{task_id}") == result["tree"]


def test_a_task_of_the_old_backend_has_a_patch_and_nothing_else(world, result):
    [(task_id,)] = world.database.sql(
        "insert into tasks (user_id, status, repo_url, git_patch, changed_files)"
        " values (%s, 'completed', 'https://github.com/o/r', %s, null) returning id",
        *(world.user, result["patch"]),
    )

    answer = world.propose(task_id)

    assert (answer.status, answer.json().get("files_updated")) == (200, result["files_changed"]), answer.text
    assert world.tree(f"claude-code-{task_id}") == result["tree"]


def test_the_pull_request_starts_where_the_agent_did_although_main_has_moved_on(world, result):
    task_id, base = world.finished(result), world.github("rev-parse", "main")
    world.github("update-ref", "refs/heads/main", world.github("commit-tree", "main^{tree}", "-pmain", "-mlater"))

    assert world.propose(task_id).status == 200
    assert world.github("rev-parse", f"claude-code-{task_id}^") == base
    assert world.tree(f"claude-code-{task_id}") == result["tree"]


def test_where_history_was_rewritten_the_changes_go_on_top_of_it(world, result):
    kept, lost = world.finished(result), world.finished(result | {"base_commit": "1" * 40})
    world.github("update-ref", "refs/heads/main", world.github("commit-tree", "main^{tree}", "-mrewritten"))

    assert world.propose(lost).status == 200
    assert world.github("rev-parse", f"claude-code-{lost}^") == world.github("rev-parse", "main")
    assert world.tree(f"claude-code-{lost}") == result["tree"]
    assert world.propose(kept).status == 200  # GitHub still has the commit, on no branch


def test_a_file_that_others_changed_meanwhile_is_not_overwritten(world, result):
    task_id = world.finished(result | {"base_commit": "1" * 40})
    blob = world.github("hash-object", "-w", "--stdin", stdin=b"changed by others\n")
    world.github("read-tree", "main")
    world.github("update-index", "--cacheinfo", f"100644,{blob},README.md")
    world.github("update-ref", "refs/heads/main", world.github("commit-tree", world.github("write-tree"), "-mothers"))
    before = world.references()

    answer = world.propose(task_id)

    assert (answer.status, answer.json()["code"]) == (409, "patch_conflict")
    assert answer.json()["error"].startswith("README.md has changed since the agent saw it.")
    assert world.references() == before


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [("tok_ro", 403, "github_token_lacks_permission"), ("badtoken", 401, "github_token_refused")],
)
def test_a_token_without_the_right_leaves_no_trace(world, result, token, status, code):
    task_id, before = world.finished(result), world.references()

    answer = world.propose(task_id, token)

    assert (answer.status, answer.json()["code"]) == (status, code)
    assert world.references() == before
    assert world.task(task_id)["pr_url"] is None


def test_another_users_task_is_not_found(world, result):
    task_id = world.finished(result)
    other = World(world.folder, world.database.gateway, "http://127.0.0.1:9")

    answer = other.propose(task_id)

    assert (answer.status, answer.json()["error"]) == (404, "Task not found")
