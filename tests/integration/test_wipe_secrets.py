"""wipe_secrets.py, run as the executor runs it."""

import json
import os
import subprocess

import pytest

from sandbox import archive
from tests.sandbox_programs import command, install

KEY, OTHER = "sk-the-key-of-the-model", "another-secret-of-the-user"


@pytest.fixture
def place(tmp_path):
    """A sandbox's folders: home, tmp, run."""
    for name in ("home", "tmp", "run"):
        (tmp_path / name).mkdir()
    install(tmp_path / "run")
    return tmp_path


def wipe(place, *users, ours=(), files=()):
    (place / "run" / "spec.json").write_text(json.dumps({"files": list(files), "work_tree": "repo"}))
    environment = {
        "PATH": os.environ["PATH"],
        "AGENT_USER": "",
        "AGENT_HOME": str(place / "home"),
        "TMPDIR": str(place / "tmp"),
        "OUR_SECRETS": json.dumps(ours),
        "USERS_SECRETS": json.dumps(users),
    }
    line = command(place / "run" / archive.NAME, "wipe_secrets", "spec.json")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=60, check=True)
    return json.loads(done.stdout)


def test_secrets_are_overwritten_wherever_they_were_written_and_nothing_else_is(place):
    session = place / "home" / ".agent" / "session.jsonl"
    session.parent.mkdir()
    session.write_text(json.dumps({"said": f"KEY={KEY} and {OTHER}"}))
    (place / "tmp" / "binary").write_bytes(b"\0" + KEY.encode() + b"\xff" + KEY.encode())
    (place / "run" / "stdout").write_text(KEY)
    (place / "home" / "clean").write_text("nothing here")

    assert wipe(place, KEY, OTHER) == {"ok": True, "changed": 3}

    assert json.loads(session.read_text()) == {"said": f"KEY={'*' * len(KEY)} and {'*' * len(OTHER)}"}
    assert (place / "tmp" / "binary").read_bytes() == b"\0" + b"*" * len(KEY) + b"\xff" + b"*" * len(KEY)
    assert (place / "run" / "stdout").read_text() == "*" * len(KEY)
    assert (place / "home" / "clean").read_text() == "nothing here"
    assert wipe(place, KEY, OTHER) == {"ok": True, "changed": 0}


def test_in_the_repository_only_our_own_are_overwritten_for_a_users_may_belong_there(place):
    nested = place / "home" / "repo" / "src" / "settings"
    nested.parent.mkdir(parents=True)
    nested.write_text(f"{KEY} {OTHER}")
    (place / "home" / "notes").write_text(f"{KEY} {OTHER}")

    wipe(place, OTHER, ours=[KEY])

    assert nested.read_text() == f"{'*' * len(KEY)} {OTHER}"
    assert (place / "home" / "notes").read_text() == f"{'*' * len(KEY)} {'*' * len(OTHER)}"


def test_a_secret_across_the_blocks_of_a_large_file_is_found(place):
    big = place / "home" / "big"
    big.write_bytes(b"x" * ((1 << 20) - 5) + KEY.encode() + b"y" * (1 << 20) + KEY.encode())

    wipe(place, KEY)

    assert KEY.encode() not in big.read_bytes()
    assert big.stat().st_size == (2 << 20) - 5 + 2 * len(KEY)


def test_a_secret_that_is_a_part_of_another_hides_nothing_of_it(place):
    (place / "home" / "file").write_text(f"{KEY}-longer {KEY}")

    wipe(place, KEY, f"{KEY}-longer")

    assert set((place / "home" / "file").read_text()) == {"*", " "}


def test_links_pipes_and_whatever_lies_outside_are_left_alone(place):
    outside = place / "outside"
    outside.mkdir()
    (outside / "file").write_text(KEY)
    (place / "home" / "link").symlink_to(outside / "file")
    (place / "home" / "folder").symlink_to(outside)
    os.mkfifo(place / "home" / "pipe")

    assert wipe(place, KEY, files=["folder/file", "link/file"])["ok"]

    assert (outside / "file").read_text() == KEY


def test_files_that_hold_nothing_but_secrets_are_deleted(place):
    (place / "home" / ".claude").mkdir()
    (place / "home" / ".claude" / ".credentials.json").write_text("{}")
    (place / "home" / ".claude" / "other.json").write_text("{}")

    assert wipe(place, files=[".claude/.credentials.json", ".codex/absent.toml"]) == {"ok": True, "changed": 0}

    assert [path.name for path in (place / "home" / ".claude").iterdir()] == ["other.json"]


def test_a_spec_that_makes_no_sense_is_no_success(place):
    (place / "run" / "spec.json").write_text("{}")
    line = command(place / "run" / archive.NAME, "wipe_secrets", "spec.json")
    done = subprocess.run(
        line,
        env={"OUR_SECRETS": "[]", "USERS_SECRETS": "[]"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert json.loads(done.stdout) == {"ok": False, "error": "failed", "message": "ProtocolError"}


@pytest.mark.parametrize("secret", ["tok", "import", "secret", "#"])
def test_a_secret_that_is_a_word_of_the_programs_leaves_them_as_they_are(place, secret):
    program = place / "run" / archive.NAME
    before = program.read_bytes()
    (place / "home" / "note").write_text(secret)

    assert wipe(place, secret, ours=[secret])["ok"]

    assert program.read_bytes() == before
    assert (place / "home" / "note").read_text() == "*" * len(secret)
