"""What a project's settings may be. They belong to whoever edits them; we read only the keys that are named here."""

import json
from typing import Any

from shared.domain.errors import InvalidInput

MAX_SETTINGS_BYTES = 256 * 1024
MAX_SETUP_SCRIPT_BYTES = 64 * 1024


def checked_settings(settings: dict[str, Any] | None) -> dict[str, Any]:
    """The settings as they are stored; `{}` for None. Raises InvalidInput.

    `setup_script`, where it is given, runs before the agent in every sandbox of the project.
    """
    script = (settings or {}).get("setup_script")
    if not isinstance(script, str | None):
        raise InvalidInput("settings.setup_script must be a string or null")
    if len((script or "").encode()) > MAX_SETUP_SCRIPT_BYTES:
        raise InvalidInput(f"settings.setup_script may have at most {MAX_SETUP_SCRIPT_BYTES} bytes")
    if len(json.dumps(settings, ensure_ascii=False).encode()) > MAX_SETTINGS_BYTES:
        raise InvalidInput(f"settings may have at most {MAX_SETTINGS_BYTES} bytes as JSON")
    return settings or {}
