"""The local stack's own secrets: made at random once per data folder, so that sealed rows stay readable."""

import base64
import json
import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from local.state_files import set_aside, write_state

FILE = "keys.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """Not to be shown: `repr` would print them, so nothing here logs it."""

    jwt_secret: str
    supabase_publishable_key: str
    supabase_secret_key: str
    secrets_master_keys: str
    e2b_api_key: str
    scripted_model_key: str
    demo_password: str


def keys_of(data: Path, progress: Callable[[str], None] = lambda _text: None) -> Keys:
    """The keys of this data folder; new ones, readable by its owner only, when it has none.

    A file that a full disk or another program has spoilt is set aside, and `progress` is told.
    """
    file = data / FILE
    if file.exists():
        try:
            return Keys(**json.loads(file.read_text()))
        except (ValueError, TypeError):
            progress(
                f"{file} was damaged and is kept as {set_aside(file).name}. New keys are made: users sign in again."
            )
    keys = Keys(
        jwt_secret=secrets.token_urlsafe(48),
        supabase_publishable_key=f"sb_publishable_{secrets.token_urlsafe(16)}",
        supabase_secret_key=f"sb_secret_{secrets.token_urlsafe(24)}",
        secrets_master_keys=f"v1:{base64.b64encode(secrets.token_bytes(32)).decode()}",
        e2b_api_key=f"e2b_{secrets.token_hex(20)}",
        scripted_model_key=f"sk-local-{secrets.token_hex(20)}",
        demo_password=secrets.token_urlsafe(16),
    )
    data.mkdir(parents=True, exist_ok=True)
    write_state(file, json.dumps(asdict(keys)))
    return keys
