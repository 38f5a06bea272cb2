"""What the Makefile takes from make's command line, and what it does not take from the environment."""

import os
import shutil
import subprocess
import sys

import pytest

from local.processes import PROJECT_ROOT

# In the place of the virtual environment's Python: prints what it is started with.
SHOW = """#!/bin/sh
for name in REPO PROMPT AGENT PR CLOUD HOST PYTHONSAFEPATH PYTHONHOME WORKERS STAGE ARCH KEPT; do
    eval "value=\\${$name-unset}"
    echo "$name=$value"
done
echo "arguments=$*"
"""
OPTIONS = ("REPO", "PROMPT", "AGENT", "PR", "CLOUD", "HOST")


@pytest.fixture
def make(tmp_path):
    """Runs make in this project with a virtual environment that only shows; what it showed, by name."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").write_text(SHOW)
    (venv / "bin" / "python").chmod(0o755)
    for name in ("bin/pip", ".local-packages", ".dev-packages"):
        (venv / name).touch()

    def run(*arguments, check=True, **environment):
        env = {"PATH": os.environ["PATH"], **environment}
        argv = ["make", "--no-print-directory", f"VENV={venv}", *arguments]
        done = subprocess.run(argv, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 or not check, done.stderr
        shown = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        return shown | {"stderr": done.stderr, "stdout": done.stdout}

    return run


@pytest.mark.parametrize("target", ["demo", "dev"])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_handed_on_from_the_command_line(make, target, name):
    text = 'it\'s "quoted" $HOME $(id) `id` %s # no comment'

    assert make(target, f"{name}={text}")[name] == text


@pytest.mark.parametrize("target", ["demo", "dev"])
def test_an_option_in_the_environment_belongs_to_another_program(make, target):
    shown = make(target, **dict.fromkeys(OPTIONS, "of another program"), KEPT="as it is")

    assert {name: shown[name] for name in OPTIONS} == dict.fromkeys(OPTIONS, "unset")
    assert shown["KEPT"] == "as it is"


def test_the_command_line_wins_over_the_environment(make):
    assert make("demo", "AGENT=codex", AGENT="another")["AGENT"] == "codex"


def test_what_would_change_how_python_runs_is_not_handed_on(make):
    shown = make("demo", PYTHONSAFEPATH="1", PYTHONHOME="/nonexistent")

    assert (shown["PYTHONSAFEPATH"], shown["PYTHONHOME"]) == ("unset", "unset")


def test_the_numbers_of_other_programs_are_not_ours(make):
    shown = make("faults", N="many", SEED="x", WORKERS="many")

    assert shown["arguments"] == "-m tests.faults --n 50"
    assert make("faults", "SEED=7")["arguments"] == "-m tests.faults --seed 7"
    assert make("faults", "N=10m")["arguments"] == "-m tests.faults --n 10m"


def test_a_stage_of_the_environment_is_not_deployed_to(make):
    dry = make("--dry-run", "deploy", STAGE="prod", SAM="true")["stdout"]

    assert "--config-env dev" in dry
    assert "--config-env prod" in make("--dry-run", "deploy", "STAGE=prod")["stdout"]


def python_of(make, *arguments, **environment):
    """The Python that a new virtual environment would be made with."""
    found = make("--print-data-base", "--question", "help", *arguments, check=False, **environment)["stdout"]
    (line,) = [line for line in found.splitlines() if line.startswith("PYTHON :=") or line.startswith("PYTHON =")]
    return line.partition("=")[2].strip()


def test_a_python_of_the_environment_is_used_if_it_is_new_enough(make, tmp_path):
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)

    usual = python_of(make)
    assert shutil.which(usual)
    assert python_of(make, PYTHON=str(old)) == usual
    assert python_of(make, PYTHON="/nonexistent") == usual
    assert python_of(make, PYTHON=sys.executable) == sys.executable
    assert python_of(make, f"PYTHON={old}") == str(old)  # and the recipe says why it cannot be used


def test_a_broken_python_home_does_not_keep_a_python_from_being_found(make):
    assert python_of(make, PYTHONHOME="/nonexistent") == python_of(make)


def test_packages_are_unpacked_beside_the_project(make):
    """A small, full or read-only /tmp is no obstacle."""
    recipe = make("--dry-run", "--always-make", "demo")["stdout"]

    (line,) = [line for line in recipe.splitlines() if "requirements-local.txt" in line]
    assert 'tmp="$(pwd)/.local/tmp/' in line
    assert 'TMPDIR="$tmp"' in line
