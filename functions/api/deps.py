"""What routes may ask for. The only place where the API builds adapters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from functions.api.auth import KnownUsers, User, authenticate
from functions.api.tokens import Tokens, published_key
from shared.adapters.postgrest_client import postgrest_client
from shared.adapters.task_store import SupabaseTaskStore, SupabaseUserDirectory
from shared.config import ApiSettings
from shared.domain.ports import RunQueue, SecretBox, TaskStore, UserDirectory
from shared.domain.secret import Secret

if TYPE_CHECKING:
    from postgrest import SyncPostgrestClient

AWS_CONNECT_S, AWS_READ_S, AWS_ATTEMPTS = 2, 4, 2  # a request has 30 s in all, and a lost nudge is caught up


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """The outside world. Stores are made for a user's token, per request; queue and box once, at their first use."""

    tasks_of: Callable[[Secret], TaskStore]
    users_of: Callable[[Secret], UserDirectory]
    queue: Callable[[], RunQueue]
    box: Callable[[], SecretBox]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What one environment keeps between requests."""

    settings: ApiSettings
    ports: Ports
    tokens: Tokens
    known_users: KnownUsers


def wire(settings: ApiSettings, ports: Ports | None = None) -> Wiring:
    """Opens no connection. Raises Misconfigured."""
    return Wiring(
        settings=settings,
        ports=ports or cloud_ports(settings),
        tokens=Tokens(settings, published_key(settings)),
        known_users=KnownUsers(),
    )


def cloud_ports(settings: ApiSettings) -> Ports:
    """Supabase, SQS and KMS, or whatever answers at the configured addresses."""

    def client_of(token: Secret) -> "SyncPostgrestClient":
        return postgrest_client(settings.supabase_url, api_key=settings.supabase_publishable_key, bearer=token)

    @cache
    def queue() -> RunQueue:
        from shared.adapters.sqs_queue import SqsRunQueue

        return SqsRunQueue(_aws_client("sqs"), settings.task_queue_url)

    @cache
    def box() -> SecretBox:
        if settings.secrets_kms_key_id:
            from shared.adapters.kms_box import KmsBox

            return KmsBox(_aws_client("kms"), settings.secrets_kms_key_id)
        from shared.adapters.local_box import LocalBox

        return LocalBox.from_ring(settings.secrets_master_keys or Secret(""))

    return Ports(
        tasks_of=lambda token: SupabaseTaskStore(client_of(token)),
        users_of=lambda token: SupabaseUserDirectory(client_of(token)),
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

# For the API's description only: `authenticate` reads the header itself, for the contract's own texts.
_Described = Annotated[
    HTTPAuthorizationCredentials | None,
    Depends(HTTPBearer(auto_error=False, description="An access token of ours, or a Supabase access token.")),
]


def current_user(request: Request, wired: Wired, _: _Described) -> User:
    """Raises NotAuthenticated, Unavailable."""
    header = request.headers.get("authorization")
    user = authenticate(header, wired.tokens, wired.known_users, wired.ports.users_of)
    request.state.user_id = user.id
    return user


CurrentUser = Annotated[User, Depends(current_user)]


def tasks(user: CurrentUser, wired: Wired) -> TaskStore:
    return wired.ports.tasks_of(user.token)


Tasks = Annotated[TaskStore, Depends(tasks)]


def request_id(request: Request) -> str:
    found: str = request.state.request_id
    return found


RequestId = Annotated[str, Depends(request_id)]
