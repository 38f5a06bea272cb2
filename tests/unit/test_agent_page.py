"""docs/how-to/agent.md lists the files that mention an agent: these mention each agent, and no other file does."""

import ast
import importlib
import re
from functools import cache
from pathlib import Path
from pkgutil import iter_modules

import pytest

import functions.executor.agents
import shared.domain.agents
from shared.domain.agents import AgentName
from tests.unit.test_template import variables

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "agent.md"
MOST_FILES = 8
CODE = ("functions", "shared", "local", "sandbox")
OTHERS = (
    *(".env.example", "Makefile", "e2b.toml", "samconfig.toml", "template.yaml", "docs/openapi.json"),
    *("sandbox/*Dockerfile", "supabase/**/*.sql"),
)
# These name the models and protocols of providers, whichever agent uses them.
OF_PROVIDERS = ("functions/executor/agents/prices.py", "local/services/model/")
# Texts of the contract and of examples that mean no agent, or any.
NOT_OF_ONE_AGENT = {
    "Claude Code Automation API",  # GET / of the reference backend
    "claude-code-",  # the branch of a pull request, whichever agent did the work: the frontend knows it
    *("claudeCode", "ANTHROPIC_MODEL", "claude-sonnet-4-5"),  # the example of `preferences`
}


def listed(agent):
    """The files and folders of the table, for this agent."""
    section = PAGE.read_text().partition("\n## The files\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    return [path.replace("<name>", agent) for path in found]


def words_of(agent):
    profile = agent.profile
    names = {agent, profile.provider, profile.section, profile.key_variable, profile.base_url_variable}
    return re.compile("|".join(map(re.escape, sorted({*names, profile.model_variable, profile.title}))), re.IGNORECASE)


@cache
def texts():
    """What each file says: of Python its names and texts without docstrings and examples, of others all."""
    python = [path for folder in CODE for path in (ROOT / folder).rglob("*.py")]
    others = [path for pattern in OTHERS for path in ROOT.glob(pattern)]
    found = {path: set(_texts_of(ast.parse(path.read_text()))) for path in python}
    found |= {path: {path.read_text()} for path in others}
    return {str(path.relative_to(ROOT)): texts for path, texts in found.items()}


def _texts_of(tree):
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            prose.add(node.value)
        if isinstance(node, ast.keyword) and node.arg == "examples":
            prose |= set(ast.walk(node.value))
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if node not in prose:
                yield text
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.alias(name=text) | ast.arg(arg=text):
                yield text
            case ast.ImportFrom(module=str(text)) | ast.keyword(arg=str(text)):
                yield text
            case ast.FunctionDef(name=text) | ast.ClassDef(name=text):
                yield text


def mentions(agent):
    """The files that say something of this agent."""
    words = words_of(agent)
    return {
        file
        for file, said in texts().items()
        if not file.startswith(OF_PROVIDERS) and any(words.search(text) for text in said - NOT_OF_ONE_AGENT)
    }


def entry_of(file, entries):
    return next((each for each in entries if file == each or (each.endswith("/") and file.startswith(each))), None)


def test_an_agent_takes_few_files():
    assert 4 < len(listed("x")) <= MOST_FILES
    assert len(set(listed("x"))) == len(listed("x"))


@pytest.mark.parametrize("agent", AgentName)
def test_no_file_that_is_not_listed_mentions_an_agent(agent):
    assert {file for file in mentions(agent) if not entry_of(file, listed(agent))} == set()


@pytest.mark.parametrize("agent", AgentName)
def test_each_file_that_is_listed_mentions_every_agent(agent):
    entries = listed(agent)

    assert {entry_of(file, entries) for file in mentions(agent)} >= set(entries)


def test_what_is_said_to_mean_no_agent_is_still_said():
    said = set().union(*texts().values())

    assert said >= NOT_OF_ONE_AGENT


def test_every_profile_and_every_driver_has_a_name():
    """Else a module that is there would be no agent: whatever has `PROFILE` or `DRIVER` counts."""
    profiles = _modules_with(shared.domain.agents, "PROFILE")
    drivers = _modules_with(functions.executor.agents, "DRIVER")

    assert profiles == drivers == set(AgentName)


def _modules_with(package, name):
    modules = [importlib.import_module(f"{package.__name__}.{each.name}") for each in iter_modules(package.__path__)]
    return {each.__name__.rpartition(".")[2] for each in modules if name in _assigned(each)}


def _assigned(module):
    """The names that a module gives a value itself."""
    tree = ast.parse(Path(module.__file__).read_text())
    targets = [node.targets[0] for node in tree.body if isinstance(node, ast.Assign)]
    targets += [node.target for node in tree.body if isinstance(node, ast.AnnAssign)]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("agent", AgentName)
def test_a_deployment_gives_the_executor_the_variables_of_every_agent(agent):
    profile = agent.profile
    names = {profile.key_variable, profile.base_url_variable, profile.model_variable}

    assert names <= set(variables("ExecutorFunction"))


def test_every_test_that_the_page_names_exists():
    names = re.findall(r"`((?:tests/\S+/)?test_\w+\.py)`", PAGE.read_text())

    assert len(names) > 5
    assert [name for name in names if not list((ROOT / "tests").rglob(Path(name).name))] == []
