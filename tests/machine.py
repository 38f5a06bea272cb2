"""The tests see this machine and nothing of what its environment holds for other programs."""

import os

from local.settings import CERTIFICATES, MACHINE, NEVER_PROXIED, PROXIES, SCREEN, machine_environment

# How packages are fetched here, and how the tests themselves are run.
PREFIXES = ("PIP_", "NPM_CONFIG_", "PYTEST", "HYPOTHESIS", "COVERAGE", "MAKE", "MFLAGS", "CONFORMANCE_")


def leave_the_callers_environment():
    """Before any module reads it. Requests to this machine never go through a proxy."""
    names = {*MACHINE, *SCREEN, *PROXIES, *CERTIFICATES}
    kept = {name: value for name, value in os.environ.items() if name in names or name.upper().startswith(PREFIXES)}
    for name in CERTIFICATES:
        if not os.path.exists(kept.get(name, "")):  # noqa: PTH110
            kept.pop(name, None)
    os.environ.clear()
    os.environ.update(kept | machine_environment(kept, online=False))
    os.environ.update({"no_proxy": NEVER_PROXIED, "NO_PROXY": NEVER_PROXIED})
