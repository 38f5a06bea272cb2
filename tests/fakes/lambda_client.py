"""A client that speaks to a Lambda handler as API Gateway does: HTTP API events in, answers out."""

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from local.services.aws.events import HttpRequest, http_event, http_response


@dataclass(frozen=True)
class LambdaContext:
    """What Powertools wants to know of the environment."""

    function_name: str = "api"
    memory_limit_in_mb: int = 1024
    invoked_function_arn: str = "arn:aws:lambda:eu-central-1:123456789012:function:api"
    aws_request_id: str = "8f0e5c1a-0000-4000-8000-000000000000"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class LambdaClient:
    """`path` may have a query; `json` sets the content type, `content` leaves it to `headers`."""

    def __init__(self, handler):
        self._handler = handler

    def request(self, method, path, *, headers=None, json=None, content=b""):
        return self.invoke(event_of(method, path, headers=headers, json_body=json, content=content))

    def get(self, path, **options):
        return self.request("GET", path, **options)

    def post(self, path, **options):
        return self.request("POST", path, **options)

    def invoke(self, event):
        response = http_response(self._handler(event, LambdaContext()))
        return Answer(response.status, dict(response.headers), response.body)


def event_of(method, path, *, headers=None, json_body=None, content=b""):
    headers = {"host": "api.example.test", **(headers or {})}
    if json_body is not None:
        headers, content = {"content-type": "application/json", **headers}, json.dumps(json_body).encode()
    path, _, query = path.partition("?")
    request = HttpRequest(
        method=method,
        path=path,
        query=query,
        headers=[(name.lower(), value) for name, value in headers.items()],
        body=content,
        source_ip="198.51.100.7",
        protocol="HTTP/1.1",
    )
    return http_event(request, request_id=uuid.uuid4().hex, at=datetime.now(UTC))
