"""E2B's secrets: stored under a name, listed without their values, which nobody can read again."""

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.services.e2b import rest
from local.services.e2b.journal import Journal
from local.services.e2b.rest import ApiError

NAME = re.compile(r"[a-z0-9_-]{1,128}")
PAGE_SIZE = 100


@dataclass(slots=True, kw_only=True)
class StoredSecret:
    """One secret. Its value goes into requests by rules, which this server only records: nothing reads it."""

    id: str
    name: str
    version: int
    metadata: dict[str, str]
    created_at: datetime
    updated_at: datetime
    value: str = field(repr=False)

    def shown(self) -> dict[str, Any]:
        return {
            "secretID": self.id,
            "name": self.name,
            "currentVersion": self.version,
            "metadata": self.metadata,
            "createdAt": self.created_at.isoformat(),
            "updatedAt": self.updated_at.isoformat(),
        }


class SecretsApi:
    """`offered`: whether the team may have secrets. Where it may not, each request is refused."""

    def __init__(self, journal: Journal, *, offered: bool) -> None:
        self._journal = journal
        self._offered = offered
        self._by_name: dict[str, StoredSecret] = {}

    def routes(self) -> list[Route]:
        if not self._offered:
            return [Route("/secrets{rest:path}", no_secrets, methods=["GET", "POST", "DELETE"])]
        return [
            Route("/secrets", self.create, methods=["POST"]),
            Route("/secrets", self.list, methods=["GET"]),
            Route("/secrets/{secret}", self.update, methods=["POST"]),
            Route("/secrets/{secret}", self.show, methods=["GET"]),
            Route("/secrets/{secret}", self.destroy, methods=["DELETE"]),
        ]

    def has(self, name: str) -> bool:
        return name.lower() in self._by_name

    async def create(self, request: Request) -> Response:
        body = await rest.json_body(request)
        name = rest.field(body, "name", str, "").lower()
        if not NAME.fullmatch(name):
            raise ApiError(400, "The name of a secret has 1 to 128 letters, digits, underscores and dashes")
        if name in self._by_name:
            raise ApiError(409, f"A secret named {name} already exists")
        now = datetime.now(UTC)
        stored = StoredSecret(
            id=f"sec_{secrets.token_hex(8)}",
            name=name,
            version=1,
            metadata=rest.texts(body, "metadata"),
            created_at=now,
            updated_at=now,
            value=rest.field(body, "value", str, ""),
        )
        self._by_name[name] = stored
        self._journal.note("secret_stored", name=name, version=1, metadata=stored.metadata)
        return JSONResponse(stored.shown(), 201)

    async def update(self, request: Request) -> Response:
        body = await rest.json_body(request)
        stored = self._find(request)
        stored.value = rest.field(body, "value", str, "")
        stored.version += 1
        stored.updated_at = datetime.now(UTC)
        if body.get("metadata") is not None:
            stored.metadata = rest.texts(body, "metadata")
        self._journal.note("secret_stored", name=stored.name, version=stored.version, metadata=stored.metadata)
        return JSONResponse(stored.shown())

    async def show(self, request: Request) -> Response:
        return JSONResponse(self._find(request).shown())

    async def list(self, request: Request) -> Response:
        """By name: what is destroyed between two pages moves no other to where it would be missed."""
        query = request.query_params
        limit = max(1, min(int(query.get("limit", PAGE_SIZE)), PAGE_SIZE))
        after = decoded(query.get("nextToken", ""))
        found = [self._by_name[name] for name in sorted(self._by_name) if name > after]
        page, rest_of_it = found[:limit], found[limit:]
        headers = {"x-next-token": base64.urlsafe_b64encode(page[-1].name.encode()).decode()} if rest_of_it else {}
        return JSONResponse([stored.shown() for stored in page], headers=headers)

    async def destroy(self, request: Request) -> Response:
        stored = self._find(request)
        del self._by_name[stored.name]
        self._journal.note("secret_destroyed", name=stored.name)
        return Response(status_code=204)

    def _find(self, request: Request) -> StoredSecret:
        """By id or name."""
        wanted = request.path_params["secret"].lower()
        for stored in self._by_name.values():
            if wanted in (stored.id, stored.name):
                return stored
        raise ApiError(404, f"Secret {wanted} not found")


async def no_secrets(_request: Request) -> Response:
    raise ApiError(403, "Secrets are not available for your team.")


def decoded(token: str) -> str:
    try:
        return base64.urlsafe_b64decode(token).decode()
    except (binascii.Error, ValueError) as error:
        raise ApiError(400, "Invalid next token") from error
