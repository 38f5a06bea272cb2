"""The programs of the sandbox need nothing but Python 3.9, and are started from one archive."""

import ast
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sandbox import archive
from sandbox.programs import PROGRAMS
from tests.sandbox_programs import command, install

MODULES = sorted(archive.PACKAGE.glob("*.py"))
# Of the Pythons that a sandbox may have, those of this machine.
PLACES = (Path("/usr/bin"), Path("/usr/local/bin"), *Path.home().glob(".pyenv/versions/3.*/bin"))
FOUND = (folder / f"python3.{minor}" for minor in range(9, 15) for folder in PLACES)
PYTHONS = {path.name: path for path in FOUND if path.exists()} or {"python3": Path(sys.executable)}


def imports_of(path):
    """The modules that it imports; it must be written for Python 3.9."""
    nodes = list(ast.walk(ast.parse(path.read_text(), feature_version=(3, 9))))
    imported = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    return imported | {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_is_written_for_python_3_9_and_imports_the_standard_library_and_its_own_package(path):
    others = {name for name in imports_of(path) if name.partition(".")[0] not in sys.stdlib_module_names}
    assert {name for name in others if name != "sandbox.programs" and not name.startswith("sandbox.programs.")} == set()


def test_the_protocol_imports_no_other_module_of_the_package():
    assert not {name for name in imports_of(archive.PACKAGE / "protocol.py") if name.startswith("sandbox")}


def test_the_archive_is_always_the_same_and_holds_the_whole_package():
    first = archive.archive()
    archive.archive.cache_clear()

    assert archive.archive() == first
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    own = [f"sandbox/programs/{path.name}" for path in MODULES]
    assert sorted(names) == sorted(["__main__.py", "sandbox/__init__.py", *own])


@pytest.mark.parametrize("python", PYTHONS.values(), ids=PYTHONS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_starts_in_each_python_isolated_from_everything_else(tmp_path, python, program):
    run, hostile = tmp_path / "run", tmp_path / "hostile"
    run.mkdir()
    (hostile / "sandbox" / "programs").mkdir(parents=True)
    for name in ("json.py", "sandbox/__init__.py", "sandbox/programs/__init__.py", f"sandbox/programs/{program}.py"):
        (hostile / name).write_text("raise SystemExit(99)")
    _, *line = command(install(run), program, "bad", "usage", "in", "any", "case")

    done = subprocess.run(
        [python, *line], cwd=hostile, env={"PYTHONPATH": str(hostile)}, capture_output=True, text=True, check=False
    )

    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.startswith(f"Usage: {program} ")


@pytest.mark.parametrize("arguments", [[], ["protocol"], ["sh"], ["../clone"], [os.devnull]])
def test_no_other_module_is_started(tmp_path, arguments):
    python, *flags, path, _ = command(install(tmp_path), "")
    done = subprocess.run([python, *flags, path, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Usage: ")


def test_the_programs_lie_in_the_folder_of_the_run_by_whatever_path_they_are_started(tmp_path):
    (tmp_path / "run").mkdir()
    text = "from sandbox.programs.run_folder import ARCHIVE, RUN\ndef main(_): print(ARCHIVE, RUN)"
    path = install(tmp_path / "run", clone=text)
    (tmp_path / "link").symlink_to(tmp_path / "run")

    for started_as in (path, Path("run/programs.pyz"), tmp_path / "link" / path.name):
        done = subprocess.run(command(started_as, "clone"), cwd=tmp_path, capture_output=True, text=True, check=True)
        assert done.stdout.split() == [str(path.resolve()), str(path.parent.resolve())]
