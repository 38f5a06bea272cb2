"""What importing a handler pulls in. Never how long that takes: a clock would make the test lie."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
API = {
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_PUBLISHABLE_KEY": "sb_publishable_key",
    "JWT_SECRET": "a secret that is long enough for HS256",
    "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
    "SECRETS_KMS_KEY_ID": "alias/git-tokens",
}
EXECUTOR = {
    "SUPABASE_URL": "https://project.supabase.co",
    "SUPABASE_SECRET_KEY": "sb_secret_key",
    "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
    "SECRETS_KMS_KEY_ID": "alias/git-tokens",
    "E2B_API_KEY": "e2b_key",
}
# `botocore` alone is a page that powertools reads a version from; its weight begins with botocore.session.
HANDLERS = {
    "functions.api.handler": (API, {"e2b", "boto3", "botocore.session", "supabase", "supabase_auth", "moto", "local"}),
    "functions.executor.handler": (EXECUTOR, {"fastapi", "mangum", "starlette", "supabase", "moto", "local"}),
}


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_imports_with_its_own_settings_alone_and_nothing_of_the_others(handler):
    environment, unwanted = HANDLERS[handler]
    program = f"import json, sys, {handler}; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    imported = set(json.loads(run.stdout.splitlines()[-1]))
    assert handler in imported
    assert not imported & unwanted
