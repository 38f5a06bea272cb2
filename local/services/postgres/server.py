"""Runs one PostgreSQL server as a child process in the foreground."""

import fcntl
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psutil

from local.services.postgres.account import Account, PostgresError
from local.services.postgres.places import home_for, home_of
from local.services.postgres.programs import ENVIRONMENT, programs_for

START_TIMEOUT_S = 120.0  # measured: 0.1 s; after a crash the log is replayed first
FAST_STOP_S = 10.0
KILL_WAIT_S = 5.0
POLL_S = 0.02
LOG_LINES_SHOWN = 8
STATUS_LINE = 7  # of postmaster.pid (src/include/utils/pidfile.h), counted from 0
PORTS_TRIED = 20  # each but the first was free a moment before

# What the server's log says, in English since LC_ALL is C.
PORT_REFUSED = re.compile(r"could not (bind|listen on) IPv4 address")
DATA_UNUSABLE = re.compile(
    r"database files are incompatible with server|is not a valid data directory|in control file|control file contains"
    r"|valid checkpoint record|required checkpoint record|could not find redo location|incorrect checksum"
    r"|invalid page in block|WAL directory .* does not exist|could not access the server configuration file"
    r"|could not load .*pg_hba|could not open (file|directory) \"(global|base|pg_\w+)\b.*No such file"
)

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

    `data_dir` is made when new and kept afterwards; delete it to start afresh. `preferred_port` is taken when it is
    free, else another one; `port` is the one that the server really has. Clients need the random password in
    `dsn`: agents run on the same machine. All methods raise PostgresError with a sentence for the person at the
    keyboard.
    """

    def __init__(self, data_dir: Path, preferred_port: int | None = None) -> None:
        self._data_dir = data_dir.absolute()
        self._preferred_port = preferred_port
        self._port = preferred_port
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: TextIOWrapper | None = None

    @property
    def port(self) -> int:
        """The server's port. Before the start: the preferred one."""
        if not self._port:
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
        with self._stopping_on_error():
            account = Account.current(home_of(self._data_dir) / "pgdata")
            programs = programs_for(account)
            self._data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = self._exclusive_lock()
            self._serve_data(programs, account)

    def start_afresh(self) -> Path:
        """Set the data aside and serve a new, empty database instead; the server must be running.

        Returns the folder that keeps the old data. Nothing is deleted: `Postgres` serves that folder, too.
        """
        with self._stopping_on_error():
            if self._process is not None:
                _end(self._process)
                self._process = None
            home = home_of(self._data_dir)
            aside = _set_aside(home)
            account = Account.current(home / "pgdata")
            self._serve_data(programs_for(account), account)
            return aside

    @contextmanager
    def _stopping_on_error(self) -> Iterator[None]:
        try:
            yield
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
        if self._has_ended():
            raise PostgresError(f"PostgreSQL has ended. {self._log_tail()}")

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def _password_file(self) -> Path:
        return home_of(self._data_dir) / "password"

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

    def _serve_data(self, programs: Path, account: Account) -> None:
        """Serve the data of `data_dir`, which is made when new. The lock must be held."""
        home = home_for(account, self._data_dir)
        if not (home / "pgdata").exists():
            self._initialise(home / "pgdata", programs, account)
        _remove_traces_of_a_crash(home / "pgdata")
        self._serve(home, programs, account)

    def _serve(self, home: Path, programs: Path, account: Account) -> None:
        """Start the server on the first port that it gets. Only the server itself can tell: it binds the port."""
        for number in range(PORTS_TRIED):
            self._port = self._preferred_port if number == 0 and self._preferred_port else free_port()
            self._launch(home, programs, account, self._port)
            if self._became_ready(home / "pgdata"):
                return
        raise PostgresError(f"PostgreSQL got none of {PORTS_TRIED} ports of 127.0.0.1. {self._log_tail()}")

    def _launch(self, home: Path, programs: Path, account: Account, port: int) -> None:
        options = [option for name, value in SETTINGS.items() for option in ("-c", f"{name}={value}")]
        argv = [str(programs / "postgres"), "-D", str(home / "pgdata"), "-p", str(port), *options]
        with self._log_file.open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home, env=ENVIRONMENT,
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
            capture_output=True, text=True, check=False, cwd=pgdata.parent, env=ENVIRONMENT,
            **account.as_process_user(),
        )  # fmt: skip
        if "No space left on device" in done.stderr:
            raise PostgresError(f"PostgreSQL needs about 60 MB in {pgdata.parent}, and that disk is full.")
        if done.returncode != 0:
            raise PostgresError(f"PostgreSQL could not make its data folder: {done.stderr.strip()}")
        draft.rename(pgdata)

    def _became_ready(self, pgdata: Path) -> bool:
        """Wait until our own child serves; False when it ended because it did not get the port."""
        give_up_at = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready(pgdata):
            if self._has_ended():
                if PORT_REFUSED.search(self._log()):
                    return False
                self.check()
            if time.monotonic() > give_up_at:
                raise PostgresError(f"PostgreSQL did not become ready. {self._log_tail()}")
            time.sleep(POLL_S)
        return True

    def _is_ready(self, pgdata: Path) -> bool:
        """Whether the server that we started says so in its pid file, as pg_ctl asks. Another one may have our port."""
        try:
            lines = (pgdata / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        ours = self._process is not None and lines[:1] == [str(self._process.pid)]
        return ours and len(lines) > STATUS_LINE and lines[STATUS_LINE].strip() == "ready"

    def _has_ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def _log(self) -> str:
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def _log_tail(self) -> str:
        log = self._log()
        lines = [f"The end of {self._log_file}:", *log.splitlines()[-LOG_LINES_SHOWN:]]
        if DATA_UNUSABLE.search(log):
            lines.append(f"The data cannot be used: delete {self._data_dir} to start afresh.")
        return "\n".join(lines)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing uses now. Another program may take it before we do."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _set_aside(home: Path) -> Path:
    """Move the database in `home` and its password into a new folder there, which is laid out like `home`.

    The last step is one rename, so that a process that is killed leaves the database in one place or in the other.
    """
    aside = next(folder for number in count(1) if not (folder := home / f"earlier-{number}").exists())
    aside.mkdir()
    aside.chmod(0o711)  # the server's user may enter it, whatever the umask is; each file in it has its own rights
    shutil.copy2(home / "password", aside)
    (home / "pgdata").rename(aside / "pgdata")
    return aside


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
