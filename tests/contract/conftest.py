"""The whole API for the contract: the real handler, PostgreSQL behind the real gateway, SQS by moto."""

import importlib
import json
import re
import secrets
import sys
import time
import uuid

import boto3
import jwt
import psycopg
import pytest
from moto import mock_aws
from psycopg.types.json import Jsonb

from tests.fakes.lambda_client import LambdaClient
from tests.integration.conftest import (  # noqa: F401  # fixtures are found by their names
    postgres_dsn,
    postgres_server,
    supabase_gateway,
)

LONG = "do a thing that is longer than fifty characters for sure, ok?"
MASTER_KEYS = "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="


class Stage:
    """The handler, the rows that the cases name, and the tokens they send."""

    def __init__(self, handler, gateway):
        self.client = LambdaClient(handler)
        self._gateway = gateway
        self.values = {"LONG": LONG, "RAND": secrets.token_hex(4), "NOUSER": str(uuid.uuid4())}
        with psycopg.connect(gateway.dsn, autocommit=True) as connection:
            self._fill(connection)
        user_a, user_b, nobody = (self.values[name] for name in ("USER_A", "USER_B", "NOUSER"))
        self.bearers = {
            "valid": self.token(user_a),
            "other-user": self.token(user_b),
            "expired": self.token(user_a, lasts_s=-600),
            "refresh-token": self.token(user_a, "refresh"),
            "garbage": "garbage",
            "wrong-secret": self.token(user_a, secret="x" * 40),
            "unknown-user": self.token(nobody),
        }
        self.values |= {
            "ACCESS_A": self.token(user_a),
            "REFRESH_A": self.token(user_a, "refresh"),
            "REFRESH_EXPIRED": self.token(user_a, "refresh", lasts_s=-600),
            "REFRESH_UNKNOWN": self.token(nobody, "refresh"),
        }

    def token(self, user_id, kind="access", *, lasts_s=600, secret=None):
        now = int(time.time()) + min(lasts_s, 0)
        claims = {"user_id": user_id, "type": kind, "iat": now, "exp": now + abs(lasts_s) if lasts_s > 0 else now}
        if kind == "access":
            claims |= {"sub": user_id, "role": "authenticated", "aud": "authenticated"}
        return jwt.encode(claims, secret or self._gateway.jwt_secret, "HS256")

    def filled(self, value):
        """`${NAME}` replaced everywhere; a text that is nothing else becomes the value itself, of its own type."""
        match value:
            case dict():
                return {self.filled_text(key): self.filled(part) for key, part in value.items()}
            case list():
                return [self.filled(part) for part in value]
            case str():
                whole = re.fullmatch(r"\$\{(\w+)\}", value)
                return self.values[whole[1]] if whole else self.filled_text(value)
        return value

    def filled_text(self, text):
        return re.sub(r"\$\{(\w+)\}", lambda name: str(self.values[name[1]]), text)

    def send(self, case):
        headers = {name: self.filled_text(value) for name, value in case.get("headers", {}).items()}
        if case["auth"] != "none":
            headers["Authorization"] = f"Bearer {self.bearers[case['auth']]}"
        content = case.get("raw_body", "").encode()
        if "body" in case:
            headers["Content-Type"] = "application/json"
            content = json.dumps(self.filled(case["body"])).encode()
        return self.client.request(case["method"], self.filled_text(case["path"]), headers=headers, content=content)

    def _fill(self, connection):
        def insert(table, **columns):
            marks = ", ".join(["%s"] * len(columns))
            row = connection.execute(
                f"insert into {table} ({', '.join(columns)}) values ({marks}) returning id", list(columns.values())
            )
            return row.fetchone()[0]

        def task(user_id, status, **columns):
            said = [{"role": "user", "content": LONG, "timestamp": "2026-11-23T09:00:00.000000+00:00"}]
            row = {"repo_url": "https://github.com/o/r", "chat_messages": Jsonb(said)} | columns
            return insert("public.tasks", user_id=user_id, status=status, **row)

        a, b = (
            insert("auth.users", id=user_id, email=f"{user_id}@example.test")
            for user_id in (uuid.uuid4(), uuid.uuid4())
        )
        widgets = {"repo_owner": "acme", "repo_name": "widgets", "name": "Widgets"}
        url = "https://github.com/acme/widgets"
        project = insert("public.projects", user_id=a, repo_url=url, **widgets)
        ended = {"git_diff": "diff --git a/README.md b/README.md\n", "commit_hash": "0" * 40}
        ended |= {"changed_files": Jsonb(["README.md"]), "execution_metadata": Jsonb({"turns": 2})}
        self.values |= {
            "USER_A": str(a),
            "USER_B": str(b),
            "P_A": project,
            "P_B": insert("public.projects", user_id=b, repo_url=url, **widgets),
            "T_DONE": task(a, "completed", project_id=project, git_patch="From 0000\n", **ended),
            "T_PEND": task(a, "pending"),
            "T_RUN": task(a, "running"),
            "T_FAIL": task(a, "failed", error="boom"),
            "T_EMPTY": task(a, "completed", git_patch=""),
            "T_NOMSG": task(a, "pending", chat_messages=Jsonb([])),
            "T_B": task(b, "pending"),
        }


@pytest.fixture(scope="module")
def stage(supabase_gateway):  # noqa: F811
    with pytest.MonkeyPatch.context() as environment, mock_aws():
        environment.setenv("AWS_DEFAULT_REGION", "eu-central-1")
        queue_url = boto3.client("sqs").create_queue(QueueName="tasks")["QueueUrl"]
        for name, value in {
            "ENVIRONMENT": "development",
            "SUPABASE_URL": supabase_gateway.url,
            "SUPABASE_PUBLISHABLE_KEY": supabase_gateway.publishable_key,
            "JWT_SECRET": supabase_gateway.jwt_secret,
            "TOKEN_EXCHANGE": "compat",
            "TASK_QUEUE_URL": queue_url,
            "SECRETS_MASTER_KEYS": MASTER_KEYS,
            "CORS_ORIGIN_PATTERN": r"https://[a-z0-9-]+\.vercel\.app",
        }.items():
            environment.setenv(name, value)
        sys.modules.pop("functions.api.handler", None)  # it reads its settings when it is imported
        stage = Stage(importlib.import_module("functions.api.handler").handler, supabase_gateway)
        stage.queue_url = queue_url
        yield stage
        sys.modules.pop("functions.api.handler")
