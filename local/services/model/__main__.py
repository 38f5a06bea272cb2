"""`SCRIPTED_MODEL_KEY=… python -m local.services.model --port 8903`: the scripted model as a process of its own."""

import argparse
import os

from local.listening import add_port_arguments, listener_of, serve
from local.services.model.app import create_model


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m local.services.model", description="A model that follows a script."
    )
    add_port_arguments(parser)
    arguments = parser.parse_args()
    key = os.environ.get("SCRIPTED_MODEL_KEY")
    if not key:
        parser.error("SCRIPTED_MODEL_KEY must hold the key that agents have to present.")
    # An agent that was told to hang would otherwise keep the server from stopping
    serve(create_model(key), listener_of(arguments), timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
