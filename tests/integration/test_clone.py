"""clone.py with real git: from local repositories, and from a git server on loopback that wants a token."""

import base64
import contextlib
import json
import os
import pwd
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from functions.executor.work.jobs import LOOK_BYTES
from sandbox.programs.clone_git import meaning
from tests.sandbox_programs import command, install
from tests.small_disks import fill, small_disk

PLAIN = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    **{f"GIT_{role}_{key}": "t@t" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")},
}
TOKEN = "ghp_s3cret/To+ken=1"


def git(folder, *arguments):
    done = subprocess.run(["git", "-C", folder, *arguments], env=PLAIN, capture_output=True, check=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def origin(tmp_path):
    """A repository with two commits on main, another branch, a tag and a hostile hook for everybody."""
    origin = tmp_path / "server" / "o" / "r"
    origin.mkdir(parents=True)
    git(origin, "init", "-q", "-b", "main")
    for text in ("one\n", "two\n"):
        (origin / "a.txt").write_text(text)
        git(origin, "add", "-A")
        git(origin, "commit", "-q", "-m", text)
    (origin / "link").symlink_to("/etc/passwd")
    (origin / "run.sh").write_text("#!/bin/sh\n")
    (origin / "run.sh").chmod(0o755)
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "three")
    git(origin, "branch", "-q", "other")
    git(origin, "tag", "v1")
    return origin


class Run:
    """A run's folder with the program in it, and the agent's home."""

    def __init__(self, folder, url):
        self.run, self.home, self.url = folder / "run", folder / "home", url
        self.run.mkdir(mode=0o700)
        self.home.mkdir()
        self.programs = install(self.run)
        self.work, self.base = self.home / "repo", self.run / "base.git"
        self.environment = {"PATH": os.environ["PATH"], "AGENT_USER": "", "AGENT_HOME": str(self.home)}

    def command(self, **changes):
        spec = {
            "url": self.url,
            "branch": "main",
            "depth": None,
            "token_file": None,
            "base_git": "base.git",
            "work_tree": "repo",
            "timeout_s": 60,
            **changes,
        }
        (self.run / "spec.json").write_text(json.dumps(spec))
        return command(self.programs, "clone", self.run / "spec.json")

    def clone(self, **changes):
        command = self.command(**changes)
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=90, cwd="/")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.count("\n") == 1
        return json.loads(done.stdout)

    def write_token(self):
        (self.run / "token").write_text(TOKEN + "\n")
        (self.run / "token").chmod(0o600)


@pytest.fixture
def run(tmp_path, origin):
    return Run(tmp_path, f"file://{origin}")


def traces_of_token(*folders):
    forms = [TOKEN.encode(), base64.b64encode(TOKEN.encode()), base64.b64encode(f"x-access-token:{TOKEN}".encode())]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert files
    return [path for path in files if any(form in path.read_bytes() for form in forms)]


# --- what it makes ----------------------------------------------------------------------------------------


def test_it_makes_a_pristine_clone_and_one_for_the_agent(run, origin):
    answer = run.clone()

    assert answer == {
        "ok": True,
        "base_commit": git(origin, "rev-parse", "main"),
        "branch": "main",
        "work_tree": str(run.work),
        "real_work_tree": None,
        "bytes": answer["bytes"],
        "took_s": answer["took_s"],
        "setup": None,
    }
    assert answer["bytes"] > 0
    assert git(run.base, "for-each-ref", "--format=%(refname)") == "refs/heads/main"
    assert git(run.base, "rev-parse", "--is-bare-repository") == "true"
    assert git(run.base, "remote") == ""
    assert (git(run.work, "branch", "--show-current"), git(run.work, "status", "--porcelain")) == ("main", "")
    assert git(run.work, "remote", "-v").split() == ["origin", run.url, "(fetch)", "origin", run.url, "(push)"]
    assert git(run.work, "log", "--format=%s", "origin/main").split() == ["three", "two", "one"]
    assert (run.work / "link").is_symlink()
    assert os.access(run.work / "run.sh", os.X_OK)


def test_below_a_symbolic_link_it_reports_both_paths_of_the_work_tree(run, tmp_path):
    run.home.rename(tmp_path / "elsewhere")
    run.home.symlink_to("elsewhere")

    answer = run.clone()

    assert answer["work_tree"] == str(run.work)
    assert answer["real_work_tree"] == str(tmp_path.resolve() / "elsewhere" / "repo")


def commit_setup(origin, write):
    """A commit whose `.asynccode/setup.sh` is what `write` makes of this path."""
    script = origin / ".asynccode" / "setup.sh"
    script.parent.mkdir(exist_ok=True)
    write(script)
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "setup")


def test_the_commits_own_setup_script_is_told_and_not_what_somebody_made_of_it(run, origin):
    commit_setup(origin, lambda path: path.write_text("echo ü\nmake deps\n"))
    assert run.clone()["setup"] == {"script": "echo ü\nmake deps", "problem": None}

    (run.work / ".asynccode" / "setup.sh").write_text("evil\n")
    git(run.work, "commit", "-q", "-a", "-m", "evil")

    assert run.clone()["setup"] == {"script": "echo ü\nmake deps", "problem": None}


@pytest.mark.parametrize(
    ("write", "problem"),
    [
        (lambda path: path.symlink_to("../run.sh"), "must be a regular file"),
        (lambda path: path.symlink_to("/etc/passwd"), "must be a regular file"),
        (lambda path: (path.mkdir(), (path / "x").write_text("x")), "must be a regular file"),
        (lambda path: path.write_text("x" * (32 * 1024 + 1)), "is longer than 32768 bytes"),
        (lambda path: path.write_bytes(b"echo \xff"), "is not text in UTF-8"),
        (lambda path: path.write_bytes(b"echo \x00"), "is not text in UTF-8"),
    ],
    ids=["link", "link to another place", "folder", "too long", "latin-1", "NUL"],
)
def test_a_setup_script_that_cannot_be_run_is_told_with_the_reason(run, origin, write, problem):
    commit_setup(origin, write)

    answer = run.clone()

    assert (answer["ok"], answer["setup"]) == (True, {"script": None, "problem": problem})


def test_a_setup_script_behind_a_linked_folder_is_none(run, origin):
    (origin / "scripts").mkdir()
    (origin / "scripts" / "setup.sh").write_text("make\n")
    (origin / ".asynccode").symlink_to("scripts")
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "linked")

    assert run.clone()["setup"] is None


def test_the_longest_setup_script_fits_into_one_look(run, origin):
    commit_setup(origin, lambda path: path.write_text("\x01" * (32 * 1024)))

    assert len(json.dumps(run.clone())) < LOOK_BYTES


def test_the_agents_clone_shares_nothing_with_the_pristine_one(run):
    run.clone()

    assert not (run.work / ".git" / "objects" / "info" / "alternates").exists()
    assert {path.stat().st_nlink for path in run.work.rglob("*") if path.is_file()} == {1}
    told = [path for path in (run.work / ".git").rglob("*") if path.is_file() and b"base.git" in path.read_bytes()]
    assert told == []
    assert list((run.work / ".git").glob("hooks/*")) == []
    shutil.rmtree(run.base)
    git(run.work, "fsck", "--full", "--strict")


def test_depth_cuts_the_history_of_both(run):
    run.clone(depth=1)

    for clone in (run.base, run.work):
        assert git(clone, "rev-list", "--count", "HEAD") == "1"


@pytest.mark.parametrize("branch", ["other", "-x", "feature/ü#1", "a'b\"c$(d)", "@x"])
def test_branches_may_have_odd_names(run, origin, branch):
    git(origin, "update-ref", f"refs/heads/{branch}", "main")
    answer = run.clone(branch=branch)

    assert (answer["ok"], answer["branch"]) == (True, branch)
    assert git(run.work, "symbolic-ref", "HEAD") == f"refs/heads/{branch}"


def test_submodules_hooks_and_filters_of_the_repository_stay_asleep(run, origin):
    (origin / ".gitmodules").write_text(f'[submodule "s"]\n\tpath = s\n\turl = file://{origin}\n')
    (origin / ".gitattributes").write_text("*.big filter=lfs diff=lfs merge=lfs -text\n")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    (origin / "x.big").write_text(pointer)
    git(origin, "add", "-A")
    git(origin, "update-index", "--add", "--cacheinfo", f"160000,{git(origin, 'rev-parse', 'main')},s")
    git(origin, "commit", "-q", "-m", "more")

    assert run.clone()["ok"]
    assert list((run.work / "s").iterdir()) == []
    assert (run.work / "x.big").read_text() == pointer


# --- again --------------------------------------------------------------------------------------------------


def test_a_finished_clone_is_told_again_and_left_alone(run, origin):
    first = run.clone()
    (run.work / "a.txt").write_text("the agent's\n")
    (origin / "a.txt").write_text("moved on\n")
    git(origin, "commit", "-q", "-am", "four")

    again = run.clone()

    assert (again["ok"], again["base_commit"]) == (True, first["base_commit"])
    assert (run.work / "a.txt").read_text() == "the agent's\n"


@pytest.mark.parametrize("stage", ["in the pristine clone", "between the clones", "in the agent's clone"])
def test_what_was_killed_half_way_is_made_again(run, stage):
    if stage == "in the pristine clone":
        (run.run / "base.git.part" / "objects").mkdir(parents=True)
        (run.run / "base.git.part" / "HEAD").write_text("rubbish")
    else:
        run.clone()
        shutil.rmtree(run.work)
    if stage == "in the agent's clone":
        (run.home / "repo.part" / ".git").mkdir(parents=True)

    answer = run.clone()

    assert answer["ok"]
    assert git(run.work, "status", "--porcelain") == ""
    assert not [path for folder in (run.run, run.home) for path in folder.glob("*.part")]


def test_another_repository_in_the_same_run_is_refused(run):
    run.clone()

    assert run.clone(branch="other")["error"] == "refused"


# --- what may fail ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("branch", ["nope", "v1", "refs/heads/main", "--upload-pack=touch x", "a..b"])
def test_a_branch_that_does_not_exist(run, branch):
    answer = run.clone(branch=branch)

    assert (answer["ok"], answer["error"]) == (False, "branch_not_found")
    assert branch in answer["message"]


def test_an_empty_repository_has_no_branch(run, tmp_path):
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q", "-b", "main")

    assert run.clone(url=f"file://{tmp_path}/empty")["error"] == "branch_not_found"


def test_a_repository_that_does_not_exist(run, tmp_path):
    assert run.clone(url=f"file://{tmp_path}/nowhere")["error"] == "not_found"


@pytest.mark.parametrize(
    "changes",
    [
        {"url": "ext::sh -c 'touch /tmp/x'"},
        {"url": "ssh://git@github.com/o/r"},
        {"url": "git@github.com:o/r.git"},
        {"url": "--upload-pack=x"},
        {"url": "/etc"},
        {"url": "https://"},
        {"url": "https://user:pass@github.com/o/r"},
        {"url": "https://github.com/o/r\nx"},
        {"branch": ""},
        {"branch": "a\0b"},
    ],
)
def test_what_is_no_address_or_branch_is_refused(run, changes):
    answer = run.clone(**changes)

    assert (answer["ok"], answer["error"]) == (False, "refused")
    assert "pass" not in answer["message"]


def test_a_repository_over_the_limit_is_refused(run, origin):
    (origin / "random").write_bytes(os.urandom(200_000))
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "large")

    assert run.clone(max_bytes=100_000)["error"] == "refused"
    assert not run.base.exists()
    assert run.clone(max_bytes=1_000_000)["ok"]


def test_a_spec_that_makes_no_sense_fails_and_still_takes_the_token(run):
    run.write_token()

    assert run.clone(token_file="token", surprise=1)["error"] == "failed"
    assert not (run.run / "token").exists()


# --- over HTTP, with a token --------------------------------------------------------------------------------


class GitServer:
    """git's own HTTP backend; `rules` decide over the answer before it is asked."""

    def __init__(self, root):
        self.root = root
        self.seen = []  # (path, Authorization) of each request
        self.status = None  # answered to everything
        self.status_without_token = None
        self.moved = {}  # first part of a path -> address
        self.hold = None  # an Event: no answer before it is set
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            do_POST = do_GET  # noqa: N815 - the name http.server looks for

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def answer(self, request):
        path, _, query = request.path.partition("?")
        token = request.headers.get("Authorization")
        self.seen.append((path, token))
        if self.hold:
            self.hold.wait(60)
        status = self.status or (self.status_without_token if token is None else None)
        moved = next((place for name, place in self.moved.items() if path.startswith(name)), None)
        if moved:
            name = next(name for name in self.moved if path.startswith(name))
            request.send_response(301)
            request.send_header("Location", f"{moved}{path[len(name) :]}?{query}")
            request.end_headers()
        elif status:
            request.send_response(status)
            if status == 401:
                request.send_header("WWW-Authenticate", 'Basic realm="x"')
            request.end_headers()
            with contextlib.suppress(OSError):
                request.wfile.write(f"token was {token}".encode())
        else:
            self.backend(request, path, query)

    def backend(self, request, path, query):
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        environment = {
            **PLAIN,
            "GIT_PROJECT_ROOT": str(self.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": request.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
        }
        done = subprocess.run(["git", "http-backend"], env=environment, input=body, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        request.send_response(int(headers.pop("Status", "200").split()[0]))
        for name, value in headers.items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)


@pytest.fixture
def make_server(tmp_path):
    servers = []

    def make():
        servers.append(GitServer(tmp_path / "server"))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@pytest.fixture
def server(make_server):
    return make_server()


@pytest.fixture
def http_run(tmp_path, origin, server):
    """Clones from the server, which wants a token."""
    server.status_without_token = 401
    run = Run(tmp_path, f"{server.url}/o/r/.git")
    run.write_token()
    return run


def test_the_token_is_sent_with_each_request_and_left_nowhere(http_run, server):
    answer = http_run.clone(token_file="token", depth=1)

    assert answer["ok"], answer
    assert {token for _, token in server.seen} == {
        "Basic " + base64.b64encode(f"x-access-token:{TOKEN}".encode()).decode()
    }
    assert not (http_run.run / "token").exists()
    assert traces_of_token(http_run.run, http_run.home) == []
    assert git(http_run.work, "remote", "get-url", "origin") == http_run.url


def test_the_token_is_in_nobodys_arguments_and_its_file_is_gone_while_git_runs(http_run, server):
    server.hold = threading.Event()
    clone = subprocess.Popen(
        http_run.command(token_file="token"), env=http_run.environment, stdout=subprocess.PIPE, text=True
    )
    try:
        while not server.seen:
            assert clone.poll() is None
        assert not (http_run.run / "token").exists()
        if Path("/proc/self/cmdline").exists():
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    assert b"s3cret" not in place.read_bytes()
    finally:
        server.hold.set()
        answer = json.loads(clone.communicate(timeout=60)[0])
    assert answer["ok"]


@pytest.mark.parametrize(("status", "error"), [(401, "auth"), (403, "auth"), (404, "not_found"), (500, "failed")])
def test_what_the_server_refuses_is_told_without_the_token(http_run, server, status, error):
    server.status = status
    answer = http_run.clone(token_file="token")

    assert (answer["ok"], answer["error"]) == (False, error)
    assert answer["message"]
    assert "s3cret" not in answer["message"]
    assert not (http_run.run / "token").exists()
    assert traces_of_token(http_run.run, http_run.home) == []


def test_without_a_token_a_private_repository_is_a_question_of_rights(http_run):
    assert http_run.clone()["error"] == "auth"
    (http_run.run / "token").unlink()
    assert http_run.clone(token_file="token")["error"] == "auth"


def test_a_server_that_does_not_answer_is_a_timeout(http_run, server):
    server.hold = threading.Event()
    answer = http_run.clone(token_file="token", timeout_s=1)
    server.hold.set()

    assert answer["error"] == "timeout"
    assert not (http_run.run / "token").exists()


def test_a_server_that_is_not_there_is_a_failure(http_run, server):
    server.close()
    assert http_run.clone(token_file="token")["error"] == "failed"


def test_a_renamed_repository_is_followed_on_the_same_server(http_run, server):
    server.moved = {"/old/name": f"{server.url}/o/r/.git"}
    answer = http_run.clone(token_file="token", url=f"{server.url}/old/name")

    assert answer["ok"], answer
    assert git(http_run.work, "log", "-1", "--format=%s") == "three"


def test_the_token_never_follows_to_another_server(http_run, server, make_server):
    other = make_server()
    server.moved = {"/o/r/.git": f"{other.url}/o/r/.git"}
    answer = http_run.clone(token_file="token")

    assert (answer["ok"], answer["error"]) == (False, "refused")
    assert other.seen == []


def test_without_a_token_a_repository_is_followed_anywhere(http_run, server, make_server):
    other = make_server()
    server.moved = {"/o/r/.git": f"{other.url}/o/r/.git"}

    assert http_run.clone()["ok"]


# --- as another user ----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_the_agents_clone_belongs_to_the_agent_and_links_are_not_followed(run):
    run.environment["AGENT_USER"] = "nobody"
    passwd = Path("/etc/passwd").stat()

    assert run.clone()["ok"]

    uid = pwd.getpwnam("nobody").pw_uid
    assert {path.lstat().st_uid for path in [run.work, *run.work.rglob("*")]} == {uid}
    assert {path.lstat().st_uid for path in [run.base, *run.base.rglob("*")]} == {0}
    assert Path("/etc/passwd").stat() == passwd


# --- to go on from earlier changes ------------------------------------------------------------------------


def commit_file(folder, name, text):
    (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.test", "commit", "-q", "-m", name)
    return git(folder, "rev-parse", "HEAD")


def patch_of(run, **files):
    """A patch for the branch as it is now that makes these files."""
    work = run.home.parent / "patch-work"
    git(run.home.parent, "clone", "-q", run.url, str(work))
    for name, data in files.items():
        (work / name).write_bytes(data)
    git(work, "add", "-A")
    return subprocess.run(["git", "diff", "--cached", "--binary"], cwd=work, capture_output=True, check=True).stdout


def test_it_begins_at_an_earlier_commit_though_the_branch_has_moved(run, origin):
    before = git(origin, "rev-parse", "main")
    commit_file(origin, "later.txt", "later\n")

    answer = run.clone(commit=before, depth=1)

    assert (answer["ok"], answer["base_commit"]) == (True, before)
    assert git(run.work, "rev-parse", "HEAD", "origin/main").split() == [before, before]
    assert not (run.work / "later.txt").exists()
    assert run.clone(commit=before, depth=1)["base_commit"] == before


def test_it_begins_at_the_tip_where_the_earlier_commit_is_not_to_be_had(run, origin):
    answer = run.clone(commit="0" * 40)

    assert (answer["ok"], answer["base_commit"]) == (True, git(origin, "rev-parse", "main"))


def test_earlier_changes_are_in_the_agents_clone_only_and_staged_nowhere(run, origin):
    (run.run / "patch").write_bytes(patch_of(run, new_txt=b"new\n", new_bin=b"\0\1\2\xff"))

    assert run.clone(patch_file="patch")["ok"]

    assert ((run.work / "new_txt").read_text(), (run.work / "new_bin").read_bytes()) == ("new\n", b"\0\1\2\xff")
    assert git(run.work, "status", "--short").splitlines() == ["?? new_bin", "?? new_txt"]
    assert "new_txt" not in git(run.base, "ls-tree", "-r", "--name-only", "main")


def test_earlier_changes_that_do_not_fit_are_a_conflict(run, origin):
    (run.run / "patch").write_bytes(patch_of(run, note=b"one\n"))
    commit_file(origin, "note", "two\n")

    answer = run.clone(patch_file="patch")

    assert (answer["ok"], answer["error"]) == (False, "patch_conflict")
    assert not run.work.exists()


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("size=4m", {"bytes_left": 0}),
        ("size=4m", {"bytes_left": 300_000}),
        ("size=4m", {"bytes_left": 1_700_000}),  # enough for the pristine one
        ("size=64m,nr_inodes=300", {"inodes_left": 0}),
        ("size=64m,nr_inodes=300", {"inodes_left": 30}),
    ],
)
def test_a_repository_for_which_the_disk_has_no_room_is_refused_for_that(tmp_path, origin, options, left):
    (origin / "large.bin").write_bytes(os.urandom(1_000_000))
    for number in range(50):
        (origin / f"{number}.txt").write_text(str(number))
    git(origin, "add", "-A")
    git(origin, "commit", "-q", "-m", "large")
    with small_disk(tmp_path / "disk", options) as disk:
        run = Run(disk, f"file://{origin}")
        (run.run / "spec.json").write_text(" " * 8192)
        fill(disk, **left)

        answer = run.clone()

        assert (answer["ok"], answer["error"]) == (False, "disk_full"), answer


def test_a_server_whose_disk_is_full_is_no_full_disk_of_ours():
    assert meaning("remote: fatal: write error: No space left on device\nfatal: early EOF") == "failed"
    assert meaning("fatal: write error: No space left on device") == "disk_full"
    assert meaning('error: open("No space left on device"): Permission denied') == "failed"


def test_a_commit_that_is_no_id_is_refused(run):
    assert run.clone(commit="--upload-pack=x")["error"] == "refused"
