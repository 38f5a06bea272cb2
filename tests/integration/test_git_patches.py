"""Patches that the real git makes of all kinds of changes lead to the very files that git has."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from shared.domain.patch import File, parse

PLAIN = {
    **{f"GIT_{who}_{what}": "t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
}
NAMES = ["a.txt", "with space.txt", "päth/ü.txt", 'quo"te\\.txt', "tab\there", "d/e/f", "b/a/b", "a b/a b", "-- ", "x"]
LINES = [
    b"one",
    b"two\r",
    b"",
    b" ",
    b"-- ",
    b"--- a/x",
    b"+++ b/x",
    b"@@ -1 +1 @@",
    b"diff --git a/x b/x",
    b"\ttab",
    b"\\ No",
]
MODES = ["100644", "100644", "100644", "100755", "120000"]


@pytest.fixture
def git(tmp_path):
    def run(*arguments, stdin=b""):
        command = ["git", "-C", str(tmp_path), *arguments]
        return subprocess.run(command, input=stdin, env=PLAIN, capture_output=True, check=True).stdout

    run("init", "-q", "-b", "main")
    return run


def content_of(dice, mode):
    if mode == "120000":
        return dice.choice([b"target", b"../elsewhere"])
    kind = dice.random()
    if kind < 0.1:
        return b""
    if kind < 0.25:
        return bytes(dice.randrange(256) for _ in range(dice.choice([3, 300, 70_000])))
    return b"\n".join(dice.choices(LINES, k=dice.randrange(1, 40))) + dice.choice([b"", b"\n"])


def changed(dice, content):
    """A few lines or bytes of it."""
    lines = content.split(b"\n")
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(lines) + 1)
        lines[at : at + dice.randrange(3)] = dice.choices(LINES, k=dice.randrange(3))
    return b"\n".join(lines)


def next_files(dice, files):
    """What an agent could make of the files."""
    after = {}
    for path, file in files.items():
        match dice.randrange(6):
            case 0:
                continue
            case 1 if free := [name for name in NAMES if name not in files | after]:
                after[dice.choice(free)] = file
            case 2 if file.mode != "120000":
                after[path] = File(file.mode, changed(dice, file.content))
            case 3:
                mode = dice.choice(MODES)
                after[path] = File(mode, content_of(dice, mode))
            case 4 if file.mode != "120000":
                after[path] = File(dice.choice(["100644", "100755"]), file.content)
            case _:
                after[path] = file
    for path in NAMES:
        if path not in files | after and dice.random() < 0.2:
            mode = dice.choice(MODES)
            after[path] = File(mode, content_of(dice, mode))
    return after


def commit(git, files, parent=None):
    git("read-tree", "--empty")
    for path, file in files.items():
        blob = git("hash-object", "-w", "--stdin", stdin=file.content).decode().strip()
        git("update-index", "--add", "--cacheinfo", f"{file.mode},{blob},{path}")
    tree = git("write-tree").decode().strip()
    return git("commit-tree", tree, "-m", "x", *(["-p", parent] if parent else [])).decode().strip()


def applied(patch, files):
    """All of the patch on all files, as whoever puts it on a repository does it."""
    gone, put = set(), {}
    for part in parse(patch):
        source = part.source or part.path
        after = part.applied_to(None if part.path in gone else files.get(source))
        if part.source and (part.deletes or part.source != part.path):
            gone.add(part.source)
        if after:
            put[part.path] = after
    return {path: file for path, file in files.items() if path not in gone} | put


def patch_of(git, commit_id, options):
    """Text, as it is stored; where git would print bytes that are none, it is told to take all files as binary."""
    attributes = git("rev-parse", "--path-format=absolute", "--git-path", "info/attributes").decode().strip()
    for line in ("", "* -diff\n"):
        Path(attributes).write_text(line)
        try:
            return git("format-patch", "-1", "--stdout", "--binary", *options, commit_id).decode()
        except UnicodeDecodeError:
            continue
    raise AssertionError("a patch of binary changes is text")


@pytest.mark.parametrize("seed", range(40))
def test_a_patch_leads_from_the_one_commit_to_the_other(git, seed):
    dice = random.Random(seed)
    before = next_files(dice, next_files(dice, {}))
    after = next_files(dice, before)
    if before == after:
        after["x"] = File("100644", b"something\n")
    old = commit(git, before)
    new = commit(git, after, old)

    for options in (["-M"], ["--no-renames"], ["-U0", "-M20%"], ["-U0", "--no-renames", "--full-index"]):
        assert applied(patch_of(git, new, options), before) == after
