"""Every service that the executor needs, in this process: one set of servers for all runs of a harness.

Real: PostgreSQL with the migrations, the Supabase gateway, the local E2B server, git over HTTP, the executor as its
wiring builds it with its SDKs, and the agents' own programs. Made for the occasion: the model (scripted) and SQS (see
`QueueDoor`), since messages travel on the world's own clock.
"""

import asyncio
import math
import os
import secrets
import socket
import threading
import uuid
from collections import ChainMap, Counter, defaultdict
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from datetime import UTC, datetime, timedelta
from functools import cached_property
from unittest.mock import patch

import httpx
import psutil
import psycopg
import uvicorn
from botocore.config import Config
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from functions.executor import wiring
from functions.executor.e2b import sandboxes as e2b_sandboxes
from local.agent_clis import ensure_cli
from local.keys import keys_of
from local.mirrors import publish
from local.processes import PROJECT_ROOT
from local.services.e2b.isolation import SANDBOX_PYTHON, agent_path
from local.services.e2b.server import create_server
from local.services.git.server import create_app
from local.services.model.app import create_model
from local.services.postgres import Postgres, prepare
from local.services.supabase import create_gateway
from local.stack import scripted_access
from shared.adapters.supabase import postgrest_client
from shared.domain.agents import PROFILES
from shared.domain.messages import RunMessage
from tests.faults.network_faults import Weather
from tests.integration.runs.conftest import git
from tests.process_table import command_of, descendants, is_alive
from tests.waiting import happens

AGENTS = ("claude", "codex")
PATIENCE_S = 120
HTTP_TIMEOUT = httpx.Timeout(60)
HURRIED_S = 0.15  # a client's patience while a request is made to hang
QUEUES = {"tasks": "/queues/tasks", "replays": "/queues/replays"}
# Long bounds: hours pass in a run that is disturbed at every step, and its end should not be their doing.
SETTINGS = {
    "ENVIRONMENT": "test",
    "RUN_TIMEOUT_S": "86400",
    "FOLLOW_UP_WINDOW_S": "120",
    "CHECKPOINT_EVERY_S": "10",
    "CLONE_TIMEOUT_S": "30",
}
# In an agent's place where the repository brings an executable of that name.
STAND_IN = ".stand-in"


def _is_supervisor(command):
    return "supervisor" in command and "start" in command


class Gate:
    """Lets the model answer so many requests; the next one waits. `asked` counts them all."""

    def __init__(self, allowed=math.inf):
        self.allowed = allowed
        self.asked = 0

    async def passed(self):
        self.asked += 1
        number = self.asked
        while number > self.allowed:
            await asyncio.sleep(0.01)


class QueueDoor:
    """As much of SQS as a sender sees. What is sent is handed to `sent(queue, message, delay_s)`."""

    def __init__(self):
        self.sent = None
        self.app = Starlette(routes=[Route("/{rest:path}", self._take, methods=["POST"])])

    async def _take(self, request):
        body = await request.json()
        message = RunMessage.parse(body["MessageBody"])
        name = next(name for name, path in QUEUES.items() if body["QueueUrl"].endswith(path))
        self.sent(name, message, body.get("DelaySeconds", 0))
        return JSONResponse({"MessageId": str(uuid.uuid4())}, media_type="application/x-amz-json-1.0")


class Census:
    """Who lived when: sandboxes per run, counted after every request to the E2B server."""

    def __init__(self, app):
        self._app = app
        self.loop = None
        self.most_at_once = Counter()
        self.born = {}  # run -> ids of its sandboxes

    @property
    def fleet(self):
        return self._app.state.fleet

    async def __call__(self, scope, receive, send):
        self.loop = asyncio.get_running_loop()
        await self._app(scope, receive, send)
        if scope["type"] != "http":
            return
        runs = Counter()
        for box in self.fleet.all():
            run_id = box.wish.metadata.get("run_id")
            self.born.setdefault(run_id, set()).add(box.id)
            runs[run_id] += 1
        self.most_at_once |= runs


class Lab:
    """The running servers, and what a test may see of them and do to them. One run at a time."""

    def __init__(self, folder, agents=AGENTS):
        self.folder = folder
        self.agents = agents
        self.weather = Weather()
        self.queue = QueueDoor()
        self.gate = Gate()
        self.keys = keys_of(folder / "keys")
        self.sandboxes_root = folder / "sandboxes"
        self.git_root = folder / "git"
        self.http = httpx.Client(timeout=HTTP_TIMEOUT)
        self.undisturbed, self.references = {}, {}  # one world for each scenario, and what it tells
        self._exit = ExitStack()

    def __enter__(self):
        with ExitStack() as running:
            self._start(running)
            self._exit = running.pop_all()
        return self

    def __exit__(self, *_):
        self._exit.close()
        self.http.close()

    def _start(self, running):
        postgres = running.enter_context(Postgres(self.folder / "postgres"))
        self.dsn = postgres.dsn
        prepare(self.dsn, PROJECT_ROOT / "supabase" / "migrations")
        self.database = running.enter_context(psycopg.connect(self.dsn, autocommit=True))
        self.programs = self._programs()
        e2b = create_server(self.sandboxes_root, self.keys.e2b_api_key, self.programs, "auto")
        self.census = Census(e2b)
        self.e2b_url = running.enter_context(serving(self.weather.over("sandboxes", self.census)))
        httpx.get(f"{self.e2b_url}/health").raise_for_status()  # it is open by then
        self.queue_url = running.enter_context(serving(self.weather.over("queue", self.queue.app)))
        self.git_url = running.enter_context(serving(create_app(self.git_root)))
        self.model_url = running.enter_context(serving(self._gated(create_model(self.keys.scripted_model_key))))
        listener, self.supabase_url = running.enter_context(listening())
        keys = (self.keys.jwt_secret, self.keys.supabase_publishable_key, self.keys.supabase_secret_key)
        gateway = create_gateway(self.dsn, *keys, self.supabase_url)
        running.enter_context(serving(self.weather.over("database", gateway), listener))
        running.enter_context(patch.dict(os.environ, self._environment()))
        running.enter_context(patch.object(postgrest_client, "_http", lambda: self.http))

    def _programs(self):
        """A folder with a program for each agent: the stand-in that a repository brings, else the agent's own."""
        programs = self.folder / "programs"
        programs.mkdir()
        own = []
        for agent in self.agents:
            home = ensure_cli(agent, PROJECT_ROOT / ".local" / "cache")
            own.append(home)
            program = programs / agent
            program.write_text(
                f"#!/bin/bash\n"
                f"[ -x ./{STAND_IN} ] && exec ./{STAND_IN}\n"
                f'export PATH="${{PATH#*:}}"\n'  # which begins with this folder
                f'exec {agent} "$@"\n'
            )
            program.chmod(0o755)
        return [programs, *own]

    def _gated(self, model):
        async def gated(scope, receive, send):
            if scope["type"] == "http" and scope["method"] == "POST":
                await self.gate.passed()
            await model(scope, receive, send)

        return gated

    def _environment(self):
        """What the functions find in theirs, and nothing of ours that would name another cloud."""
        queues = {f"{name.upper().rstrip('S')}_QUEUE_URL": self.queue_url + path for name, path in QUEUES.items()}
        models = [scripted_access(each, self.model_url, self.keys.scripted_model_key) for each in PROFILES.values()]
        return {
            **SETTINGS,
            **queues,
            **ChainMap(*models),
            "SUPABASE_URL": self.supabase_url,
            "SUPABASE_SECRET_KEY": self.keys.supabase_secret_key,
            "SECRETS_MASTER_KEYS": self.keys.secrets_master_keys,
            "E2B_API_URL": self.e2b_url,
            "E2B_SANDBOX_URL": self.e2b_url,
            "E2B_API_KEY": self.keys.e2b_api_key,
            "SANDBOX_PYTHON": SANDBOX_PYTHON,
            "SANDBOX_AGENT_PATH": agent_path(self.programs),
            "REPO_ORIGINS": self.git_url,
            "AWS_ENDPOINT_URL_SQS": self.queue_url,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "NO_PROXY": "127.0.0.1",
        }

    # --- the executor

    def executor(self, *, disturbed):
        """The ports of a fresh execution environment. One that meets no fault has the patience of a busy machine."""
        with patch.object(wiring, "AWS_CONFIG", HURRIED_AWS if disturbed else PATIENT_AWS):
            return wiring.ports.__wrapped__()

    @contextmanager
    def storm(self, kind):
        """A storm for the calls made inside; clients whose requests hang are given little patience."""
        with self.weather.storm(kind), self._hurry() if kind.startswith("timeout") else nullcontext():
            yield

    @contextmanager
    def _hurry(self):
        self.http.timeout = HURRIED_S
        with patch.multiple(e2b_sandboxes, REQUEST_TIMEOUT_S=HURRIED_S, FILE_TIMEOUT_S=HURRIED_S):
            try:
                yield
            finally:
                self.http.timeout = HTTP_TIMEOUT

    # --- looking

    @property
    def isolation(self):
        """How sandboxes are kept apart here."""
        return self.census.fleet.isolation

    def sql(self, statement, *values):
        with self.database.cursor() as cursor:
            cursor.execute(statement, values or None)
            return cursor.fetchall() if cursor.description else []

    def row(self, table, column, value):
        [(row,)] = self.sql(f"select to_jsonb(t) from {table} t where {column} = %s", value)
        return row

    def boxes(self):
        """Sandboxes that exist, running or paused."""
        return list(self.census.fleet.all())

    def job_folders(self, run_id):
        """Where the jobs of a run keep their state, in the sandboxes that exist."""
        return [path for box in self.boxes() for path in (box.box.folder / "root" / "runs" / run_id).glob("*/state")]

    # --- acting

    def in_fleet(self, coroutine):
        """Have the E2B server do something in its own thread."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.census.loop).result(PATIENCE_S)

    def kill_sandboxes(self):
        """As E2B would: nobody is asked, and nobody told."""
        for box in self.boxes():
            self.in_fleet(self.census.fleet.kill(box.id))

    def kill_jobs(self, *, with_what_they_started):
        """End the supervisors of all jobs at once."""
        found = [process for process in descendants() if _is_supervisor(command_of(process))]
        found += [child for each in found for child in descendants(each.pid)] if with_what_they_started else []
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        assert happens(lambda: not any(is_alive(process.pid) for process in found))

    def pause_sandboxes(self):
        """As E2B does when their lease ends."""
        for box in self.boxes():
            if box.state == "running":
                self.in_fleet(self.census.fleet.pause(box.id))

    def pass_time(self, seconds):
        """So much time has gone by: all that is in the past is further back, all that is to come is nearer."""
        shift = f"- interval '{seconds:.6f} seconds'"
        with self.database.transaction():
            self.sql("set local session_replication_role = replica")  # no trigger shall take it for a change
            for table, columns in self._times.items():
                self.sql(f"update public.{table} set " + ", ".join(f"{name} = {name} {shift}" for name in columns))
        self.in_fleet(self._age_sandboxes(timedelta(seconds=seconds)))

    @cached_property
    def _times(self):
        """The columns of our tables that are moments."""
        found = defaultdict(list)
        for table, column in self.sql(
            "select c.table_name, c.column_name from information_schema.columns c"
            " join information_schema.tables t using (table_schema, table_name)"
            " where c.table_schema = 'public' and c.data_type = 'timestamp with time zone'"
            " and t.table_type = 'BASE TABLE'"
        ):
            found[table].append(column)
        return found

    async def _age_sandboxes(self, by):
        for box in self.boxes():
            box.started_at -= by
            if box.state == "running":
                left = box.end_at - by - datetime.now(UTC)
                self.census.fleet.set_timeout(box.id, max(0, int(left.total_seconds())))

    def forget_everything(self):
        """Before the next run: nothing of an earlier one is there."""
        self.gate.allowed = math.inf  # whoever still waits there
        self.gate = Gate()
        self.weather.down.clear()
        self.kill_sandboxes()
        self.census.most_at_once.clear()
        self.census.born.clear()
        self.sql("truncate auth.users cascade")
        self.sql("update run_limits set started_per_second = 1000")

    def repository(self, files):
        """A published repository with these files (texts; a program if it begins with #!); its path and URL."""
        name = f"repo-{secrets.token_hex(4)}"
        path = self.folder / "repositories" / name
        path.mkdir(parents=True)
        git(path, "init", "-q", "-b", "main")
        for file, content in files.items():
            (path / file).write_text(content)
            (path / file).chmod(0o755 if content.startswith("#!") else 0o644)
        git(path, "add", "-A")
        git(path, "commit", "-q", "-m", "base")
        publish(self.git_root, "local", name, path)
        return path, f"{self.git_url}/local/{name}"


HURRIED_AWS = Config(connect_timeout=10, read_timeout=1, retries={"mode": "standard", "total_max_attempts": 1})
PATIENT_AWS = HURRIED_AWS.merge(Config(read_timeout=60))


@contextmanager
def listening():
    # With the protocol named, asyncio turns Nagle's algorithm off; else every answer takes 40 ms longer.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener, f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def serving(app, listener=None):
    """Serve in a thread, at the address that is given out. Requests sent before it is ready wait in the listener."""
    with ExitStack() as exit_:
        if listener is None:
            listener, _ = exit_.enter_context(listening())
        config = uvicorn.Config(
            app,
            log_level="critical",
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=300,
            timeout_graceful_shutdown=1,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)
