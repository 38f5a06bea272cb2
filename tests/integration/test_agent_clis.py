"""Fetching an agent's program with the real pip, from a folder of wheels instead of the network."""

import subprocess
import zipfile
from concurrent.futures import ThreadPoolExecutor

import pytest

from local import agent_clis
from local.agent_clis import Cli, CliFetchError, ensure_cli

PARROT = Cli(title="Parrot", package="parrot-cli", version="1.2", program="parrot_cli/_bundled/parrot", size_mb=1)


@pytest.fixture
def wheels(tmp_path, monkeypatch):
    """A package index with one wheel, that of PARROT."""
    monkeypatch.setitem(agent_clis.CLIS, "parrot", PARROT)
    folder = tmp_path / "wheels"
    folder.mkdir()
    with zipfile.ZipFile(folder / "parrot_cli-1.2-py3-none-any.whl", "w") as wheel:
        wheel.writestr("parrot_cli/_bundled/parrot", "#!/bin/sh\necho squawk\n")
        wheel.writestr("parrot_cli-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: parrot-cli\nVersion: 1.2\n")
        wheel.writestr(
            "parrot_cli-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr("parrot_cli-1.2.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_program_is_fetched_once_and_runs(wheels, tmp_path):
    told = []

    programs = ensure_cli("parrot", tmp_path / "cache", told.append)
    (wheels / "parrot_cli-1.2-py3-none-any.whl").unlink()

    assert ensure_cli("parrot", tmp_path / "cache", told.append) == programs
    assert programs == tmp_path / "cache" / "agents" / "parrot-1.2" / "bin"
    assert subprocess.check_output([programs / "parrot"]) == b"squawk\n"
    assert told[0] == "Fetching Parrot (parrot-cli 1.2, about 1 MB, only once)"
    assert told[-1] == "Parrot is ready."


def test_two_that_ask_at_once_both_get_the_whole_program(wheels, tmp_path):
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: ensure_cli("parrot", tmp_path / "cache"), range(2)))

    assert found[0] == found[1]
    assert subprocess.check_output([found[0] / "parrot"]) == b"squawk\n"
    assert [path.name for path in (tmp_path / "cache" / "agents").iterdir()] == ["parrot-1.2"]


def test_no_wheel_for_this_platform_is_said_in_a_sentence(wheels, tmp_path):
    (wheels / "parrot_cli-1.2-py3-none-any.whl").rename(wheels / "parrot_cli-1.2-py3-none-win32.whl")

    with pytest.raises(CliFetchError, match=r"Parrot \(parrot-cli 1\.2\) has no build for this platform"):
        ensure_cli("parrot", tmp_path / "cache")
    assert list((tmp_path / "cache" / "agents").iterdir()) == []


def test_no_network_is_said_in_a_sentence(wheels, tmp_path, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    with pytest.raises(CliFetchError, match="the package index cannot be reached"):
        ensure_cli("parrot", tmp_path / "cache")


def test_a_wheel_without_the_program_is_said_in_a_sentence(wheels, tmp_path, monkeypatch):
    monkeypatch.setitem(
        agent_clis.CLIS, "parrot", Cli(title="Parrot", package="parrot-cli", version="1.2", program="x/y", size_mb=1)
    )

    with pytest.raises(CliFetchError, match="carries no x/y for this platform"):
        ensure_cli("parrot", tmp_path / "cache")


def test_an_agent_nobody_knows_is_a_mistake_of_the_caller(tmp_path):
    with pytest.raises(KeyError):
        ensure_cli("eliza", tmp_path)
