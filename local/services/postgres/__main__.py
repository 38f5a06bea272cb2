"""Serve PostgreSQL until SIGTERM or SIGINT: `python -m local.services.postgres --data-dir D --port P`.

Once it does, it prints `PostgreSQL accepts connections on 127.0.0.1:PORT` with the port that it really has. A line with
SET_ASIDE comes first when the database in D was made by another version of this project: a new one is served then.
"""

import argparse
import signal
import sys
import threading
from pathlib import Path

import psycopg

from local.services.postgres import SET_ASIDE, MigrationError, OtherHistory, Postgres, PostgresError, prepare

LOOK_S = 0.2  # how soon we notice that the server ended by itself


def main() -> int:
    """Return 0 after an ordered stop, 1 with a sentence on stderr otherwise."""
    arguments = _arguments()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    try:
        with Postgres(arguments.data_dir, arguments.port) as server:
            if arguments.migrations:
                _prepare(server, arguments.migrations)
            print(f"PostgreSQL accepts connections on 127.0.0.1:{server.port}", flush=True)
            while not stop.wait(LOOK_S):
                server.check()
    except (PostgresError, MigrationError) as error:
        print(error, file=sys.stderr)
        return 1
    except psycopg.Error as error:  # for example a full disk while the database is prepared
        print(f"PostgreSQL in {arguments.data_dir} failed: {error}", file=sys.stderr)
        return 1
    return 0


def _prepare(server: Postgres, migrations: Path) -> None:
    """Apply the new migrations; to a new database where they do not continue the history of the present one."""
    try:
        prepare(server.dsn, migrations)
    except OtherHistory as error:
        aside = server.start_afresh()
        print(f"{SET_ASIDE}: {error} The database is kept in {aside}; a new one is used.", flush=True)
        prepare(server.dsn, migrations)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m local.services.postgres", description=__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="made when new, kept afterwards")
    parser.add_argument("--port", type=int, help="of 127.0.0.1; another one when it is in use, any when left out")
    parser.add_argument("--migrations", type=Path, help="folder of *.sql files to apply after the start")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
