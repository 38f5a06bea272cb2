"""What bounds the starting of tasks, asked over HTTP of the whole API on a real database: limits, and keys."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psycopg
import pytest
from mangum import Mangum

from functions.api.app import create_app
from functions.api.wiring import cloud_ports
from shared.config import ApiSettings
from tests.fakes.lambda_client import LambdaClient
from tests.fakes.run_queue import FakeRunQueue
from tests.fakes.tokens import bearer, own_claims, signed

GOOD = {"prompt": "p", "repo_url": "https://github.com/o/r", "github_token": "github_pat_x"}
AT_ONCE = 20


class Api:
    """The API, a user who starts tasks, and the database behind it."""

    def __init__(self, gateway):
        self._gateway = gateway
        environment = {
            "ENVIRONMENT": "development",
            "SUPABASE_URL": gateway.url,
            "SUPABASE_PUBLISHABLE_KEY": gateway.publishable_key,
            "JWT_SECRET": gateway.jwt_secret,
            "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
            "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        }
        settings = ApiSettings.from_env(environment)
        ports = replace(cloud_ports(settings), queue=FakeRunQueue)
        self._app = create_app(settings, ports)
        self.user = self.new_user()

    @property
    def client(self):
        """A Lambda environment of its own: one serves one request at a time."""
        return LambdaClient(Mangum(self._app, lifespan="off"))

    def sql(self, statement, *values):
        with psycopg.connect(self._gateway.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def new_user(self):
        [[user]] = self.sql(
            "insert into auth.users (id, email) select id, id || '@example.test' from gen_random_uuid() id returning id"
        )
        return str(user)

    def headers(self, user=None, key=None):
        token = signed(own_claims(user or self.user), self._gateway.jwt_secret)
        return bearer(token) | ({"Idempotency-Key": key} if key else {})

    def start(self, user=None, key=None, **changes):
        return self.client.post("/api/start-task", headers=self.headers(user, key), json=GOOD | changes)

    def start_at_once(self, **changes):
        """As many at the same moment as AT_ONCE says."""
        ready = threading.Barrier(AT_ONCE, timeout=120)

        def start(_number):
            ready.wait()
            return self.start(**changes)

        with ThreadPoolExecutor(AT_ONCE) as threads:
            return list(threads.map(start, range(AT_ONCE)))

    def stored(self):
        """How many tasks, runs, git tokens and starts there are."""
        tables = ("tasks", "runs", "user_credentials", "run_starts")
        return [self.sql(f"select count(*) from {table}")[0][0] for table in tables]

    def end_all_runs(self):
        self.sql("update runs set status = 'completed'")

    def let_time_pass(self, minutes):
        self.sql("update run_starts set at = at - %s * interval '1 minute'", minutes)


@pytest.fixture
def api(make_gateway, fresh_database):
    return Api(make_gateway(fresh_database()))


def refusal(answer):
    return answer.status, {key: value for key, value in answer.json().items() if key != "error"}


def test_of_many_starts_at_once_exactly_as_many_pass_as_may_be_active(api):
    api.sql("update run_limits set active_per_user = 5")

    answers = api.start_at_once()

    refused = [answer for answer in answers if answer.status != 200]
    assert len(refused) == AT_ONCE - 5
    for answer in refused:
        assert refusal(answer) == (429, {"code": "too_many_active_runs", "limit": 5, "current": 5})
        assert answer.headers["retry-after"] == "30"
    assert api.stored() == [5, 5, 5, 5]

    api.sql("update runs set status = 'completed' where id = (select id from runs limit 1)")
    assert [api.start().status for _ in range(2)] == [200, 429]


def test_of_many_starts_at_once_exactly_as_many_pass_as_an_hour_allows(api):
    api.sql("update run_limits set started_per_hour = 5")

    answers = api.start_at_once()

    assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 15
    assert api.stored() == [5, 5, 5, 5]


def test_an_hour_after_a_start_another_is_free_and_the_answer_says_when(api):
    api.sql("update run_limits set started_per_hour = 2")
    for _ in range(2):
        assert api.start().status == 200
        api.end_all_runs()
        api.let_time_pass(20)

    answer = api.start()

    assert refusal(answer) == (429, {"code": "too_many_starts", "limit": 2, "current": 2})
    assert 1190 <= int(answer.headers["retry-after"]) <= 1200  # the older one was 40 minutes ago
    assert answer.json()["error"] == "Too many tasks were started within an hour. Try again later."
    api.let_time_pass(20)
    assert [api.start().status for _ in range(2)] == [200, 429]


def test_a_lowered_limit_counts_from_the_newest_starts(api):
    for _ in range(3):
        api.start()
        api.let_time_pass(10)
    api.sql("update run_limits set started_per_hour = 1")

    answer = api.start()

    assert refusal(answer) == (429, {"code": "too_many_starts", "limit": 1, "current": 3})
    assert 2990 <= int(answer.headers["retry-after"]) <= 3000  # the newest was 10 minutes ago


def test_deleting_a_project_gives_no_start_back(api):
    api.sql("update run_limits set started_per_hour = 2")
    project = {"name": "R", "repo_url": "https://github.com/o/r"}
    created = api.client.post("/api/projects", headers=api.headers(), json=project).json()["project"]["id"]
    for _ in range(2):
        assert api.start(project_id=created).status == 200

    assert api.client.request("DELETE", f"/api/projects/{created}", headers=api.headers()).status == 200

    assert api.stored()[:2] == [0, 0]
    assert refusal(api.start()) == (429, {"code": "too_many_starts", "limit": 2, "current": 2})


def test_a_refused_start_does_not_count(api):
    api.sql("update run_limits set active_per_user = 1, started_per_hour = 2")
    assert [api.start().status for _ in range(5)] == [200, 429, 429, 429, 429]

    api.end_all_runs()

    assert api.start().status == 200


def test_the_limits_of_one_user_are_nobody_elses(api):
    api.sql("update run_limits set active_per_user = 1, started_per_hour = 1")
    assert [api.start().status for _ in range(2)] == [200, 429]

    assert api.start(api.new_user()).status == 200


def test_one_request_sent_many_times_at_once_is_one_task(api):
    answers = api.start_at_once(key="click-1")

    assert {(answer.status, answer.json()["task_id"]) for answer in answers} == {(200, answers[0].json()["task_id"])}
    assert api.stored() == [1, 1, 1, 1]


def test_a_repeated_request_knows_no_limit(api):
    api.sql("update run_limits set active_per_user = 1, started_per_hour = 1")
    first = api.start(key="click-1")

    again = api.start(key="click-1", github_token="renewed", branch="main")

    assert (again.status, again.json()) == (200, first.json())
    assert api.start(key="click-2").status == 429


def test_something_else_under_the_same_key_is_refused_and_stores_nothing(api):
    api.start(key="click-1")

    answer = api.start(key="click-1", prompt="something else")

    assert refusal(answer) == (409, {"code": "idempotency_key_reused"})
    assert api.stored() == [1, 1, 1, 1]


def test_the_same_key_of_another_user_is_another_key(api):
    other = api.new_user()
    mine = api.start(key="click-1").json()["task_id"]

    theirs = api.start(other, key="click-1", prompt="something else")

    assert theirs.status == 200
    assert theirs.json()["task_id"] != mine
    owners = dict(api.sql("select id, user_id::text from tasks"))
    assert owners == {mine: api.user, theirs.json()["task_id"]: other}


def test_nobody_reads_or_writes_starts_and_limits_directly(api):
    api.start()

    for table in ("run_starts", "run_limits"):
        for statement in (f"select * from {table}", f"delete from {table}"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                api.sql(f"set role authenticated; {statement}")
