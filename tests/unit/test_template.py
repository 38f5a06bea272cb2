"""What template.yaml promises, as far as it can be read without AWS."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from shared.config import TOKEN_EXCHANGES, ApiSettings, ExecutorSettings
from shared.domain.agents import PROFILES
from tests.fakes.recording_environment import variables_of

ROOT = Path(__file__).parents[2]
SETTINGS = {
    "ApiFunction": ApiSettings,
    "ExecutorFunction": ExecutorSettings,
    "DeadLettersFunction": ExecutorSettings,
    "ReaperFunction": ExecutorSettings,
}
MODEL_KEYS = {profile.key_variable for profile in PROFILES.values()}
# What an operator must fill in; here the values that the settings would take by themselves.
FILLED_IN = {
    "TokenExchange": "strict",
    "SupabaseUrl": "https://project.supabase.co",
    "SupabasePublishableKey": "sb_publishable_key_of_the_project",
}


class _Loader(yaml.SafeLoader):
    """Reads `!Ref x` as {"Ref": "x"}, and so on for CloudFormation's other short forms."""


def _short_form(loader, tag, node):
    if isinstance(node, yaml.ScalarNode):
        return {tag: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {tag: loader.construct_sequence(node, deep=True)}
    return {tag: loader.construct_mapping(node, deep=True)}


_Loader.add_multi_constructor("!", _short_form)
TEMPLATE = yaml.load((ROOT / "template.yaml").read_text(), _Loader)  # a SafeLoader, see above
RESOURCES = {name: resource.get("Properties", {}) for name, resource in TEMPLATE["Resources"].items()}
FUNCTIONS = {name for name, r in TEMPLATE["Resources"].items() if r["Type"] == "AWS::Serverless::Function"}


def variables(function):
    return {**TEMPLATE["Globals"]["Function"]["Environment"]["Variables"], **_own_variables(function)}


def _own_variables(function):
    return RESOURCES[function].get("Environment", {}).get("Variables", {})


def as_deployed(value):
    """What a function would find in its environment, with every parameter at its default."""
    match value:
        case {"Ref": name} if name in TEMPLATE["Parameters"]:
            return str(FILLED_IN[name] if name in FILLED_IN else TEMPLATE["Parameters"][name]["Default"])
        case {"Ref": _}:
            return "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks"
        case {"GetAtt": attribute}:
            return attribute
        case {"Sub": text}:
            return text
        case {"If": [_, there, _]}:
            return as_deployed(there)
    return str(value)


def rights(function):
    """The statements and the names of the SAM policies that a function gets."""
    policies = RESOURCES[function].get("Policies", [])
    statements = [s for policy in policies for s in policy.get("Statement", [])]
    return statements, {name for policy in policies for name in policy if name != "Statement"}


def actions(function):
    return {statement["Action"] for statement in rights(function)[0]}


def test_every_function_has_settings_to_compare_with():
    assert set(SETTINGS) == FUNCTIONS


@pytest.mark.parametrize("function", SETTINGS)
def test_a_function_is_told_what_its_settings_require_and_nothing_they_do_not_read(function):
    read, required = variables_of(SETTINGS[function])

    assert required <= set(variables(function)) <= read


@pytest.mark.parametrize("function", ["ApiFunction", "ExecutorFunction"])
def test_a_deployment_with_default_parameters_has_the_default_settings(function):
    settings = SETTINGS[function]
    deployed = {name: as_deployed(value) for name, value in variables(function).items()}
    keys = (*MODEL_KEYS, "SECRETS_KMS_KEY_ID", "TOKEN_EXCHANGE")
    bare = {name: deployed[name] for name in {*variables_of(settings)[1], *keys} if name in deployed}

    assert settings.from_env(deployed) == settings.from_env(bare)


@pytest.mark.parametrize("function", SETTINGS)
def test_a_handler_is_a_function_that_exists(function):
    *module, name = RESOURCES[function]["Handler"].split(".")
    source = ROOT.joinpath(*module).with_suffix(".py").read_text()

    assert name in {node.name for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("function", SETTINGS)
def test_a_function_has_a_build_target_and_a_log_that_does_not_grow_for_ever(function):
    makefile = (ROOT / "Makefile").read_text()
    log = RESOURCES[function]["LoggingConfig"]["LogGroup"]["Ref"]

    assert TEMPLATE["Resources"][function]["Metadata"] == {"BuildMethod": "makefile"}
    assert re.search(rf"^(build-\w+ )*build-{function}( build-\w+)*:", makefile, re.MULTILINE)
    assert RESOURCES[log]["RetentionInDays"]


def test_the_bundles_are_built_for_the_runtime_of_the_functions():
    makefile = (ROOT / "Makefile").read_text()
    everywhere = TEMPLATE["Globals"]["Function"]

    assert everywhere["Runtime"] == "python" + re.search(r"^RUNTIME_PYTHON := (\S+)$", makefile, re.MULTILINE)[1]
    assert everywhere["Architectures"] == re.findall(r"^ARCH := (\S+)$", makefile, re.MULTILINE)


@pytest.mark.parametrize(
    ("queue", "function"), [("TaskQueue", "ExecutorFunction"), ("DeadLetterQueue", "DeadLettersFunction")]
)
def test_a_message_stays_hidden_six_times_as_long_as_its_function_may_take(queue, function):
    assert RESOURCES[queue]["VisibilityTimeout"] == 6 * RESOURCES[function]["Timeout"]


def test_a_lease_outlives_the_invocation_that_took_it():
    default = ExecutorSettings.from_env(
        {name: as_deployed(value) for name, value in variables("ReaperFunction").items()}
    ).step_lease_s

    assert int(variables("ExecutorFunction")["STEP_LEASE_S"]) > RESOURCES["ExecutorFunction"]["Timeout"]
    assert default > RESOURCES["DeadLettersFunction"]["Timeout"]


def test_the_reaper_has_ended_before_it_starts_again():
    schedule = RESOURCES["ReaperFunction"]["Events"]["EveryMinute"]["Properties"]["ScheduleExpression"]

    assert schedule == "rate(1 minute)"
    assert RESOURCES["ReaperFunction"]["Timeout"] < 60


def test_the_queue_never_starts_more_executors_than_are_reserved():
    most = TEMPLATE["Parameters"][RESOURCES["ExecutorSteps"]["ScalingConfig"]["MaximumConcurrency"]["Ref"]]["Default"]

    assert most <= RESOURCES["ExecutorFunction"].get("ReservedConcurrentExecutions", 1000)


@pytest.mark.parametrize(
    ("mapping", "queue", "function"),
    [("ExecutorSteps", "TaskQueue", "ExecutorFunction"), ("DeadLetters", "DeadLetterQueue", "DeadLettersFunction")],
)
def test_one_bad_message_takes_no_other_with_it(mapping, queue, function):
    assert RESOURCES[mapping]["EventSourceArn"] == {"GetAtt": f"{queue}.Arn"}
    assert RESOURCES[mapping]["FunctionName"] == {"Ref": function}
    assert RESOURCES[mapping]["BatchSize"] == 1
    assert RESOURCES[mapping]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]


def test_a_message_that_fails_five_times_is_kept_for_two_weeks():
    redrive = RESOURCES["TaskQueue"]["RedrivePolicy"]

    assert redrive == {"deadLetterTargetArn": {"GetAtt": "DeadLetterQueue.Arn"}, "maxReceiveCount": 5}
    assert RESOURCES["DeadLetterQueue"]["MessageRetentionPeriod"] == 14 * 24 * 3600


def test_what_can_be_replayed_is_kept_for_two_weeks_where_a_move_task_finds_it():
    redrive = RESOURCES["DeadLetterQueue"]["RedrivePolicy"]

    assert redrive["deadLetterTargetArn"] == {"GetAtt": "ReplayQueue.Arn"}
    assert RESOURCES["ReplayQueue"]["MessageRetentionPeriod"] == 14 * 24 * 3600
    assert not any(resource.get("EventSourceArn") == {"GetAtt": "ReplayQueue.Arn"} for resource in RESOURCES.values())


@pytest.mark.parametrize("function", ["ExecutorFunction", "DeadLettersFunction"])
def test_whoever_gives_a_run_up_may_put_its_message_aside_and_wake_another(function):
    queues = [
        p["SQSSendMessagePolicy"]["QueueName"] for p in RESOURCES[function]["Policies"] if "SQSSendMessagePolicy" in p
    ]

    assert {"GetAtt": "ReplayQueue.QueueName"} in queues
    assert {"GetAtt": "TaskQueue.QueueName"} in queues


def test_the_executor_may_send_itself_more_than_sixteen_messages():
    assert RESOURCES["ExecutorFunction"]["RecursiveLoop"] == "Allow"


def test_the_api_can_seal_but_neither_open_nor_act_as_anybody_but_its_caller():
    condition, there, otherwise = variables("ApiFunction")["SUPABASE_SECRET_KEY"]["If"]
    assert TEMPLATE["Conditions"][condition]["And"][1] == {"Not": [{"Equals": [{"Ref": "Environment"}, "production"]}]}
    assert (as_deployed(there) != "", otherwise) == (True, "")
    assert actions("ApiFunction") == {"kms:Encrypt"}
    assert rights("ApiFunction")[1] == {"SQSSendMessagePolicy"}


def test_only_the_executor_can_open_what_the_api_has_sealed():
    assert actions("ExecutorFunction") == {"kms:Decrypt"}
    assert not actions("DeadLettersFunction") | actions("ReaperFunction")


@pytest.mark.parametrize("function", ["ApiFunction", "ExecutorFunction"])
def test_the_key_is_used_for_git_tokens_only(function):
    assert [(s["Resource"], s["Condition"]) for s in rights(function)[0]] == [
        ({"GetAtt": "SecretsKey.Arn"}, {"StringEquals": {"kms:EncryptionContext:kind": "git_token"}})
    ]


def test_secrets_come_from_the_one_secret_and_from_no_parameter():
    secret = re.compile(r"JWT_SECRET|SUPABASE_SECRET_KEY|\w+_API_KEY")
    found = {
        as_deployed(value)
        for function in FUNCTIONS
        for name, value in variables(function).items()
        if secret.fullmatch(name)
    }
    key = r"\{\{resolve:secretsmanager:\$\{ConfigSecretArn\}:SecretString:(\w+)::\$\{ConfigSecretVersion\}\}\}"

    assert {re.fullmatch(key, reference)[1] for reference in found} == {
        "JWT_SECRET",
        "SUPABASE_SECRET_KEY",
        "E2B_API_KEY",
        *MODEL_KEYS,
    }


def test_whoever_deploys_chooses_what_proves_an_identity():
    choice = TEMPLATE["Parameters"]["TokenExchange"]

    assert "Default" not in choice
    assert choice["AllowedValues"] == list(TOKEN_EXCHANGES)
    assert all(f"{value}:" in choice["Description"] for value in TOKEN_EXCHANGES)
