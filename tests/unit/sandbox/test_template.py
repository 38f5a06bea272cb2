"""The sandbox's Dockerfile, as E2B's own parser understands it."""

import json
import re

import pytest
from e2b import Template

from sandbox import archive
from sandbox.programs.known_processes import PROCESSES
from sandbox.template import ROOT, SandboxTemplate
from shared.domain.agents import AgentName


@pytest.fixture(scope="module")
def template():
    return SandboxTemplate.read(ROOT / "e2b.toml")


@pytest.fixture
def built(template, tmp_path, capsys):
    built = json.loads(Template.to_json(template.steps(tmp_path)))
    assert capsys.readouterr().out == ""  # where the parser tells what it ignores
    return built


@pytest.fixture
def steps(built):
    assert built["fromImage"] == "node:22-bookworm-slim"
    return built["steps"]


def commands(steps, kind):
    return [step["args"] for step in steps if step["type"] == kind]


def test_e2b_toml_names_a_template_of_a_size_e2b_offers(template):
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]*", template.template_name)
    assert 1 <= template.cpu_count <= 8
    assert template.memory_mb % 2 == 0
    assert (ROOT / template.dockerfile).is_file()
    assert f"E2B_TEMPLATE={template.template_name}\n" in (ROOT / ".env.example").read_text()


def test_claude_code_and_codex_are_installed_in_pinned_versions(steps):
    environment = dict(pair for args in commands(steps, "ENV") for pair in zip(args[::2], args[1::2], strict=True))
    assert re.fullmatch(r"2\.1\.\d+", environment["CLAUDE_CODE_VERSION"])
    assert re.fullmatch(r"0\.16\d\.\d+", environment["CODEX_VERSION"])
    install = next(args[0] for args in commands(steps, "RUN") if "npm install" in args[0])
    assert "@anthropic-ai/claude-code@${CLAUDE_CODE_VERSION}" in install
    assert "@openai/codex@${CODEX_VERSION}" in install


@pytest.mark.parametrize("agent", AgentName)
def test_the_build_fails_where_the_program_of_an_agent_does_not_start(steps, agent):
    assert any(f"&& {agent} --version" in args[0] for args in commands(steps, "RUN"))


def test_nothing_that_runs_need_is_left_to_variables_of_the_image_which_no_sandbox_has(steps):
    named = {name for args in commands(steps, "ENV") for name in args[::2]}
    assert all(name.endswith("_VERSION") for name in named)  # the parser's form of ARG: for the build itself


def test_the_image_is_closed_by_root_after_the_scripts_of_e2b(built, tmp_path):
    copied = {args[1]: args[0] for args in commands(built["steps"], "COPY")}
    _python, *flags, programs, program, verb = built["startCmd"].split()

    assert (flags, program, verb) == (["-I", "-S"], "close", "build")
    assert (tmp_path / copied[programs]).read_bytes() == archive.archive()
    assert [args[0] for args in commands(built["steps"], "USER")][-1] == "root"  # the user of the start command
    assert built["readyCmd"].split()[-1] == str(PROCESSES)  # written last


def test_the_agent_is_made_by_useradd_and_never_gets_sudo(steps, template):
    text = (ROOT / template.dockerfile).read_text()
    assert not re.search(r"^\s*USER\b", text, re.MULTILINE)
    assert "sudo" not in " ".join(args[0] for args in commands(steps, "RUN"))
    assert [args[0] for args in commands(steps, "USER")] == ["root", "user", "root"]  # two are the parser's own
    assert any("useradd --create-home --shell /bin/bash agent" in args[0] for args in commands(steps, "RUN"))
