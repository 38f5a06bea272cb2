"""Runs one PostgreSQL server as a child process in the foreground."""

import fcntl
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil
import psycopg

from local.postgres.account import MOVED, Account, PostgresError, home_for, programs_for

START_TIMEOUT_S = 30.0  # measured: 0.1 s; after a crash the log is replayed first
FAST_STOP_S = 10.0
KILL_WAIT_S = 5.0
POLL_S = 0.02
LOG_LINES_SHOWN = 8

# Nothing waits for the disk: what was committed survives the end of any process, but not a power cut. TCP only, because
# the path of a unix socket may have about 100 bytes, which a folder of a project easily exceeds.
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres:
    """One PostgreSQL server on 127.0.0.1, alive between `start` and `stop` or within `with`.

    `data_dir` is made when new and kept afterwards; delete it to start afresh. Without `port` a free one is
    chosen at the start. Nobody gets in without the random password in `dsn`: agents run on the same machine.
    All methods raise PostgresError with a sentence for the person at the keyboard.
    """

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: TextIOWrapper | None = None

    @property
    def port(self) -> int:
        if self._port is None:
            raise PostgresError("The port is known once PostgreSQL has been started.")
        return self._port

    @property
    def dsn(self) -> str:
        """How the superuser connects. Holds the password: for the environment, not for argv or logs."""
        if not self._password_file.exists():
            raise PostgresError(f"{self._password_file} is missing: start PostgreSQL, or delete {self._data_dir}.")
        password = quote(self._password_file.read_text())
        return f"postgresql://postgres:{password}@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start the server and return when it accepts connections."""
        try:
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = self._exclusive_lock()
            self._launch()
            self._wait_until_ready()
        except OSError as error:
            self.stop()
            raise PostgresError(f"PostgreSQL cannot work in {self._data_dir}: {error}") from error
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Disconnect all clients, stop, and return when the process is gone. Harmless when not running."""
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check(self) -> None:
        """Raise PostgresError if the server has ended by itself."""
        if self._process is None or self._process.poll() is not None:
            raise PostgresError(f"PostgreSQL has ended. {self._log_tail()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _home(self) -> Path:
        moved = self._data_dir / MOVED
        return moved.readlink() if moved.is_symlink() else self._data_dir

    @property
    def _password_file(self) -> Path:
        return self._home / "password"

    @property
    def _log_file(self) -> Path:
        return self._data_dir / "postgres.log"

    def _exclusive_lock(self) -> TextIOWrapper:
        """Held by the launcher as long as it lives, so that a server found without it is an orphan."""
        lock = (self._data_dir / "lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise PostgresError(f"Another process already serves the database in {self._data_dir}.") from None
        return lock

    def _launch(self) -> None:
        account = Account.current(self._home / "pgdata")
        programs = programs_for(account)
        home = home_for(account, self._data_dir)
        pgdata = home / "pgdata"
        if not pgdata.exists():
            self._initialise(pgdata, programs, account)
        _remove_traces_of_a_crash(pgdata)
        self._port = self._port or _free_port()
        options = [option for name, value in SETTINGS.items() for option in ("-c", f"{name}={value}")]
        argv = [str(programs / "postgres"), "-D", str(pgdata), "-p", str(self._port), *options]
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home, env=_environment(),
                **account.as_process_user(),
            )  # fmt: skip

    def _initialise(self, pgdata: Path, programs: Path, account: Account) -> None:
        """Make the data folder; it gets its name when complete, so that half of one is never started."""
        draft = pgdata.with_suffix(".new")
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir()
        self._password_file.touch()
        for path in (draft, self._password_file):
            account.takes(path)
        self._password_file.write_text(secrets.token_urlsafe(24))
        done = subprocess.run(
            [str(programs / "initdb"), "-D", str(draft), "-U", "postgres", "--auth=scram-sha-256",
             f"--pwfile={self._password_file}", "--encoding=UTF8", "--locale=C",
             "--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-sync"],
            capture_output=True, text=True, check=False, cwd=pgdata.parent, env=_environment(),
            **account.as_process_user(),
        )  # fmt: skip
        if done.returncode != 0:
            raise PostgresError(f"PostgreSQL could not make its data folder: {done.stderr.strip()}")
        draft.rename(pgdata)

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while True:
            self.check()
            try:
                psycopg.connect(self.dsn, connect_timeout=2).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > give_up_at:
                    raise PostgresError(f"PostgreSQL did not become ready. {self._log_tail()}") from error
                time.sleep(POLL_S)
            else:
                return

    def _log_tail(self) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines() if self._log_file.exists() else []
        shown = "\n".join(lines[-LOG_LINES_SHOWN:])
        return f"Its last words ({self._log_file}):\n{shown}\nIf the data cannot be used, delete {self._data_dir}."


def _environment() -> dict[str, str]:
    """Nothing of ours: a variable with a key in it is no business of the database."""
    return {"PATH": os.defpath, "LC_ALL": "C"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _remove_traces_of_a_crash(pgdata: Path) -> None:
    """End an orphaned server and drop its pid file. Safe because we hold the lock of the data folder.

    PostgreSQL itself refuses to start while the process number in that file is alive, even when the
    number meanwhile belongs to another program.
    """
    pid_file = pgdata / "postmaster.pid"
    if not pid_file.exists():
        return
    first_line = pid_file.read_text().partition("\n")[0].strip()
    if first_line.isdecimal():
        _end_orphan(int(first_line), pgdata)
    pid_file.unlink(missing_ok=True)


def _end_orphan(pid: int, pgdata: Path) -> None:
    """Stop process `pid` if it is a server of this data folder."""
    try:
        process = psutil.Process(pid)
        if str(pgdata) in process.cmdline():
            process.send_signal(signal.SIGINT)
            process.wait(FAST_STOP_S)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return  # gone, as usual after a crash; or somebody else's, who has the number now
    except psutil.TimeoutExpired as error:
        raise PostgresError(f"An earlier PostgreSQL (process {pid}) does not stop. End it first.") from error


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Fast shutdown, then immediate, then SIGKILL."""
    for number, patience_s in ((signal.SIGINT, FAST_STOP_S), (signal.SIGQUIT, KILL_WAIT_S)):
        process.send_signal(number)
        try:
            process.wait(patience_s)
        except subprocess.TimeoutExpired:
            continue
        return
    process.kill()
    process.wait(KILL_WAIT_S)
