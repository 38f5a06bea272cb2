"""What REPO may name, what becomes of it, and the sentence where it cannot work: before anything is started."""

import os
import socket
import subprocess
from types import SimpleNamespace

import pytest

from local import repositories
from local.mirrors import TOKEN_FILE, GitError, make_sample_repository, publish
from local.repositories import check_source, publish_repository
from local.services.git.server import create_app
from tests.integration.github_servers import Git, serving_app


@pytest.fixture
def source(tmp_path):
    make_sample_repository(tmp_path / "my project")
    return tmp_path / "my project"


@pytest.fixture
def git(source):
    return Git(source)


@pytest.fixture
def stack(tmp_path):
    """As much of one as publishing needs."""
    data = tmp_path / "data"
    return SimpleNamespace(
        local_github=True,
        options=SimpleNamespace(data=data, caller=os.environ),
        git_root=data / "git",
        git_url="http://git.test",
    )


@pytest.fixture
def head_of(stack):
    """The commit that a published repository's branch is at."""
    return lambda made: Git(stack.git_root / "local" / f"{made.name}.git")("rev-parse", f"refs/heads/{made.branch}")


def plain(folder, source, git):
    return source


def subfolder(folder, source, git):
    return source / "pocketbook"


def git_folder(folder, source, git):
    return source / ".git" / "refs"


def bare(folder, source, git):
    git("clone", "-q", "--bare", ".", str(folder / "bare.git"))
    return folder / "bare.git"


def bare_whose_head_names_no_branch(folder, source, git):
    path = bare(folder, source, git)
    Git(path)("symbolic-ref", "HEAD", "refs/heads/master")
    return path


def worktree(folder, source, git):
    git("worktree", "add", "-q", str(folder / "tree"))
    return folder / "tree" / "tests"


def submodule(folder, source, git):
    outer = folder / "outer"
    git("init", "-q", str(outer))
    Git(outer)("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(source), "inner")
    return outer / "inner" / "tests"


def shallow(folder, source, git):
    git("clone", "-q", "--depth=1", source.as_uri(), str(folder / "shallow"))
    return folder / "shallow"


def without_a_branch(folder, source, git):
    git("checkout", "-q", "--detach")
    return source


def file_url(folder, source, git):
    return source.as_uri()


NAMES = {
    plain: "my-project",
    subfolder: "my-project",
    git_folder: "my-project",
    bare: "bare",
    bare_whose_head_names_no_branch: "bare",
    worktree: "tree",
    submodule: "inner",
    shallow: "shallow",
    without_a_branch: "my-project",
    file_url: "my-project",
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_whole_repository_is_published_from_whatever_part_of_it_is_named(
    tmp_path, source, git, stack, head_of, kind
):
    named = str(kind(tmp_path, source, git))

    check_source(named, os.environ)
    made = publish_repository(stack, named)

    assert (made.name, made.files) == (NAMES[kind], 9)
    assert made.url == f"http://git.test/local/{made.name}"
    assert head_of(made) == git("rev-parse", "main")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_repository_of_another_user_is_published(source, stack):
    for path in [source, *source.rglob("*")]:
        os.chown(path, 65534, 65534)

    check_source(str(source), os.environ)
    assert publish_repository(stack, str(source)).files == 9


def test_a_path_is_seen_from_the_folder_that_make_was_called_in_and_from_home(source, stack, monkeypatch):
    monkeypatch.chdir(source / "tests")
    monkeypatch.setenv("HOME", str(source.parent))

    for named in ("..", ".", "~/my project", " ../pocketbook "):
        check_source(named, os.environ)
        assert publish_repository(stack, named).name == "my-project"


@pytest.mark.parametrize(
    "name", ["-x", "--upload-pack=x", "...", "ä ö", "a'b\"c$(id)", "line\nbreak", "-oProxyCommand=x:y", ".git.git"]
)
def test_odd_names_are_only_names(tmp_path, stack, monkeypatch, name):
    make_sample_repository(tmp_path / name)
    monkeypatch.chdir(tmp_path)

    check_source(name, os.environ)
    made = publish_repository(stack, name)

    assert made.files == 9
    assert made.name.strip("-.")


def test_two_folders_of_one_name_are_two_repositories(tmp_path, stack, head_of):
    one, two = tmp_path / "1" / "app", tmp_path / "2" / "app"
    for path in (one, two):
        make_sample_repository(path)
    Git(two)("commit", "-q", "--allow-empty", "-m", "another")

    for _ in range(2):
        assert [publish_repository(stack, str(path)).name for path in (one, two)] == ["app", "app-2"]
    assert head_of(publish_repository(stack, str(two))) == Git(two)("rev-parse", "HEAD")

    one.rename(tmp_path / "app")
    assert publish_repository(stack, str(tmp_path / "app")).name == "app"


def empty_folder(folder):
    return folder


def no_commit(folder):
    subprocess.run(["git", "init", "-q", folder], check=True)
    return folder


def moved_worktree(folder):
    (folder / ".git").write_text(f"gitdir: {folder}/elsewhere\n")
    return folder


def a_file(folder):
    (folder / "file").touch()
    return folder / "file"


def below_a_file(folder):
    return a_file(folder) / "x"


WRONG = {
    empty_folder: "is not a git repository",
    no_commit: "at least one commit",
    moved_worktree: "is not a git repository",
    a_file: "is a file",
    below_a_file: "does not exist",
    lambda folder: folder / ("x" * 5000): "cannot be opened",
    lambda folder: folder / "none": "does not exist",
    lambda _: "none": "does not exist",
    lambda _: "./no:ne": "does not exist",
    lambda _: "~no-such-user/x": "cannot be opened",
    lambda folder: f"file://{folder}/none": "does not exist",
    lambda _: "http://127.0.0.1:1/o/r": "git cannot read",
    lambda _: "https://user:s3cret@127.0.0.1:1/o/r": "git cannot read",
    lambda _: "ext::sh -c true": "git cannot read",
    lambda _: "nonsense://x": "git cannot read",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_cannot_be_published_is_said_in_a_sentence(tmp_path, kind, monkeypatch):
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))

    with pytest.raises(GitError, match=WRONG[kind]) as error:
        check_source(str(kind(folder)), os.environ)

    assert "\n" not in str(error.value)
    assert "s3cret" not in str(error.value)


@pytest.mark.skipif(os.geteuid() == 0, reason="root opens every folder")
def test_a_closed_folder_is_said_to_be_closed(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)

    with pytest.raises(GitError, match="cannot be opened"):
        check_source(str(closed / "repository"), os.environ)


@pytest.fixture
def remote(tmp_path, source):
    """URL of a repository, and the folder that it is served from."""
    publish(tmp_path / "served", "o", "r", source)
    with serving_app(create_app(tmp_path / "served")) as url:
        yield f"{url}/o/r", tmp_path / "served" / "o" / "r.git"


def test_a_url_is_checked_and_cloned_as_it_is_now(remote, git, stack, head_of, source, tmp_path):
    url, _ = remote
    for message in ("one", "two"):
        git("commit", "-q", "--allow-empty", "-m", message)
        publish(tmp_path / "served", "o", "r", source)

        check_source(url, os.environ)
        made = publish_repository(stack, url)

        assert (made.name, head_of(made)) == ("r", git("rev-parse", "HEAD"))


def test_git_asks_nobody_for_a_password(remote, monkeypatch):
    url, folder = remote
    (folder / TOKEN_FILE).write_text("s3cret")
    for name in ("GIT_ASKPASS", "SSH_ASKPASS"):
        monkeypatch.setenv(name, "/bin/false")  # which git would quote as failed

    with pytest.raises(GitError, match="prompts disabled"):
        check_source(url, os.environ)
    check_source(url.replace("//", "//x:s3cret@"), os.environ)


def test_a_repository_that_git_was_called_from_is_not_taken_for_this_one(remote, source, stack, monkeypatch, tmp_path):
    for name in ("GIT_DIR", "GIT_OBJECT_DIRECTORY", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.setenv(name, str(tmp_path / "of a hook"))

    for named in (str(source), remote[0]):
        check_source(named, os.environ)
        assert publish_repository(stack, named).files == 9
    assert not (tmp_path / "of a hook").exists()


def test_a_host_that_does_not_answer_is_given_up(monkeypatch):
    monkeypatch.setattr(repositories, "LOOK_TIMEOUT_S", 1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(GitError, match="no answer within 1 seconds"),
    ):
        check_source(f"http://127.0.0.1:{silent.getsockname()[1]}/o/r", os.environ)


def test_a_url_without_a_branch_is_refused(remote, tmp_path):
    url, folder = remote
    Git(folder)("update-ref", "-d", "refs/heads/main")

    with pytest.raises(GitError, match="has no branch yet"):
        check_source(url, os.environ)


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "no commit", "one commit", "all"])
def test_the_sample_is_made_whole(stack, left, head_of, tmp_path):
    path = stack.options.data / "sample" / "pocketbook"
    if left == "all":
        make_sample_repository(path)
        Git(path)("commit", "-q", "--allow-empty", "-m", "mine")
    elif left != "nothing":
        path.mkdir(parents=True)
        if left != "an empty folder":
            Git(path)("init", "-q", "-b", "main")
        if left == "one commit":
            Git(path)("commit", "-q", "--allow-empty", "-m", "half")

    for named in (None, "", " "):
        check_source(named, os.environ)
        made = publish_repository(stack, named)
        assert (made.name, made.branch, made.files) == ("pocketbook", "main", 9)
    assert Git(path)("log", "-1", "--format=%s") == (
        "mine" if left == "all" else "Format amounts, and write down what is missing"
    )
    assert (path.with_name("pocketbook.broken-1").exists()) == (left not in {"nothing", "all"})
