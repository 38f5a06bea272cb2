"""What the executor does for an agent follows from its profile: for each agent, and for agents that do not exist."""

import json
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.executor.work.secret_delivery import STAND_IN
from shared.config import ModelAccess
from shared.domain.agents import PROFILES, AgentName
from shared.domain.agents.profile import AgentProfile, Wheel
from shared.domain.network import HeaderRule, host_of
from shared.domain.preferences import check_preferences, read_preferences
from shared.domain.pull_request import FinishedTask
from shared.domain.run import Phase
from shared.domain.secret import Secret
from tests.fakes.executor import World
from tests.fakes.sandboxes import Script

SILENT = Script(ends_at=5)  # an agent that ends by itself and has said nothing
KEY = "the-key-of-the-deployment"

# --- each agent


@pytest.mark.parametrize("agent", AgentName)
def test_a_run_of_an_agent_that_says_nothing_ends_with_a_sentence_in_its_name(world, agent):
    world.scripts["agent"] = SILENT
    world.start(agent=agent)
    world.run()

    title = agent.profile.short_title
    assert world.task["error"] == f"{title} agent failed: it ended without a result."
    assert world.run_row["error_code"] == "agent_no_result"


@pytest.mark.parametrize("agent", AgentName)
def test_the_key_of_an_agents_model_is_found_where_its_program_looks_and_nowhere_else(world, agent):
    world.set(sandbox_secrets="file")
    world.set_model(agent, key=Secret(KEY))
    world.start(agent=agent)
    world.until(Phase.AGENT)
    world.deliver()

    assert json.loads(world.sandboxes.last.uploaded("agent", "secret_env.json")) == {
        agent.profile.program_key_variable: KEY
    }
    assert KEY not in str(world.events)


# --- an agent that does not exist yet

WORDS = st.from_regex("[a-z]{4,12}", fullmatch=True).filter(lambda word: word not in ("http", "https"))


@st.composite
def profiles(draw):
    """The profile of an agent that is not like any other."""
    word = "parrot" + draw(WORDS)
    variable = word.upper()
    return AgentProfile(
        title=f"{word} title",
        short_title=f"{word} short",
        provider=f"{word}-provider",
        provider_title=f"{word} provider",
        base_url=f"https://api.{word}.example/{draw(st.sampled_from(['', 'v1', 'a/b']))}",
        key_header=(f"x-{word}-key", draw(st.sampled_from(["", "Bearer ", "Token "]))),
        program_key_variable=draw(st.sampled_from(["PARROT_API_KEY", f"{variable}_PROGRAM_KEY"])),
        key_shape=(f"a key of {word}", rf"{word}-[a-z]{{9}}"),
        redacted_shape=rf"{word}-[a-z]+",
        key_variable=f"{variable}_API_KEY",
        base_url_variable=f"{variable}_BASE_URL",
        model_variable=f"{variable}_MODEL",
        section=f"{word}Section",
        access_variables=(f"{variable}_*",),
        model_choice_variables=(f"{variable}_MODEL",),
        credentials_file=draw(st.none() | st.just(f".{word}/login.json")),
        other_secret_files=(f".{word}/other",),
        login_variables=(f"{variable}_LOGIN*",),
        login_hosts=(f"login.{word}.example",),
        wheel=Wheel(package=word, version="1", program=word, size_mb=1),
    )


def with_profile(profile):
    """In the place of an agent that exists: an enumeration takes no new member."""
    return patch.dict(PROFILES, {AgentName.CODEX: profile})


@settings(max_examples=20, deadline=None)
@given(profiles())
def test_all_that_a_run_needs_to_know_of_its_agent_is_in_the_profile(profile):
    world = World()
    world.scripts["agent"] = SILENT
    world.sandboxes.team_has = {"secrets", "rules"}
    with with_profile(profile):
        world.set_model(AgentName.CODEX, key=Secret(KEY), base_url=None)
        world.start(agent=AgentName.CODEX)
        world.until(Phase.AGENT)
        world.deliver()
        box = world.sandboxes.last

        host, (header, scheme) = host_of(profile.base_url), profile.key_header
        rule = HeaderRule(host=host, header=header, scheme=scheme, secret=f"run-{world.run_row['id']}-model")
        assert box.network.rules == (rule,)
        assert host in box.network.hosts
        assert STAND_IN in json.loads(box.file("agent", "job.json"))["env"].values()
        world.run()
        assert world.task["error"].startswith(f"{profile.short_title} agent failed: ")

        world.set_model(AgentName.CODEX, key=None)
        world.start(agent=AgentName.CODEX)
        world.run()
        assert world.task["error"] == f"Missing required environment variables: {profile.key_variable}"


@settings(max_examples=20, deadline=None)
@given(profiles())
def test_a_sandbox_is_kept_only_without_the_secret_files_of_the_profile(profile):
    world = World()
    with with_profile(profile):
        world.start(agent=AgentName.CODEX)
        world.run_to_end()

        spec = json.loads(world.sandboxes.last.uploaded("wipe_secrets", "spec.json"))
        assert spec["files"] == list(profile.secret_files)
        assert (profile.credentials_file in spec["files"]) == (profile.credentials_file is not None)


@settings(max_examples=20, deadline=None)
@given(profiles())
def test_settings_preferences_and_pull_requests_follow_the_profile(profile):
    prefix = profile.key_variable.removesuffix("_API_KEY")
    agent, login = AgentName.CODEX, {"accessToken": "token-of-the-user"}
    section = {"env": {f"{prefix}_LOGIN": "x", profile.model_variable: "m"}, "credentials": login}
    with with_profile(profile):
        found, problems = read_preferences(agent, {profile.section: section})

        assert problems == ()
        credentials = ("credentials",) if profile.credentials_file else ()
        assert found.model_access == (f"{prefix}_LOGIN", *credentials)
        assert (found.credentials is None) == (profile.credentials_file is None)
        check_preferences({profile.section: section})
        row = {
            **dict.fromkeys(("changed_files", "execution_metadata", "target_branch", "repo_url", "pr_url")),
            **{"id": 1, "status": "completed", "agent": agent, "has_patch": True, "chat_messages": []},
        }
        task = FinishedTask.of(row)
        assert all(text.startswith(f"{profile.title}: ") for text in (task.title, task.commit_message))
        assert profile.title in task.body


@settings(max_examples=20, deadline=None)
@given(profiles(), st.none() | WORDS, st.none() | WORDS, st.none() | WORDS)
def test_the_deployments_access_is_read_from_the_variables_of_the_profile(profile, key, base_url, model):
    names = (profile.key_variable, profile.base_url_variable, profile.model_variable)
    given_values = dict(zip(names, (key, base_url, model), strict=True))
    with with_profile(profile):
        read = type(World().ports.settings).from_env(
            REQUIRED | {name: value for name, value in given_values.items() if value}
        )

        assert read.models[AgentName.CODEX] == ModelAccess(key=key and Secret(key), base_url=base_url, model=model)
        assert [each.reveal() for each in read.model_keys()] == ([key] if key else [])


REQUIRED = {
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_SECRET_KEY": "sb_secret_0123456789",
    "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
    "REPLAY_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/replay",
    "SECRETS_KMS_KEY_ID": "alias/git-tokens",
    "E2B_API_KEY": "e2b_key",
}
