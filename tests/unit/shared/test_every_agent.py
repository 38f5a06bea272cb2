"""Each agent goes through every public function that takes an agent's name, also through one that is added later."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import functions
import shared
from functions.executor.agents import DRIVERS
from shared.config import ExecutorSettings
from shared.domain.agents import PROFILES, AgentName
from shared.domain.errors import AppError, Misconfigured
from shared.domain.preferences import AgentPreferences, read_preferences
from shared.domain.secret import Secret
from tests.fakes.executor import SETTINGS

TEXTS = st.text(max_size=10)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
ENVIRONMENTS = st.dictionaries(
    st.from_regex("[A-Z_]{1,9}", fullmatch=True)
    | st.sampled_from([name for each in PROFILES.values() for name in (each.key_variable, each.base_url_variable)]),
    TEXTS | st.just("https://own.example/v1"),
    max_size=3,
)
SECTIONS = st.fixed_dictionaries(
    {},
    optional={
        each.section: st.fixed_dictionaries({"env": ENVIRONMENTS, "credentials": JSON}) for each in PROFILES.values()
    },
)
# Where the type says too little for a sensible value
VALUES = {
    object: SECTIONS | ENVIRONMENTS | JSON,
    ExecutorSettings: st.just(SETTINGS),
    Secret: TEXTS.map(Secret),
    AgentPreferences: st.builds(
        lambda agent, wanted: read_preferences(agent, wanted)[0], st.sampled_from(AgentName), SECTIONS
    ),
}


def modules() -> Iterator[Any]:
    for package in (functions, shared):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            try:
                yield importlib.import_module(found.name)
            except Misconfigured:  # the handler of a function, which reads its environment at once
                continue


def public(names: Any, module: Any) -> Iterator[Any]:
    for name, member in vars(names).items():
        if not name.startswith("_") and getattr(member, "__module__", None) == module.__name__:
            yield member


def hints_of(function: Any) -> dict[str, Any]:
    try:
        hints = get_type_hints(function)
    except NameError:  # a type that only mypy imports
        hints = dict(function.__annotations__)
    return {name: hints[name] for name in inspect.signature(function).parameters if name in hints}


def takes_a_name(function: Any) -> bool:
    return any(AgentName in (hint, *get_args(hint)) for hint in hints_of(function).values())


def functions_with_a_name() -> dict[str, tuple[Any, Any]]:
    """Each with the class that it is a method of, or None, by a name for people."""
    found = {}
    for module in modules():
        for member in public(module, module):
            if inspect.isfunction(member) and takes_a_name(member):
                found[f"{module.__name__}.{member.__name__}"] = (None, member)
            if inspect.isclass(member) and not getattr(member, "_is_protocol", False):
                for method in filter(inspect.isfunction, public(member, module)):
                    if takes_a_name(method):
                        found[f"{module.__name__}.{method.__qualname__}"] = (member, method)
    return found


def properties_of(kind: Any) -> list[str]:
    return [name for name, member in vars(kind).items() if isinstance(member, property)]


def values_with_a_name() -> dict[str, Any]:
    """Each dataclass with an agent's name in a field and something to ask of it."""
    found = {}
    for module in modules():
        for member in filter(inspect.isclass, public(module, module)):
            if is_dataclass(member) and properties_of(member) and AgentName in get_type_hints(member).values():
                found[f"{module.__name__}.{member.__name__}"] = member
    return found


FUNCTIONS = functions_with_a_name()
DATACLASSES = values_with_a_name()


def values_of(hint: Any, agent: AgentName) -> st.SearchStrategy[Any]:
    if AgentName in (hint, *get_args(hint)):
        return st.just(agent)
    return VALUES[hint] if hint in VALUES else st.from_type(hint)


@pytest.fixture(scope="module", autouse=True)
def _types():
    """What dataclasses are built of."""
    for hint, values in VALUES.items():
        if hint is not object:
            st.register_type_strategy(hint, values)


def test_the_functions_and_values_that_name_an_agent_are_found():
    assert {name.rpartition(".")[2] for name in FUNCTIONS} >= {
        *("read_preferences", "read_env", "gives_access", "over"),
        *("restricted_network", "read_project_env", "model_access"),
    }
    assert {name.rpartition(".")[2] for name in DATACLASSES} >= {"FinishedTask"}


@pytest.mark.parametrize("agent", AgentName)
@pytest.mark.parametrize("name", FUNCTIONS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_a_function_takes_every_agent(name, agent, data):
    """It answers, or refuses with an error of ours: never with a KeyError."""
    owner, function = FUNCTIONS[name]
    given_values = {each: data.draw(values_of(hint, agent), each) for each, hint in hints_of(function).items()}
    if owner is not None:
        function = getattr(data.draw(values_of(owner, agent), "self"), function.__name__)
    with suppress(AppError):
        function(**given_values)


@pytest.mark.parametrize("agent", AgentName)
@pytest.mark.parametrize("name", DATACLASSES)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_every_property_of_a_value_that_names_an_agent_can_be_read(name, agent, data):
    kind = DATACLASSES[name]
    hints = get_type_hints(kind)
    value = kind(**{each.name: data.draw(values_of(hints[each.name], agent), each.name) for each in fields(kind)})

    for each in properties_of(kind):
        assert isinstance(getattr(value, each), str)


@pytest.mark.parametrize("agent", AgentName)
def test_every_agent_has_one_profile_and_one_driver(agent):
    assert agent.profile is PROFILES[agent]
    assert set(PROFILES) == set(DRIVERS) == set(AgentName)
    assert DRIVERS[agent].command().argv[0] == agent  # as the image and the embedded stack call its program
    assert DRIVERS[agent].command().secret_env == (agent.profile.program_key_variable,)


@pytest.mark.parametrize("fact", ["title", "short_title", "section", "model_variable", "credentials_file", "wheel"])
def test_no_two_agents_share_what_must_be_their_own(fact):
    values = [value for each in PROFILES.values() if (value := getattr(each, fact)) is not None]

    assert len(values) == len({repr(value) for value in values})
