"""The events AWS hands to our handlers, and what it makes of their answers. Pure: shapes only.

Sources: the API Gateway, Lambda and EventBridge Scheduler developer guides, read in November 2026.
"""

import base64
import binascii
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

if TYPE_CHECKING:
    from mypy_boto3_sqs.type_defs import MessageTypeDef

Json = Any
Event = dict[str, Json]

ACCOUNT = "123456789012"
TEXT_TYPES = ("text/", "application/json", "application/javascript", "application/xml")


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request as the socket delivered it; `path` is percent-decoded, `query` is not."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    source_ip: str
    protocol: str


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: Sequence[tuple[str, str]] = field(default_factory=tuple)
    body: bytes = b""


class MalformedResponse(Exception):
    """A handler returned what AWS would refuse."""


def http_event(request: HttpRequest, *, request_id: str, at: datetime) -> Event:
    """Return the event of an HTTP API (payload format 2.0, route `$default`).

    API Gateway decodes the path once, also in `rawPath`; joins repeated headers and query parameters with
    commas; moves cookies out of the headers; and leaves out what a request does not have.
    """
    headers = _joined(request.headers)
    cookies = headers.pop("cookie", "")
    body, is_base64 = _event_body(request.body, headers)
    host = headers.get("host", "localhost").partition(":")[0]
    event: Event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": request.path,
        "rawQueryString": request.query,
        "cookies": [cookie.strip() for cookie in cookies.replace(",", ";").split(";") if cookie.strip()],
        "headers": headers,
        "queryStringParameters": _joined(parse_qsl(request.query, keep_blank_values=True), lower=False),
        "requestContext": {
            "accountId": ACCOUNT,
            "apiId": "local",
            "domainName": host,
            "domainPrefix": host.partition(".")[0],
            "http": {
                "method": request.method,
                "path": request.path,
                "protocol": request.protocol,
                "sourceIp": request.source_ip,
                "userAgent": headers.get("user-agent", ""),
            },
            "requestId": request_id,
            "routeKey": "$default",
            "stage": "$default",
            "time": at.strftime("%d/%b/%Y:%H:%M:%S +0000"),
            "timeEpoch": int(at.timestamp() * 1000),
        },
        "body": body,
        "isBase64Encoded": is_base64,
    }
    absent = [key for key in ("cookies", "queryStringParameters", "body") if not event[key]]
    return {key: value for key, value in event.items() if key not in absent}


def http_response(answer: Json) -> HttpResponse:
    """Read a handler's answer as an HTTP API does (format 2.0).

    An object with `statusCode` is a response; anything else is the JSON body of a 200. Raises
    MalformedResponse when its parts have the wrong types.
    """
    if not (isinstance(answer, dict) and "statusCode" in answer):
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return HttpResponse(200, [("content-type", "application/json")], text.encode())
    try:
        status = int(answer["statusCode"])
        named = {name.lower(): str(value) for name, value in (answer.get("headers") or {}).items()}
        named.setdefault("content-type", "text/plain; charset=utf-8")
        cookies = [("set-cookie", str(cookie)) for cookie in answer.get("cookies") or []]
        body: bytes = (answer.get("body") or "").encode()
        if answer.get("isBase64Encoded"):
            body = base64.b64decode(body, validate=True)
    except (AttributeError, TypeError, ValueError, binascii.Error) as error:
        raise MalformedResponse(f"not a response of payload format 2.0 ({type(error).__name__})") from error
    return HttpResponse(status, [*named.items(), *cookies], body)


def sqs_event(messages: Iterable["MessageTypeDef"], *, queue_arn: str) -> Event:
    """Return the event of an SQS event source mapping for received `messages`."""
    return {"Records": [_sqs_record(message, queue_arn) for message in messages]}


def failed_message_ids(answer: Json, message_ids: Sequence[str]) -> set[str]:
    """Return which of a batch's messages stay in the queue, by the rules of `ReportBatchItemFailures`.

    Nothing, or an empty list, means that all went well; a list that names anything but messages of this
    batch means that none did.
    """
    listed = answer.get("batchItemFailures") if isinstance(answer, dict) else None
    try:
        failed = {item["itemIdentifier"] for item in listed or []}
    except (KeyError, TypeError):
        return set(message_ids)
    return failed if failed <= set(message_ids) else set(message_ids)


def schedule_event(name: str, *, region: str, at: datetime) -> Event:
    """Return the event EventBridge Scheduler sends for a schedule (SAM's ScheduleV2) without an input."""
    return {
        "version": "0",
        "id": str(uuid.uuid4()),
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": ACCOUNT,
        "time": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "region": region,
        "resources": [f"arn:aws:scheduler:{region}:{ACCOUNT}:schedule/default/{name}"],
        "detail": "{}",
    }


def _joined(pairs: Iterable[tuple[str, str]], *, lower: bool = True) -> dict[str, str]:
    """Join the values of equal names with commas."""
    joined: dict[str, str] = {}
    for name, value in pairs:
        key = name.lower() if lower else name
        joined[key] = f"{joined[key]},{value}" if key in joined else value
    return joined


def _event_body(body: bytes, headers: Mapping[str, str]) -> tuple[str, bool]:
    """Text stays text; everything else (forms too) travels as base64."""
    content_type = headers.get("content-type", "text/plain").lower()
    is_text = content_type.startswith(TEXT_TYPES) and "content-encoding" not in headers
    try:
        if is_text:
            return body.decode(), False
    except UnicodeDecodeError:
        pass  # a liar's content type: base64 carries it
    return base64.b64encode(body).decode(), bool(body)


def _sqs_record(message: "MessageTypeDef", queue_arn: str) -> Event:
    record: Event = {
        "messageId": message["MessageId"],
        "receiptHandle": message["ReceiptHandle"],
        "body": message["Body"],
        "attributes": dict(message.get("Attributes", {})),
        "messageAttributes": {
            name: _message_attribute(value) for name, value in message.get("MessageAttributes", {}).items()
        },
        "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs",
        "eventSourceARN": queue_arn,
        "awsRegion": queue_arn.split(":")[3],
    }
    if "MD5OfMessageAttributes" in message:
        record["md5OfMessageAttributes"] = message["MD5OfMessageAttributes"]
    return record


def _message_attribute(value: Mapping[str, Json]) -> dict[str, Json]:
    attribute: dict[str, Json] = {"stringListValues": [], "binaryListValues": [], "dataType": value["DataType"]}
    if "StringValue" in value:
        attribute["stringValue"] = value["StringValue"]
    if "BinaryValue" in value:
        attribute["binaryValue"] = base64.b64encode(value["BinaryValue"]).decode()
    return attribute
