"""Setup scripts and a project's variables, in whole runs with the real Claude Code."""

import hashlib

import httpx
import pytest

SETUP = ".asynccode/setup.sh"
TOKEN = "ghp_thisTokenOpensNothing00000"


@pytest.fixture
def run_in_project(lab):
    """A run in a project with these settings, of a repository with these files: its task, and its setup's words."""

    def run_in_project(prompt, files=None, **settings):
        _, url = lab.repository({"README.md": "hello\n", ".gitignore": "*.tmp\n", **(files or {})})
        client = lab.user()
        project = post(lab, client, "/api/projects", {"name": "P", "repo_url": url, "settings": settings})["project"]
        task = {"prompt": prompt, "repo_url": url, "branch": "main", "model": "claude", "github_token": TOKEN}
        started = post(lab, client, "/api/start-task", task | {"project_id": project["id"]})
        task = lab.finished(client, int(started["task_id"]))
        events = client.events(task["id"], after=0)
        return task, "".join(event["payload"]["text"] for event in events if event["kind"] == "setup_output")

    return run_in_project


def post(lab, client, path, body):
    headers = {"Authorization": f"Bearer {client.token}"}
    return httpx.post(f"{lab.stack.api_url}{path}", json=body, headers=headers, timeout=60).raise_for_status().json()


def error_code(lab, task):
    [(code,)] = lab.sql("select error_code from runs where task_id = %s", task["id"])
    return code


def test_both_scripts_and_the_agent_have_the_projects_variables_and_what_is_ignored_is_no_change(run_in_project):
    task, said = run_in_project(
        "@run cat made.tmp own.tmp; printenv REGION > seen.txt; cat made.tmp own.tmp >> seen.txt",
        {SETUP: "echo from $0 in $REGION\nprintf 'own\\n' > own.tmp\n"},
        setup_script="echo project in $REGION; printf 'made\\n' > made.tmp; echo 'echo evil' > .asynccode/setup.sh\n"
        "trap 'git checkout -q .asynccode' EXIT",
        env={"REGION": "eu-central"},
    )

    assert (task["status"], task["error"]) == ("completed", None)
    assert said == f"project in eu-central\nfrom {SETUP} in eu-central\n"
    assert task["changed_files"] == ["seen.txt"]
    assert "+eu-central\n+made\n+own\n" in task["git_diff"]


def test_the_repositorys_script_is_the_commits_own_and_what_a_setup_edits_is_a_part_of_the_result(run_in_project):
    task, said = run_in_project(
        "@write a.txt: a", {SETUP: "echo good\n"}, setup_script="echo 'echo evil' > .asynccode/setup.sh"
    )

    assert (task["status"], said) == ("completed", "good\n")
    assert task["changed_files"] == [SETUP, "a.txt"]


def test_a_failing_script_of_the_repository_fails_the_run_as_itself(lab, run_in_project):
    task, said = run_in_project("@write a.txt: a", {SETUP: "echo trying\necho no such rule >&2\nfalse\necho never\n"})

    assert (task["status"], error_code(lab, task)) == ("failed", "setup_failed")
    assert task["error"] == f"The repository's setup script {SETUP} failed with exit code 1. no such rule"
    assert said == "trying\n"
    assert not task["git_diff"]


def test_a_failing_script_of_the_project_fails_the_run_as_itself(lab, run_in_project):
    task, _ = run_in_project("@write a.txt: a", setup_script="exit 7")

    assert (task["status"], error_code(lab, task)) == ("failed", "setup_failed")
    assert task["error"] == "The project's setup script failed with exit code 7."


def test_a_hanging_script_is_ended_by_its_own_deadline(lab, run_in_project):
    task, said = run_in_project("@write a.txt: a", {SETUP: "echo waiting\nsleep 600\n"})

    assert (task["status"], error_code(lab, task)) == ("failed", "setup_timeout")
    limit_s = lab.stack.options.setup_timeout_s
    assert task["error"] == f"The repository's setup script {SETUP} timed out after {limit_s} seconds."
    assert said == "waiting\n"
    lab.until(lambda: not lab.sandboxes())


def test_a_linked_script_is_not_followed(lab, run_in_project):
    task, _ = run_in_project("@write a.txt: a", {SETUP: ("link", "../README.md")})

    assert (task["status"], error_code(lab, task)) == ("failed", "setup_failed")
    assert task["error"] == f"The repository's setup script {SETUP} must be a regular file."


def test_a_setup_script_finds_neither_the_git_token_nor_the_deployments_model_key(lab, run_in_project):
    digests = 'for v in $(env | cut -d= -f2-); do printf %s "$v" | sha256sum; done > seen.txt'
    task, _ = run_in_project("@write a.txt: a", {SETUP: f"{digests}\n"}, env={"MINE": "of-the-project"})

    def digest(text):
        return hashlib.sha256(text.encode()).hexdigest()

    assert digest("of-the-project") in task["git_diff"]
    assert digest(TOKEN) not in task["git_diff"]
    assert digest(lab.stack.keys.scripted_model_key) not in task["git_diff"]
