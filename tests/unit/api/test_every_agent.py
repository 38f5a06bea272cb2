"""What a user may ask of the API with each agent."""

import pytest

from shared.domain.agents import PROFILES, AgentName

TASK = {"prompt": "p", "repo_url": "https://github.com/o/r", "github_token": "github_pat_11ABCDEFG0123456789"}
LOGIN = {"accessToken": "token-of-the-user"}
OURS = sorted({name for each in PROFILES.values() for name in (*each.reserved_variables, *each.env)})


def refusal(answer):
    return answer.status, answer.json().get("error")


@pytest.mark.parametrize("agent", AgentName)
def test_the_preferences_of_an_agent_are_stored_with_variables_and_credentials(client, as_user, agent):
    section = {"env": {agent.profile.program_key_variable: "own-key", "A": "1"}, "credentials": LOGIN}
    answer = client.request("PATCH", "/api/me", headers=as_user, json={"preferences": {agent.profile.section: section}})

    assert (answer.status, answer.json()["user"]["preferences"]) == (200, {agent.profile.section: section})


@pytest.mark.parametrize("agent", AgentName)
@pytest.mark.parametrize("name", ["PATH", *OURS])
def test_no_agent_can_be_given_a_variable_that_is_ours(client, as_user, agent, name):
    name = name.replace("*", "X")
    preferences = {agent.profile.section: {"env": {name: "1"}}}
    asked = client.request("PATCH", "/api/me", headers=as_user, json={"preferences": preferences})
    project = {"name": "n", "repo_url": TASK["repo_url"], "settings": {"env": {name: "1"}}}
    created = client.post("/api/projects", headers=as_user, json=project)

    assert refusal(asked)[1].startswith(f"{agent.profile.section}.env.{name} cannot be set: ")
    assert refusal(created)[1].startswith(f"settings.env.{name} cannot be set: ")
    assert (asked.status, created.status) == (400, 400)


def test_a_project_takes_variables_and_hosts_for_whichever_agent_works_on_it(client, as_user):
    env = {name: "x" for each in PROFILES.values() for name in (each.program_key_variable, each.base_url_variable)}
    wanted = {"env": env, "network": ["db.example.org"]}
    project = {"name": "n", "repo_url": TASK["repo_url"], "settings": wanted}

    answer = client.post("/api/projects", headers=as_user, json=project)

    assert (answer.status, answer.json()["project"]["settings"]) == (200, wanted)


@pytest.mark.parametrize("agent", AgentName)
def test_a_task_is_started_with_the_agent_that_is_named(client, as_user, world, agent):
    answer = client.post("/api/start-task", headers=as_user, json={**TASK, "model": agent})

    [stored] = world.database.credentials.values()
    assert (answer.status, stored.agent) == (200, agent)


def test_an_agent_that_does_not_exist_is_refused_with_the_names_of_all(client, as_user):
    status, error = refusal(client.post("/api/start-task", headers=as_user, json={**TASK, "model": "gpt"}))

    assert status == 400
    assert error.startswith("model must be either ")
    assert all(f'"{name}"' in error for name in AgentName)


@pytest.mark.parametrize("agent", AgentName)
def test_a_pull_request_names_the_agent_that_did_the_work(client, as_user, user, world, agent):
    repository = world.github.repositories["o/r"]
    repository.add_commit({}, branch="main")
    patch = (
        "diff --git a/n b/n\nnew file mode 100644\nindex 0000000..2222222\n--- /dev/null\n+++ b/n\n@@ -0,0 +1 @@\n+n\n"
    )
    task = {"status": "completed", "agent": agent, "git_patch": patch, "changed_files": ["n"]}
    task_id = world.database.add_task(user, **task)

    answer = client.post(f"/api/create-pr/{task_id}", headers=as_user, json={"github_token": "tok"})

    assert answer.status == 200, answer.text
    [pull] = repository.pulls
    assert pull["title"].startswith(f"{agent.profile.title}: ")
    assert repository.commits[repository.branches[answer.json()["branch"]]].message.startswith(agent.profile.title)
