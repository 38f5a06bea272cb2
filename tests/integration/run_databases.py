"""Two databases with the same handles: the real one behind the gateway, and the fake that the unit tests stand on."""

import json
import uuid

import jwt
import psycopg

from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.run_store import SupabaseRunStore
from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.domain.messages import RunMessage
from shared.domain.ports import StartedRun
from shared.domain.secret import Secret
from tests.fakes.new_task import new_task
from tests.fakes.run_store import FakeRunDatabase, stored


class _Handles:
    """What a test does as a user, and what it looks at; `runs` is the store as the executor has it."""

    def message(self, user_id, started, seq=None):
        return RunMessage(
            task_id=started.task_id,
            run_id=started.run_id,
            seq=started.seq if seq is None else seq,
            user_id=user_id,
        )

    def claimed(self, **changes):
        user_id, started = self.start(**changes)
        return self.runs.claim(self.message(user_id, started)).run


class RealDatabase(_Handles):
    def __init__(self, gateway):
        self.gateway = gateway
        self.runs = self.run_store()

    def run_store(self, *, lease_s=60, run_timeout_s=600):
        client = postgrest_client(self.gateway.url, api_key=Secret(self.gateway.secret_key))
        return SupabaseRunStore(client, lease_s=lease_s, run_timeout_s=run_timeout_s)

    def sql(self, statement, *values):
        with psycopg.connect(self.gateway.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def new_user(self):
        user_id = str(uuid.uuid4())
        self.sql("insert into auth.users (id, email) values (%s, %s)", user_id, f"{user_id}@example.test")
        return user_id

    def client_of(self, user_id):
        claims = {"sub": user_id, "role": "authenticated", "aud": "authenticated", "exp": 4102444800}
        token = jwt.encode(claims, self.gateway.jwt_secret, "HS256")
        return postgrest_client(self.gateway.url, api_key=Secret(self.gateway.publishable_key), bearer=Secret(token))

    def start(self, user_id=None, **changes):
        user_id = user_id or self.new_user()
        return user_id, SupabaseTaskStore(self.client_of(user_id)).create(new_task(**changes))

    def start_in_project(self, **settings):
        user_id = self.new_user()
        [(project,)] = self.sql(
            "insert into projects (user_id, repo_url, repo_name, repo_owner, name, settings) "
            "values (%s, 'u', 'r', 'o', 'n', %s::jsonb) returning id",
            *(user_id, json.dumps(settings)),
        )
        return self.start(user_id, project_id=project)

    def retry(self, user_id, started):
        arguments = {"p_task_id": started.task_id, "p_kind": "retry"}
        return StartedRun(**self.client_of(user_id).rpc("create_run", arguments).execute().data)

    def follow_up(self, user_id, started):
        arguments = {"p_task_id": started.task_id, "p_kind": "follow_up", "p_prompt": "more"}
        return StartedRun(**self.client_of(user_id).rpc("create_run", arguments).execute().data)

    def end_of_keeping(self, started):
        self.sql("update runs set kept_until = now() where id = %s", started.run_id)

    def cancel(self, user_id, started):
        self.client_of(user_id).rpc("request_cancel", {"p_task_id": started.task_id}).execute()

    def set_preferences(self, user_id, preferences):
        value = None if preferences is None else json.dumps(preferences)
        self.sql("update users set preferences = %s::jsonb where id = %s", value, user_id)

    def set_limits(self, **limits):
        for name, value in limits.items():
            self.sql(f"update run_limits set {name} = %s", value)

    def make_overdue(self, seconds):
        self.sql("update runs set next_check_at = now() - %s * interval '1 second'", seconds)

    def make_credentials_expire(self):
        self.sql("update user_credentials set expires_at = now() - interval '1 second'")

    def task(self, started):
        [row] = self._rows("tasks", "id", started.task_id)
        return row

    def run(self, started):
        [row] = self._rows("runs", "id", started.run_id)
        return row

    def events(self, started):
        return sorted(self._rows("task_events", "task_id", started.task_id), key=lambda event: event["seq"])

    def files(self, started):
        return self._rows("task_files", "run_id", started.run_id)

    def credentials(self, user_id):
        return self.sql("select id from user_credentials where user_id = %s", user_id)

    def _rows(self, table, column, value):
        client = postgrest_client(self.gateway.url, api_key=Secret(self.gateway.secret_key))
        return client.table(table).select("*").eq(column, value).execute().data


class FakeDatabase(_Handles):
    def __init__(self):
        self.rows = FakeRunDatabase()
        self.runs = self.run_store()

    def run_store(self, *, lease_s=60, run_timeout_s=600):
        return self.rows.store(lease_s=lease_s, run_timeout_s=run_timeout_s)

    def new_user(self):
        return str(uuid.uuid4())

    def start(self, user_id=None, **changes):
        user_id = user_id or self.new_user()
        return user_id, self.rows.create_task(user_id, new_task(**changes))

    def start_in_project(self, *, env=None, network=None):
        project = {"project_env": stored(env), "project_network": stored(network)}
        user_id = self.new_user()
        return user_id, self.rows.create_task(user_id, new_task(), **project)

    def retry(self, user_id, started):
        return self.rows.retry(started.task_id)

    def follow_up(self, _user_id, started):
        return self.rows.follow_up(started.task_id, "more")

    def end_of_keeping(self, started):
        self.rows.runs[started.run_id]["kept_until"] = self.rows.now()

    def cancel(self, user_id, started):
        self.rows.request_cancel(started.task_id)

    def set_preferences(self, user_id, preferences):
        self.rows.preferences[user_id] = stored(preferences)

    def set_limits(self, **limits):
        self.rows.limits |= limits

    def make_overdue(self, seconds):
        for row in self.rows.runs.values():
            row["next_check_at"] = self.rows.now.later(-seconds)

    def make_credentials_expire(self):
        for row in self.rows.credentials.values():
            row["expires_at"] = self.rows.now.later(-1)

    def task(self, started):
        return self.rows.tasks[started.task_id]

    def run(self, started):
        return self.rows.runs[started.run_id]

    def events(self, started):
        return self.rows.events_of(started.task_id)

    def files(self, started):
        return [row for row in self.rows.files if row["run_id"] == started.run_id]

    def credentials(self, user_id):
        return [i for i, row in self.rows.credentials.items() if row["user_id"] == user_id]
