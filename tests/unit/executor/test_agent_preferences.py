"""A user's own variables and logins: how they reach the agent, what they replace, and where they never show."""

import json
import tomllib
from io import StringIO

import pytest

from functions.executor.agents import AgentFailure
from functions.executor.agents.failures import classify
from functions.executor.phases.provisioning import MAX_WARNINGS
from functions.executor.step import logger
from shared.domain.agents import AgentName
from shared.domain.errors import Unavailable
from shared.domain.run import Phase
from tests.fakes.executor import (
    ANTHROPIC_KEY,
    CLAUDE_INIT,
    OPENAI_KEY,
    Script,
    changed_file,
    claude_result,
    claude_says,
    collected,
    collects,
    prints,
)

USER = "5f6c1f4e-0000-4000-8000-000000000001"
BOTH = [(AgentName.CLAUDE, "ANTHROPIC_API_KEY", ANTHROPIC_KEY), (AgentName.CODEX, "CODEX_API_KEY", OPENAI_KEY)]
LOGIN = {"claudeAiOauth": {"accessToken": "access-of-the-user", "refreshToken": "refresh-of-the-user", "expiresAt": 9}}


def start(world, agent=AgentName.CLAUDE, credentials=None, **env):
    """A run of a user with these preferences."""
    world.database.preferences[USER] = {agent.profile.section: {"env": env, "credentials": credentials}}
    world.start(user_id=USER, agent=agent)


def started(world):
    """The sandbox of a run whose agent has just been started."""
    world.until(Phase.AGENT)
    world.deliver()
    return world.sandboxes.last


def secret_env(box):
    return json.loads(box.uploaded("agent", "secret_env.json"))


def secret_home(box):
    return json.loads(box.uploaded("agent", "secret_home.json"))


def job(box):
    return json.loads(box.file("agent", "job.json"))


def stored(world):
    rows = [world.database.tasks, world.database.runs, world.database.events, world.database.files]
    return json.dumps(rows, default=str, ensure_ascii=False)


# --- how they get there


@pytest.mark.parametrize(("agent", "variable", "key"), BOTH)
def test_variables_reach_the_agent_beside_the_deployments_key(world, agent, variable, key):
    start(world, agent, MY_FLAG="on", COUNT=3)

    assert secret_env(started(world)) == {"MY_FLAG": "on", "COUNT": "3", variable: key}


@pytest.mark.parametrize(
    ("agent", "env", "credentials"),
    [
        (AgentName.CLAUDE, {"ANTHROPIC_BASE_URL": "https://own.example/v1?k=the-users"}, LOGIN),
        (AgentName.CODEX, {"OPENAI_BASE_URL": "https://own.example/v1?k=the-users", "OPENAI_API_KEY": "own-key"}, None),
    ],
)
def test_values_travel_in_files_that_are_gone_once_the_agent_runs(world, agent, env, credentials):
    start(world, agent, credentials, MY_FLAG="value-of-the-flag", **env)
    box = started(world)

    assert not box.has_file("agent", "secret_env.json")
    assert not box.has_file("agent", "secret_home.json")
    spoken = box.file("agent", "job.json").decode() + json.dumps(box.commands)
    for value in ("value-of-the-flag", "of-the-user", "own.example", "own-key"):
        assert value not in spoken


def test_claudes_credentials_become_its_own_file(world):
    start(world, credentials=LOGIN)
    [(path, text)] = secret_home(started(world)).items()

    assert path == ".claude/.credentials.json"
    assert json.loads(text) == LOGIN


def test_the_preferences_of_the_other_agent_and_of_other_users_are_not_given(world):
    world.database.preferences["somebody else"] = {"claudeCode": {"env": {"A": "theirs"}}}
    start(world, AgentName.CODEX, B="for codex")
    world.database.preferences[USER]["claudeCode"] = {"env": {"C": "for claude"}, "credentials": LOGIN}

    box = started(world)

    assert secret_env(box) == {"B": "for codex", "CODEX_API_KEY": OPENAI_KEY}
    assert job(box)["secret_home_file"] is None


def test_the_setup_script_and_the_clone_get_none_of_it(world):
    world.database.preferences[USER] = {"claudeCode": {"env": {"MY_FLAG": "value-of-the-flag"}}}
    world.start(user_id=USER, setup_script="make")
    box = started(world)

    with_value = [path for path, data in box.uploads if b"value-of-the-flag" in data]
    assert with_value == [f"/root/runs/{box.run_id}/agent/secret_env.json"]


# --- whose key goes where


ACCESS = [
    (AgentName.CLAUDE, {"ANTHROPIC_API_KEY": "the-users-own"}, None),
    (AgentName.CLAUDE, {"ANTHROPIC_BASE_URL": "https://own.example"}, None),
    (AgentName.CLAUDE, {"CLAUDE_CODE_USE_BEDROCK": 1, "AWS_REGION": "us-east-1"}, None),
    (AgentName.CLAUDE, {"https_proxy": "http://own.example"}, None),
    (AgentName.CLAUDE, {}, LOGIN),
    (AgentName.CODEX, {"CODEX_API_KEY": "the-users-own"}, None),
    (AgentName.CODEX, {"OPENAI_BASE_URL": "https://own.example/v1"}, None),
]


@pytest.mark.parametrize(("agent", "env", "credentials"), ACCESS)
@pytest.mark.parametrize("deployment_has_a_key", [True, False])
def test_who_brings_any_access_of_their_own_gets_none_of_the_deployments(
    world, agent, env, credentials, deployment_has_a_key
):
    for each in AgentName:
        world.set_model(each, base_url="https://gateway.example")
        if not deployment_has_a_key:
            world.set_model(each, key=None)
    start(world, agent, credentials, **env)

    box = started(world)

    given = secret_env(box) if env else {}
    assert given == {name: str(value) for name, value in env.items()}
    everything = b"".join(data for _, data in box.uploads).decode(errors="replace")
    for ours in (ANTHROPIC_KEY, OPENAI_KEY, "gateway.example", "claude-opus-5-5", "gpt-6.1-sol"):
        assert ours not in everything


def test_a_model_chosen_for_the_run_is_kept_with_an_own_access(world):
    world.database.preferences[USER] = {"claudeCode": {"env": {"ANTHROPIC_API_KEY": "the-users-own"}}}
    world.start(user_id=USER, model="claude-of-the-task")

    assert "--model=claude-of-the-task" in job(started(world))["argv"]


def test_an_empty_field_for_a_key_leaves_the_deployments_in_its_place(world):
    start(world, ANTHROPIC_API_KEY="", ANTHROPIC_BASE_URL=" ")

    assert secret_env(started(world)) == {"ANTHROPIC_API_KEY": ANTHROPIC_KEY}


def test_a_deployment_without_a_key_still_fails_whoever_brings_none(world):
    world.set_model(AgentName.CLAUDE, key=None)
    start(world, MY_FLAG="on")

    world.run()

    assert (world.run_row["error_code"], world.sandboxes.created) == ("model_key_missing", [])


@pytest.mark.parametrize(
    ("own", "keys"),
    [
        ({"OPENAI_API_KEY": "one"}, {"OPENAI_API_KEY": "one", "CODEX_API_KEY": "one"}),
        ({"OPENAI_API_KEY": "one", "CODEX_API_KEY": "two"}, {"OPENAI_API_KEY": "one", "CODEX_API_KEY": "two"}),
    ],
)
def test_codex_finds_the_users_openai_key_under_the_name_it_reads(world, own, keys):
    start(world, AgentName.CODEX, **own)

    assert secret_env(started(world)) == keys


@pytest.mark.parametrize("address", ["https://own.example/v1", 'https://x/"\\\n[a]\x7f\U0001f600'])
def test_codex_finds_the_users_openai_address_in_a_profile_since_it_does_not_read_the_variable(world, address):
    start(world, AgentName.CODEX, OPENAI_BASE_URL=address)
    box = started(world)

    argv = job(box)["argv"]
    [profile] = [each.removeprefix("--profile=") for each in argv if each.startswith("--profile=")]
    [(path, text)] = secret_home(box).items()
    assert path == f".codex/{profile}.config.toml"
    settings = tomllib.loads(text)
    assert settings["model_provider"] == "gateway"
    assert settings["model_providers"]["gateway"]["base_url"] == address
    assert settings["model_providers"]["gateway"]["env_key"] == "CODEX_API_KEY"


def test_options_for_an_own_address_come_before_the_session_to_resume(world):
    world.database.preferences[USER] = {"codex": {"env": {"OPENAI_BASE_URL": "https://own.example/v1"}}}
    world.start(user_id=USER, agent=AgentName.CODEX)
    world.until(Phase.AGENT)["agent_session_id"] = "abc-123-def"
    world.deliver()

    argv = job(world.sandboxes.last)["argv"]
    assert argv[-4:] == ["--profile=own-gateway", "resume", "abc-123-def", "-"]


@pytest.mark.parametrize(
    "said", ["Not logged in · Please run /login", "Missing environment variable: `CODEX_API_KEY`."]
)
def test_an_agent_without_any_key_is_a_matter_of_authentication(said):
    assert classify(said) is AgentFailure.AUTH


# --- what the user is told


def test_what_is_left_out_is_told_once_without_its_value_and_the_rest_is_used(world):
    start(world, PATH="/a-place-of-theirs", GOOD="1", BAD=["the-value-itself"])

    world.run()

    assert [event["text"] for event in world.payloads("warning")] == [
        "Left out of your preferences: claudeCode.env.PATH cannot be set: the agent and its tools are found by it.",
        "Left out of your preferences: claudeCode.env.BAD must be a string, a number, true or false.",
    ]
    assert "a-place-of-theirs" not in stored(world)
    assert "the-value-itself" not in stored(world)
    assert world.task["status"] == "completed"
    assert secret_env(world.sandboxes.last)["GOOD"] == "1"


def test_many_problems_do_not_fill_the_log(world):
    start(world, **{f"V{n}": None for n in range(MAX_WARNINGS + 5)})

    world.run()

    warnings = [event["text"] for event in world.payloads("warning")]
    assert len(warnings) == MAX_WARNINGS + 1
    assert warnings[-1] == "Left out of your preferences: 5 more."


@pytest.mark.parametrize("preferences", ["text", [1], {"claudeCode": 7}, {"claudeCode": {"env": "A=1"}}])
def test_preferences_that_are_none_do_no_harm(world, preferences):
    world.database.preferences[USER] = preferences
    world.start(user_id=USER)

    world.run()

    assert world.task["status"] == "completed"
    assert "must be an object" in world.payloads("warning")[0]["text"]


def test_an_address_without_a_key_is_told_of_since_the_run_will_probably_fail(world):
    start(world, ANTHROPIC_BASE_URL="https://own.example")

    world.run()

    assert world.payloads("warning") == [
        {
            "text": "You choose how to reach the model yourself (ANTHROPIC_BASE_URL), "
            "so this run gets no key of this deployment."
        }
    ]


def test_an_own_key_needs_no_warning(world):
    start(world, credentials=LOGIN, ANTHROPIC_BASE_URL="https://own.example")

    world.run()

    assert world.payloads("warning") == []


# --- where they never show


SECRETS = {"MY_TOKEN": "value-of-my-token", "DB_PASSWORD": "value-of-password"}
TOKENS = ("access-of-the-user", "refresh-of-the-user")
SPILLED = " ".join([*SECRETS.values(), *TOKENS])
CLEANED = " ".join(["[REDACTED]"] * 4)


def test_secrets_are_taken_out_of_what_is_stored_and_ordinary_values_stay(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says(f"I found {SPILLED}"), claude_result(SPILLED))
    text = f"+{SPILLED} in us-east-1 by Ada Lovelace\n"
    world.scripts["collect"] = collects(collected(changed_file("a.txt", after=text), diff=text, patch=text))
    start(world, credentials=LOGIN, AWS_REGION="us-east-1", GIT_AUTHOR_NAME="Ada Lovelace", **SECRETS)

    world.run()

    clean = f"+{CLEANED} in us-east-1 by Ada Lovelace\n"
    assert (world.task["git_diff"], world.task["git_patch"]) == (clean, clean)
    assert world.database.files[0]["after"] == clean
    assert world.payloads("agent_message") == [{"text": f"I found {CLEANED}"}]
    assert world.task["chat_messages"][-1]["content"] == CLEANED
    assert not any(secret in stored(world) for secret in (*SECRETS.values(), *TOKENS))


def test_an_agent_that_is_stopped_or_dies_is_not_quoted_either(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says(SPILLED), at=2, ends_at=None, stderr=SPILLED)
    start(world, credentials=LOGIN, **SECRETS)
    world.until(Phase.AGENT)
    world.deliver()
    world.clock.pass_(5)
    world.database.request_cancel(world.task["id"])
    world.run()
    assert world.task["status"] == "cancelled"

    world.scripts["agent"] = Script(ends_at=1, exit_code=1, stderr=SPILLED)
    start(world, credentials=LOGIN, **SECRETS)
    world.run()
    assert world.task["error"] == f"Claude agent failed: {CLEANED}"

    assert len(world.payloads("agent_message")) == 0
    assert not any(secret in stored(world) for secret in (*SECRETS.values(), *TOKENS))


def test_no_value_reaches_the_log_even_of_ordinary_names(world, monkeypatch):
    written = StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", written)
    start(world, credentials=LOGIN, ORDINARY="an-ordinary-value", **SECRETS)
    world.run()
    values = [*SECRETS.values(), *TOKENS, "an-ordinary-value"]

    logger.warning("said", extra={"fact": " ".join(values)})

    assert "run.ended" in written.getvalue()
    assert not any(value in written.getvalue() for value in values)


@pytest.mark.parametrize("phase", [Phase.PROVISIONING, Phase.CLONING, Phase.AGENT, Phase.COLLECTING])
def test_a_step_that_cannot_learn_the_secrets_stores_nothing_and_is_taken_again(world, phase):
    text = f"+{SPILLED}\n"
    world.scripts["collect"] = collects(collected(changed_file("a.txt", after=text), diff=text))
    answer, asked = world.store.environment, []

    def answers_late(run):
        asked.append(run.phase)
        if run.phase is phase and asked.count(phase) <= 3:
            raise Unavailable("The database is not responding.")
        return answer(run)

    world.store.environment = answers_late
    start(world, credentials=LOGIN, **SECRETS)

    world.run()

    assert asked.count(phase) > 3
    assert world.task["status"] == "completed"
    assert world.task["git_diff"] == f"+{CLEANED}\n"
    assert not any(secret in stored(world) for secret in SECRETS.values())
