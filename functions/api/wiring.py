"""The outside world of the API: its ports, and the only place where it builds adapters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, Request

from shared.adapters.github import HttpGitHub
from shared.adapters.supabase.change_store import SupabaseChangeStore
from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.adapters.supabase.project_store import SupabaseProjectStore
from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.adapters.supabase.usage_store import SupabaseUsageStore
from shared.adapters.supabase.user_store import (
    SupabaseApiKeyDirectory,
    SupabaseApiKeyStore,
    SupabaseProfileStore,
    SupabaseTestUserDirectory,
    SupabaseUserDirectory,
)
from shared.config import ApiSettings
from shared.domain.errors import Misconfigured
from shared.domain.ports import (
    ApiKeyDirectory,
    ApiKeyStore,
    AuthAdmin,
    ProfileStore,
    ProjectStore,
    RunQueue,
    SecretBox,
    TaskStore,
    TestUserDirectory,
    UsageStore,
    UserDirectory,
)
from shared.domain.pull_request import ChangeStore, GitHub
from shared.domain.secret import Secret

if TYPE_CHECKING:
    from postgrest import SyncPostgrestClient

AWS_CONNECT_S, AWS_READ_S, AWS_ATTEMPTS = 2, 4, 2  # a request has 30 s in all; the reaper repeats a lost nudge


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Stores are made per request, for a user's token; queue and box once, at their first use."""

    tasks_of: Callable[[Secret], TaskStore]
    projects_of: Callable[[Secret], ProjectStore]
    usages_of: Callable[[Secret], UsageStore]
    users_of: Callable[[Secret], UserDirectory]
    profile_of: Callable[[Secret], ProfileStore]
    api_keys_of: Callable[[Secret], ApiKeyStore]
    api_key_directory: Callable[[], ApiKeyDirectory]
    auth_admin: Callable[[], AuthAdmin]
    test_users: Callable[[], TestUserDirectory]
    changes_of: Callable[[Secret], ChangeStore]
    github: Callable[[Secret], GitHub]  # made for a GitHub token
    queue: Callable[[], RunQueue]
    box: Callable[[], SecretBox]


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one Lambda environment keeps between requests, apart from authentication."""

    settings: ApiSettings
    ports: Ports


def cloud_ports(settings: ApiSettings) -> Ports:
    """Supabase, SQS and KMS at the configured addresses. Opens no connection."""

    def client_of(token: Secret | None) -> "SyncPostgrestClient":
        return postgrest_client(settings.supabase_url, api_key=settings.supabase_publishable_key, bearer=token)

    def secret_key() -> Secret:
        if settings.supabase_secret_key is None:
            raise Misconfigured("SUPABASE_SECRET_KEY is not set")
        return settings.supabase_secret_key

    @cache
    def auth_admin() -> AuthAdmin:
        from shared.adapters.supabase.auth_admin import SupabaseAuthAdmin

        return SupabaseAuthAdmin(settings.supabase_url, secret_key=secret_key())

    @cache
    def queue() -> RunQueue:
        from shared.adapters.aws.sqs_queue import SqsRunQueue

        return SqsRunQueue(_aws_client("sqs"), settings.task_queue_url)

    @cache
    def box() -> SecretBox:
        if settings.secrets_kms_key_id:
            from shared.adapters.aws.kms_box import KmsBox

            return KmsBox(_aws_client("kms"), settings.secrets_kms_key_id)
        from shared.adapters.local_box import LocalBox

        return LocalBox.from_ring(settings.secrets_master_keys or Secret(""))

    return Ports(
        tasks_of=lambda token: SupabaseTaskStore(client_of(token)),
        projects_of=lambda token: SupabaseProjectStore(client_of(token)),
        usages_of=lambda token: SupabaseUsageStore(client_of(token)),
        users_of=lambda token: SupabaseUserDirectory(client_of(token)),
        profile_of=lambda token: SupabaseProfileStore(client_of(token)),
        api_keys_of=lambda token: SupabaseApiKeyStore(client_of(token)),
        api_key_directory=lambda: SupabaseApiKeyDirectory(client_of(None)),
        auth_admin=auth_admin,
        test_users=lambda: SupabaseTestUserDirectory(postgrest_client(settings.supabase_url, api_key=secret_key())),
        changes_of=lambda token: SupabaseChangeStore(client_of(token)),
        github=lambda token: HttpGitHub(settings.github_api_url, token),
        queue=queue,
        box=box,
    )


def _aws_client(service: Literal["sqs", "kms"]) -> Any:
    # boto3 takes a third of a second to import, and most requests need neither.
    import boto3
    from botocore.config import Config

    retries: Any = {"mode": "standard", "total_max_attempts": AWS_ATTEMPTS}
    return boto3.client(service, config=Config(connect_timeout=AWS_CONNECT_S, read_timeout=AWS_READ_S, retries=retries))


def wiring(request: Request) -> Wiring:
    found: Wiring = request.app.state.wiring
    return found


Wired = Annotated[Wiring, Depends(wiring)]
