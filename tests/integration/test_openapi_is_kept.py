"""Whether the API does what its description says, tried by a program that reads the description (schemathesis).

A failure shows the request as a curl command. `Authorization` and what else proves something is left out of it.
"""

import hashlib
import itertools
import json
import time
import uuid
from collections import Counter

import boto3
import jwt
import psycopg
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from mangum import Mangum
from moto import mock_aws
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS as SCHEMATHESIS_CHECKS
from schemathesis.core.parameters import ParameterLocation

from functions.api.app import create_app
from functions.api.document import document
from local.services.aws.http_function import gateway
from shared.config import ApiSettings
from tests.contract.repositories import make_repositories
from tests.contract.rows import REPOSITORY, insert_rows
from tests.fakes.lambda_client import LambdaContext
from tests.fakes.tokens import bearer
from tests.integration.github_servers import serving

OPERATIONS = {
    operation["operationId"]: operation
    for methods in json.loads(document())["paths"].values()
    for operation in methods.values()
}
PROTECTED = [name for name, operation in OPERATIONS.items() if {} not in operation.get("security", [{}])]
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "ignored_auth",
    "unsupported_method",
    "allow_header_conformance",
)
# They take more than they tell: by contract, what is no project's id is no filter; seconds since 1970 are a time, too.
LENIENT = {"listTasks", "getUsage"}
# What looks like a method that these paths do not have asks for a test user of that name.
SHADOWED = {("DELETE", "/api/test-users/health"), ("DELETE", "/api/test-users/cleanup")}
TEST_USERS_SECRET = "known to the tests of a frontend"
KEYS = 5
# Of tests.contract.rows; not T_BADPATCH, which holds what no executor of ours writes: to propose it is a 500.
TASKS = (
    *("T_DONE", "T_CONFLICT", "T_DONE2", "T_NO_REPO", "T_PLAIN", "T_NO_BASE", "T_CODEX", "T_NOPATCH"),
    *("T_PEND", "T_FAIL", "T_ODD", "T_B"),
)
MADE_UP = object()
# What the example of a body leaves out, since none that is made up would do.
PROVEN_BY = {"/api/auth/token": "access_token"}
# The same requests each time, and no second look at a failure: the rows have changed by then.
bounded = settings(
    max_examples=12,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


class OneEnvironment:
    """The API's Lambda function, in this very process."""

    def __init__(self, app):
        self._app = app

    def invoke(self, event):
        return Mangum(self._app, lifespan="off")(event, LambdaContext())


@pytest.fixture(scope="module")
def supabase(make_gateway, fresh_database):
    """A gateway on a database of its own, in which nobody can start too many tasks."""
    found = make_gateway(fresh_database())
    with psycopg.connect(found.dsn) as connection:
        connection.execute("update run_limits set active_per_user = 100000, started_per_hour = 100000")
    return found


@pytest.fixture(scope="module")
def git_root(tmp_path_factory):
    return tmp_path_factory.mktemp("github")


@pytest.fixture(scope="module")
def patches(git_root, tmp_path_factory):
    return make_repositories(git_root, tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def api(supabase, git_root):
    """The description that the API itself serves, behind which is the API: API Gateway's events, real ports."""
    with pytest.MonkeyPatch.context() as environment, mock_aws(), serving(git_root) as github:
        environment.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        app = create_app(
            ApiSettings.from_env(
                {
                    "ENVIRONMENT": "development",
                    "SUPABASE_URL": supabase.url,
                    "SUPABASE_PUBLISHABLE_KEY": supabase.publishable_key,
                    "SUPABASE_SECRET_KEY": supabase.secret_key,
                    "JWT_SECRET": supabase.jwt_secret,
                    "TASK_QUEUE_URL": boto3.client("sqs").create_queue(QueueName="tasks")["QueueUrl"],
                    "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
                    "GITHUB_API_URL": github,
                    "ENABLE_TEST_USERS": "true",
                    "TEST_USERS_SECRET": TEST_USERS_SECRET,
                }
            )
        )
        description = schemathesis.openapi.from_asgi("/openapi.json", gateway(OneEnvironment(app)))
        description.config.seed = 1
        description.config.generation.update(with_security_parameters=False)
        yield description


class Person:
    """Somebody who has some of everything."""

    def __init__(self, supabase, rows, key_ids):
        now = int(time.time())
        user = {"sub": rows["USER_A"], "role": "authenticated", "aud": "authenticated", "iat": now, "exp": now + 900}

        def token(**claims):
            return jwt.encode({**user, **claims}, supabase.jwt_secret, "HS256")

        access = token(type="access", user_id=rows["USER_A"])
        self.headers = {**bearer(access), "X-Test-Users-Secret": TEST_USERS_SECRET}
        known = {
            "task_id": [rows[name] for name in TASKS],
            "project_id": [rows[name] for name in ("P_A", "P_A2", "P_DOOMED", "P_B")],
            "key_id": key_ids,
            "user_id": [rows["USER_A"], rows["TEST_USER"], rows["TEST_EXPIRED"]],
            "access_token": [token(iss=f"{supabase.url}/auth/v1")],
            "refresh_token": [token(type="refresh", user_id=rows["USER_A"])],
            "github_token": ["tok", "tok_ro", "tok", "unknown"],  # see local.services.github
            "path": ["README.md", "logo"],
            "repo_url": [REPOSITORY, f"{REPOSITORY}.git", "https://github.com/o/missing"],
        }
        self._in_turn = {name: itertools.cycle([*values, MADE_UP]) for name, values in known.items()}

    def fill_in(self, case):
        """Put what is there in the place of most that was made up; what is wrong on purpose stays wrong."""
        for location in (ParameterLocation.PATH, ParameterLocation.QUERY, ParameterLocation.BODY):
            values = case.get_container(location)
            if isinstance(values, dict) and not case.meta.is_negative_at(location):
                if case.path in PROVEN_BY and location is ParameterLocation.BODY:
                    values.setdefault(PROVEN_BY[case.path], "")
                for name in [name for name in self._in_turn if name in values]:
                    value = next(self._in_turn[name])
                    values[name] = values[name] if value is MADE_UP else value


@pytest.fixture
def person(supabase, patches):
    rows = insert_rows(supabase.dsn, patches)
    key_ids = [str(uuid.uuid4()) for _ in range(KEYS)]
    with psycopg.connect(supabase.dsn) as connection:
        for key_id in key_ids:
            connection.execute(
                "insert into api_keys (id, user_id, name, key_hash, hint) values (%s, %s, 'one', %s, 'hint')",
                [key_id, rows["USER_A"], hashlib.sha256(key_id.encode()).hexdigest()],
            )
        connection.execute(
            "insert into runs (task_id, user_id, prompt, agent, status) select id, user_id, 'make it so', agent,"
            " replace(status::text, 'pending', 'queued')::run_status from tasks where user_id = %s",
            [rows["USER_A"]],
        )
        connection.execute(  # not of those that can be proposed: these have a patch
            "insert into task_files (run_id, task_id, path, status, mode, after, encoding)"
            " select r.id, r.task_id, files.* from runs r, (values ('README.md', 'added', '100644', 'text', 'utf-8'),"
            " ('logo', 'added', '100644', 'AP8=', 'base64')) as files where r.user_id = %s and r.status <> 'completed'",
            [rows["USER_A"]],
        )
    return Person(supabase, rows, key_ids)


def checks_of(operation_id):
    return SCHEMATHESIS_CHECKS.get_by_names(
        [name for name in CHECKS if not (name == "negative_data_rejection" and operation_id in LENIENT)]
    )


def at_the_bounds(api, operation):
    """Requests that schemathesis derives from the description's bounds, also with other methods; always the same."""
    modes = list(GenerationMode)
    for case in api.iter_coverage_cases(operation, generation_modes=modes, generation_config=api.config.generation):
        if (case.method, case.path) not in SHADOWED:
            yield case


def at_random(operation, check):
    """Hand to `check` what fits the description, and, where there is anything to send, what does not."""
    reads = operation.definition.raw.keys() & {"parameters", "requestBody"}
    for mode in list(GenerationMode) if reads else [GenerationMode.POSITIVE]:
        bounded(given(case=operation.as_strategy(mode))(check))()


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_whoever_is_signed_in_is_answered_as_described(api, person, operation_id):
    operation, checks, statuses = api.find_operation_by_id(operation_id), checks_of(operation_id), Counter()

    def check(case):
        person.fill_in(case)
        statuses[case.call_and_validate(headers=person.headers, checks=checks).status_code] += 1

    for case in at_the_bounds(api, operation):
        check(case)
    at_random(operation, check)

    assert statuses[200] + statuses[201], f"no request went well, so little was tried: {statuses}"


@pytest.mark.parametrize("operation_id", PROTECTED)
def test_whoever_is_not_signed_in_learns_nothing_else(api, person, operation_id):
    for case in at_the_bounds(api, api.find_operation_by_id(operation_id)):
        person.fill_in(case)
        status = case.call_and_validate(checks=checks_of(operation_id)).status_code

        # A path that leads nowhere and a method that it does not have are nobody's secret.
        assert status in {401, 404, 405} or case.method == "OPTIONS", case.as_curl_command()
