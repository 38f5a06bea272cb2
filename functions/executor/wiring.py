"""Builds what the handlers need, once per environment. The only module of the executor that knows the adapters."""

from datetime import UTC, datetime
from functools import cache
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from functions.executor.e2b.sandboxes import E2BSandboxes
from functions.executor.ports import Ports
from shared.adapters.aws.kms_box import KmsBox
from shared.adapters.aws.sqs_queue import SqsRunQueue
from shared.adapters.local_box import LocalBox
from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.run_store import SupabaseRunStore
from shared.config import ExecutorSettings
from shared.domain.errors import Misconfigured
from shared.domain.ports import SecretBox
from shared.observability import register_secret

# A step has 120 s in all; the library's own limits would spend them on one call that nobody answers.
AWS_CONFIG = Config(connect_timeout=3, read_timeout=10, retries={"mode": "standard", "total_max_attempts": 3})


@cache
def ports() -> Ports:
    """Raises Misconfigured with all that is missing in the environment."""
    settings = ExecutorSettings.from_env()
    for key in (settings.supabase_secret_key, settings.e2b_api_key, *settings.model_keys()):
        register_secret(key, lasting=True)
    sqs = boto3.client("sqs", config=AWS_CONFIG)
    return Ports(
        runs=SupabaseRunStore(
            postgrest_client(settings.supabase_url, api_key=settings.supabase_secret_key),
            lease_s=settings.step_lease_s,
            run_timeout_s=settings.run_timeout_s,
        ),
        queue=SqsRunQueue(sqs, settings.task_queue_url),
        replays=SqsRunQueue(sqs, settings.replay_queue_url),
        sandboxes=E2BSandboxes(
            api_key=settings.e2b_api_key,
            template=settings.e2b_template,
            # Whose runs they are is a matter of the database, whatever the two stages are called.
            deployment=f"{settings.environment}@{urlsplit(settings.supabase_url).netloc}",
            lease_s=settings.sandbox_lease_s,
            python=settings.sandbox_python,
            agent_path=settings.sandbox_agent_path,
        ),
        box=_secret_box(settings),
        settings=settings,
        now=lambda: datetime.now(UTC),
    )


def _secret_box(settings: ExecutorSettings) -> SecretBox:
    if settings.secrets_kms_key_id:
        return KmsBox(boto3.client("kms", config=AWS_CONFIG), settings.secrets_kms_key_id)
    if settings.secrets_master_keys:
        return LocalBox.from_ring(settings.secrets_master_keys)
    raise Misconfigured("Set SECRETS_KMS_KEY_ID.")
