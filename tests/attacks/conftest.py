"""Two users on the real API, gateway and PostgreSQL: one attacks, the other's every text holds a word to look for."""

import hashlib
import secrets
import time
import uuid

import boto3
import jwt
import psycopg
import pytest
from mangum import Mangum
from moto import mock_aws
from psycopg.types.json import Jsonb

from functions.api.app import create_app
from shared.config import ApiSettings
from tests.fakes.lambda_client import LambdaClient
from tests.integration.conftest import (  # noqa: F401  # fixtures are found by their names
    postgres_dsn,
    postgres_server,
    supabase_gateway,
)


class Person:
    """A user with one of everything. `word` stands in each of the user's texts and nowhere else."""

    def __init__(self, connection):
        self._connection = connection
        self.word = f"word{secrets.token_hex(12)}"
        self.id = str(uuid.uuid4())
        self._insert("auth.users", id=self.id, email=f"{self.word}@example.test")
        connection.execute(
            "update public.users set full_name = %(word)s, avatar_url = %(word)s, github_username = %(word)s,"
            " preferences = %(preferences)s where id = %(id)s",
            {"word": self.word, "preferences": Jsonb({"claudeCode": {"env": {"WORD": self.word}}}), "id": self.id},
        )
        self.project_id = self._insert(
            "projects", user_id=self.id, name=self.word, description=self.word, repo_owner="o", repo_name=self.word,
            repo_url=f"https://github.com/o/{self.word}", settings=Jsonb({"setup_script": self.word}),
        )  # fmt: skip
        self.task_ids = {status: self._add_task(status) for status in ("pending", "running", "completed", "failed")}
        self.run_ids = [self._add_run(task_id) for task_id in self.task_ids.values()]
        self.credential_id = self._insert(
            "user_credentials", id=str(uuid.uuid4()), user_id=self.id, kind="git_token", ciphertext=self.word,
            key_id=self.word, alg=self.word, hint=self.word, expires_at="2099-01-01",
        )  # fmt: skip
        key_hash = hashlib.sha256(self.word.encode()).hexdigest()
        self.api_key_id = self._insert(
            "api_keys", user_id=self.id, name=self.word, key_hash=key_hash, hint=self.word[-4:]
        )
        connection.execute("insert into run_starts (user_id) values (%s)", [self.id])
        connection.execute("insert into auth.sessions (user_id, user_agent) values (%s, %s)", [self.id, self.word])

    @property
    def ids(self):
        """Everything that somebody might name who has seen an address or a log line."""
        return [self.project_id, *self.task_ids.values(), self.id, self.api_key_id, self.credential_id, *self.run_ids]

    def _insert(self, table, **columns):
        marks = ", ".join(["%s"] * len(columns))
        statement = f"insert into {table} ({', '.join(columns)}) values ({marks}) returning id"
        found = self._connection.execute(statement, list(columns.values())).fetchone()[0]
        return found if isinstance(found, int) else str(found)

    def _add_task(self, status):
        said = [{"role": "user", "content": self.word, "timestamp": "2026-11-23T09:00:00.000000+00:00"}]
        text = dict.fromkeys(
            ("repo_url", "target_branch", "pr_branch", "container_id", "commit_hash", "pr_url", "git_diff", "git_patch",
             "error"),
            self.word,
        )  # fmt: skip
        return self._insert(
            "tasks", user_id=self.id, project_id=self.project_id, status=status, chat_messages=Jsonb(said),
            changed_files=Jsonb([self.word]), execution_metadata=Jsonb({"file_changes": [self.word]}), **text,
        )  # fmt: skip

    def _add_run(self, task_id):
        run_id = self._insert(
            "runs", task_id=task_id, user_id=self.id, prompt=self.word, agent="claude", status="completed",
            model=self.word, sandbox_id=self.word, base_commit=self.word, error=self.word, trace_id=self.word,
        )  # fmt: skip
        self._connection.execute(
            "insert into task_events (task_id, seq, run_id, kind, payload) values (%s, 1, %s, 'note', %s)",
            [task_id, run_id, Jsonb({"text": self.word})],
        )
        self._connection.execute(
            "insert into task_files (run_id, task_id, path, status, before, after)"
            " values (%s, %s, %s, 'added', %s, %s)",
            [run_id, task_id, self.word, self.word, self.word],
        )
        self._connection.execute(
            "insert into task_contents (run_id, id, part, parts, data) values (%s, %s, 0, 1, %s)",
            [run_id, "1" * 40, self.word.encode()],
        )
        return run_id


class Stage:
    """The API and the database's own address, an attacker, a victim, and what is left of the victim."""

    def __init__(self, gateway, client):
        self.gateway, self.client = gateway, client
        self._connection = psycopg.connect(gateway.dsn, autocommit=True)
        # So that no number names a task of one and a project of the other.
        self._connection.execute("select setval('tasks_id_seq', nextval('tasks_id_seq') + 1000000)")
        self.attacker, self.victim = Person(self._connection), Person(self._connection)
        self.attempts = 0

    def token(self, person, **changes):
        """An access token as the API issues it."""
        return jwt.encode(self.claims(person, **changes), self.gateway.jwt_secret, "HS256")

    def claims(self, person, **changes):
        now = int(time.time())
        claims = {"user_id": person.id, "type": "access", "iat": now, "exp": now + 900, "sub": person.id}
        return claims | {"role": "authenticated", "aud": "authenticated"} | changes

    def ask(self, method, path, *, headers=None, json=None, bearer=None):
        """One attempt at the API; fails when the answer shows anything of the victim's."""
        headers = {**({"Authorization": f"Bearer {bearer}"} if bearer else {}), **(headers or {})}
        answer = self.client.request(method, path, headers=headers, json=json)
        self.tried(f"{method} {path} {headers} {json}", answer.status, answer.text)
        return answer

    def tried(self, attempt, status, text):
        self.attempts += 1
        shown = self.victim.word in text or self.victim.word.encode().hex() in text  # as PostgREST shows bytes
        assert not shown, f"{attempt} showed the victim's data: {text[:500]}"
        assert status != 500, f"{attempt} broke something: {text[:500]}"

    def remains(self):
        """Every row that is the victim's or nobody's, and the attacker's rows that nobody may forge."""
        tasks = ", ".join(f"'{task_id}'" for task_id in self.victim.task_ids.values())
        runs = ", ".join(f"'{run_id}'" for run_id in self.victim.run_ids)
        owned = " or ".join(
            (
                f"'{self.victim.id}' in (to_jsonb(t) ->> 'user_id', to_jsonb(t) ->> 'id')",
                f"to_jsonb(t) ->> 'task_id' in ({tasks})",
                f"to_jsonb(t) ->> 'run_id' in ({runs})",
            )
        )
        found = {table: self._rows(owned, table) for table in (*self.tables(), "auth.users", "auth.sessions")}
        own = f"user_id = '{self.attacker.id}' and id <= {max(self.attacker.task_ids.values())}"
        forged = "to_jsonb(t) - array['chat_messages', 'updated_at']"
        return found | {
            "limits": self._rows("true", "public.run_limits"),
            "attacker's tasks": self._rows(own, "public.tasks", forged),
            "attacker's profile": self._rows(
                f"id = '{self.attacker.id}'",
                "public.users",
                "array[is_test_user::text, expires_at::text, github_token, email]",
            ),
        }

    def tables(self):
        """Every table and view of the schema that PostgREST serves."""
        found = self._connection.execute(
            "select format('%I.%I', n.nspname, c.relname) from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where n.nspname = 'public' and c.relkind in ('r', 'p', 'v', 'm', 'f') order by 1"
        ).fetchall()
        return [name for (name,) in found]

    def columns(self, table):
        return self._connection.execute(
            "select attname, format_type(atttypid, null) from pg_attribute"
            " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
            [table],
        ).fetchall()

    def functions(self):
        """Every function of that schema: its name, and name and type of each argument."""
        return self._connection.execute(
            "select p.proname, coalesce(p.proargnames[:p.pronargs], '{}'),"
            " array(select format_type(t, null) from unnest(p.proargtypes) with ordinality as a (t, n) order by n)"
            " from pg_proc p join pg_namespace n on n.oid = p.pronamespace"
            " where n.nspname = 'public' and p.prorettype <> 'trigger'::regtype order by 1"
        ).fetchall()

    def _rows(self, condition, table, shown="to_jsonb(t)"):
        statement = f"select {shown} as row from {table} t where {condition} order by 1"
        return self._connection.execute(statement).fetchall()


@pytest.fixture(scope="module")
def stage(supabase_gateway):  # noqa: F811
    with pytest.MonkeyPatch.context() as environment, mock_aws():
        environment.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        settings = ApiSettings.from_env(
            {
                "ENVIRONMENT": "development",
                "SUPABASE_URL": supabase_gateway.url,
                "SUPABASE_PUBLISHABLE_KEY": supabase_gateway.publishable_key,
                "JWT_SECRET": supabase_gateway.jwt_secret,
                "TOKEN_EXCHANGE": "strict",
                "TASK_QUEUE_URL": boto3.client("sqs").create_queue(QueueName="tasks")["QueueUrl"],
                "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
                "GITHUB_API_URL": "http://127.0.0.1:9",  # nobody listens: no attempt may come as far as GitHub
                "ENABLE_TEST_USERS": "true",
                "SUPABASE_SECRET_KEY": supabase_gateway.secret_key,
            }
        )
        app = create_app(settings)
        stage = Stage(supabase_gateway, LambdaClient(Mangum(app, lifespan="off")))
        stage.app = app
        yield stage


@pytest.fixture(autouse=True)
def unharmed(stage, record_property):
    """Whatever a test tries: afterwards the victim has what the victim had, and the attempts are counted."""
    before, stage.attempts = stage.remains(), 0
    yield
    assert stage.remains() == before
    assert stage.attempts > 0
    record_property("attempts", stage.attempts)
