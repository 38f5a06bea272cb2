"""The sign-in service's own administration, `/auth/v1/admin`. It needs the secret key, and is slow to import."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
from supabase_auth import SyncGoTrueAdminAPI
from supabase_auth.errors import AuthApiError, AuthError

from shared.domain.errors import AppError, Conflict, InvalidInput, Misconfigured, NotFound, Unavailable
from shared.domain.ports import Row
from shared.domain.secret import Secret

TIMEOUT = httpx.Timeout(10, connect=3)
IDLE_S = 5  # as in postgrest_client: a thawed Lambda finds older connections dead


class SupabaseAuthAdmin:
    """Makes and removes users. It does not ask who they are: whoever calls it knows."""

    def __init__(self, supabase_url: str, *, secret_key: Secret, http: httpx.Client | None = None) -> None:
        self._api = SyncGoTrueAdminAPI(
            url=f"{supabase_url}/auth/v1",
            headers=_headers(secret_key.reveal()),
            http_client=http or httpx.Client(timeout=TIMEOUT, limits=httpx.Limits(keepalive_expiry=IDLE_S)),
        )

    def create_user(self, email: str, *, app_metadata: Mapping[str, Any], user_metadata: Mapping[str, Any]) -> Row:
        """Keys: id, metadata. Nobody can sign in as this user: there is no password.

        Raises Conflict when the address is taken, InvalidInput when the service does not take it for one.
        """
        with _speaking_our_errors():
            user = self._api.create_user(
                {
                    "email": email,
                    "email_confirm": True,
                    "app_metadata": dict(app_metadata),
                    "user_metadata": dict(user_metadata),
                }
            ).user
            return {"id": user.id, "metadata": user.user_metadata}

    def delete_user(self, user_id: str) -> None:
        """All that belongs to this user goes, too. Raises NotFound."""
        with _speaking_our_errors():
            self._api.delete_user(user_id)


def _headers(key: str) -> dict[str, str]:
    # Only a legacy key is a JWT, and is needed in both places.
    return {"apikey": key} | ({"Authorization": f"Bearer {key}"} if key.count(".") == 2 else {})


@contextmanager
def _speaking_our_errors() -> Iterator[None]:
    try:
        yield
    except AuthApiError as error:
        raise _our_error(error) from error
    except (AuthError, ValueError) as error:  # no answer, or one that is none
        raise Unavailable("The sign-in service is not responding. Try again.", reason=type(error).__name__) from error


def _our_error(error: AuthApiError) -> AppError:
    context: dict[str, Any] = {"auth_code": error.code, "auth_status": error.status}
    if error.code in {"email_exists", "user_already_exists"}:
        return Conflict("A user with this e-mail address exists already.", **context)
    match error.status:
        case 404:
            return NotFound("User not found", **context)
        case 401 | 403:
            return Misconfigured("The sign-in service refuses SUPABASE_SECRET_KEY.", **context)
        case 400 | 422:
            return InvalidInput("The sign-in service does not accept this user.", **context)
    return Unavailable("The sign-in service returned an unexpected response. Try again.", **context)
