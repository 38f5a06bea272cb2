"""The local stack's servers, one set per test process (and so per pytest-xdist worker), on free ports."""

import secrets
import socket
import tempfile
import threading
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
import uvicorn

from local.postgres import Postgres, prepare
from local.supabase import create_gateway

MIGRATIONS = Path(__file__).parents[2] / "supabase" / "migrations"
PREPARED = "prepared"  # the database with bootstrap and migrations that all others are copies of
PATIENCE_S = 30


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
    name = f"copy_{secrets.token_hex(4)}"
    _execute(server_dsn, f"create database {name} template {PREPARED}")
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
