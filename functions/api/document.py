"""Prints the OpenAPI description of all operations, without any setting: `python -m functions.api.document`.

`make openapi` keeps it in docs/openapi.json.
"""

import json

from functions.api.app import create_app
from shared.config import ApiSettings

# Placeholders: describing the API contacts no address and signs nothing.
SETTINGS = {
    "ENVIRONMENT": "development",
    "SUPABASE_URL": "https://supabase.invalid",
    "SUPABASE_PUBLISHABLE_KEY": "none",
    "JWT_SECRET": "none" * 8,
    "TASK_QUEUE_URL": "https://queue.invalid",
    "SECRETS_KMS_KEY_ID": "none",
}


def document() -> str:
    """The description as JSON, including the operations that only some deployments have."""
    return json.dumps(create_app(ApiSettings.from_env(SETTINGS)).openapi(), indent=2, ensure_ascii=False)


if __name__ == "__main__":
    print(document())
