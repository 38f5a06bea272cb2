"""How the git token and the model key get to where they are needed, and what a sandbox may reach meanwhile."""

import base64
import json

import pytest

from functions.executor.reaper import reap
from functions.executor.work.secret_delivery import CA_BUNDLE, STAND_IN
from shared.domain.agents import AgentName
from shared.domain.errors import Unavailable
from shared.domain.network import OPEN_NETWORK, HeaderRule
from shared.domain.run import Phase
from tests.fakes.executor import ANTHROPIC_KEY, GIT_TOKEN, OPENAI_KEY, World, clone_failed
from tests.fakes.sandboxes import StoredSecret

BASIC = base64.b64encode(f"x-access-token:{GIT_TOKEN}".encode()).decode()
GATEWAY = "http://127.0.0.1:4001"


@pytest.fixture
def world():
    """A team that E2B offers secrets and rules to."""
    world = World()
    world.sandboxes.team_has = {"secrets", "rules"}
    return world


def value_of(world, secret):
    return world.sandboxes.secrets[f"run-{world.run_row['id']}-{secret}"][1].reveal()


def rules(world):
    return world.sandboxes.last.network.rules


def uploads(world):
    return b"".join(data for _, data in world.sandboxes.last.uploads)


def cloning(world):
    """Until just after the clone was started."""
    world.until(Phase.CLONING)
    world.scripts["clone"] = world.scripts["clone"].__class__(ends_at=None)
    world.deliver()


# --- by egress


def test_the_token_is_put_into_the_requests_of_the_clone_and_never_comes_into_the_sandbox(world):
    world.start()
    cloning(world)

    secret = f"run-{world.run_row['id']}-git"
    assert rules(world) == (HeaderRule(host="github.com", header="Authorization", scheme="Basic ", secret=secret),)
    assert value_of(world, "git") == BASIC
    assert json.loads(world.sandboxes.last.file("clone", "spec.json"))["token_file"] is None
    assert json.loads(world.sandboxes.last.file("clone", "job.json"))["env"]["GIT_SSL_CAINFO"] == CA_BUNDLE
    assert GIT_TOKEN.encode() not in uploads(world)


def test_the_token_is_taken_back_before_the_setup_begins(world):
    world.start(setup_script="make")
    world.until(Phase.SETUP)

    assert rules(world) == ()
    assert world.sandboxes.secrets == {}
    assert "github.com" in world.sandboxes.last.network.hosts


@pytest.mark.parametrize(
    ("agent", "host", "header", "scheme", "key", "variable"),
    [
        (AgentName.CLAUDE, "api.anthropic.com", "x-api-key", "", ANTHROPIC_KEY, "ANTHROPIC_API_KEY"),
        (AgentName.CODEX, "api.openai.com", "Authorization", "Bearer ", OPENAI_KEY, "CODEX_API_KEY"),
    ],
)
def test_the_model_key_is_put_into_the_agents_requests_in_its_own_way(
    world, agent, host, header, scheme, key, variable
):
    world.start(agent=agent)
    world.until(Phase.AGENT)
    world.deliver()

    secret = f"run-{world.run_row['id']}-model"
    assert rules(world) == (HeaderRule(host=host, header=header, scheme=scheme, secret=secret),)
    assert value_of(world, "model") == key
    env = json.loads(world.sandboxes.last.file("agent", "job.json"))["env"]
    assert (env[variable], env["NODE_EXTRA_CA_CERTS"], env["SSL_CERT_FILE"]) == (STAND_IN, CA_BUNDLE, CA_BUNDLE)
    assert key.encode() not in uploads(world)


def test_the_key_is_taken_back_before_the_changes_are_collected(world):
    world.start()
    world.until(Phase.COLLECTING)

    assert rules(world) == ()
    assert world.sandboxes.secrets == {}


def test_nothing_of_a_whole_run_holds_a_secret_and_the_sandbox_that_is_kept_has_no_rule(world):
    world.start()
    world.run_to_end()

    assert [world.sandboxes.boxes[box].network.rules for box in world.sandboxes.boxes] == [()]
    assert not any(secret.encode() in uploads(world) for secret in (GIT_TOKEN, BASIC, ANTHROPIC_KEY))
    assert "OUR_SECRETS" in world.sandboxes.last.uploaded("wipe_secrets", "secret_env.json").decode()


def test_a_follow_up_in_the_kept_sandbox_gets_its_rule_and_secret_anew(world):
    world.start()
    world.run_to_end()
    first = world.run_row["id"]
    world.follow_up()
    world.until(Phase.AGENT)
    world.deliver()

    [rule] = rules(world)
    assert rule.secret == f"run-{world.run_row['id']}-model" != f"run-{first}-model"
    world.run_to_end()
    assert (rules(world), world.sandboxes.secrets) == ((), {})
    assert ANTHROPIC_KEY.encode() not in uploads(world)


def test_a_run_that_fails_while_it_has_a_secret_leaves_none(world):
    world.scripts["clone"] = clone_failed("auth")
    world.start()
    world.run_to_end()

    assert world.run_row["error_code"] == "git_auth"
    assert (world.sandboxes.secrets, world.sandboxes.secrets_stored) == ({}, [f"run-{world.run_row['id']}-git"])


def test_a_run_ends_also_when_its_secret_cannot_be_destroyed_now(world):
    world.scripts["clone"] = clone_failed("auth")
    world.start()
    destroy = world.sandboxes.destroy_secret

    world.sandboxes.destroy_secret = out_of_order
    world.run_to_end()
    assert world.run_row["error_code"] == "git_auth"
    assert world.sandboxes.secrets
    world.sandboxes.destroy_secret = destroy

    assert reap(world.ports)["destroy_lost_secrets"] == 1
    assert world.sandboxes.secrets == {}


def test_without_a_token_there_is_nothing_to_put_in(world):
    world.start(token=None)
    cloning(world)

    assert (rules(world), world.sandboxes.secrets_stored) == ((), [])


def test_users_with_a_model_access_of_their_own_have_it_in_the_agents_environment_as_before(world):
    user = "6b2c5a52-0d8c-4f8e-9a39-6f5d3a1f2c11"
    world.database.preferences[user] = {"claudeCode": {"env": {"ANTHROPIC_API_KEY": "sk-of-the-user"}}}
    world.start(user_id=user)
    world.until(Phase.AGENT)
    world.deliver()

    assert rules(world) == ()
    assert b"sk-of-the-user" in uploads(world)
    assert STAND_IN.encode() not in uploads(world)


def test_the_log_tells_which_way_was_taken_and_no_value(world, caplog):
    world.start()
    world.run()

    assert [record.secret for record in caplog.records if record.message == "secret.by_egress"] == ["git", "model"]
    assert not any(secret in str(vars(record)) for record in caplog.records for secret in (GIT_TOKEN, ANTHROPIC_KEY))


# --- when E2B's secrets are out of order


def out_of_order(*_):
    raise Unavailable("The sandbox service is not responding.")


def test_secrets_that_are_out_of_order_for_a_moment_are_waited_for(world):
    store, tries = world.sandboxes.store_secret, []

    def at_the_second_try(*secret):
        tries.append(secret)
        out_of_order() if len(tries) == 1 else store(*secret)

    world.sandboxes.store_secret = at_the_second_try
    world.start()
    world.run_to_end()

    assert world.run_row["status"] == "completed"
    assert GIT_TOKEN.encode() not in uploads(world)


def test_secrets_that_stay_out_of_order_do_not_hold_a_run_up_for_long(world):
    world.sandboxes.store_secret = world.sandboxes.destroy_secret = out_of_order
    world.start()
    world.run_to_end()

    assert world.run_row["status"] == "completed"
    assert world.sandboxes.last.uploaded("clone", "git_token") == GIT_TOKEN.encode()


def test_where_no_secret_may_be_written_down_the_run_fails_instead(world):
    world.sandboxes.store_secret = out_of_order
    world.set(sandbox_secrets="egress")
    world.start()
    world.run_to_end()

    assert (world.run_row["status"], world.run_row["error_code"]) == ("failed", "injection_unavailable")
    assert GIT_TOKEN.encode() not in uploads(world)


def test_a_secret_that_cannot_be_destroyed_keeps_no_rule_and_goes_when_the_run_has_ended(world):
    destroy, world.sandboxes.destroy_secret = world.sandboxes.destroy_secret, out_of_order
    world.start()
    world.until(Phase.AGENT)
    assert (rules(world), len(world.sandboxes.secrets)) == ((), 1)
    world.run_to_end()
    assert world.run_row["status"] == "completed"
    assert len(world.sandboxes.secrets) == 2

    world.sandboxes.destroy_secret = destroy
    assert reap(world.ports)["destroy_lost_secrets"] == 2


# --- as a file


@pytest.mark.parametrize("has", [set(), {"secrets"}, {"rules"}])
def test_where_the_team_lacks_it_the_secrets_come_as_files_and_e2b_is_not_asked_twice(world, has):
    world.sandboxes.team_has = has
    world.start()
    world.until(Phase.CLONING)
    world.deliver()
    assert world.sandboxes.last.uploaded("clone", "git_token") == GIT_TOKEN.encode()
    assert world.sandboxes.secrets == {}  # also where it could be stored, but no rule be made of it
    world.run_to_end()

    assert world.run_row["status"] == "completed"
    assert ANTHROPIC_KEY.encode() in uploads(world)
    assert world.sandboxes.asked_in_vain == 1
    assert all(network.rules == () for _, network in world.sandboxes.last.started)


def test_the_setting_file_asks_e2b_for_nothing(world):
    world.set(sandbox_secrets="file")
    world.start()
    world.run_to_end()

    assert world.sandboxes.last.uploaded("clone", "git_token") == GIT_TOKEN.encode()
    assert (world.sandboxes.secrets_stored, world.sandboxes.asked_in_vain) == ([], 0)


def test_addresses_without_https_or_a_name_take_files_whatever_the_setting(world):
    repositories = frozenset({"http://127.0.0.1:4000"})
    world.set(sandbox_secrets="egress", repo_origins=repositories)
    world.set_model(AgentName.CLAUDE, base_url=GATEWAY)
    world.start(repo_url="http://127.0.0.1:4000/o/r")
    world.run_to_end()

    assert world.run_row["status"] == "completed"
    assert world.sandboxes.secrets_stored == []
    assert world.sandboxes.last.uploaded("clone", "git_token") == GIT_TOKEN.encode()
    assert world.sandboxes.last.network.hosts[0] == "127.0.0.1"


def test_the_setting_egress_fails_a_run_rather_than_write_a_secret_down(world):
    world.sandboxes.team_has = set()
    world.set(sandbox_secrets="egress")
    world.start()
    world.run()

    assert (world.run_row["status"], world.run_row["error_code"]) == ("failed", "injection_unavailable")
    assert "SANDBOX_SECRETS=egress" in world.run_row["error"]
    assert GIT_TOKEN.encode() not in uploads(world)


# --- the network


def test_a_sandbox_begins_with_the_hosts_of_its_run_its_registries_and_its_project(world):
    world.start(network=["db.example.org"])
    world.until(Phase.CLONING)

    hosts = world.sandboxes.last.network.hosts
    assert {"github.com", "api.anthropic.com", "pypi.org", "db.example.org"} <= set(hosts)
    assert "api.openai.com" not in hosts


def test_unsound_hosts_of_the_row_are_left_out_and_told(world):
    world.start(network=["db.example.org", "0.0.0.0/0", 5])
    world.until(Phase.CLONING)

    assert "0.0.0.0/0" not in world.sandboxes.last.network.hosts
    assert "db.example.org" in world.sandboxes.last.network.hosts
    warnings = [warning["text"] for warning in world.payloads("warning")]
    assert len(warnings) == 2
    assert all("Left out of the project's settings: settings.network: entry" in text for text in warnings)


def test_the_setting_open_lets_everything_through(world):
    world.set(sandbox_network="open")
    world.start()
    world.until(Phase.CLONING)
    assert world.sandboxes.last.network == OPEN_NETWORK
    world.run_to_end()

    assert all(network.hosts is None for _, network in world.sandboxes.last.started)


def test_a_follow_up_has_the_network_that_its_project_wants_now(world):
    world.start(network=["old.example.org"])
    world.run_to_end()
    world.task["project_network"] = ["new.example.org"]
    world.follow_up()
    world.until(Phase.AGENT)

    assert "new.example.org" in world.sandboxes.last.network.hosts
    assert "old.example.org" not in world.sandboxes.last.network.hosts


# --- what is left behind


def test_the_reaper_destroys_secrets_of_runs_that_have_ended_or_never_were_and_no_others(world):
    world.start()
    cloning(world)
    for run_id in ("b2ad9b54-8f0c-44a4-93c1-3c6c4f4c4f10", "", "of nobody"):
        name = f"run-{run_id}-git"
        world.sandboxes.secrets[name] = (StoredSecret(name=name, run_id=run_id), None)

    assert reap(world.ports)["destroy_lost_secrets"] == 3
    assert list(world.sandboxes.secrets) == [f"run-{world.run_row['id']}-git"]


def test_one_secret_that_cannot_be_destroyed_is_no_reason_to_leave_the_others(world):
    for number in range(3):
        world.sandboxes.secrets[str(number)] = (StoredSecret(name=str(number), run_id=""), None)
    destroy = world.sandboxes.destroy_secret

    def stubborn(name):
        if name == "0":
            raise Unavailable("The sandbox service is not responding.")
        destroy(name)

    world.sandboxes.destroy_secret = stubborn

    assert reap(world.ports)["destroy_lost_secrets"] == 2
    assert list(world.sandboxes.secrets) == ["0"]
