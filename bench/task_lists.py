"""What a page of tasks costs somebody who has many: `python -m bench.task_lists [requests]`.

A page of ten, asked of the real handler in this process, by a user with ten tasks and one with 10,000 whose patches
have 200 KB (the newest) or 3 KB; behind it the local stack's PostgreSQL and Supabase gateway. The figure that counts is
the last column: how many times as long the user with many waits.
"""

import os
import random
import secrets
import string
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import jwt
import psycopg
from mangum import Mangum

from functions.api.app import create_app
from local.listening import listen, url_of
from local.processes import PROJECT_ROOT, ProcessGroup
from local.services.aws.events import HttpRequest, http_event
from local.services.postgres import Postgres, prepare
from shared.config import ApiSettings

FEW, MANY = 10, 10_000
PAGES = {
    "GET /api/tasks": "/api/tasks?limit=10",
    "GET /api/tasks, one status": "/api/tasks?limit=10&status=completed",
    "GET /api/tasks, a search": "/api/tasks?limit=10&q=number",
    "GET /api/projects/{id}/tasks": "/api/projects/{project}/tasks?limit=10",
    "GET /api/projects": "/api/projects?",
}
FILL = """
    insert into tasks (user_id, project_id, status, created_at, repo_url, chat_messages, git_diff, git_patch)
    select %(user)s, %(project)s, 'completed', now() - n * interval '1 minute', 'https://github.com/o/r',
        jsonb_build_array(jsonb_build_object('role', 'user', 'content', 'add number ' || n, 'timestamp', now())),
        left(%(patch)s, 3000), left(%(patch)s, case when n <= 200 then 200000 else 3000 end)
    from generate_series(1, %(count)s) n order by n desc
"""


@dataclass(frozen=True)
class Supabase:
    """A database of our own, and the gateway in front of it."""

    dsn: str
    url: str
    publishable_key: str = field(default_factory=lambda: secrets.token_hex(16))
    jwt_secret: str = field(default_factory=lambda: secrets.token_hex(32))

    def user_with(self, tasks: int) -> tuple[str, int]:
        """A new user's id, and the id of the project in which all the tasks are."""
        user, patch = str(uuid.uuid4()), "".join(random.choices(string.ascii_letters + string.digits, k=200_000))
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("insert into auth.users (id, email) values (%s, %s)", [user, f"{user}@example.test"])
            row = connection.execute(
                "insert into projects (user_id, repo_url, repo_owner, repo_name, name)"
                " values (%s, 'https://github.com/o/r', 'o', 'r', 'R') returning id",
                [user],
            ).fetchone()
            project = int(row[0]) if row else 0
            connection.execute(FILL, {"user": user, "project": project, "count": tasks, "patch": patch})
            connection.execute("vacuum analyze tasks")
        return user, project

    def token_of(self, user: str) -> str:
        claims = {"user_id": user, "sub": user, "type": "access", "role": "authenticated", "aud": "authenticated"}
        return jwt.encode(claims | {"iat": int(time.time()), "exp": int(time.time()) + 3600}, self.jwt_secret, "HS256")


def main() -> None:
    """Print one row per page."""
    requests = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with _supabase() as supabase:
        handler = Mangum(create_app(_settings(supabase)), lifespan="off")
        users = [supabase.user_with(FEW), supabase.user_with(MANY)]
        print(f"{'median of ' + str(requests):<30} {FEW:>6} tasks {MANY:>6} tasks {'ratio':>7}")
        for name, path in PAGES.items():
            asked = [(path.format(project=project), supabase.token_of(user)) for user, project in users]
            few_ms, many_ms = _medians_ms(handler, asked, requests)
            print(f"{name:<30} {few_ms:>9.1f} ms {many_ms:>9.1f} ms {many_ms / few_ms:>7.2f}")


def _medians_ms(handler: Mangum, asked: list[tuple[str, str]], requests: int) -> list[float]:
    """Per path and token. One after the other, in turns, so that whatever else the machine does slows all alike."""
    took_ms: list[list[float]] = [[] for _ in asked]
    for turn in range(requests + 1):
        for (path, token), times in zip(asked, took_ms, strict=True):
            event = _event(path, token)
            began = time.perf_counter()
            answer: Any = handler(event, None)  # type: ignore[arg-type]  # our handler does not look at the context
            if answer["statusCode"] != 200:
                raise SystemExit(f"{path}: {answer['statusCode']} {answer['body']}")
            if turn:  # the first one warms everything
                times.append(1000 * (time.perf_counter() - began))
    return [median(times) for times in took_ms]


def _event(path: str, token: str) -> dict[str, Any]:
    path, _, query = path.partition("?")
    headers = [("host", "api.example.test"), ("authorization", f"Bearer {token}")]
    request = HttpRequest("GET", path, query, headers, b"", "198.51.100.7", "HTTP/1.1")
    return http_event(request, request_id=uuid.uuid4().hex, at=datetime.now(UTC))


def _settings(supabase: Supabase) -> ApiSettings:
    return ApiSettings.from_env(
        {
            "SUPABASE_URL": supabase.url,
            "SUPABASE_PUBLISHABLE_KEY": supabase.publishable_key,
            "JWT_SECRET": supabase.jwt_secret,
            "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
            "SECRETS_KMS_KEY_ID": "unused",
        }
    )


@contextmanager
def _supabase() -> Iterator[Supabase]:
    with (
        tempfile.TemporaryDirectory() as folder,
        Postgres(Path(folder) / "postgres") as postgres,
        ProcessGroup(Path(folder) / "logs") as processes,
    ):
        prepare(postgres.dsn, PROJECT_ROOT / "supabase" / "migrations")
        listener = listen()
        supabase = Supabase(postgres.dsn, url_of(listener))
        environment = os.environ | {
            "DATABASE_URL": supabase.dsn,
            "JWT_SECRET": supabase.jwt_secret,
            "SUPABASE_PUBLISHABLE_KEY": supabase.publishable_key,
            "SUPABASE_SECRET_KEY": secrets.token_hex(16),
        }
        argv = [sys.executable, "-m", "local.services.supabase"]
        processes.start("supabase", argv, env=environment, listener=listener)
        yield supabase


if __name__ == "__main__":
    main()
