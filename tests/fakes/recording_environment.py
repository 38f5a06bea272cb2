"""An environment that remembers what it was asked: how tests learn which variables the settings really read."""

import re

from shared.config import ApiSettings, ExecutorSettings
from shared.domain.errors import Misconfigured


class RecordingEnvironment(dict):
    """Empty, so that reading it also tells which variables are required."""

    def __init__(self):
        super().__init__()
        self.asked = set()

    def get(self, key, default=None):
        self.asked.add(key)
        return default


def variables_of(settings: type[ApiSettings] | type[ExecutorSettings]) -> tuple[set[str], set[str]]:
    """The names of all variables that `settings` reads, and of those it cannot do without."""
    environment = RecordingEnvironment()
    try:
        settings.from_env(environment)
    except Misconfigured as error:
        required = re.findall(r"[A-Z][A-Z0-9_]+", str(error).partition("variables:")[2].partition(".")[0])
        return environment.asked, set(required)
    return environment.asked, set()
