"""E2B's REST API as far as the SDK 2.63 uses it: sandboxes are created, found, paused, timed out and killed; secrets.

Differences to the real one, on purpose:

- `network` is checked, kept and shown, but **not enforced**: every sandbox reaches what this machine reaches, and no
  request gets a header. For that, its processes would need a network of their own, which takes rights that the server
  does not have everywhere, or a proxy that all of them respect, which git, the agents and whatever these start do not;
  and a rule names a host, where all services of the local stack are one.
- So rules that transform requests, and secrets, are refused as for a team without those features. `injection` offers
  them all the same, for tests of whoever uses them: they are then checked, and written into a journal (GET /journal).
- Snapshots, forks, templates, volumes, metrics and logs are not offered (501). Any template id is accepted.
"""

import base64
import binascii
import hmac
import json
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qsl, unquote

from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from local.services.e2b.box import BoxGone
from local.services.e2b.egress import check_network, secrets_in
from local.services.e2b.rest import ApiError, error_response, field, json_body, texts
from local.services.e2b.sandboxes import AlreadyPaused, Fleet, InvalidTimeout, NotFound, Sandbox, Wish
from local.services.e2b.secrets_api import SecretsApi

ENVD_VERSION = "0.6.13"  # switches SDK features: octet-stream uploads (0.5.7), file metadata (0.6.2)
DEFAULT_TIMEOUT_S = 15  # the API's own, for a client that names none; the SDK always does
PAGE_SIZE = 100
IDEMPOTENCY_KEY = re.compile(r"[a-z0-9-]{1,255}")


class ApiKeyGuard:
    """401 for a request whose X-API-KEY is not ours."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._api_key = api_key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = dict(scope["headers"]).get(b"x-api-key", b"")
        if hmac.compare_digest(given, self._api_key):
            await self._app(scope, receive, send)
        else:
            await error_response(401, "Invalid API key")(scope, receive, send)


class ControlPlane:
    """`injection`: whether the team may have secrets and rules."""

    def __init__(self, fleet: Fleet, *, injection: bool) -> None:
        self._fleet = fleet
        self._injection = injection
        self._secrets = SecretsApi(fleet.journal, offered=injection)

    def mount(self, api_key: str) -> Mount:
        one = "/sandboxes/{sandbox_id}"
        routes = [
            Route("/v2/sandboxes", self.create, methods=["POST"]),
            Route("/v2/sandboxes", self.list, methods=["GET"]),
            Route(f"/v2{one}/connect", self.connect, methods=["POST"]),
            Route(one, self.show, methods=["GET"]),
            Route(one, self.kill, methods=["DELETE"]),
            Route(f"{one}/timeout", self.set_timeout, methods=["POST"]),
            Route(f"{one}/pause", self.pause, methods=["POST"]),
            Route(f"{one}/network", self.update_network, methods=["PUT"]),
            *self._secrets.routes(),
            Route(f"/_local{one}/restart-envd", self.restart_envd, methods=["POST"]),
            Route(f"/_local{one}/reboot", self.reboot, methods=["POST"]),
            *([Route("/journal", self.show_journal, methods=["GET"])] if self._fleet.journal.on else []),
            Route("/{rest:path}", not_offered, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        ]
        return Mount("/", routes=routes, middleware=[Middleware(ApiKeyGuard, api_key=api_key)])

    async def create(self, request: Request) -> Response:
        body = await json_body(request)
        network = field(body, "network", dict, None)
        self._check(network)
        wish = Wish(
            template=field(body, "templateID", str, "base"),
            timeout_s=field(body, "timeout", int, DEFAULT_TIMEOUT_S),
            metadata=texts(body, "metadata"),
            env=texts(body, "envVars"),
            pause_on_timeout=field(body, "autoPause", bool, False),
            auto_resume=field(field(body, "autoResume", dict, {}), "enabled", bool, False),
            allow_internet_access=field(body, "allow_internet_access", bool, None),
            network=network,
        )
        key = request.headers.get("idempotency-key")
        if key is not None and not IDEMPOTENCY_KEY.fullmatch(key):
            raise ApiError(400, "Idempotency-Key must be 1 to 255 characters of a-z, 0-9 and -")
        sandbox = await self._fleet.create(wish, key)
        self._fleet.journal.note("create", sandbox_id=sandbox.id, body=body)
        return JSONResponse(handle_of(sandbox), 201)

    async def list(self, request: Request) -> Response:
        query = request.query_params
        matches = [sandbox for sandbox in self._fleet.all() if matching(request)(sandbox)]
        newest_first = query.get("order", "desc") != "asc"
        matches.sort(key=position, reverse=newest_first)
        if token := query.get("nextToken"):
            after = decode_token(token)
            matches = [s for s in matches if (position(s) < after if newest_first else position(s) > after)]
        limit = number(query.get("limit"), PAGE_SIZE)
        page, rest = matches[:limit], matches[limit:]
        headers = {"x-next-token": encode_token(position(page[-1]))} if rest else {}
        return JSONResponse([summary_of(sandbox) for sandbox in page], headers=headers)

    async def connect(self, request: Request) -> Response:
        timeout_s = field(await json_body(request), "timeout", int, DEFAULT_TIMEOUT_S)
        sandbox, resumed = await self._fleet.connect(request.path_params["sandbox_id"], timeout_s)
        return JSONResponse(handle_of(sandbox), 201 if resumed else 200)

    async def show(self, request: Request) -> Response:
        return JSONResponse(detail_of(self._fleet.get(request.path_params["sandbox_id"])))

    async def kill(self, request: Request) -> Response:
        await self._fleet.kill(request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def set_timeout(self, request: Request) -> Response:
        timeout_s = field(await json_body(request), "timeout", int, 0)
        self._fleet.set_timeout(request.path_params["sandbox_id"], timeout_s)
        return Response(status_code=204)

    async def pause(self, request: Request) -> Response:
        await self._fleet.pause(request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def update_network(self, request: Request) -> Response:
        """Replaces the whole network configuration: what the request leaves out is cleared."""
        body = await json_body(request)
        sandbox = self._fleet.get(request.path_params["sandbox_id"])
        self._check(body)
        self._fleet.journal.note("update_network", sandbox_id=sandbox.id, body=body)
        sandbox.allow_internet_access = field(body, "allow_internet_access", bool, None)
        sandbox.network = {name: value for name, value in body.items() if name != "allow_internet_access"}
        return Response(status_code=204)

    async def restart_envd(self, request: Request) -> Response:
        """Not E2B's: envd crashes and is started again, for tests."""
        await self._fleet.restart_envd(request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def reboot(self, request: Request) -> Response:
        """Not E2B's: the sandbox's machine boots again, for tests."""
        await self._fleet.reboot(request.path_params["sandbox_id"])
        return Response(status_code=204)

    async def show_journal(self, _request: Request) -> Response:
        """Not E2B's: what happened here, for tests."""
        return JSONResponse(self._fleet.journal.entries())

    def _check(self, network: Mapping[str, Any] | None) -> None:
        """Raises ApiError. A placeholder without its secret is taken, as by E2B: requests then lack the header."""
        check_network(network or {}, has_rules=self._injection)
        if unknown := [name for name in secrets_in((network or {}).get("rules")) if not self._secrets.has(name)]:
            self._fleet.journal.note("unknown_secrets", names=unknown)


async def not_offered(request: Request) -> Response:
    raise ApiError(501, f"The local E2B server does not offer {request.method} {request.url.path}")


# --- what the SDK reads ------------------------------------------------------------------------------------------


def handle_of(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "templateID": sandbox.wish.template,
        "sandboxID": sandbox.id,
        "clientID": "local",
        "envdVersion": ENVD_VERSION,
        "envdAccessToken": sandbox.access_token,
        "domain": None,
        "trafficAccessToken": None,
    }


def summary_of(sandbox: Sandbox) -> dict[str, Any]:
    """The machine's numbers are those of E2B's default template; nothing here enforces them."""
    return {
        "templateID": sandbox.wish.template,
        "sandboxID": sandbox.id,
        "clientID": "local",
        "startedAt": sandbox.started_at.isoformat(),
        "endAt": sandbox.end_at.isoformat(),
        "envdVersion": ENVD_VERSION,
        "cpuCount": 2,
        "memoryMB": 512,
        "diskSizeMB": 10240,
        "state": sandbox.state,
        "metadata": dict(sandbox.wish.metadata),
    }


def detail_of(sandbox: Sandbox) -> dict[str, Any]:
    on_timeout = "pause" if sandbox.wish.pause_on_timeout else "kill"
    detail = {
        **summary_of(sandbox),
        "envdAccessToken": sandbox.access_token,
        "allowInternetAccess": sandbox.allow_internet_access,
        "lifecycle": {"autoResume": sandbox.wish.auto_resume, "onTimeout": on_timeout},
    }
    return detail if sandbox.network is None else {**detail, "network": dict(sandbox.network)}


# --- what the SDK sends ------------------------------------------------------------------------------------------


def matching(request: Request) -> Callable[[Sandbox], bool]:
    """The filter of a list request."""
    query = request.query_params
    states = {state for value in query.getlist("state") for state in value.split(",")} or {"running", "paused"}
    # the SDK quotes keys and values before it encodes the whole
    metadata = {unquote(key): unquote(value) for key, value in parse_qsl(query.get("metadata", ""))}
    started_after = moment(query.get("startedAfter"))
    template = query.get("template")

    def matches(sandbox: Sandbox) -> bool:
        return (
            sandbox.state in states
            and metadata.items() <= sandbox.wish.metadata.items()
            and (started_after is None or sandbox.started_at >= started_after)
            and template in (None, sandbox.wish.template)
        )

    return matches


Position = tuple[str, str]


def position(sandbox: Sandbox) -> Position:
    """Where a sandbox stands in a list: by start, then by id."""
    return sandbox.started_at.isoformat(), sandbox.id


def encode_token(after: Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(after).encode()).decode()


def decode_token(token: str) -> Position:
    try:
        started_at, sandbox_id = json.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError, TypeError) as error:
        raise ApiError(400, "Invalid next token") from error
    return str(started_at), str(sandbox_id)


def moment(text: str | None) -> datetime | None:
    try:
        return None if text is None else datetime.fromisoformat(text)
    except ValueError as error:
        raise ApiError(400, "startedAfter is not a date-time") from error


def number(text: str | None, default: int) -> int:
    try:
        return default if text is None else max(1, min(int(text), PAGE_SIZE))
    except ValueError as error:
        raise ApiError(400, "limit is not a number") from error


# --- errors ------------------------------------------------------------------------------------------------------


def on_error(request: Request, error: Exception) -> Response:
    sandbox_id = request.path_params.get("sandbox_id")
    match error:
        case ApiError():
            return error_response(error.status, str(error))
        case NotFound() | BoxGone():
            return error_response(404, f"Sandbox '{sandbox_id}' does not exist or you have no access to it")
        case AlreadyPaused():
            return error_response(409, f"Error pausing sandbox - sandbox '{sandbox_id}' is already paused")
        case InvalidTimeout():
            return error_response(400, str(error))
    raise error


EXPECTED_ERRORS = (ApiError, NotFound, BoxGone, AlreadyPaused, InvalidTimeout)
