"""The whole API for the contract, as processes: Lambda's runner, PostgreSQL behind the gateway, SQS, GitHub."""

import os
import sys
from functools import cache

import psycopg
import pytest

from local.listening import listen
from local.processes import ProcessGroup
from local.services.aws.queue import REGION, create_queues
from tests.contract.deployments import MASTER_KEYS, Deployments
from tests.contract.repositories import make_repositories
from tests.contract.rows import insert_rows
from tests.contract.stage import Stage
from tests.integration.conftest import (  # noqa: F401  # fixtures are found by their names
    fresh_database,
    make_gateway,
    postgres_server,
)


@pytest.fixture(scope="module")
def stage_of(supabase, patches):
    """A factory of rows and tokens; the same ones for the same name, such as a case file's."""

    @cache
    def make(_name):
        values = insert_rows(supabase.dsn, patches) | {"SUPABASE_URL": supabase.url}
        return Stage(values, supabase.jwt_secret)

    return make


@pytest.fixture(scope="module")
def deployments(processes, supabase, sqs_url, queues, github_api):
    """The API with the settings that template.yaml gives it, and the endpoints of this machine's clouds."""
    settings = {
        "ENVIRONMENT": "development",
        "SUPABASE_URL": supabase.url,
        "SUPABASE_PUBLISHABLE_KEY": supabase.publishable_key,
        "JWT_SECRET": supabase.jwt_secret,
        "TOKEN_EXCHANGE": "compat",
        "TASK_QUEUE_URL": queues.tasks,
        "SECRETS_MASTER_KEYS": MASTER_KEYS,
        "REPO_ORIGINS": "https://github.com",
        "CORS_ORIGIN_PATTERN": r"https://[a-z0-9-]+\.vercel\.app",
        "GITHUB_API_URL": github_api,
        "AWS_ENDPOINT_URL_SQS": sqs_url,
        "AWS_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
    }
    return Deployments(processes, _machine() | settings, supabase.secret_key)


@pytest.fixture(scope="module")
def supabase(make_gateway, fresh_database):  # noqa: F811
    return make_gateway(fresh_database())


@pytest.fixture(scope="module")
def rows(supabase):
    """What a statement returns from the database behind the API, as its superuser."""

    def run(statement, *values):
        with psycopg.connect(supabase.dsn, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute(statement, values).fetchall()

    return run


@pytest.fixture(scope="module")
def sqs_url(processes):
    return _serve(processes, "sqs", "local.services.aws")


@pytest.fixture(scope="module")
def queues(sqs_url):
    return create_queues(sqs_url)


@pytest.fixture(scope="module")
def git_root(tmp_path_factory):
    """Folder of the bare repositories `owner/name.git` that GitHub's stand-in serves."""
    return tmp_path_factory.mktemp("github")


@pytest.fixture(scope="module")
def patches(git_root, tmp_path_factory):
    return make_repositories(git_root, tmp_path_factory.mktemp("sources"))


@pytest.fixture(scope="module")
def github_api(processes, git_root, patches):
    """URL of GitHub's REST API."""
    return _serve(processes, "github", "local.services.github", "--root", str(git_root))


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with ProcessGroup(tmp_path_factory.mktemp("logs")) as group:
        yield group


def _serve(processes, name, module, *arguments):
    argv = [sys.executable, "-m", module, *arguments]
    return processes.start(name, argv, env=_machine(), listener=listen()).url


def _machine():
    """What any program needs of this machine."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
