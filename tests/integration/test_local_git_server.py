import os
import shutil
import subprocess
import sys

import httpx
import pytest

from local import mirrors
from local.listening import listen
from local.mirrors import GitError, make_sample_repository, publish
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
    argv = [sys.executable, "-m", "local.services.git.server", "--root", str(folder)]
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


@pytest.fixture
def mirror(root, source):
    """Published as local/demo, with the branches main and old; `again()` publishes it again."""
    git(source, "branch", "old")
    publish(root, "local", "demo", source)
    return root / "local" / "demo.git"


@pytest.fixture
def again(root, source):
    return lambda: publish(root, "local", "demo", source)


def task_commit(mirror, branch, onto="main"):
    """As a task and a merge leave it: a commit on top."""
    made = git(mirror, "commit-tree", f"{onto}^{{tree}}", "-p", onto, "-m", "by a task")
    git(mirror, "update-ref", f"refs/heads/{branch}", made)
    return made


def branches(mirror):
    lines = git(mirror, "for-each-ref", "--format=%(refname:lstrip=2) %(objectname)", "refs/heads").splitlines()
    return dict(line.split(" ") for line in lines)


def test_work_of_tasks_stays_when_a_repository_is_published_again(mirror, again, source):
    merged, proposed = task_commit(mirror, "main"), task_commit(mirror, "claude-code-1")

    again()
    again()

    assert branches(mirror) == {"main": merged, "claude-code-1": proposed, "old": git(source, "rev-parse", "old")}


def test_a_mirror_from_before_the_source_was_recorded_keeps_what_is_ahead(mirror, again):
    merged = task_commit(mirror, "main")
    for name in git(mirror, "for-each-ref", "--format=%(refname)", "refs/source").splitlines():
        git(mirror, "update-ref", "-d", name)

    again()

    assert branches(mirror)["main"] == merged


@pytest.mark.parametrize("how", ["moved on", "beside the task's", "was set back", "took it over and moved on"])
def test_where_the_source_has_moved_the_mirror_follows(mirror, again, source, how):
    if how != "was set back":
        made = task_commit(mirror, "main")
    if how == "took it over and moved on":
        git(source, "pull", "-q", "--ff-only", mirror, "main")
        assert git(source, "rev-parse", "HEAD") == made
    if how == "was set back":
        git(source, "reset", "-q", "--hard", "HEAD~1")
    else:
        commit(source, "new.txt", "new")

    again()

    assert branches(mirror)["main"] == git(source, "rev-parse", "main")


def test_a_source_that_takes_over_only_the_merge_changes_nothing(mirror, again, source):
    first = task_commit(mirror, "main")
    second = task_commit(mirror, "main")
    git(source, "fetch", "-q", mirror, first)
    git(source, "reset", "-q", "--hard", first)

    again()

    assert branches(mirror)["main"] == second


def test_a_branch_that_is_deleted_in_the_source_is_deleted_in_the_mirror(mirror, again, source):
    own = task_commit(mirror, "claude-code-1")
    git(source, "branch", "-D", "old")

    again()

    assert branches(mirror) == {"main": git(source, "rev-parse", "main"), "claude-code-1": own}


def test_a_branch_may_become_a_folder_of_branches_and_come_before_one_of_a_task(mirror, again, source):
    task_commit(mirror, "topic")
    git(source, "branch", "-D", "old")
    for name in ("old/a", "topic/b"):
        git(source, "branch", name)

    again()

    assert set(branches(mirror)) == {"main", "old/a", "topic/b"}


def test_a_tag_of_the_same_name_and_names_of_any_script_change_nothing(root, source):
    for name in ("main", "ветка", "line\u2028end"):
        git(source, "tag" if name == "main" else "branch", name, "HEAD~1")

    publish(root, "local", "demo", source)

    mirror = root / "local" / "demo.git"
    assert git(mirror, "symbolic-ref", "HEAD") == "refs/heads/main"
    kept = git(mirror, "for-each-ref", "--format=%(refname)", "refs/heads").split("\n")
    assert set(kept) == {"refs/heads/main", "refs/heads/ветка", "refs/heads/line\u2028end"}


def test_what_the_source_had_is_not_shown_to_a_clone(served, owner, source, tmp_path):
    root, url = served
    publish(root, owner, "demo", source)

    assert "refs/source" in git(root / owner / "demo.git", "for-each-ref")
    assert "refs/source" not in git(tmp_path, "ls-remote", f"{url}/{owner}/demo")


@pytest.mark.parametrize("what", ["an empty folder", "no commit", "its objects are lost"])
def test_a_mirror_that_is_not_whole_is_set_aside_and_made_again(root, source, what):
    mirror = root / "local" / "demo.git"
    if what == "its objects are lost":
        publish(root, "local", "demo", source)
        shutil.rmtree(mirror / "objects")
        (mirror / "objects").mkdir()
    else:
        mirror.mkdir(parents=True)
    if what == "no commit":
        git(mirror, "init", "-q", "--bare")
    (mirror / "required-token").write_text("s3cret")

    publish(root, "local", "demo", source)

    assert git(mirror, "rev-parse", "main") == git(source, "rev-parse", "main")
    assert (mirror / "required-token").read_text() == "s3cret"
    assert [path.name for path in mirror.parent.iterdir() if path != mirror] == ["demo.git.broken-1"]


def test_a_mirror_whose_current_branch_is_deleted_is_whole(mirror, again, source):
    own = task_commit(mirror, "claude-code-1")
    git(mirror, "update-ref", "-d", "refs/heads/main")

    again()

    assert branches(mirror)["claude-code-1"] == own
    assert branches(mirror)["main"] == git(source, "rev-parse", "main")


def test_what_a_killed_program_left_is_in_no_ones_way(mirror, again, source):
    new = commit(source, "new.txt", "new")
    for lock in ("config.lock", "packed-refs.lock", "HEAD.lock", "refs/heads/main.lock"):
        (mirror / lock).touch()
    (mirror.parent / ".other.git.part").mkdir()
    (mirror.parent / ".other.git.part" / "config").write_text("half")

    again()
    publish(mirror.parents[1], "local", "other", source)

    assert branches(mirror)["main"] == branches(mirror.with_name("other.git"))["main"] == new


def test_the_sample_repository_appears_at_once_or_not_at_all(tmp_path, monkeypatch):
    ask = mirrors.git

    def killed_at_the_second_commit(env, folder, *arguments, **options):
        if arguments[-1] == mirrors.COMMITS[1].message:
            raise KeyboardInterrupt
        return ask(env, folder, *arguments, **options)

    monkeypatch.setattr(mirrors, "git", killed_at_the_second_commit)
    with pytest.raises(KeyboardInterrupt):
        make_sample_repository(tmp_path / "sample")
    assert not (tmp_path / "sample").exists()

    monkeypatch.undo()
    make_sample_repository(tmp_path / "sample")
    assert git(tmp_path / "sample", "rev-list", "--count", "HEAD") == "3"


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
    assert httpx.get(refs, headers={"authorization": b"Basic \xe9"}).status_code == 401
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
    argv = [sys.executable, "-m", "local.services.git.server", "--root", tmp_path]

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
