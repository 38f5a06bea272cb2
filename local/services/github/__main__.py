"""Serve GitHub's REST API until SIGTERM: `python -m local.services.github --root R --port P`."""

import argparse
from pathlib import Path

from local.listening import add_port_arguments, listener_of, serve
from local.services.github.accounts import DEFAULT_ACCOUNTS, read_accounts
from local.services.github.app import create_app


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.services.github", description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder with <owner>/<name>.git")
    add_port_arguments(parser)
    known = ", ".join(DEFAULT_ACCOUNTS)
    parser.add_argument("--accounts", type=Path, help=f"JSON file of tokens; default: the tokens {known}")
    parser.add_argument("--web-url", default="https://github.com", help="where pull requests say their pages are")
    arguments = parser.parse_args()
    app = create_app(
        arguments.root.resolve(),
        accounts=read_accounts(arguments.accounts) if arguments.accounts else DEFAULT_ACCOUNTS,
        web_url=arguments.web_url.rstrip("/"),
    )
    serve(app, listener_of(arguments), lifespan="off", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
