"""Which server of sandboxes the tests use: `make conformance` says it in their environment."""

from collections.abc import Mapping

from local.stack import STAND_IN

ENVD, IMAGE, TEMPLATE = "CONFORMANCE_ENVD", "CONFORMANCE_IMAGE", "CONFORMANCE_TEMPLATE"
OPTIONS = {ENVD: "--envd", IMAGE: "--image", TEMPLATE: "--template"}  # of the server


def server_of(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The module to run and its options: the stand-in where the environment names no envd."""
    if not environment.get(ENVD):
        return STAND_IN
    options = [(option, environment[name]) for name, option in OPTIONS.items() if environment.get(name)]
    return ("tests.conformance.server", *(word for option in options for word in option))
