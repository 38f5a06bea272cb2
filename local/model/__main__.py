"""`SCRIPTED_MODEL_KEY=… python -m local.model --port 8903`: the scripted model as a process of its own."""

import argparse
import os

import uvicorn

from local.model.app import create_model


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m local.model", description="A model that follows a script.")
    parser.add_argument("--port", type=int, required=True, help="where to listen on 127.0.0.1")
    port: int = parser.parse_args().port
    key = os.environ.get("SCRIPTED_MODEL_KEY")
    if not key:
        parser.error("SCRIPTED_MODEL_KEY must hold the key that agents have to present.")
    # An agent that was told to hang would otherwise keep the server from stopping
    uvicorn.run(create_model(key), host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
