"""The one rule for whom the agent runs as."""

import os
import pwd
from pathlib import Path

import pytest

from sandbox.programs.account import agent_account, own_account
from sandbox.programs.failures import UsageError

USER = pwd.struct_passwd(("agent", "x", 1234, 5678, "", "/home/agent", "/bin/sh"))
ROOT = pwd.struct_passwd(("toor", "x", 0, 0, "", "/root", "/bin/sh"))


@pytest.fixture(params=["root", "a person"])
def who(request, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 0 if request.param == "root" else 1000)
    monkeypatch.setattr(pwd, "getpwnam", lambda name: {"agent": USER, "other": USER, "toor": ROOT}[name])
    for name in ("AGENT_USER", "AGENT_HOME"):
        monkeypatch.delenv(name, raising=False)
    return request.param


@pytest.mark.parametrize("name", [None, "agent", "other"])
@pytest.mark.parametrize("home", [None, "/srv/home"])
def test_root_works_for_the_agents_user_and_anyone_else_for_themselves(who, name, home, monkeypatch):
    if name:
        monkeypatch.setenv("AGENT_USER", name)
    if home:
        monkeypatch.setenv("AGENT_HOME", home)

    account = agent_account()

    if who == "root":
        assert (account.uid, account.gid, account.home) == (1234, 5678, Path(home or "/home/agent"))
        assert account.is_separate
    else:
        assert account == own_account()._replace(home=Path(home) if home else own_account().home)
        assert account.uid is None
        assert not account.is_separate


def test_an_empty_name_says_that_there_is_no_such_user_on_this_machine(who, monkeypatch):
    monkeypatch.setenv("AGENT_USER", "")

    assert agent_account() == own_account()


@pytest.mark.parametrize("name", ["toor", "no-such-user"])
def test_root_and_a_user_that_does_not_exist_are_refused_by_root(who, name, monkeypatch):
    monkeypatch.setenv("AGENT_USER", name)

    if who == "root":
        with pytest.raises(UsageError, match=name):
            agent_account()
    else:
        assert agent_account() == own_account()
