"""Serve the gateway until SIGTERM or SIGINT: `python -m local.services.supabase --port P`.

Reads JWT_SECRET, SUPABASE_PUBLISHABLE_KEY and SUPABASE_SECRET_KEY from the environment; DATABASE_URL too, unless
`--dsn` is given (a DSN with a password does not belong in argv, where every user of the machine can read it).
"""

import argparse
import os
import signal
import sys

from local.listening import add_port_arguments, listener_of, serve, url_of
from local.services.supabase.app import create_gateway

SECRETS = ("JWT_SECRET", "SUPABASE_PUBLISHABLE_KEY", "SUPABASE_SECRET_KEY")


def main() -> int:
    """Return 0 after an ordered stop, 2 when settings are missing."""
    parser = argparse.ArgumentParser(prog="python -m local.services.supabase", description=__doc__)
    add_port_arguments(parser)
    parser.add_argument("--dsn", default=os.environ.get("DATABASE_URL"), help="default: $DATABASE_URL")
    parser.add_argument("--public-url", help="default: http://127.0.0.1:PORT")
    arguments = parser.parse_args()
    missing = [name for name in SECRETS if not os.environ.get(name)]
    if not arguments.dsn:
        missing.append("DATABASE_URL")
    if missing:
        parser.error(f"missing in the environment: {', '.join(missing)}")
    listener = listener_of(arguments)
    gateway = create_gateway(
        arguments.dsn,
        jwt_secret=os.environ["JWT_SECRET"],
        publishable_key=os.environ["SUPABASE_PUBLISHABLE_KEY"],
        secret_key=os.environ["SUPABASE_SECRET_KEY"],
        public_url=arguments.public_url or url_of(listener),
    )
    signal.signal(signal.SIGTERM, lambda _number, _frame: None)  # uvicorn raises it again after its ordered stop
    serve(gateway, listener)
    return 0


if __name__ == "__main__":
    sys.exit(main())
