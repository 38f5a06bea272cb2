"""What a sandbox may reach, and what a project may add to it."""

import pytest

from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput
from shared.domain.network import (
    MAX_HOSTS,
    PACKAGE_REGISTRIES,
    host_of,
    is_public_host,
    read_hosts,
    restricted_network,
    takes_headers,
)
from shared.domain.preferences import NO_PREFERENCES, read_preferences
from shared.domain.project import checked_settings, read_project_network

LOCAL_STACK = {"repository_origin": "http://127.0.0.1:4000", "base_url": "http://localhost:4001/v1"}
UNSOUND = [
    "",
    "*",
    "*.com",
    "com",
    "localhost",
    "a.*.example.org",
    "https://example.org",
    "example.org/path",
    "example.org:8443",
    "user@example.org",
    "exa mple.org",
    "example.org\n",
    "example.org\x00",
    "example..org",
    "-a.example.org",
    "bücher.example",
    "x" * 64 + ".org",
    "a." * 130 + "org",
    "metadata.google.internal",
    "printer.local",
    "1.0.0.127.in-addr.arpa",
    "0.0.0.0/0",
    "0.0.0.0",
    "8.8.8.0/24",
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f.0.0.1",
    "10.0.0.5",
    "192.168.1.1",
    "169.254.169.254",
    "::1",
    "2001:4860:4860::8888",
    "${e2b.secrets.run-x-git}.org",
    None,
    5,
    True,
    ["example.org"],
    {"host": "example.org"},
]


def network(agent=AgentName.CLAUDE, preferences=None, **changes):
    found, problems = read_preferences(agent, preferences or {})
    assert problems == ()
    options = {
        "repository_origin": "https://github.com",
        "agent": agent,
        "base_url": None,
        "preferences": found,
        "registries": (),
        "project_hosts": (),
    }
    return restricted_network(**options | changes)


def claude(env=None, **section):
    return {"claudeCode": {"env": env or {}, **section}}


# --- the policy


@pytest.mark.parametrize("agent", AgentName)
def test_a_run_reaches_its_git_host_with_all_it_serves_from_and_its_agents_model(agent):
    hosts = network(agent).hosts

    assert hosts[0] == "github.com"
    assert "codeload.github.com" in hosts
    assert [host_of(other.profile.base_url) in hosts for other in AgentName] == [other is agent for other in AgentName]
    assert network(agent).rules == ()


def test_a_gateway_takes_the_place_of_the_models_maker():
    hosts = network(base_url="https://gateway.example.com/anthropic").hosts

    assert "gateway.example.com" in hosts
    assert "api.anthropic.com" not in hosts


def test_registries_and_the_projects_own_hosts_come_on_top_each_once():
    hosts = network(registries=("pypi.org", "github.com"), project_hosts=("*.example.org", "pypi.org")).hosts

    assert hosts[-2:] == ("pypi.org", "*.example.org")
    assert len(hosts) == len(set(hosts))


def test_a_git_host_of_ones_own_brings_nothing_of_github():
    assert network(repository_origin="https://git.example.com:8443").hosts == ("git.example.com", "api.anthropic.com")


def test_on_one_machine_the_addresses_of_the_local_stack_are_reached():
    assert network(**LOCAL_STACK).hosts == ("127.0.0.1",)


def test_every_registry_is_a_host_and_none_is_anybodys_storage():
    assert all(map(is_public_host, PACKAGE_REGISTRIES))
    assert not any("storage" in host or "amazonaws" in host for host in PACKAGE_REGISTRIES)


# --- users with a model access of their own


@pytest.mark.parametrize(
    ("agent", "preferences", "expected"),
    [
        (AgentName.CLAUDE, claude({"ANTHROPIC_API_KEY": "k"}), {"api.anthropic.com"}),
        (AgentName.CLAUDE, claude({"ANTHROPIC_BASE_URL": "https://llm.example.org/v1"}), {"llm.example.org"}),
        (
            AgentName.CLAUDE,
            claude({"HTTPS_PROXY": "http://proxy.example.org:3128"}),
            {"proxy.example.org", "api.anthropic.com"},
        ),
        (
            AgentName.CLAUDE,
            claude({"CLAUDE_CODE_USE_BEDROCK": "1", "AWS_REGION": "eu-central-1"}),
            {f"{name}.eu-central-1.amazonaws.com" for name in ("bedrock-runtime", "bedrock", "sts")},
        ),
        (
            AgentName.CLAUDE,
            claude({"CLAUDE_CODE_USE_VERTEX": "1", "CLOUD_ML_REGION": "europe-west1"}),
            {"europe-west1-aiplatform.googleapis.com", "aiplatform.googleapis.com", "oauth2.googleapis.com"},
        ),
        (
            AgentName.CLAUDE,
            claude({"CLAUDE_CODE_USE_FOUNDRY": "1", "ANTHROPIC_FOUNDRY_RESOURCE": "acme"}),
            {"acme.services.ai.azure.com", "login.microsoftonline.com"},
        ),
        (AgentName.CLAUDE, claude({"CLAUDE_CODE_USE_BEDROCK": "0"}), {"api.anthropic.com"}),
        (
            AgentName.CLAUDE,
            claude(credentials={"claudeAiOauth": {"accessToken": "t"}}),
            {"api.anthropic.com", "console.anthropic.com", "platform.claude.com"},
        ),
        (AgentName.CODEX, {"codex": {"env": {"OPENAI_API_KEY": "k"}}}, {"api.openai.com"}),
        (
            AgentName.CODEX,
            {"codex": {"env": {"CODEX_ACCESS_TOKEN": "t"}}},
            {"api.openai.com", "chatgpt.com", "auth.openai.com"},
        ),
    ],
)
def test_a_users_own_access_opens_the_hosts_that_it_needs(agent, preferences, expected):
    common = set(network(agent, repository_origin="https://git.example.com").hosts) - {host_of(agent.profile.base_url)}

    ours = network(agent, preferences, repository_origin="https://git.example.com", base_url="https://ours.example.com")

    assert set(ours.hosts) - common == expected


@pytest.mark.parametrize(
    "env",
    [
        {"ANTHROPIC_BASE_URL": "http://169.254.169.254/latest"},
        {"ANTHROPIC_BASE_URL": "http://localhost:8080"},
        {"ANTHROPIC_BASE_URL": "https://[::1"},
        {"ANTHROPIC_BASE_URL": "https://*"},
        {"CLAUDE_CODE_USE_BEDROCK": "1", "AWS_REGION": "0.0.0.0/0#"},
        {"CLAUDE_CODE_USE_FOUNDRY": "1"},
    ],
)
def test_what_a_user_calls_an_address_opens_nothing_but_public_hosts(env):
    opened = set(network(preferences=claude(env)).hosts) - set(network().hosts)

    assert all(map(is_public_host, opened))


# --- what a project may add


@pytest.mark.parametrize("host", ["example.org", "*.example.org", "db-1.eu.example.org", "_sip.example.org", "8.8.8.8"])
def test_public_hosts_and_addresses_are_taken(host):
    assert read_project_network([host]) == ((host,), ())


def test_names_are_kept_in_lower_case_and_once():
    assert read_project_network(["Example.ORG", "example.org"]) == (("example.org",), ())


@pytest.mark.parametrize("host", UNSOUND, ids=repr)
def test_what_is_no_public_host_is_refused_by_its_place_and_left_out(host):
    hosts, [problem] = read_project_network(["example.org", host])

    assert hosts == ("example.org",)
    assert problem.startswith("settings.network: entry 2 must be a public host")
    with pytest.raises(InvalidInput, match="entry 2 must be a public host"):
        checked_settings({"network": ["example.org", host]})


@pytest.mark.parametrize("wanted", ["example.org", {"allow": ["example.org"]}, 5, True, {}])
def test_anything_but_a_list_is_refused(wanted):
    assert read_project_network(wanted) == ((), ("settings.network must be a list of hosts.",))


def test_a_project_may_have_so_many_hosts_and_no_more():
    wanted = [f"h{n}.example.org" for n in range(MAX_HOSTS + 2)]

    assert read_hosts(wanted, "settings.network") == (
        tuple(wanted[:MAX_HOSTS]),
        (f"settings.network may have at most {MAX_HOSTS} hosts.",),
    )


def test_no_network_is_nothing_to_say():
    assert read_project_network(None) == read_project_network([]) == ((), ())
    assert checked_settings({"network": None}) == {"network": None}


# --- where requests can be given a secret


@pytest.mark.parametrize(
    ("origin", "takes"),
    [
        ("https://github.com", True),
        ("https://github.com:443", True),
        ("https://gateway.example.com/v1", True),
        ("https://gateway.example.com:8443", False),
        ("https://gateway.example.com:x", False),
        ("https://127.0.0.1", False),
        ("https://localhost", False),
        ("http://github.com", False),
        ("http://127.0.0.1:4000", False),
    ],
)
def test_only_https_hosts_with_a_name_and_the_usual_port_take_headers(origin, takes):
    assert takes_headers(origin) is takes


def test_the_host_of_something_that_is_no_address_is_none():
    assert (host_of("https://[::1"), host_of("nonsense")) == (None, None)


def test_without_preferences_there_is_one_model_host():
    assert network(preferences=None, registries=()).hosts.count("api.anthropic.com") == 1
    assert NO_PREFERENCES.model_access == ()
