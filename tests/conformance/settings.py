"""Which server of sandboxes the tests use: `make conformance` says it in their environment."""

from collections.abc import Mapping

STAND_IN = ("local.e2b",)
# Variable of the environment, option of the server.
OPTIONS = {
    "CONFORMANCE_ENVD": "--envd",
    "CONFORMANCE_IMAGE": "--image",
    "CONFORMANCE_USER": "--default-user",
    "CONFORMANCE_FOLDER": "--default-folder",
}


def server_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The module to run and its options: the stand-in where the environment names no envd."""
    if not environment.get("CONFORMANCE_ENVD"):
        return STAND_IN
    options = [(option, environment[name]) for name, option in OPTIONS.items() if environment.get(name)]
    return ("tests.conformance.server", *(word for option in options for word in option))
