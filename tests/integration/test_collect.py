"""collect.py on real repositories: exact results, and nothing an agent planted is ever run."""

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.sandbox_programs import command, install
from tests.small_disks import fill, small_disk

IDENTITY = {
    f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in (("NAME", "t"), ("EMAIL", "t@t"))
}
PLAIN = {**IDENTITY, "PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
LATIN1 = "Grüße aus Köln\n".encode("latin-1")


def git(folder, *arguments, **options):
    done = subprocess.run(["git", "-C", folder, *arguments], env=PLAIN, capture_output=True, check=True, **options)
    return done.stdout.decode("utf-8", "replace").strip()


def put(folder, files):
    """Write `files`: bytes or text are contents, a Path is a link, None removes."""
    for name, content in files.items():
        path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else name.encode())  # noqa: PTH118
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        if os.path.isdir(path) and not os.path.islink(path):  # noqa: PTH112, PTH114
            shutil.rmtree(path)
        elif os.path.lexists(path):
            os.remove(path)  # noqa: PTH107
        if isinstance(content, Path):
            os.symlink(content, path)  # noqa: PTH211
        elif content is not None:
            with open(path, "wb") as file:  # noqa: PTH123
                file.write(content.encode() if isinstance(content, str) else content)


class Run:
    """A run folder with a pristine clone, and the agent's work tree in the agent's home."""

    def __init__(self, folder, files, executables=(), submodules=()):
        self.origin, self.run, self.home = (folder / name for name in ("origin", "run", "home"))
        for place in (self.origin, self.run, self.home):
            place.mkdir()
        self.work = self.home / "repo"
        self.programs = install(self.run)
        git(self.origin, "init", "-q", "-b", "main")
        put(self.origin, files)
        for name in executables:
            (self.origin / name).chmod(0o755)
        git(self.origin, "-c", "core.autocrlf=false", "add", "-A")
        for name in submodules:
            git(self.origin, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},{name}")
        git(self.origin, "commit", "-q", "--allow-empty", "-m", "base")
        self.base = git(self.origin, "rev-parse", "HEAD")
        git(folder, "clone", "-q", "--bare", self.origin, self.run / "base.git")
        git(folder, "clone", "-q", self.origin, self.work)

    def collect(self, **changes):
        """What collect.py printed, and the result it wrote."""
        spec = {
            "base_git": "base.git",
            "base_commit": self.base,
            "work_tree": "repo",
            "message": "AI: do it",
            "author_name": "Ada",
            "author_email": "ada@example.com",
            "limits": {},
            "out": "result.json",
            **changes,
        }
        (self.run / "spec.json").write_text(json.dumps(spec))
        done = subprocess.run(
            command(self.programs, "collect", self.run / "spec.json"),
            env={"PATH": os.environ["PATH"], "AGENT_USER": "", "AGENT_HOME": str(self.home)},
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        answer = json.loads(done.stdout)
        assert sorted(path.name for path in self.run.iterdir() if path.name.startswith("collect-")) == []
        if not answer["ok"]:
            return answer, None
        data = (self.run / "result.json").read_bytes()
        assert answer == {
            "ok": True,
            "bytes": len(data),
            "sha256": hashlib.sha256(data).hexdigest(),
            "files": answer["files"],
            "tree": json.loads(data)["tree"],
        }
        return answer, json.loads(data)

    def result(self, **changes):
        return self.collect(**changes)[1]

    def fresh_clone(self, name="fresh"):
        fresh = self.home / name
        git(self.home, "clone", "-q", self.run / "base.git", fresh)
        return fresh


@pytest.fixture
def make_run(tmp_path):
    def make(files=None, **options):
        return Run(tmp_path, {"a.txt": "one\ntwo\nthree\n"} if files is None else files, **options)

    return make


def rebuilt(run, result):
    """The files of the base with `result["files"]` applied: {path: (mode, bytes)}."""
    tree = {}
    for line in git(run.run / "base.git", "ls-tree", "-r", "-z", run.base).split("\0"):
        if line:
            head, path = line.split("\t", 1)
            mode, _, blob = head.split()
            tree[path] = (mode, blob)
    for file in result["files"]:
        tree.pop(file["previous_path"] or file["path"], None)
        tree.pop(file["path"], None)
        if file["status"] == "deleted":
            continue
        raw = file["after"].encode() if file["encoding"] == "utf-8" else base64.b64decode(file["after"])
        assert len(raw) == file["size"]
        tree[file["path"]] = (file["mode"], git(run.origin, "hash-object", "-w", "--stdin", input=raw))
    return tree


def tree_of(run, files):
    """The id of the tree that holds `files`, made with another index."""
    env = {**PLAIN, "GIT_INDEX_FILE": str(run.run / "rebuilt.index")}
    lines = b"".join(f"{mode} {blob}\t{path}".encode() + b"\0" for path, (mode, blob) in files.items())
    index = ["git", "-C", run.origin, "update-index", "-z", "--index-info"]
    subprocess.run(index, input=lines, env=env, check=True)
    done = subprocess.run(["git", "-C", run.origin, "write-tree"], env=env, check=True, capture_output=True, text=True)
    return done.stdout.strip()


BASE = {
    "keep.txt": "kept\n",
    "a.txt": "one\ntwo\nthree\n",
    "dir/b.txt": "b\n" * 30,
    "run.sh": "#!/bin/sh\n",
    "crlf.txt": "one\r\ntwo\r\n",
    "no-newline.txt": "one\ntwo",
    "latin1.txt": LATIN1,
    "picture.bin": bytes(range(256)) * 8,
    "link": Path("a.txt"),
    "empty": "",
    "grüße.txt": "hallo\n",
}

CHANGES = {
    "nothing": {},
    "an added file": {"new/deep/file.txt": "new\n"},
    "a deleted file": {"a.txt": None},
    "everything deleted": dict.fromkeys(BASE),
    "a rename": {"dir/b.txt": None, "moved/c.txt": "b\n" * 30},
    "a rename with an edit": {"dir/b.txt": None, "moved/c.txt": "b\n" * 29 + "c\n"},
    "two files swapped": {"a.txt": "b\n" * 30, "dir/b.txt": "one\ntwo\nthree\n"},
    "a link to outside": {"passwd": Path("/etc/passwd"), "link": Path("../../outside")},
    "a file that becomes a link": {"a.txt": Path("keep.txt")},
    "a link that becomes a file": {"link": "now a file\n"},
    "a file that becomes a folder": {"a.txt": None, "a.txt/inside": "in\n"},
    "a folder that becomes a file": {"dir/b.txt": None, "dir": "file\n"},
    "a folder that becomes a link": {"dir/b.txt": None, "dir": Path("/etc")},
    "binary files": {"picture.bin": bytes(range(255, -1, -1)) * 8, "new.bin": b"\0\1\2" * 99},
    "empty files": {"new-empty": "", "a.txt": "", "empty": "no longer\n"},
    "CRLF": {"crlf.txt": "one\r\n2\r\n", "new-crlf.txt": "x\r\ny\r\n"},
    "a lone CR": {"cr.txt": "a\rb\r"},
    "no newline at the end": {"no-newline.txt": "one\n2", "a.txt": "one\ntwo\nthree"},
    "latin-1 text": {"latin1.txt": LATIN1 * 2, "new.txt": LATIN1, "a.txt": "one\n"},
    "latin-1 text with an awkward name": {'we"ird [x]*?\\ ü\t.txt': LATIN1},
    "a very long name of latin-1 text": {"ü" * 120 + ".txt": LATIN1, "ü" * 100 + "/" + "ö" * 120: LATIN1},
    "UTF-16 text": {"utf16.txt": "hallo\n".encode("utf-16")},
    "a NUL far behind": {"late.txt": b"text\n" * 4000 + b"\0\n", "a.txt": "1\n"},
    "names that are not ASCII": {"grüße.txt": "hallo Welt\n", "日本/語.txt": "x\n"},
    "names with spaces, tabs and newlines": {
        "a b.txt": "x\n",
        "tab\t.txt": "x\n",
        "new\nline.txt": "x\n",
        " x ": "y\n",
    },
    "names like options and patches": {"-rf": "x\n", "--": "x\n", "a/b/a": "x\n", "dev/null": "x\n"},
    "names that differ by case": {"A.txt": "upper\n", "a.txt": None, "Keep.txt": "x\n"},
    "the longest name": {"n" * 255: "x\n"},
    "text like a patch": {"a.txt": "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-- \nFrom 0\ndiff --git a/x b/x\n"},
    "form feeds and other control characters": {"a.txt": "a\x0cb\x85\u2028c\x1b[0m\n"},
    "attributes that call text binary": {".gitattributes": "* -diff\n*.txt binary\n", "a.txt": "1\n"},
    "attributes that call binary text": {".gitattributes": "* diff text\n", "picture.bin": b"\0\1\xff\n", "l": LATIN1},
    "attributes on line ends": {".gitattributes": "*.txt text eol=crlf\n", "a.txt": "1\r\n2\r\n", "n.txt": "3\r\n"},
    "fifteen hundred files": {f"many/{n:04}.txt": f"{n}\n" for n in range(1500)},
}


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES.keys())
def test_patch_and_files_lead_to_the_very_tree(make_run, changes):
    run = make_run(BASE, executables=["run.sh"])
    put(run.work, {name: None for name, content in changes.items() if content is None})
    put(run.work, {name: content for name, content in changes.items() if content is not None})

    result = run.result(limits={"files": 2000})

    assert result["warnings"] == []
    if not changes:
        assert (result["commit"], result["patch"], result["diff"]) == (None, "", "")
        assert (result["files"], result["changed_files"], result["tree"]) == ([], [], result["base_tree"])
        return
    for verb in (["apply", "--index"], ["am", "-q", "--keep-cr"]):
        fresh = run.fresh_clone(verb[0])
        git(fresh, *verb, input=result["patch"].encode())
        assert git(fresh, "write-tree") == result["tree"]
    assert tree_of(run, rebuilt(run, result)) == result["tree"]
    assert result["changed_files"] == [file["path"] for file in result["files"]]
    assert "\0" not in json.dumps(result, ensure_ascii=False)


def test_the_diff_is_for_people_and_the_files_hold_both_sides(make_run):
    run = make_run(BASE, executables=["run.sh"])
    put(run.work, {"a.txt": "one\n2\nthree\n", "picture.bin": b"\0\1", "grüße.txt": None, "dir/b.txt": None})
    put(run.work, {"moved.txt": "b\n" * 30, "latin1.txt": LATIN1 + b"mehr\n"})
    (run.work / "run.sh").chmod(0o644)
    (run.work / "keep.txt").chmod(0o755)

    result = run.result(message="AI: do it", date_s=1_700_000_000)

    files = {file["path"]: file for file in result["files"]}
    assert files["a.txt"] == {
        "path": "a.txt",
        "previous_path": None,
        "status": "modified",
        "mode": "100644",
        "previous_mode": "100644",
        "before": "one\ntwo\nthree\n",
        "after": "one\n2\nthree\n",
        "encoding": "utf-8",
        "size": 12,
        "truncated": False,
    }
    assert (files["moved.txt"]["status"], files["moved.txt"]["previous_path"]) == ("renamed", "dir/b.txt")
    assert (files["run.sh"]["previous_mode"], files["run.sh"]["mode"]) == ("100755", "100644")
    assert files["keep.txt"]["mode"] == "100755"
    assert (files["grüße.txt"]["status"], files["grüße.txt"]["mode"], files["grüße.txt"]["size"]) == (
        "deleted",
        None,
        0,
    )
    assert (files["picture.bin"]["encoding"], files["picture.bin"]["after"]) == ("base64", "AAE=")
    assert base64.b64decode(files["latin1.txt"]["before"]) == LATIN1
    assert "-two\n+2\n" in result["diff"]
    assert "rename from dir/b.txt" in result["diff"]
    assert "Binary files a/picture.bin and b/picture.bin differ" in result["diff"]
    assert "Gr\ufffd\ufffde aus K\ufffdln" in result["diff"]
    assert "a/grüße.txt" in result["diff"]
    assert (result["additions"], result["deletions"]) == (2, 2)
    assert result["patch"].startswith(f"From {result['commit']} ")
    assert (
        "From: Ada <ada@example.com>\nDate: Tue, 14 Nov 2023 22:13:20 +0000\nSubject: [PATCH] AI: do it\n"
        in result["patch"]
    )


@pytest.mark.parametrize(
    "message", ["", "one\n\ndiff --git a/x b/x\n--- a/x\n+++ b/x\n---\n", "ü\0\x01\ud800 tail", "x" * 300]
)
def test_any_commit_message_leaves_the_patch_whole(make_run, message):
    run = make_run()
    put(run.work, {"a.txt": "1\n"})

    result = run.result(message=message)

    fresh = run.fresh_clone()
    git(fresh, "am", "-q", input=result["patch"].encode())
    assert git(fresh, "rev-parse", "HEAD^{tree}") == result["tree"]


def leave_uncommitted(work):
    pass


def commit_it(work):
    git(work, "add", "-A")
    git(work, "commit", "-q", "-m", "mine")


def commit_on_another_branch(work):
    git(work, "switch", "-q", "-c", "other")
    commit_it(work)
    git(work, "branch", "-q", "-D", "main")


def rewrite_history(work):
    git(work, "switch", "-q", "--orphan", "none")
    git(work, "commit", "-q", "--allow-empty", "-m", "nothing before")


def stash_and_pop(work):
    git(work, "stash", "-q", "-u")
    git(work, "stash", "pop", "-q")


def stage_half(work):
    git(work, "add", "a.txt")


def remove_git(work):
    shutil.rmtree(work / ".git")


def replace_git_by_a_link(work):
    remove_git(work)
    (work / ".git").symlink_to("/etc")


def replace_git_by_a_file(work):
    remove_git(work)
    (work / ".git").write_text("gitdir: /etc\n")


def break_git(work):
    (work / ".git" / "HEAD").write_text("rubbish\n")
    (work / ".git" / "config").write_text("[core\n")
    (work / ".git" / "index").write_bytes(b"rubbish")


@pytest.mark.parametrize(
    "act",
    [
        leave_uncommitted,
        commit_it,
        commit_on_another_branch,
        stash_and_pop,
        stage_half,
        remove_git,
        replace_git_by_a_link,
        replace_git_by_a_file,
        break_git,
    ],
)
def test_what_the_agent_did_with_git_makes_no_difference(make_run, act):
    run = make_run({"a.txt": "one\n", "b.txt": "b\n", ".gitignore": "*.log\n"})
    put(run.work, {"a.txt": "two\n", "b.txt": None, "new.txt": "new\n", "noise.log": "ignored\n"})
    act(run.work)

    result = run.result()

    assert result["changed_files"] == ["a.txt", "b.txt", "new.txt"]
    assert result["warnings"] == []
    assert tree_of(run, rebuilt(run, result)) == result["tree"]


def test_an_orphan_branch_shows_the_files_that_went(make_run):
    run = make_run({"a.txt": "one\n"})
    rewrite_history(run.work)

    assert [(file["path"], file["status"]) for file in run.result()["files"]] == [("a.txt", "deleted")]


def test_collecting_leaves_the_work_tree_and_the_pristine_clone_untouched(make_run):
    run = make_run()
    put(run.work, {"a.txt": "1\n", "new.txt": "x\n"})
    git(run.work, "add", "a.txt")

    def state():
        places = [path for top in (run.work, run.run / "base.git") for path in sorted(top.rglob("*"))]
        return [(path, path.lstat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in places]

    before = state()
    first = run.result(date_s=1)

    assert state() == before
    assert run.result(date_s=1) == first


# --- what an agent may plant ------------------------------------------------------------------------------


class Trap:
    """A program that leaves a trace when it runs."""

    def __init__(self, folder):
        self.trace = folder / "trace"
        self.program = folder / "trap.sh"
        self.program.write_text(f"#!/bin/sh\necho $0 $@ >> {self.trace}\ncat\n")
        self.program.chmod(0o755)

    def arm(self, git_dir):
        """Whatever a repository can be told to run."""
        keys = "core.fsmonitor core.sshCommand core.editor core.pager core.askPass core.gitProxy diff.external"
        keys += " diff.x.command diff.x.textconv filter.x.clean filter.x.smudge filter.x.process merge.x.driver"
        keys += " gpg.program credential.helper sequence.editor alias.add alias.status core.alternateRefsCommand"
        keys += " uploadpack.packObjectsHook"
        for key in keys.split():
            subprocess.run(["git", "config", "-f", git_dir / "config", key, f"!{self.program}"], check=True)
        for key in ("core.fsmonitor", "filter.x.clean", "filter.x.process", "diff.x.textconv", "diff.external"):
            subprocess.run(["git", "config", "-f", git_dir / "config", key, str(self.program)], check=True)
        subprocess.run(["git", "config", "-f", git_dir / "config", "filter.x.required", "true"], check=True)
        subprocess.run(["git", "config", "-f", git_dir / "config", "core.hooksPath", git_dir / "hooks"], check=True)
        (git_dir / "hooks").mkdir(exist_ok=True)
        for hook in ("post-index-change", "pre-commit", "fsmonitor-watchman", "reference-transaction", "post-commit"):
            shutil.copy(self.program, git_dir / "hooks" / hook)

    def went_off(self):
        return self.trace.read_text() if self.trace.exists() else ""


ATTRIBUTES = "* filter=x diff=x merge=x ident\n"


@pytest.fixture
def trap(tmp_path):
    return Trap(tmp_path)


def nested(work, name, trap, commits=True):
    """A repository inside the work tree, armed."""
    inner = work / name
    inner.mkdir(parents=True, exist_ok=True)
    git(inner, "init", "-q", "-b", "main")
    put(inner, {"inner.txt": "x\n", ".gitattributes": ATTRIBUTES})
    if commits:
        commit_it(inner)
    put(inner, {"inner.txt": "changed\n", "more.txt": "y\n"})
    trap.arm(inner / ".git")
    return inner


def test_the_traps_work(make_run, trap):
    run = make_run()
    trap.arm(run.work / ".git")
    put(run.work, {".gitattributes": ATTRIBUTES, "a.txt": "changed\n"})

    subprocess.run(["git", "-C", run.work, "status"], env=PLAIN, capture_output=True)

    assert trap.went_off()


def test_nothing_planted_at_the_root_runs(make_run, trap):
    run = make_run()
    trap.arm(run.work / ".git")
    put(run.work, {".gitattributes": ATTRIBUTES, "a.txt": "changed\n", "new.txt": "x\n"})
    put(
        run.work,
        {"GIT_DIR": "x\n", "GIT_INDEX_FILE": "x\n", "config": "x\n", "HEAD": "ref: x\n", "hooks/pre-commit": "x\n"},
    )
    (run.home / ".gitconfig").write_text(f"[core]\n\tfsmonitor = {trap.program}\n")
    (run.home / ".config" / "git").mkdir(parents=True)
    shutil.copy(run.home / ".gitconfig", run.home / ".config" / "git" / "config")

    result = run.result()

    assert trap.went_off() == ""
    assert {"a.txt", "new.txt", ".gitattributes"} <= set(result["changed_files"])
    assert tree_of(run, rebuilt(run, result)) == result["tree"]


@pytest.mark.parametrize("commits", [True, False], ids=["with commits", "without commits"])
def test_nothing_planted_in_a_nested_repository_runs_and_its_files_stay_out(make_run, trap, commits):
    run = make_run()
    nested(run.work, "vendor/thing", trap, commits)
    put(run.work, {"a.txt": "changed\n"})

    result = run.result()

    assert trap.went_off() == ""
    assert result["changed_files"] == ["a.txt"]
    assert len(result["warnings"]) >= 1
    assert all("vendor/thing" in warning for warning in result["warnings"])


@pytest.mark.parametrize("at_its_commit", [True, False])
def test_nothing_planted_in_a_submodule_runs_and_it_stays_as_it_was(make_run, trap, at_its_commit):
    run = make_run({"a.txt": "1\n", ".gitmodules": '[submodule "x"]\n\tpath = sub\n\turl = ./x\n'}, submodules=["sub"])
    inner = nested(run.work, "sub", trap)
    if at_its_commit:  # only then git asks the submodule whether it is dirty
        put(inner, {".git/refs/heads/main": "1" * 40 + "\n"})
    modules = f'[submodule "x"]\n\tpath = sub\n\turl = ./x\n\tupdate = !{trap.program}\n\tignore = none\n'
    put(run.work, {"a.txt": "changed\n", ".gitmodules": modules})

    result = run.result()

    assert trap.went_off() == ""
    assert result["changed_files"] == [".gitmodules", "a.txt"]
    notice = "The submodule sub stays as it was: what changed in it is not collected."
    assert result["warnings"] == ([] if at_its_commit else [notice])
    assert "160000" in git(run.run / "base.git", "ls-tree", run.base, "sub")


@pytest.mark.parametrize(
    "act",
    [
        lambda work: shutil.rmtree(work / "sub"),
        lambda work: put(work, {"sub/file": "x\n"}),
        lambda work: put(work, {"sub": "x\n"}),
        lambda work: None,
    ],
    ids=["removed", "filled", "replaced", "left alone"],
)
def test_a_submodule_of_the_base_stays_whatever_becomes_of_its_folder(make_run, act):
    run = make_run(submodules=["sub", "libs/other"])
    act(run.work)

    result = run.result()

    assert (result["changed_files"], result["tree"]) == ([], result["base_tree"])


def test_a_file_in_the_way_of_a_submodule_is_kept(make_run):
    run = make_run(submodules=["libs/other"])
    put(run.work, {"libs": "a file\n"})

    result = run.result()

    assert sorted((file["path"], file["status"]) for file in result["files"]) == [
        ("libs", "added"),
        ("libs/other", "deleted"),
    ]


def test_a_planted_git_folder_hides_no_change_of_the_files_beside_it(make_run, trap):
    run = make_run({"src/main.py": "1\n"})
    nested(run.work, "src", trap)
    put(run.work, {"src/main.py": "2\n"})

    result = run.result()

    assert trap.went_off() == ""
    assert "src/main.py" in result["changed_files"]


@pytest.mark.parametrize("target", ["/etc", "../elsewhere", "loop"])
def test_a_work_tree_that_became_a_link_is_refused(make_run, target):
    run = make_run()
    (run.home / "elsewhere").mkdir()
    (run.home / "loop").symlink_to("loop")
    shutil.rmtree(run.work)
    run.work.symlink_to(target)

    answer, _ = run.collect()

    assert (answer["ok"], answer["error"]) == (False, "work_tree_unsafe")
    assert not (run.run / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"work_tree": "../run"}, "work_tree_unsafe"),
        ({"work_tree": "/etc"}, "work_tree_unsafe"),
        ({"work_tree": "gone"}, "work_tree_missing"),
        ({"base_commit": "f" * 40}, "base_missing"),
        ({"base_commit": "--help"}, "base_missing"),
        ({"base_git": "nowhere.git"}, "base_missing"),
        ({"author_name": "", "author_email": ""}, "failed"),
        ({"surprise": 1}, "failed"),
    ],
)
def test_what_cannot_be_collected_says_why(make_run, changes, error):
    run = make_run()
    put(run.work, {"a.txt": "changed\n"})

    answer, _ = run.collect(**changes)

    assert (answer["ok"], answer["error"]) == (False, error)
    assert answer["message"]


@pytest.mark.parametrize(
    ("options", "left"),
    [
        ("size=4m", {"bytes_left": 0}),
        ("size=4m", {"bytes_left": 150_000}),  # enough to begin with
        ("size=4m", {"bytes_left": 400_000}),
        ("size=64m,nr_inodes=600", {"inodes_left": 0}),
        ("size=64m,nr_inodes=600", {"inodes_left": 60}),
        ("size=64m,nr_inodes=600", {"inodes_left": 150}),
    ],
)
def test_on_a_full_disk_a_collection_is_refused_for_that_and_never_a_part_of_it_made(tmp_path, options, left):
    with small_disk(tmp_path / "disk", options) as disk:
        run = Run(disk, {"a.txt": "one\n"})
        (run.run / "spec.json").touch()
        put(run.work, {f"{number}.bin": os.urandom(5000) for number in range(100)})
        with (run.run / "spec.json").open("w") as spec:
            spec.write(" " * 8192)  # room for the words of the one that asks
        fill(disk, **left)

        answer, _ = run.collect()

        assert (answer["ok"], answer["error"]) == (False, "disk_full"), answer


def test_pipes_and_sockets_do_not_hold_anything_up(make_run, monkeypatch):
    run = make_run({"a.txt": "1\n", "b.txt": "b\n"})
    (run.work / "a.txt").unlink()
    os.mkfifo(run.work / "a.txt")
    os.mkfifo(run.work / "pipe")
    with socket.socket(socket.AF_UNIX) as unix:
        monkeypatch.chdir(run.work)  # a socket's path may have 108 bytes
        unix.bind("sock")
        put(run.work, {"b.txt": "changed\n"})

        result = run.result()

    assert "b.txt" in result["changed_files"]
    assert not {"pipe", "sock"} & set(result["changed_files"])


@pytest.mark.skipif(os.getuid() != 0, reason="only root reads what nobody may read")
def test_unreadable_files_are_read_by_root(make_run):
    run = make_run({"a.txt": "1\n", "dir/b.txt": "b\n"})
    put(run.work, {"a.txt": "2\n", "dir/new.txt": "n\n"})
    (run.work / "a.txt").chmod(0)
    (run.work / "dir").chmod(0)

    result = run.result()

    assert [(file["path"], file["mode"]) for file in result["files"]] == [
        ("a.txt", "100644"),
        ("dir/new.txt", "100644"),
    ]


def test_a_git_folder_in_disguise_is_left_out_with_a_warning(make_run):
    run = make_run()
    put(run.work, {"x/.GIT/config": "x\n", "a.txt": "2\n"})

    result = run.result()

    assert "a.txt" in result["changed_files"]
    assert ".GIT" not in " ".join(result["changed_files"])
    assert any(".GIT" in warning for warning in result["warnings"])


def test_attributes_that_are_links_or_rubbish_are_no_obstacle(make_run):
    run = make_run()
    put(run.work, {".gitattributes": Path("/etc/passwd"), ".gitignore": Path("/etc/passwd"), "a.txt": "2\n"})
    put(
        run.work,
        {"d/.gitattributes": b"\xff\0" * 9999, "e/.gitattributes": "[attr]" + "x" * 5000 + " y\n", "e/f": "f\n"},
    )

    result = run.result()

    assert {"a.txt", ".gitattributes", "e/f"} <= set(result["changed_files"])
    assert tree_of(run, rebuilt(run, result)) == result["tree"]


# --- fidelity ---------------------------------------------------------------------------------------------


def test_files_nobody_touched_are_no_change_even_where_the_base_breaks_its_own_attributes(make_run):
    run = make_run({"a.txt": "1\r\n2\n", "b.txt": "b\r\n", "c.txt": "c\n"})
    put(run.origin, {".gitattributes": "a.txt text eol=crlf\n*.txt text\n"})
    git(
        run.origin,
        "update-index",
        "--add",
        "--cacheinfo",
        "100644,"
        + git(run.origin, "hash-object", "-w", "--stdin", input=b"a.txt text eol=crlf\nb.txt text\n")
        + ",.gitattributes",
    )
    git(run.origin, "commit", "-q", "-m", "attributes")
    run.base = git(run.origin, "rev-parse", "HEAD")
    shutil.rmtree(run.work)
    shutil.rmtree(run.run / "base.git")
    git(run.run, "clone", "-q", "--bare", run.origin, "base.git")
    git(run.home, "clone", "-q", run.origin, "repo")
    put(run.work, {"c.txt": "changed\n"})
    (run.work / "b.txt").chmod(0o755)

    result = run.result()

    assert {file["path"]: file["mode"] for file in result["files"]} == {"b.txt": "100755", "c.txt": "100644"}
    assert git(run.origin, "rev-parse", "HEAD:b.txt") in git(
        run.origin, "hash-object", "--stdin", input=result["files"][0]["after"].encode()
    )


def test_a_file_that_is_not_in_the_promised_encoding_is_collected_as_it_is(make_run):
    run = make_run({".gitattributes": "*.txt working-tree-encoding=UTF-16\n"})
    put(run.work, {"odd.txt": b"x"})

    result = run.result()

    assert result["changed_files"] == ["odd.txt"]
    assert any("ncoding" in warning for warning in result["warnings"])


def test_a_name_that_is_not_utf8_is_exact_in_the_patch(make_run):
    run = make_run({"a.txt": "1\n"})
    put(run.work, {b"k\xf6ln.txt": "x\n"})

    result = run.result()

    assert result["changed_files"] == ["k\ufffdln.txt"]
    assert result["warnings"] == ["The name of k\ufffdln.txt is not UTF-8: only the patch has it exactly."]
    fresh = run.fresh_clone()
    git(fresh, "apply", "--index", input=result["patch"].encode())
    assert git(fresh, "write-tree") == result["tree"]


# --- limits -----------------------------------------------------------------------------------------------


def test_contents_beyond_the_limits_are_left_out_but_never_the_change(make_run):
    run = make_run({})
    put(run.work, {"a": "a" * 50, "b": "b" * 200, "c": "c" * 90, "d": "d" * 90, "e": "e"})

    result = run.result(limits={"files": 4, "file_bytes": 100, "total_bytes": 150})

    assert [(file["path"], file["truncated"], file["size"]) for file in result["files"]] == [
        ("a", False, 50),
        ("b", True, 200),
        ("c", False, 90),
        ("d", True, 90),
    ]
    assert [file["after"] is None for file in result["files"]] == [False, True, False, True]
    assert result["changed_files"] == ["a", "b", "c", "d", "e"]
    assert result["files_changed"] == 5
    assert result["warnings"] == [
        "5 files changed: the contents of the first 4 are listed.",
        "2 of the changed files are too large to be listed with their contents.",
    ]
    fresh = run.fresh_clone()
    git(fresh, "apply", "--index", input=result["patch"].encode())
    assert git(fresh, "write-tree") == result["tree"]


def contents_of(run, result):
    """What lies apart, by id."""
    found = {}
    for number, pack in enumerate(result["contents"]):
        data = (run.run / "result.json.contents" / str(number)).read_bytes()
        for content in pack:
            found[content["id"]], data = data[: content["size"]], data[content["size"] :]
        assert data == b""
    return found


def test_contents_too_large_for_a_row_lie_apart_each_once_and_whole(make_run):
    lines = "".join(f"line {number}\n" for number in range(40))
    run = make_run({"kept": "k" * 300, "old": lines, "small": "s"})
    put(run.work, {"new": b"\0\xff" * 200, "same": b"\0\xff" * 200, "kept": "K", "small": "S"})
    (run.work / "old").unlink()

    result = run.result(limits={"row_bytes": 200})

    files = {file["path"]: file for file in result["files"]}
    contents = contents_of(run, result)
    assert {path: file["encoding"] for path, file in files.items()} == {
        **dict.fromkeys(("kept", "new", "old", "same"), "apart"),
        "small": "utf-8",
    }
    assert sorted(contents.values()) == sorted([b"\0\xff" * 200, b"k" * 300, b"K", lines.encode()])
    assert (contents[files["kept"]["before"]], contents[files["kept"]["after"]]) == (b"k" * 300, b"K")
    assert (files["new"]["before"], files["new"]["after"]) == (None, files["same"]["after"])
    assert files["old"]["after"] is None
    assert not any(file["truncated"] for file in files.values())


def test_what_the_rows_have_no_room_for_lies_apart_in_files_of_some_size(make_run):
    run = make_run({})
    put(run.work, {f"{n}": f"{n}" * 3_000_000 for n in range(4)} | {"a": "first", "z": "last"})

    result = run.result(limits={"rows_bytes": 5})

    assert [(file["path"], file["encoding"]) for file in result["files"]] == [
        *((str(n), "apart") for n in range(4)),
        ("a", "utf-8"),
        ("z", "apart"),
    ]
    assert [len(pack) for pack in result["contents"]] == [1, 1, 1, 2]
    assert len(contents_of(run, result)) == 5
    assert (run.run / "result.json.contents").stat().st_mode & 0o077 == 0


def test_a_second_collection_leaves_no_contents_of_the_first(make_run):
    run = make_run({})
    put(run.work, {"a": "a" * 100})
    run.result(limits={"row_bytes": 10})
    put(run.work, {"a": "b"})

    result = run.result(limits={"row_bytes": 10})

    assert result["contents"] == []
    assert list((run.run / "result.json.contents").iterdir()) == []


SHAPES = {"a token": r"tok_[a-z]{8}\b", "a private key": "-----BEGIN PRIVATE KEY-----"}


def test_what_looks_like_a_key_is_told_by_its_place_and_not_by_itself(make_run):
    run = make_run({"old.txt": "tok_isalready\ntok_wasthere\n", "gone.txt": "tok_goesaway\n"})
    put(
        run.work,
        {
            "a.env": "A=1\nB=tok_abcdefgh\nC=tok_abcdefghi\nD=xtok_abcdefgh\n",
            "old.txt": "one more line\ntok_isalready\ntok_wasthere\ntok_isbroken\n",
            "bin": b"\0\xff\n-----BEGIN PRIVATE KEY-----\n",
        },
    )
    (run.work / "gone.txt").unlink()

    result = run.result(secret_shapes=SHAPES)

    assert result["possible_secrets"] == [
        {"path": "a.env", "line": 2, "kind": "a token"},
        {"path": "bin", "line": 2, "kind": "a private key"},
        {"path": "old.txt", "line": 4, "kind": "a token"},
    ]
    assert run.result()["possible_secrets"] == []


def test_files_full_of_what_looks_like_keys_keep_nobody_busy(make_run):
    run = make_run({})
    put(run.work, {f"{n}": "tok_abcdefgh\n" * 500_000 for n in range(3)})

    assert len(run.result(secret_shapes=SHAPES)["possible_secrets"]) == 20


def test_only_so_many_possible_keys_are_told(make_run):
    run = make_run({})
    put(run.work, {"many": "".join(f"tok_{chr(97 + n) * 8}\n" for n in range(26))})

    assert len(run.result(secret_shapes=SHAPES)["possible_secrets"]) == 20


def test_workflows_and_files_of_git_lfs_are_pointed_out(make_run):
    run = make_run({".gitattributes": "*.psd filter=lfs diff=lfs merge=lfs -text\n", "old.psd": "x"})
    put(run.work, {"new.psd": b"\0", "newer.psd": b"\0\0", ".github/workflows/ci.yml": "on: push\n", "plain": "x"})
    (run.work / "old.psd").unlink()

    assert run.result()["warnings"] == [
        ".github/workflows/ was changed: a pull request of it needs a token with the 'workflow' scope.",
        "new.psd and 1 more files: by .gitattributes for Git LFS, but collected as they are.",
    ]


def test_a_long_diff_is_cut_at_a_line_and_a_long_patch_left_out(make_run):
    run = make_run()
    put(run.work, {"long.txt": "ü" * 40 + "\n" + "line\n" * 1000})

    result = run.result(limits={"diff_bytes": 500, "patch_bytes": 500})

    assert result["diff_truncated"]
    *body, notice = result["diff"].splitlines()
    assert notice == "[The diff is longer than 500 bytes and was cut here.]"
    assert body[-1] == "+line"
    assert (result["patch"], result["patch_truncated"]) == (None, True)
    assert result["warnings"] == ["The patch is longer than 500 bytes and was left out."]
    assert len(result["files"]) == 1
