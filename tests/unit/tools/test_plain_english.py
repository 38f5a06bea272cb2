"""The check of public texts, tried on planted words."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.plain_english import ROOT, findings, public_texts

AVOIDED = (
    *("somebody", "Anybody", "nobody", "whoever", "Whosoever", "anew", "mend", "mended", "tells of", "told of"),
    *("of ours", "of yours", "of theirs", "goes on with", "went on from", "shall", "all that is", "What is more"),
    *("is none that", "has it done again", "have the runs done again", "does not answer", "does not answer now"),
    *("the own", "one's"),
)
PLAIN = ("the user", "a task", "is running", "again", "Nobodyx", "shallow", "amended", "renewal", "the owner", "hours")
words = st.lists(st.sampled_from(PLAIN), max_size=6).map(" ".join)


@pytest.mark.parametrize("avoided", AVOIDED)
@settings(max_examples=20)
@given(before=words, after=words, gap=st.sampled_from((" ", "\n", "\n    ")))
def test_an_avoided_word_is_found_anywhere_in_a_text(avoided, before, after, gap):
    text = f"{before}, {avoided.replace(' ', gap)}; {after}"

    assert [found.partition('"')[2].partition('"')[0] for found in findings(text)] == [avoided]


@given(words)
def test_plain_words_are_left_alone(text):
    assert list(findings(text)) == []


def test_code_is_not_prose():
    assert list(findings("run `sudo -u nobody whoami` as `whoever`")) == []


@pytest.fixture
def repository(tmp_path):
    """A small one without findings. Returns a function that writes a file and returns where the check finds a word."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text, encoding="utf-8")

    def found(path, text):
        write(path, text)
        return [place for place, text in public_texts(tmp_path) if list(findings(text))]

    write("docs/openapi.json", "{}")
    write("README.md", "# A title\n\nA paragraph.\n")
    write("Makefile", "# comment: whoever\ndemo: ## Run a demo\n")
    return found


def test_every_place_of_public_texts_is_read(repository):
    description = {"paths": {"/x": {"get": {"summary": "Plain", "description": "For whoever asks."}}}}

    assert repository("docs/openapi.json", json.dumps(description)) == ["docs/openapi.json#/paths//x/get/description"]
    assert repository("docs/openapi.json", "{}") == []
    assert repository("README.md", "# A title\n\nOne line,\nfor some\nbody, told\nof it.\n") == ["README.md:3"]
    assert repository("README.md", "# Title\n") == []
    assert repository("docs/how-to/x.md", "# For somebody\n") == ["docs/how-to/x.md:1"]
    assert repository("docs/how-to/x.md", "# Title\n") == []
    assert repository("functions/api/web/docs.html", "<p>Plain</p>\n\n<p>of\nours</p>\n") == [
        "functions/api/web/docs.html:3"
    ]
    assert repository("functions/api/web/docs.html", "") == []
    assert repository("Makefile", "demo:\n\ttrue\n\ntest: x ## Try anew\n") == ["Makefile:4"]
    assert repository("Makefile", "") == []
    for place in ("docs/decisions/1.md", "docs/architecture.md", "AGENTS.md", "tests/README.md", "local/x/README.md"):
        assert repository(place, "# Title\n\nFor whoever reads.\n") == [f"{place}:3"]
        assert repository(place, "# Title\n") == []
    for place in ("template.yaml", "samconfig.toml", ".env.example"):
        assert repository(place, "# for nobody\n") == [f"{place}:1"]
        assert repository(place, "") == []


@pytest.mark.parametrize("folder", ["functions/api", "shared/domain", "local", "sandbox"])
def test_the_strings_of_the_source_are_read_but_no_docstring_comment_or_name(repository, folder):
    source = '''"""For whoever reads."""  # and somebody else

def told(name):
    """Nobody sees it."""
    account = "nobody"
    if name:
        raise ValueError(f"{name} was told "
                         "of it")
    return f"{name}: begin anew", "for whoever reads"
'''
    found = repository(f"{folder}/some.py", source)

    assert sorted(found) == [f"{folder}/some.py:{line}" for line in (7, 9, 9)]


def test_the_command_fails_and_names_each_finding(tmp_path):
    """The program as `make lint` runs it, on a copy in which one text is spoilt."""
    for name in ("docs/openapi.json", "README.md", "Makefile", "tools/plain_english.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    command = [sys.executable, "-m", "tools.plain_english"]

    def run():
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert (run().returncode, run().stdout) == (0, "")
    with Path(tmp_path / "README.md").open("a", encoding="utf-8") as readme:
        readme.write("\nIt shall work.\n")
    spoilt = run()
    assert spoilt.returncode == 1
    assert spoilt.stdout.endswith(': "shall": write must, will\n')
    assert "README.md:" in spoilt.stdout


def test_the_makefile_runs_it():
    lint = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\nlint:")[2].partition("\n\n")[0]

    assert "tools.plain_english" in lint
