"""`/auth/v1`: what GoTrue answers to the official clients. E-mail and password only; addresses count as confirmed."""

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import psycopg
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.services.supabase import accounts, forms, passwords
from local.services.supabase.accounts import Client, Row, Session
from local.services.supabase.database import Connection, Database
from local.services.supabase.errors import ApiError, AuthError
from local.services.supabase.tokens import Keys, bearer_token, check_key, identify, sign, verify

ACCESS_TOKEN_LIFETIME_S = 3600  # Supabase's default "JWT expiry"
DEFAULT_PER_PAGE = 50  # GoTrue's
BY_EMAIL = {"provider": "email", "providers": ["email"]}

logger = logging.getLogger(__name__)

Endpoint = Callable[[Request], Awaitable[Response]]


class AuthRoutes:
    """Sign-up, sign-in, sessions and the administration of users."""

    def __init__(self, database: Database, keys: Keys, public_url: str) -> None:
        self._database = database
        self._keys = keys
        self._issuer = f"{public_url.rstrip('/')}/auth/v1"

    def routes(self) -> list[Route]:
        everybody, key, admin = self._answering, self._with_key, self._for_admin
        table: list[tuple[str, str, Endpoint]] = [
            ("GET", "/health", everybody(self._health)),
            ("GET", "/settings", everybody(self._settings)),
            ("GET", "/.well-known/jwks.json", everybody(self._jwks)),
            ("GET", "/authorize", everybody(self._no_provider)),
            ("POST", "/signup", key(self._sign_up)),
            ("POST", "/token", key(self._token)),
            ("GET", "/user", key(self._user)),
            ("PUT", "/user", key(self._update_own_user)),
            ("POST", "/logout", key(self._log_out)),
            *(("POST", path, key(self._no_email)) for path in ("/recover", "/otp", "/magiclink", "/resend", "/invite")),
            ("GET", "/admin/users", admin(self._list_users)),
            ("POST", "/admin/users", admin(self._create_user)),
            ("GET", "/admin/users/{id}", admin(self._get_user)),
            ("PUT", "/admin/users/{id}", admin(self._update_user)),
            ("DELETE", "/admin/users/{id}", admin(self._delete_user)),
        ]
        return [Route(f"/auth/v1{path}", endpoint, methods=[method]) for method, path, endpoint in table]

    async def _health(self, _request: Request) -> Response:
        return JSONResponse({"name": "GoTrue", "version": "local", "description": "Local stand-in for GoTrue"})

    async def _settings(self, _request: Request) -> Response:
        return JSONResponse(
            {"external": {"email": True, "phone": False}, "disable_signup": False, "mailer_autoconfirm": True}
        )

    async def _jwks(self, _request: Request) -> Response:
        return JSONResponse({"keys": []})  # tokens are signed with the shared secret

    async def _no_provider(self, _request: Request) -> Response:
        raise AuthError(400, "validation_failed", "Unsupported provider: provider is not enabled")

    async def _no_email(self, _request: Request) -> Response:
        raise AuthError(422, "email_provider_disabled", "The local stack sends no e-mail; sign in with a password.")

    async def _sign_up(self, request: Request) -> Response:
        body = await forms.json_body(request)
        email, password = forms.email(body), forms.password(body)
        password_hash = await passwords.hashed(password)
        async with self._transaction() as connection:
            user = await _new_user(
                connection,
                AuthError(422, "user_already_exists", "User already registered"),
                email=email,
                password_hash=password_hash,
                user_metadata=forms.metadata(body, "data") or {},
                app_metadata=BY_EMAIL,
            )
            session = await accounts.open_session(connection, user["id"], _client(request))
            return await self._session_response(connection, session)

    async def _token(self, request: Request) -> Response:
        grants = {"password": self._by_password, "refresh_token": self._by_refresh_token}
        grant = grants.get(request.query_params.get("grant_type", ""))
        if grant is None:
            raise AuthError(400, "validation_failed", "unsupported_grant_type")
        return await grant(request, await forms.json_body(request))

    async def _by_password(self, request: Request, body: dict[str, Any]) -> Response:
        async with self._transaction() as connection:
            user = await accounts.user_by_email(connection, str(body.get("email") or "").lower())
        if user is None or not await passwords.matches(str(body.get("password") or ""), user["encrypted_password"]):
            raise AuthError(400, "invalid_credentials", "Invalid login credentials")
        async with self._transaction() as connection:
            session = await accounts.open_session(connection, user["id"], _client(request))
            return await self._session_response(connection, session)

    async def _by_refresh_token(self, request: Request, body: dict[str, Any]) -> Response:
        async with self._transaction() as connection:
            token = await accounts.refresh_token(connection, str(body.get("refresh_token") or ""))
            if token is None:
                raise AuthError(400, "refresh_token_not_found", "Invalid Refresh Token: Refresh Token Not Found")
            session = await accounts.rotate(connection, token, _client(request))
            if session is not None:
                return await self._session_response(connection, session)
        # Raised outside, because the revocation must be committed.
        raise AuthError(400, "refresh_token_already_used", "Invalid Refresh Token: Already Used")

    async def _user(self, request: Request) -> Response:
        async with self._transaction() as connection:
            user, _session_id = await self._signed_in(connection, request)
            return JSONResponse(forms.user_json(user))

    async def _update_own_user(self, request: Request) -> Response:
        body = await forms.json_body(request)
        changes = await _changes(body, metadata="data")
        async with self._transaction() as connection:
            user, session_id = await self._signed_in(connection, request)
            if changes["password_hash"]:
                if await passwords.matches(forms.password(body), user["encrypted_password"]):
                    text = "New password should be different from the old password."
                    raise AuthError(422, "same_password", text)
                await accounts.close_sessions(connection, user["id"], session_id, "others")
            return await _updated(connection, user, changes)

    async def _log_out(self, request: Request) -> Response:
        scope = request.query_params.get("scope") or "global"
        if scope not in accounts.SIGN_OUT_SCOPES:
            raise AuthError(400, "validation_failed", f'Unsupported logout scope "{scope}"')
        async with self._transaction() as connection:
            user, session_id = await self._signed_in(connection, request)
            await accounts.close_sessions(connection, user["id"], session_id, scope)
        return Response(None, 204)

    async def _list_users(self, request: Request) -> Response:
        page = forms.page_number(request, "page", 1)
        per_page = forms.page_number(request, "per_page", DEFAULT_PER_PAGE)
        async with self._transaction() as connection:
            users, total = await accounts.list_users(connection, page=page, per_page=per_page)
        body = {"users": [forms.user_json(user) for user in users], "aud": "authenticated"}
        links = forms.page_links(request.url.path, page, per_page, total)
        return JSONResponse(body, headers={"X-Total-Count": str(total), "Link": links})

    async def _create_user(self, request: Request) -> Response:
        body = await forms.json_body(request)
        password_hash = await passwords.hashed(forms.password(body)) if body.get("password") else None
        async with self._transaction() as connection:
            user = await _new_user(
                connection,
                AuthError(422, "email_exists", "A user with this email address has already been registered"),
                email=forms.email(body),
                password_hash=password_hash,
                user_metadata=forms.metadata(body, "user_metadata") or {},
                app_metadata={**BY_EMAIL, **(forms.metadata(body, "app_metadata") or {})},
                id=forms.uuid(body["id"]) if body.get("id") else None,
            )
            return JSONResponse(forms.user_json(user))

    async def _get_user(self, request: Request) -> Response:
        async with self._transaction() as connection:
            return JSONResponse(forms.user_json(await _user_of_path(connection, request)))

    async def _update_user(self, request: Request) -> Response:
        body = await forms.json_body(request)
        changes = await _changes(body, metadata="user_metadata")
        changes["app_metadata"] = forms.metadata(body, "app_metadata")
        async with self._transaction() as connection:
            return await _updated(connection, await _user_of_path(connection, request), changes)

    async def _delete_user(self, request: Request) -> Response:
        async with self._transaction() as connection:
            user = await _user_of_path(connection, request)
            await accounts.delete_user(connection, user["id"])
        return JSONResponse({})

    def _transaction(self) -> AbstractAsyncContextManager[Connection]:
        """As on hosted Supabase: triggers on auth.users run without access to the schema `public`."""
        return self._database.transaction("supabase_auth_admin", search_path="auth")

    async def _session_response(self, connection: Connection, session: Session) -> Response:
        user = await accounts.user_by_id(connection, session.user_id)
        if user is None:
            raise _user_not_found(403)
        now = int(time.time())
        expires_at = now + ACCESS_TOKEN_LIFETIME_S
        claims = {
            "iss": self._issuer,
            "sub": str(user["id"]),
            "aud": user["aud"],
            "role": user["role"],
            "email": user["email"],
            "session_id": str(session.id),
            "iat": now,
            "exp": expires_at,
            "app_metadata": user["raw_app_meta_data"],
            "user_metadata": user["raw_user_meta_data"],
            "is_anonymous": user["is_anonymous"],
        }
        return JSONResponse(
            {
                "access_token": sign(self._keys.jwt_secret, claims),
                "token_type": "bearer",
                "expires_in": ACCESS_TOKEN_LIFETIME_S,
                "expires_at": expires_at,
                "refresh_token": session.refresh_token,
                "user": forms.user_json(user),
            }
        )

    async def _signed_in(self, connection: Connection, request: Request) -> tuple[Row, UUID | None]:
        """The user of the bearer token, and the live session it belongs to; tokens of our own API belong to none."""
        token = bearer_token(request.headers.get("authorization"))
        if token is None:
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            claims = verify(self._keys.jwt_secret, token)
            user_id = UUID(claims["sub"])
            session_id = UUID(claims["session_id"]) if claims.get("session_id") else None
        except (ApiError, KeyError, ValueError, TypeError, AttributeError) as error:
            raise AuthError(403, "bad_jwt", f"invalid JWT: {error}") from None
        user = await accounts.user_by_id(connection, user_id)
        if user is None:
            raise _user_not_found(403)
        if session_id and not await accounts.session_exists(connection, session_id):
            raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return user, session_id

    def _with_key(self, handle: Endpoint) -> Endpoint:
        async def with_key(request: Request) -> Response:
            check_key(self._keys, request.headers.get("apikey") or request.query_params.get("apikey"))
            return await handle(request)

        return self._answering(with_key)

    def _for_admin(self, handle: Endpoint) -> Endpoint:
        async def for_admin(request: Request) -> Response:
            caller = identify(self._keys, request.headers.get("apikey"), request.headers.get("authorization"))
            if caller.role != "service_role":
                raise AuthError(403, "not_admin", "User not allowed")
            return await handle(request)

        return self._answering(for_admin)

    def _answering(self, handle: Endpoint) -> Endpoint:
        """Turn what a handler raises into GoTrue's answers."""

        async def answering(request: Request) -> Response:
            version = request.headers.get("x-supabase-api-version")
            try:
                return await handle(request)
            except ApiError as refusal:
                return refusal.as_response()
            except AuthError as refusal:
                return refusal.as_response(version)
            except psycopg.Error:
                # GoTrue does not show the reason either; it is often a trigger on auth.users, so say it here.
                logger.exception("auth.database_error")
                return AuthError(500, "unexpected_failure", "Database error").as_response(version)

        return answering


async def _new_user(connection: Connection, taken: AuthError, **columns: Any) -> Row:
    try:
        return await accounts.create_user(connection, **columns)
    except psycopg.errors.UniqueViolation:
        raise taken from None


async def _changes(body: dict[str, Any], *, metadata: str) -> dict[str, Any]:
    return {
        "email": forms.email(body) if body.get("email") else None,
        "password_hash": await passwords.hashed(forms.password(body)) if body.get("password") else None,
        "user_metadata": forms.metadata(body, metadata),
    }


async def _updated(connection: Connection, user: Row, changes: dict[str, Any]) -> Response:
    try:
        changed = await accounts.update_user(connection, user, **changes)
    except psycopg.errors.UniqueViolation:
        raise AuthError(422, "email_exists", "A user with this email address has already been registered") from None
    if changed is None:
        raise _user_not_found(404)
    return JSONResponse(forms.user_json(changed))


async def _user_of_path(connection: Connection, request: Request) -> Row:
    user = await accounts.user_by_id(connection, forms.uuid(request.path_params["id"]))
    if user is None:
        raise _user_not_found(404)
    return user


def _user_not_found(status: int) -> AuthError:
    text = "User from sub claim in JWT does not exist" if status == 403 else "User not found"
    return AuthError(status, "user_not_found", text)


def _client(request: Request) -> Client:
    return Client(request.headers.get("user-agent", ""), request.client.host if request.client else None)
