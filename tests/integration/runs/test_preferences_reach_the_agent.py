"""A user's own variables and logins, from the row in the database to the real agent programs in their sandboxes."""

import hashlib
import json

import pytest

from shared.domain.agents import AgentName
from tests.fixtures.agents.cli import KEY, running_model

AGENTS = ("claude", "codex")
# The digest of every value in the environment of the agent's own program, since secrets themselves are never stored
DIGESTS = """
@run tr '\\0' '\\n' < /proc/$PPID/environ > ../values
@run while IFS= read -r each; do printf %s "${each#*=}" | sha256sum; done < ../values > digests.txt
"""
TOKEN = "value-of-a-token-of-the-user"
LOGIN = {
    "claudeAiOauth": {
        "accessToken": KEY,
        "refreshToken": "refresh-token-of-the-user",
        "expiresAt": 4_102_444_800_000,  # the year 2100
        "scopes": ["user:inference", "user:profile"],
        "subscriptionType": "max",
    }
}


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def own_model():
    """The base URL of a model that the user brings; it takes the key `KEY` and not the deployment's."""
    with running_model() as url:
        yield url


@pytest.fixture
def run_with(lab):
    """A run of a user whose row holds these preferences; its task, and the warnings in its live log."""

    def run_with(agent, prompt, credentials=None, **env):
        _, url = lab.repository()
        client = lab.user()
        preferences = {AgentName(agent).profile.section: {"env": env, "credentials": credentials}}
        lab.sql("update users set preferences = %s::jsonb where id = %s", json.dumps(preferences), client.user_id)
        task = lab.finished(client, lab.start(client, prompt, url, agent=agent))
        events = client.events(task["id"], after=0)
        return task, [event["payload"]["text"] for event in events if event["kind"] == "warning"]

    return run_with


def own_access(agent, url):
    if agent == "claude":
        return {"ANTHROPIC_BASE_URL": url, "ANTHROPIC_API_KEY": KEY}
    return {"OPENAI_BASE_URL": f"{url}/v1", "OPENAI_API_KEY": KEY}


@pytest.mark.parametrize("agent", AGENTS)
def test_variables_are_there_for_the_commands_of_the_agent(run_with, agent):
    prompt = "@run printenv MY_FLAG > flag.txt; printenv AWS_REGION COUNT >> flag.txt"
    task, _ = run_with(agent, prompt, MY_FLAG="on & off", AWS_REGION="us-east-1", COUNT=3)

    assert (task["status"], task["error"]) == ("completed", None)
    assert "+on & off\n+us-east-1\n+3\n" in task["git_diff"]


@pytest.mark.parametrize("agent", AGENTS)
def test_a_secret_that_the_agent_writes_down_is_stored_nowhere(lab, run_with, agent):
    prompt = "@run printenv DEPLOY_TOKEN > a.txt; printenv DEPLOY_TOKEN | base64 -w0 > b.txt; cat a.txt b.txt"
    task, _ = run_with(agent, prompt, DEPLOY_TOKEN=TOKEN)

    assert task["status"] == "completed"
    assert "+[REDACTED]\n" in task["git_diff"]
    for table, key in (("tasks", "id"), ("runs", "task_id"), ("task_events", "task_id"), ("task_files", "task_id")):
        [(rows,)] = lab.sql(f"select json_agg(t)::text from {table} t where {key} = %s", task["id"])
        assert TOKEN not in rows


@pytest.mark.parametrize("agent", AGENTS)
def test_with_an_access_of_the_users_own_the_deployments_key_is_not_in_the_agents_environment(
    lab, run_with, own_model, agent
):
    task, warnings = run_with(agent, DIGESTS, **own_access(agent, own_model))

    assert (task["status"], task["error"], warnings) == ("completed", None, [])
    assert digest(KEY) in task["git_diff"]
    assert digest(lab.stack.keys.scripted_model_key) not in task["git_diff"]


@pytest.mark.parametrize("agent", AGENTS)
def test_without_one_it_is_and_so_the_test_above_can_fail(lab, run_with, agent):
    task, _ = run_with(agent, DIGESTS, MY_FLAG="on")

    assert digest(lab.stack.keys.scripted_model_key) in task["git_diff"]


@pytest.mark.parametrize("agent", AGENTS)
def test_an_address_of_the_users_own_without_a_key_fails_as_the_agent_says_and_gets_ours_from_nobody(
    run_with, own_model, agent
):
    address = {name: value for name, value in own_access(agent, own_model).items() if name.endswith("_URL")}
    task, warnings = run_with(agent, "@write a.txt: a", **address)

    said = {"claude": "Not logged in", "codex": "Missing environment variable: `CODEX_API_KEY`"}[agent]
    assert task["status"] == "failed"
    assert said in task["error"]
    assert next(iter(address)) in warnings[0]


def test_claudes_credentials_are_a_file_for_the_agent_alone_and_no_part_of_its_changes(run_with, own_model):
    prompt = (
        "@run cd ~/.claude; (stat -c '%a %F' .credentials.json; test -O .credentials.json && echo own) > ~/repo/f.txt"
    )
    task, _ = run_with("claude", prompt, LOGIN, ANTHROPIC_BASE_URL=own_model)

    assert (task["status"], task["error"]) == ("completed", None)
    assert "+600 regular file\n+own\n" in task["git_diff"]
    assert task["changed_files"] == ["f.txt"]


def test_unsound_preferences_are_told_and_the_run_goes_on(run_with):
    task, warnings = run_with("claude", "@run printenv GOOD > a.txt", GOOD="yes", PATH="/nowhere", IS_SANDBOX="0")

    assert (task["status"], "+yes\n" in task["git_diff"]) == ("completed", True)
    assert [text.split()[5] for text in warnings] == ["claudeCode.env.PATH", "claudeCode.env.IS_SANDBOX"]
