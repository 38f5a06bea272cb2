"""What a project's settings may be. They belong to whoever edits them; we read only the keys that are named here.

They are an object: {"setup_script": text | null, "env": {NAME: value} | null, "network": [host, …] | null, …}
"""

import json
from collections.abc import Mapping
from typing import Any

from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput
from shared.domain.network import read_hosts
from shared.domain.preferences import read_env
from shared.domain.secret import Secret

MAX_SETTINGS_BYTES = 256 * 1024
MAX_SETUP_SCRIPT_BYTES = 64 * 1024


def checked_settings(settings: dict[str, Any] | None) -> dict[str, Any]:
    """The settings as they are stored; `{}` for None. Raises InvalidInput, which names a variable but not its value.

    `setup_script`, where it is given, runs before the agent in every sandbox of the project; `env` is there for both.
    `network` are the hosts that both may reach beside those that every run needs.
    """
    script = (settings or {}).get("setup_script")
    if not isinstance(script, str | None):
        raise InvalidInput("settings.setup_script must be a string or null")
    if len((script or "").encode()) > MAX_SETUP_SCRIPT_BYTES:
        raise InvalidInput(f"settings.setup_script may have at most {MAX_SETUP_SCRIPT_BYTES} bytes")
    if len(json.dumps(settings, ensure_ascii=False).encode()) > MAX_SETTINGS_BYTES:
        raise InvalidInput(f"settings may have at most {MAX_SETTINGS_BYTES} bytes as JSON")
    for agent in AgentName:
        for problem in read_project_env(agent, (settings or {}).get("env"))[1]:
            raise InvalidInput(problem)
    for problem in read_project_network((settings or {}).get("network"))[1]:
        raise InvalidInput(problem)
    return settings or {}


def read_project_env(agent: AgentName, env: object) -> tuple[Mapping[str, Secret], tuple[str, ...]]:
    """The sound part of the settings' `env` for this agent, and a sentence for each thing that was left out of it."""
    return read_env(agent, env, "settings.env")


def read_project_network(network: object) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The sound hosts of the settings' `network`, and a sentence for each thing that was left out of it."""
    return read_hosts(network, "settings.network")
