"""What prepares the work tree: the project's script and variables, then the repository's own script."""

import json

import pytest

from functions.executor.phases.provisioning import MAX_WARNINGS
from sandbox.programs.protocol import SetupScript
from shared.domain.run import Phase
from tests.fakes.executor import ANTHROPIC_KEY, GIT_TOKEN, Script, cloned

USER = "5f6c1f4e-0000-4000-8000-000000000001"
OWN = "The repository's setup script .asynccode/setup.sh"


def start(world, *, own=None, preferences=None, **how):
    """A run whose repository has this script of its own, and whose user these variables for Claude."""
    world.scripts["clone"] = cloned(setup=SetupScript(script=own) if own else None)
    world.scripts.setdefault("repository_setup", Script(ends_at=2, output=((1, b"own one\n"), (2, b"own two\n"))))
    world.database.preferences[USER] = {"claudeCode": {"env": preferences or {}}}
    world.start(user_id=USER, **how)


def job(world, name):
    return json.loads(world.sandboxes.last.file(name, "job.json"))


def secret_env(world, name):
    return json.loads(world.sandboxes.last.uploaded(name, "secret_env.json"))


def started_jobs(world):
    return [path.split("/")[-2] for path, _ in world.sandboxes.last.uploads if path.endswith("/job.json")]


def warnings(world):
    return [payload["text"] for payload in world.payloads("warning")]


def test_the_repositorys_script_runs_after_the_projects_both_as_the_agent(world):
    start(world, own="make deps", setup_script="apt list")

    world.run()

    assert world.task["status"] == "completed"
    jobs = started_jobs(world)
    assert jobs[: jobs.index("agent") + 1] == ["clone", "setup", "repository_setup", "agent"]
    own = ("repository_setup", "make deps", ".asynccode/setup.sh")
    for name, text, called in (("setup", "apt list", "setup"), own):
        spec = job(world, name)
        assert (spec["user"], spec["cwd"], spec["timeout_s"]) == ("agent", "repo", 600)
        assert spec["argv"] == ["bash", "-e", "-o", "pipefail", "-c", text, called]
    told = "".join(payload["text"] for payload in world.payloads("setup_output"))
    assert told == "installing\ninstalled\nown one\nown two\n"


def test_what_a_script_prints_names_files_as_the_repository_does(world):
    output = b"make: Entering directory '/home/agent/repo'\n/home/agent/repo/src/a.c:3: error\n"
    world.scripts["setup"] = Script(
        ends_at=1, exit_code=2, output=((1, output),), stderr="cc: /home/agent/repo/src/a.c: bad\n"
    )
    start(world, setup_script="make")

    world.run()

    told = "".join(payload["text"] for payload in world.payloads("setup_output"))
    assert told == "make: Entering directory '.'\nsrc/a.c:3: error\n"
    assert world.task["error"] == "The project's setup script failed with exit code 2. cc: src/a.c: bad"


def test_the_repositorys_script_alone_is_a_setup_too(world):
    start(world, own="make deps")

    world.run()

    assert [payload["phase"] for payload in world.payloads("phase")].count("setup") == 1
    assert "setup" not in started_jobs(world)


@pytest.mark.parametrize(
    ("script", "code", "text"),
    [
        (Script(ends_at=1, exit_code=3, stderr="no rule\n"), "setup_failed", f"{OWN} failed with exit code 3. no rule"),
        (Script(ends_at=None, stderr="half\n"), "setup_timeout", f"{OWN} timed out after 600 seconds. half"),
    ],
    ids=["fails", "hangs"],
)
def test_the_end_of_the_repositorys_script_says_which_of_the_two_it_was(world, script, code, text):
    world.scripts["repository_setup"] = script
    start(world, own="make deps", setup_script="apt list")

    world.run()

    assert (world.task["status"], world.run_row["error_code"], world.task["error"]) == ("failed", code, text)
    assert "agent" not in started_jobs(world)


def test_when_the_projects_script_fails_the_repositorys_does_not_run(world):
    world.scripts["setup"] = Script(ends_at=1, exit_code=1)
    start(world, own="make deps", setup_script="apt list")

    world.run()

    assert world.task["error"] == "The project's setup script failed with exit code 1."
    assert started_jobs(world) == ["clone", "setup"]


def test_a_repositorys_script_that_cannot_be_run_fails_the_run_before_any_other(world):
    start(world, setup_script="apt list")
    world.scripts["clone"] = cloned(setup=SetupScript(problem="must be a regular file"))

    world.run()

    assert (world.run_row["error_code"], world.task["error"]) == ("setup_failed", f"{OWN} must be a regular file.")
    assert started_jobs(world) == ["clone"]


# --- the project's variables


def test_variables_of_the_project_reach_both_scripts_and_the_agent(world):
    start(world, own="make deps", setup_script="apt list", env={"REGION": "eu", "COUNT": 3})

    world.run()

    for name in ("setup", "repository_setup"):
        assert secret_env(world, name) == {"REGION": "eu", "COUNT": "3"}
        assert not world.sandboxes.last.has_file(name, "secret_env.json")
    assert secret_env(world, "agent") == {"REGION": "eu", "COUNT": "3", "ANTHROPIC_API_KEY": ANTHROPIC_KEY}


def test_the_users_own_variables_win_and_are_the_agents_alone(world):
    start(world, setup_script="apt list", env={"REGION": "eu", "MODE": "a"}, preferences={"REGION": "us", "MINE": "1"})

    world.run()

    assert secret_env(world, "setup") == {"REGION": "eu", "MODE": "a"}
    both = {"REGION": "us", "MODE": "a", "MINE": "1", "ANTHROPIC_API_KEY": ANTHROPIC_KEY}
    assert secret_env(world, "agent") == both


def test_with_a_model_access_of_the_projects_the_deployments_key_goes_nowhere(world):
    start(world, setup_script="apt list", env={"ANTHROPIC_BASE_URL": "https://own.example"})

    world.run()

    assert secret_env(world, "agent") == {"ANTHROPIC_BASE_URL": "https://own.example"}
    assert any("ANTHROPIC_BASE_URL" in text for text in warnings(world))


def test_with_a_model_access_of_the_users_the_projects_is_left_out(world):
    own = {"ANTHROPIC_API_KEY": "the-users-own"}
    start(world, env={"ANTHROPIC_BASE_URL": "https://project.example", "REGION": "eu"}, preferences=own)

    world.run()

    assert secret_env(world, "agent") == {**own, "REGION": "eu"}


def test_neither_the_git_token_nor_a_model_key_nor_a_preference_comes_near_a_setup_script(world):
    start(world, own="make deps", setup_script="apt list", env={"A": "1"}, preferences={"MINE": "of-the-user"})

    world.run()

    for path, data in world.sandboxes.last.uploads:
        if "/setup/" in path or "/repository_setup/" in path:
            assert not any(secret.encode() in data for secret in (GIT_TOKEN, ANTHROPIC_KEY, "of-the-user"))


def test_a_secret_of_the_project_is_taken_out_of_what_its_setup_prints(world):
    world.scripts["setup"] = Script(ends_at=1, exit_code=1, output=((1, b"hush-value-1\n"),), stderr="hush-value-1\n")
    start(world, setup_script="apt list", env={"DEPLOY_TOKEN": "hush-value-1"})

    world.run()

    assert "hush-value-1" not in json.dumps([world.events, world.task["error"], world.run_row], default=str)
    assert world.payloads("setup_output") == [{"text": "[REDACTED]\n"}]


def test_unsound_variables_are_left_out_and_named_without_their_values(world):
    start(world, env={"PATH": "/evil", "LD_PRELOAD": "evil.so", "GOOD": "yes", "LIST": ["evil"]})

    world.run()

    assert world.task["status"] == "completed"
    assert secret_env(world, "agent") == {"GOOD": "yes", "ANTHROPIC_API_KEY": ANTHROPIC_KEY}
    told = warnings(world)
    assert [text.split(":")[0] for text in told] == ["Left out of the project's settings"] * 3
    assert [text.split()[6] for text in told] == [f"settings.env.{name}" for name in ("PATH", "LD_PRELOAD", "LIST")]
    assert not any("evil" in text for text in told)


@pytest.mark.parametrize("env", ["text", ["list"], 5, "[" * 50])
def test_settings_that_hold_no_variables_at_all_are_told_once(world, env):
    start(world, env=env)

    world.run()

    assert world.task["status"] == "completed"
    assert warnings(world) == ["Left out of the project's settings: settings.env must be an object."]


def test_of_many_unsound_variables_only_some_are_listed(world):
    start(world, env={f"LD_{n}": "x" for n in range(MAX_WARNINGS + 5)})

    world.until(Phase.CLONING)

    assert len(warnings(world)) == MAX_WARNINGS + 1
    assert warnings(world)[-1] == "Left out of the project's settings: 5 more."
