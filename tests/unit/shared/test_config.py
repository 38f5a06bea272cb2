import pytest

from shared.config import ApiSettings, ExecutorSettings
from shared.domain.errors import Misconfigured
from shared.domain.network import PACKAGE_REGISTRIES
from shared.domain.secret import Secret

BOTH = {
    "SUPABASE_URL": "https://project.supabase.co/",
    "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
    "SECRETS_KMS_KEY_ID": "alias/git-tokens",
}
API = BOTH | {"SUPABASE_PUBLISHABLE_KEY": "sb_publishable_key", "JWT_SECRET": "x" * 32}
EXECUTOR = BOTH | {
    "SUPABASE_SECRET_KEY": "sb_secret_key",
    "E2B_API_KEY": "e2b_key",
    "REPLAY_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/replays",
}
TEST_USERS = {"ENVIRONMENT": "dev", "ENABLE_TEST_USERS": "true"}
LAPTOP = {"SECRETS_KMS_KEY_ID": "", "SECRETS_MASTER_KEYS": "v1:key"}


def test_an_empty_environment_names_everything_that_is_missing_in_one_error():
    with pytest.raises(Misconfigured) as api:
        ApiSettings.from_env({})
    with pytest.raises(Misconfigured) as executor:
        ExecutorSettings.from_env({"SUPABASE_URL": "  "})

    assert all(name in str(api.value) for name in API)
    assert all(name in str(executor.value) for name in EXECUTOR)


def test_the_defaults_are_those_of_production():
    settings = ApiSettings.from_env(API)

    assert (settings.environment, settings.token_exchange) == ("production", "strict")
    assert settings.supabase_url == "https://project.supabase.co"
    assert settings.repo_origins == {"https://github.com"}
    assert ExecutorSettings.from_env(EXECUTOR).environment == "production"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"JWT_SECRET": "x" * 31}, "JWT_SECRET"),
        ({"JWT_ALGORITHM": "none"}, "JWT_ALGORITHM"),
        ({"JWT_ALGORITHM": "RS256"}, "JWT_ALGORITHM"),
        ({"JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "soon"}, "JWT_ACCESS_TOKEN_EXPIRE_MINUTES"),
        ({"JWT_ACCESS_TOKEN_EXPIRE_MINUTES": "0"}, "JWT_ACCESS_TOKEN_EXPIRE_MINUTES"),
        ({"PROMPT_MAX_CHARS": "100001"}, "PROMPT_MAX_CHARS"),
        ({"TOKEN_EXCHANGE": "open"}, "TOKEN_EXCHANGE"),
        ({"TOKEN_EXCHANGE": "compat"}, "TOKEN_EXCHANGE=compat"),
        ({"SUPABASE_URL": "project.supabase.co"}, "SUPABASE_URL"),
        ({"CORS_ORIGINS": "*"}, "CORS_ORIGINS"),
        ({"CORS_ORIGINS": "https://a.example/path"}, "CORS_ORIGINS"),
        ({"CORS_ORIGIN_PATTERN": "("}, "CORS_ORIGIN_PATTERN"),
        ({"REPO_ORIGINS": "http://127.0.0.1:3001"}, "REPO_ORIGINS"),
        ({"REPO_ORIGINS": "github.com"}, "REPO_ORIGINS"),
        (LAPTOP, "SECRETS_MASTER_KEYS"),
        ({"SECRETS_KMS_KEY_ID": ""}, "SECRETS_KMS_KEY_ID"),
    ],
)
def test_an_impossible_or_dangerous_setting_is_named(change, named):
    with pytest.raises(Misconfigured, match=named):
        ApiSettings.from_env(API | change)


def test_what_only_a_laptop_may_do_is_allowed_there():
    laptop = API | LAPTOP | {"ENVIRONMENT": "dev", "TOKEN_EXCHANGE": "compat", "REPO_ORIGINS": "http://127.0.0.1:3001"}

    assert ApiSettings.from_env(laptop).token_exchange == "compat"
    with pytest.raises(Misconfigured, match="REPO_ORIGINS"):
        ApiSettings.from_env(laptop | {"REPO_ORIGINS": "http://git.example"})


@pytest.mark.parametrize("wrong", ["x", "0", "-1", "nan", "inf"])
def test_a_number_that_is_none_is_named_with_its_bounds(wrong):
    with pytest.raises(Misconfigured, match="AGENT_MAX_COST_USD"):
        ExecutorSettings.from_env(EXECUTOR | {"AGENT_MAX_COST_USD": wrong})


@pytest.mark.parametrize("settings", [ApiSettings.from_env(API), ExecutorSettings.from_env(EXECUTOR)])
def test_settings_can_be_printed_without_giving_a_secret_away(settings):
    printed = f"{settings} {settings!r}"

    assert not [value for value in ("x" * 32, "sb_secret_key", "e2b_key") if value in printed]


def test_the_api_takes_the_service_key_only_where_it_makes_test_users():
    key = {"SUPABASE_SECRET_KEY": "sb_secret_key"}

    assert ApiSettings.from_env(API | key).supabase_secret_key is None
    assert ApiSettings.from_env(API | key | TEST_USERS).supabase_secret_key == Secret("sb_secret_key")
    with pytest.raises(Misconfigured, match="SUPABASE_SECRET_KEY"):
        ApiSettings.from_env(API | TEST_USERS)


def test_production_knows_no_test_users_whatever_it_is_told():
    settings = ApiSettings.from_env(API | TEST_USERS | {"ENVIRONMENT": "production", "SUPABASE_SECRET_KEY": "k"})

    assert not settings.test_users_enabled
    assert settings.supabase_secret_key is None


def test_supabase_s_issuer_follows_from_its_address_unless_it_is_named():
    named = {"SUPABASE_JWT_ISSUER": "https://auth.example.com/auth/v1"}

    assert ApiSettings.from_env(API).supabase_jwt_issuer == f"{API['SUPABASE_URL']}auth/v1"
    assert ApiSettings.from_env(API | named).supabase_jwt_issuer == named["SUPABASE_JWT_ISSUER"]


def test_sandboxes_are_restricted_and_secrets_stay_outside_where_that_is_possible():
    settings = ExecutorSettings.from_env(EXECUTOR)

    assert (settings.sandbox_network, settings.sandbox_secrets) == ("restricted", "auto")
    assert settings.sandbox_registries == PACKAGE_REGISTRIES


@pytest.mark.parametrize(
    ("given", "registries"),
    [("none", ()), ("PyPI.org, *.example.org,", ("pypi.org", "*.example.org")), ("", PACKAGE_REGISTRIES)],
)
def test_the_list_of_registries_can_be_replaced(given, registries):
    assert ExecutorSettings.from_env(EXECUTOR | {"SANDBOX_REGISTRIES": given}).sandbox_registries == registries


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SANDBOX_NETWORK", "closed"),
        ("SANDBOX_SECRETS", "never"),
        ("SANDBOX_REGISTRIES", "https://pypi.org"),
        ("SANDBOX_REGISTRIES", "0.0.0.0/0"),
        ("SANDBOX_REGISTRIES", "10.0.0.1"),
    ],
)
def test_a_sandbox_setting_that_means_nothing_is_refused(name, value):
    with pytest.raises(Misconfigured, match=name):
        ExecutorSettings.from_env(EXECUTOR | {name: value})
