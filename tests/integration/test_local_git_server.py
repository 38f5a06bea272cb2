import os
import subprocess
import sys

import httpx
import pytest

from local.git_server import GitError, make_sample_repository, publish
from local.listening import listen
from local.processes import ProcessGroup

ENVIRON = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "T",
    "GIT_AUTHOR_EMAIL": "t@example.com",
    "GIT_COMMITTER_NAME": "T",
    "GIT_COMMITTER_EMAIL": "t@example.com",
}


def git(folder, *arguments, env=ENVIRON):
    command = ["git", "-C", str(folder), *map(str, arguments)]
    return subprocess.run(command, env=env, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def commit(repository, file, text):
    (repository / file).write_text(text)
    git(repository, "add", "-A")
    git(repository, "commit", "-q", "-m", file)
    return git(repository, "rev-parse", "HEAD")


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    make_sample_repository(path)
    return path


@pytest.fixture
def root(tmp_path):
    return tmp_path / "root"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One server for all tests; each puts its own repositories below `served.root`."""
    folder = tmp_path_factory.mktemp("git")
    argv = [sys.executable, "-m", "local.git_server", "--root", str(folder)]
    with ProcessGroup(tmp_path_factory.mktemp("logs")) as group:
        yield folder, group.start("git", argv, env=os.environ, listener=listen()).url


@pytest.fixture
def owner(request):
    return request.node.name.removeprefix("test_").split("[")[0][:60]


def test_a_published_repository_can_be_cloned(served, owner, source, tmp_path):
    root, url = served
    publish(root, owner, "demo", source)

    for number, suffix in enumerate(["", ".git"]):
        git(tmp_path, "clone", "-q", f"{url}/{owner}/demo{suffix}", f"clone{number}")
        clone = tmp_path / f"clone{number}"

        assert git(clone, "rev-parse", "HEAD") == git(source, "rev-parse", "HEAD")
        assert git(clone, "branch", "--show-current") == "main"
        assert (clone / "README.md").read_text() == (source / "README.md").read_text()


def test_partial_and_shallow_clones_work(served, owner, source, tmp_path):
    root, url = served
    publish(root, owner, "demo", source)

    git(tmp_path, "clone", "-q", "--filter=blob:none", f"{url}/{owner}/demo", "partial")
    git(tmp_path, "clone", "-q", "--depth=1", f"{url}/{owner}/demo", "shallow")

    assert (tmp_path / "partial" / "README.md").exists()
    assert git(tmp_path / "shallow", "rev-list", "--count", "HEAD") == "1"


def test_a_large_repository_arrives_whole(served, owner, source, tmp_path):
    root, url = served
    (source / "large.bin").write_bytes(os.urandom(5_000_000))
    commit(source, "note", "with a large file")
    publish(root, owner, "demo", source)

    git(tmp_path, "clone", "-q", f"{url}/{owner}/demo", "clone")

    assert (tmp_path / "clone" / "large.bin").read_bytes() == (source / "large.bin").read_bytes()


def test_publishing_again_brings_new_commits_branches_and_tags(served, owner, source, tmp_path):
    root, url = served
    git(source, "branch", "old")
    publish(root, owner, "demo", source)
    git(tmp_path, "clone", "-q", f"{url}/{owner}/demo", "clone")
    git(source, "checkout", "-q", "-b", "next")
    git(source, "branch", "-D", "old")
    new = commit(source, "new.txt", "new")
    git(source, "tag", "v1")

    publish(root, owner, "demo", source)

    assert git(root / owner / "demo.git", "symbolic-ref", "HEAD") == "refs/heads/next"
    git(tmp_path / "clone", "fetch", "-q", "--prune", "--tags")
    assert git(tmp_path / "clone", "rev-parse", "origin/next", "v1").split() == [new, new]
    assert "origin/old" not in git(tmp_path / "clone", "branch", "-r")


def test_a_source_without_a_current_branch_is_published_too(served, owner, source, tmp_path):
    root, url = served
    git(source, "checkout", "-q", "--detach", "HEAD~1")

    for _ in range(2):
        publish(root, owner, "demo", source)

    git(tmp_path, "clone", "-q", f"{url}/{owner}/demo", "clone")
    assert git(tmp_path / "clone", "rev-parse", "HEAD") == git(source, "rev-parse", "HEAD")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_repository_of_another_user_can_be_published_and_cloned(served, owner, source, tmp_path):
    root, url = served
    for path in [source, *source.rglob("*")]:
        os.chown(path, 65534, 65534)
    publish(root, owner, "demo", source)
    mirror = root / owner / "demo.git"
    for path in [mirror, *mirror.rglob("*")]:
        os.chown(path, 65534, 65534)

    git(tmp_path, "clone", "-q", f"{url}/{owner}/demo", "clone")

    assert (tmp_path / "clone" / "README.md").exists()


def test_a_push_is_refused(served, owner, source, tmp_path):
    root, url = served
    publish(root, owner, "demo", source)
    git(tmp_path, "clone", "-q", f"{url}/{owner}/demo", "clone")
    commit(tmp_path / "clone", "mine.txt", "mine")

    with pytest.raises(subprocess.CalledProcessError) as error:
        git(tmp_path / "clone", "push", "-q")

    assert "403" in error.value.stderr
    assert httpx.post(f"{url}/{owner}/demo.git/git-receive-pack").status_code == 403
    assert git(root / owner / "demo.git", "rev-parse", "main") == git(source, "rev-parse", "main")


def test_a_required_token_is_the_password_of_a_clone(served, owner, source, tmp_path):
    root, url = served
    publish(root, owner, "demo", source)
    (root / owner / "demo.git" / "required-token").write_text("s3cret\n")
    refs = f"{url}/{owner}/demo.git/info/refs?service=git-upload-pack"

    without = httpx.get(refs)
    assert without.status_code == 401
    assert without.headers["www-authenticate"].startswith("Basic")
    assert httpx.get(refs, auth=("x-access-token", "wrong")).status_code == 401
    assert httpx.get(refs, headers={"authorization": "Basic %%%"}).status_code == 401
    assert httpx.get(refs, headers={"authorization": "Bearer s3cret"}).status_code == 401
    assert httpx.post(f"{url}/{owner}/demo.git/git-upload-pack").status_code == 401

    git(tmp_path, "clone", "-q", f"{url.replace('//', '//x-access-token:s3cret@')}/{owner}/demo", "clone")
    assert (tmp_path / "clone" / "README.md").exists()

    publish(root, owner, "demo", source)
    assert httpx.get(refs).status_code == 401


@pytest.mark.parametrize(
    "path",
    [
        "nobody/nothing/info/refs?service=git-upload-pack",
        "nobody/nothing.git/info/refs?service=git-upload-pack",
        "%2e%2e/source/info/refs?service=git-upload-pack",
        "a/b/c/info/refs?service=git-upload-pack",
        "demo/HEAD",
    ],
)
def test_what_does_not_exist_is_a_404(served, path):
    assert httpx.get(f"{served[1]}/{path}").status_code == 404


def test_the_files_of_a_repository_are_not_served(served, owner, source):
    root, url = served
    publish(root, owner, "demo", source)
    (root / owner / "demo.git" / "required-token").write_text("s3cret")
    token = ("x", "s3cret")

    assert httpx.get(f"{url}/{owner}/demo.git/required-token", auth=token).status_code in (404, 405)
    assert httpx.get(f"{url}/{owner}/demo.git/info/refs", auth=token).status_code == 403


@pytest.mark.parametrize("content", ["nothing", "no commit", "a folder of a repository"])
def test_only_a_repository_with_a_commit_can_be_published(root, source, tmp_path, content):
    path = {"nothing": tmp_path / "empty", "no commit": tmp_path / "new"}.get(content, source / "tests")
    path.mkdir(exist_ok=True)
    if content == "no commit":
        git(path, "init", "-q")

    with pytest.raises(GitError, match="is not a git repository with at least one commit"):
        publish(root, "me", "demo", path)


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "x;y"])
def test_a_name_that_is_no_repository_name_is_refused(root, source, name):
    with pytest.raises(GitError, match="is not a name of a repository"):
        publish(root, "me", name, source)


def test_a_git_without_its_http_program_is_explained(tmp_path):
    fake = tmp_path / "git"
    fake.write_text(f"#!/bin/sh\necho {tmp_path}\n")
    fake.chmod(0o755)
    argv = [sys.executable, "-m", "local.git_server", "--root", tmp_path]

    done = subprocess.run(
        argv, env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert "please install the full git package" in done.stderr


def test_the_sample_repository_is_always_the_same_and_its_tests_pass(tmp_path, source):
    make_sample_repository(tmp_path / "again")

    assert git(source, "rev-parse", "HEAD") == git(tmp_path / "again", "rev-parse", "HEAD")
    assert git(source, "rev-list", "--count", "HEAD") == "3"
    assert git(source, "status", "--porcelain") == ""
    subprocess.run([sys.executable, "-m", "unittest"], cwd=source, check=True, timeout=60, capture_output=True)
    assert git(source, "status", "--porcelain") == ""
