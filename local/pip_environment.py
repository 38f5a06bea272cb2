"""Runs pip so that only what leads it to a package index comes from the person's environment and configuration.

Everything else there belongs to other projects: PIP_TARGET, PIP_REQUIRE_HASHES or `user = true` in a pip.conf would
put our packages elsewhere, or none at all. As a program, this file is pip: `python -I pip_environment.py install …`.
Standard library only: the Makefile runs it before anything is installed.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PIP = (sys.executable, "-I", "-m", "pip")  # isolated from PYTHON* variables and from a `pip` in the working folder

KEPT = (
    *("PATH", "HOME", "USER", "TMPDIR", "LANG", "LC_ALL", "LC_CTYPE", "NETRC"),
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "PIP_CONFIG_FILE"),
    *("http_proxy", "https_proxy", "all_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"),
    # pip's own options that say where packages come from and how to get there
    *("PIP_INDEX_URL", "PIP_PYPI_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX", "PIP_TRUSTED_HOST"),
    *("PIP_PROXY", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_KEYRING_PROVIDER", "PIP_TIMEOUT", "PIP_DEFAULT_TIMEOUT"),
    *("PIP_RETRIES", "PIP_CACHE_DIR", "PIP_NO_CACHE_DIR"),
)
# `pip config list` has options of its own that a pip.conf means for `pip install`: all files are listed all the same.
LISTING = {"PIP_QUIET": "0", "PIP_LOG": os.devnull} | dict.fromkeys(
    ("PIP_USER", "PIP_GLOBAL", "PIP_SITE", "PIP_ISOLATED"), "0"
)
CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "PIP_CLIENT_CERT")


def pip_environment(caller: Mapping[str, str]) -> dict[str, str]:
    """What pip may see of the environment `caller`. Certificates that do not exist are left out: pip gives up then."""
    kept = {name: caller[name] for name in KEPT if caller.get(name)}
    return {name: value for name, value in kept.items() if name not in CERTIFICATES or Path(value).exists()}


def pip_settings(caller: Mapping[str, str]) -> dict[str, str]:
    """The environment for pip: `pip_environment`, and what pip's configuration files say about reaching an index.

    The files themselves are out of force then. A file that pip cannot read counts as absent.
    """
    environment = pip_environment(caller)
    listed = subprocess.run(
        [*PIP, "config", "list"], env=environment | LISTING, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        errors="replace", check=False,
    )  # fmt: skip
    configured = _configured(listed.stdout) if listed.returncode == 0 else {}
    return {**pip_environment(configured), **environment, "PIP_CONFIG_FILE": os.devnull}


def _configured(listing: str) -> dict[str, str]:
    """The output of `pip config list` as variables; what is set for `install` counts more.

    They are for `pip_environment`, which keeps those that lead to an index.
    """
    found = re.findall(r"^(global|install)\.([a-z-]+)=(.*)$", listing, re.MULTILINE)
    return {
        _variable(option): str(ast.literal_eval(value)).strip()
        for _, option, value in sorted(found)  # "global" comes before "install"
    }


def _variable(option: str) -> str:
    return f"PIP_{option.upper().replace('-', '_')}"


if __name__ == "__main__":
    os.execve(sys.executable, [*PIP, *sys.argv[1:]], pip_settings(os.environ))  # noqa: S606
