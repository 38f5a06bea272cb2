"""The API as it is deployed: Lambda's runner as a process of its own, with the settings that a case asks for."""

import sys

from local.listening import listen
from tests.contract.http_client import HttpClient

MASTER_KEYS = "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
API = ("--handler", "functions.api.handler:handler", "--timeout-s", "29")
READY_TIMEOUT_S = 60

NOBODY = "http://127.0.0.1:9"  # the discard port: nothing listens there


def changes_of(secret_key):
    """What differs from the ordinary settings, by what a case `needs`."""
    return {
        "test_users_on": {"ENABLE_TEST_USERS": "true", "SUPABASE_SECRET_KEY": secret_key},
        "production": {
            "ENVIRONMENT": "production",
            "TOKEN_EXCHANGE": "strict",
            "SECRETS_MASTER_KEYS": "",
            "SECRETS_KMS_KEY_ID": "alias/git-tokens",
        },
        "database_down": {"SUPABASE_URL": NOBODY},
        "github_down": {"GITHUB_API_URL": NOBODY},
    }


ORDINARY = {None, "fake_github", "test_users_off"}  # what every other deployment offers


class Deployments:
    """One API per kind of settings, each started when a case first needs it; `processes` stops them."""

    def __init__(self, processes, settings, secret_key):
        self._processes = processes
        self._settings = settings
        self._changes = {"ordinary": {}} | changes_of(secret_key)
        self._clients = {}

    def client(self, needs=None):
        name = "ordinary" if needs in ORDINARY else needs
        if name not in self._clients:
            self._clients[name] = self._start(name)
        return self._clients[name]

    def _start(self, name):
        child = self._processes.start(
            f"api-{name}",
            [sys.executable, "-m", "local.services.aws.http_function", *API, "--name", "api"],
            env=self._settings | self._changes[name],
            ready_timeout_s=READY_TIMEOUT_S,
            listener=listen(),
        )
        return HttpClient(child.url)
