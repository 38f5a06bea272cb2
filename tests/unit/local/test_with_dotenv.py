"""`python -m local.with_dotenv` runs a module with the variables of .env, which never win over the environment."""

import os
import sys

import pytest

from local import with_dotenv
from local.settings import SettingsError

MODULE = "tests.fixtures.shows_its_surroundings"


@pytest.fixture
def run(monkeypatch, capsys):
    def run(dotenv):
        monkeypatch.setattr(sys, "argv", ["with_dotenv", MODULE, "--stage", "dev"])
        monkeypatch.setattr(with_dotenv, "read_dotenv", dotenv)
        monkeypatch.setattr(os, "environ", dict(os.environ, GIVEN="by the environment"))
        with_dotenv.main()
        return capsys.readouterr().out.splitlines()

    return run


def test_a_module_runs_with_the_variables_of_the_file_and_its_own_arguments(run):
    shown = run(lambda: {"GIVEN": "by the file", "ADDED": "by the file"})

    assert shown == ["__main__", "--stage dev", "GIVEN=by the environment", "ADDED=by the file"]


def test_a_file_that_cannot_be_read_is_said_in_a_sentence(run):
    def broken():
        raise SettingsError(".env cannot be read: it is broken.")

    with pytest.raises(SystemExit, match=r"\.env cannot be read"):
        run(broken)
