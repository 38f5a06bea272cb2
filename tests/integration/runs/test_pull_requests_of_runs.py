"""From a prompt to a branch that somebody fetches: clone, agent program, collection, pull request, all of it real."""

import shutil
import subprocess
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from tests.integration.runs.conftest import git

FILES = {
    "README.md": "one\ntwo\n",
    "old.txt": "bye\n",
    "was.txt": "".join(f"line {number}\n" for number in range(40)),
    "script.sh": "#!/bin/sh\n",
    "link": ("link", "README.md"),
    "image.bin": bytes(range(256)) * 4,
    "crlf.txt": b"one\r\ntwo\r\n",
    "folder/inner.txt": "inner\n",
}
MEGABYTE = 1024 * 1024
LARGE = r"seq -f %0199.0f 27000 | head -c 5242880 > large.txt && { printf '\000'; cat large.txt; } > image.bin"


def _write(name, content):
    def write(tree):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)

    return write


def _rename(tree):
    (tree / "moved").mkdir()
    (tree / "was.txt").rename(tree / "moved" / "is.txt")


def _relink(tree):
    (tree / "link").unlink()
    (tree / "link").symlink_to("script.sh")
    (tree / "new link").symlink_to("folder/inner.txt")


def _folder_to_file(tree):
    shutil.rmtree(tree / "folder")
    (tree / "folder").write_text("a file now\n")


def _empty(tree):
    for name in ("empty", "README.md"):
        (tree / name).write_bytes(b"")


def _five_megabytes(tree):
    """The shell of the agent and ours make the same of it."""
    subprocess.run(["sh", "-c", LARGE], cwd=tree, check=True, timeout=60)
    assert (tree / "large.txt").stat().st_size == 5 * MEGABYTE


# What the agent is told to do, and the same done by hand: the two trees must be one.
KINDS = {
    "5 MB file": (f"@run {LARGE}", _five_megabytes),
    "add": ("@write src/new.py: print('hi')", _write("src/new.py", b"print('hi')\n")),
    "edit": ("@append README.md: three", _write("README.md", b"one\ntwo\nthree\n")),
    "delete": ("@delete old.txt", lambda tree: (tree / "old.txt").unlink()),
    "rename": ("@run mkdir moved && mv was.txt moved/is.txt", _rename),
    "exec bit": ("@run chmod +x script.sh", lambda tree: (tree / "script.sh").chmod(0o755)),
    "symlink": ("@run ln -sf script.sh link && ln -s folder/inner.txt 'new link'", _relink),
    "binary": (r"@run printf '\000\001\377' > image.bin", _write("image.bin", b"\0\1\xff")),
    "non-ASCII path": (
        "@run mkdir grün && echo ä > \"grün/日本 'x'.txt\"",
        _write("grün/日本 'x'.txt", "ä\n".encode()),
    ),
    "empty file": ("@run : > empty && : > README.md", _empty),
    "CRLF": (r"@run printf 'one\r\nTWO\r\nthree' > crlf.txt", _write("crlf.txt", b"one\r\nTWO\r\nthree")),
    "folder becomes a file": ("@run rm -r folder && echo 'a file now' > folder", _folder_to_file),
}


@dataclass
class Repository:
    """One that runs work on, and a person fetches from."""

    lab: object
    path: Path
    url: str

    @property
    def bare(self):
        return self.lab.stack.git_root / "local" / f"{self.path.name}.git"

    def tree_by_hand(self, change):
        """What git calls a clone of main in which that was done."""
        clone = self.lab.folder / f"by-hand-{uuid.uuid4().hex[:8]}"
        git(self.lab.folder, "clone", "-q", self.url, str(clone))
        change(clone)
        git(clone, "add", "-A")
        return git(clone, "write-tree")

    def fetched(self, branch, *, token=None):
        """A repository of somebody else, who has fetched the branch over HTTP: `git(folder, …, "FETCH_HEAD")`."""
        folder = self.lab.folder / f"fetched-{uuid.uuid4().hex[:8]}"
        folder.mkdir()
        git(folder, "init", "-q")
        url = self.url.replace("://", f"://x-access-token:{token}@") if token else self.url
        git(folder, "fetch", "-q", url, branch)
        return folder

    def commit(self, files, *, branch="main", message="others"):
        """Somebody pushes; the commit's id."""
        clone = self.lab.folder / f"others-{uuid.uuid4().hex[:8]}"
        git(self.lab.folder, "clone", "-q", "--branch", branch, str(self.bare), str(clone))
        for name, content in files.items():
            (clone / name).write_text(content)
        git(clone, "add", "-A")
        git(clone, "commit", "-q", "-m", message)
        git(clone, "push", "-q", "origin", f"HEAD:{branch}")
        return git(clone, "rev-parse", "HEAD")

    def tip(self, branch):
        return git(self.bare, "rev-parse", f"refs/heads/{branch}")


def tree_of(folder, revision="FETCH_HEAD"):
    return git(folder, "rev-parse", f"{revision}^{{tree}}")


@pytest.fixture
def repository(lab):
    return Repository(lab, *lab.repository(FILES))


@pytest.fixture(scope="module")
def by_kind(lab):
    """All kinds at the same time, each as a task of its own: the client, the repository, and the task by its kind."""
    repository, client = Repository(lab, *lab.repository(FILES)), lab.user()
    started = {
        kind: lab.start(client, prompt, repository.url, agent=("claude", "codex")[number % 2])
        for number, (kind, (prompt, _)) in enumerate(KINDS.items())
    }
    return client, repository, {kind: lab.finished(client, task_id) for kind, task_id in started.items()}


def propose(lab, client, task_id, token="tok", **words):
    headers = {"Authorization": f"Bearer {client.token}"}
    body = {"github_token": token, **words}
    return httpx.post(f"{lab.stack.api_url}/api/create-pr/{task_id}", json=body, headers=headers, timeout=60)


def get(lab, client, path):
    headers = {"Authorization": f"Bearer {client.token}"}
    return httpx.get(f"{lab.stack.api_url}/api/tasks/{path}", headers=headers, timeout=60)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_change_arrives_as_the_agent_left_it(lab, by_kind, kind):
    client, repository, tasks = by_kind
    task = tasks[kind]
    assert task["status"] == "completed", task["error"]

    answer = propose(lab, client, task["id"])

    assert answer.status_code == 200, answer.text
    fetched = repository.fetched(answer.json()["branch"])
    by_hand = repository.tree_by_hand(KINDS[kind][1])
    assert tree_of(fetched) == by_hand == task["execution_metadata"]["tree"]
    assert git(fetched, "rev-parse", "FETCH_HEAD^") == repository.tip("main")
    assert answer.json()["files_updated"] == len(task["changed_files"])
    assert git(fetched, "log", "-1", "--format=%an|%cn|%s", "FETCH_HEAD").startswith("octo|AI Assistant|C")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "5 MB file"])
@pytest.mark.parametrize("command", [("apply", "--index"), ("am", "-q", "--keep-cr")])
def test_the_patch_that_is_served_makes_the_same_tree(lab, by_kind, kind, command):
    client, repository, tasks = by_kind
    patch = get(lab, client, f"{tasks[kind]['id']}/patch")
    clone = lab.folder / f"patched-{uuid.uuid4().hex[:8]}"
    git(lab.folder, "clone", "-q", repository.url, str(clone))

    git(clone, *command, stdin=patch.content)

    assert patch.headers["content-type"] == "text/x-patch; charset=utf-8"
    assert git(clone, "write-tree") == tasks[kind]["execution_metadata"]["tree"]


def test_large_files_are_listed_and_can_be_read_a_side_at_a_time(lab, by_kind):
    client, _, tasks = by_kind
    task_id = tasks["5 MB file"]["id"]
    files = {file["path"]: file for file in get(lab, client, f"{task_id}/files").json()["files"]}

    after = get(lab, client, f"{task_id}/files/content?path=large.txt&side=after").json()["file"]["after"]

    assert {path: file["status"] for path, file in files.items()} == {
        "image.bin": "modified",
        "large.txt": "added",
    }
    assert (files["large.txt"]["size"], files["large.txt"]["truncated"]) == (5 * MEGABYTE, False)
    assert after == "".join(f"{n:0199}\n" for n in range(1, 27_001))[: 5 * MEGABYTE]
    [(parts,)] = lab.sql(
        "select count(*) from task_contents c join runs r on r.id = c.run_id where r.task_id = %s", task_id
    )
    assert parts == 5 + 6 + 1  # image.bin has a byte more, and was small


def test_a_pull_request_made_days_after_the_sandbox_died_is_the_same_one(lab, repository):
    client = lab.user()
    prompt = "@append README.md: three\n@run chmod +x script.sh && seq 1 300000 > large.txt"
    task_ids = [lab.start(client, prompt, repository.url) for _ in range(2)]
    tasks = [lab.finished(client, task_id) for task_id in task_ids]
    soon = propose(lab, client, task_ids[0]).json()
    lab.until(lambda: not lab.sandboxes())  # with a window of 0 they are killed at once
    for table, columns in {
        "tasks": ("created_at", "updated_at", "started_at", "completed_at"),
        "runs": ("created_at", "updated_at", "started_at", "finished_at"),
        "task_events": ("at",),
    }.items():
        key = "id" if table == "tasks" else "task_id"
        shifted = ", ".join(f"{column} = {column} - interval '60 days'" for column in columns)
        lab.sql(f"update {table} set {shifted} where {key} = any(%s)", task_ids)
    repository.commit({"since.txt": "what others did\n"})

    late = propose(lab, client, task_ids[1]).json()

    trees = {tree_of(repository.fetched(made["branch"])) for made in (soon, late)}
    assert trees == {task["execution_metadata"]["tree"] for task in tasks}
    assert len(trees) == 1
    assert propose(lab, client, task_ids[0]).json() == soon
    assert propose(lab, client, task_ids[1]).json() == late


def test_after_a_follow_up_the_same_pull_request_has_another_commit(lab, repository):
    client = lab.user()
    task_id = lab.start(client, "@append README.md: three", repository.url)
    lab.finished(client, task_id)
    first = propose(lab, client, task_id).json()
    head = repository.tip(first["branch"])

    lab.control(client, task_id, "follow-up", prompt="@write more.txt: more")
    task = lab.finished(client, task_id)
    assert (task["status"], task["error"]) == ("completed", None)
    again = propose(lab, client, task_id).json()

    assert (again["pr_number"], again["branch"], again["files_updated"]) == (first["pr_number"], first["branch"], 2)
    fetched = repository.fetched(again["branch"])
    assert git(fetched, "rev-parse", "FETCH_HEAD^") == head
    assert tree_of(fetched) == task["execution_metadata"]["tree"]
    assert git(fetched, "log", "-1", "--format=%s", "FETCH_HEAD") == "Claude Code: @write more.txt: more"

    theirs = repository.commit({"review.txt": "by a person\n"}, branch=again["branch"])
    assert propose(lab, client, task_id).json() == again
    lab.control(client, task_id, "follow-up", prompt="@write even-more.txt: more")
    lab.finished(client, task_id)
    refused = propose(lab, client, task_id)
    assert (refused.status_code, refused.json()["code"]) == (409, "branch_has_moved")
    assert repository.tip(again["branch"]) == theirs


def test_a_private_repository_is_cloned_proposed_and_fetched_with_its_token(lab):
    repository = Repository(lab, *lab.repository(FILES, token="tok"))
    client = lab.user()
    task_id = lab.start(client, "@append README.md: three", repository.url, token="tok")
    task = lab.finished(client, task_id)
    assert task["status"] == "completed", task["error"]

    assert propose(lab, client, task_id, token="tok_ro").status_code == 404
    answer = propose(lab, client, task_id)

    assert answer.status_code == 200, answer.text
    fetched = repository.fetched(answer.json()["branch"], token="tok")
    assert tree_of(fetched) == task["execution_metadata"]["tree"]


def test_what_stands_in_the_way_is_said_and_nothing_is_touched(lab, repository):
    client = lab.user()
    task_id = lab.start(client, "@append README.md: three", repository.url)
    task = lab.finished(client, task_id)
    branch = f"claude-code-{task_id}"
    moved = repository.commit({"README.md": "one\ntwo, by others\n"})

    without_rights = propose(lab, client, task_id, token="tok_ro")
    assert (without_rights.status_code, without_rights.json()["code"]) == (403, "github_token_lacks_permission")
    assert propose(lab, client, task_id, token="unknown").status_code == 401
    foreign = repository.commit({"theirs.txt": "x\n"}, message="theirs")
    git(repository.bare, "update-ref", f"refs/heads/{branch}", foreign)
    refused = propose(lab, client, task_id)
    assert refused.status_code == 403
    assert refused.json()["error"] == (f"Branch '{branch}' already exists. Please try again or use a different task.")
    assert repository.tip(branch) == foreign
    git(repository.bare, "update-ref", "-d", f"refs/heads/{branch}")

    with ThreadPoolExecutor(2) as both:  # a double click
        answers = list(both.map(lambda _: propose(lab, client, task_id), range(2)))
    assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
    assert answers[0].json() == answers[1].json()
    assert git(repository.bare, "rev-list", "--count", f"{foreign}..{branch}") == "1"

    # The base has moved to where it conflicts: the commit starts where the agent did, and GitHub shows the conflict.
    assert git(repository.bare, "rev-parse", f"{branch}^") == task["execution_metadata"]["base_commit"] != moved
    number = answers[0].json()["pr_number"]
    url = f"{lab.stack.api_environment()['GITHUB_API_URL']}/repos/local/{repository.path.name}/pulls/{number}/merge"
    merged = httpx.put(url, headers={"Authorization": "Bearer tok"}, json={}, timeout=60)
    assert (merged.status_code, merged.json()["message"]) == (405, "Pull Request is not mergeable")

    # The branch is deleted, and with it the pull request: the next one is a new one.
    httpx.delete(
        f"{lab.stack.api_environment()['GITHUB_API_URL']}/repos/local/{repository.path.name}/git/refs/heads/{branch}",
        headers={"Authorization": "Bearer tok"},
        timeout=60,
    ).raise_for_status()
    assert propose(lab, client, task_id).json()["pr_number"] == number + 1
    git(repository.bare, "update-ref", "-d", "refs/heads/main")
    git(repository.bare, "update-ref", "-d", f"refs/heads/{branch}")
    gone = propose(lab, client, task_id)
    assert gone.status_code == 404
    assert gone.json()["error"] == f"Branch 'main' does not exist in local/{repository.path.name}"


def test_what_looks_like_a_key_is_warned_of_when_it_is_collected(lab, repository):
    client, key = lab.user(), "AKIA" + "ABCDEFGH12345678"
    task_id = lab.start(client, f"@write config.env: A=1\\nKEY={key}", repository.url)
    lab.finished(client, task_id)

    warnings = [event["payload"] for event in client.events(task_id, after=0) if event["kind"] == "warning"]

    assert [(warning["code"], warning["path"], warning["line"]) for warning in warnings] == [
        ("possible_secret", "config.env", 2)
    ]
    assert key in client.diff(task_id)  # it is told of, and left as the agent wrote it
