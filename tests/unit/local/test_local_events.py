import json
from datetime import UTC, datetime

import pytest

from local.services.aws.events import (
    HttpRequest,
    MalformedResponse,
    failed_message_ids,
    http_event,
    http_response,
    schedule_event,
    sqs_event,
)

AT = datetime(2026, 11, 23, 3, 4, 5, 678000, tzinfo=UTC)


def event_of(*, method="GET", path="/", query="", headers=(), body=b""):
    request = HttpRequest(
        method=method,
        path=path,
        query=query,
        headers=headers,
        body=body,
        source_ip="192.0.2.1",
        protocol="HTTP/1.1",
    )
    return http_event(request, request_id="JKJaXmPLvHcESHA=", at=AT)


def test_a_full_request_becomes_an_event_of_payload_format_2():
    event = event_of(
        method="POST",
        path="/tasks/ä b",
        query="tag=a&tag=b&empty=&q=%2B",
        headers=[
            ("Host", "api.example.com:8000"),
            ("User-Agent", "test"),
            ("Accept", "text/html"),
            ("Accept", "text/plain"),
            ("Cookie", "one=1; two=2"),
            ("Content-Type", "application/json; charset=utf-8"),
        ],
        body='{"name": "ü"}'.encode(),
    )

    assert event == {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/tasks/ä b",
        "rawQueryString": "tag=a&tag=b&empty=&q=%2B",
        "cookies": ["one=1", "two=2"],
        "headers": {
            "host": "api.example.com:8000",
            "user-agent": "test",
            "accept": "text/html,text/plain",
            "content-type": "application/json; charset=utf-8",
        },
        "queryStringParameters": {"tag": "a,b", "empty": "", "q": "+"},
        "requestContext": {
            "accountId": "123456789012",
            "apiId": "local",
            "domainName": "api.example.com",
            "domainPrefix": "api",
            "http": {
                "method": "POST",
                "path": "/tasks/ä b",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.1",
                "userAgent": "test",
            },
            "requestId": "JKJaXmPLvHcESHA=",
            "routeKey": "$default",
            "stage": "$default",
            "time": "23/Nov/2026:03:04:05 +0000",
            "timeEpoch": 1795403045678,
        },
        "body": '{"name": "ü"}',
        "isBase64Encoded": False,
    }


def test_what_a_request_does_not_have_is_left_out():
    event = event_of()

    assert not {"cookies", "queryStringParameters", "body"} & event.keys()
    assert event["rawQueryString"] == ""
    assert event["isBase64Encoded"] is False


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ([("content-type", "application/octet-stream")], b"abc"),
        ([("content-type", "application/x-www-form-urlencoded")], b"a=1"),
        ([("content-type", "multipart/form-data; boundary=x")], b"--x"),
        ([("content-type", "application/json"), ("content-encoding", "gzip")], b"{}"),
        ([("content-type", "application/json")], b"\xff\xfe"),
    ],
)
def test_bodies_that_are_not_plain_text_travel_as_base64(headers, body):
    event = event_of(method="POST", headers=headers, body=body)

    assert event["isBase64Encoded"] is True
    assert event["body"].isascii()


def test_an_answer_without_a_status_is_the_json_body_of_a_200():
    response = http_response({"hello": "world"})

    assert response.status == 200
    assert dict(response.headers)["content-type"] == "application/json"
    assert json.loads(response.body) == {"hello": "world"}


def test_headers_cookies_and_base64_of_an_answer_are_used():
    response = http_response(
        {
            "statusCode": "201",
            "headers": {"Content-Type": "image/png", "X-Number": 5},
            "cookies": ["a=1", "b=2"],
            "body": "AP8Q",
            "isBase64Encoded": True,
        }
    )

    assert response.status == 201
    assert list(response.headers) == [
        ("content-type", "image/png"),
        ("x-number", "5"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
    ]
    assert response.body == b"\x00\xff\x10"


@pytest.mark.parametrize(
    "answer",
    [
        {"statusCode": "many"},
        {"statusCode": None},
        {"statusCode": 200, "body": {"not": "text"}},
        {"statusCode": 200, "headers": ["x"]},
        {"statusCode": 200, "body": "***", "isBase64Encoded": True},
    ],
)
def test_an_answer_with_wrong_types_is_refused(answer):
    with pytest.raises(MalformedResponse):
        http_response(answer)


def test_a_received_message_becomes_an_sqs_record():
    message = {
        "MessageId": "m1",
        "ReceiptHandle": "r1",
        "Body": "{}",
        "MD5OfBody": "99914b932bd37a50b983c5e7c90ae93b",
        "MD5OfMessageAttributes": "a512",
        "Attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": "u1"},
        "MessageAttributes": {
            "trace": {"DataType": "String", "StringValue": "t"},
            "raw": {"DataType": "Binary", "BinaryValue": b"\x00"},
        },
    }

    (record,) = sqs_event([message], queue_arn="arn:aws:sqs:us-east-1:123456789012:tasks")["Records"]

    assert record == {
        "messageId": "m1",
        "receiptHandle": "r1",
        "body": "{}",
        "attributes": {"ApproximateReceiveCount": "1", "MessageGroupId": "u1"},
        "messageAttributes": {
            "trace": {
                "stringValue": "t",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "String",
            },
            "raw": {
                "binaryValue": "AA==",
                "stringListValues": [],
                "binaryListValues": [],
                "dataType": "Binary",
            },
        },
        "md5OfBody": "99914b932bd37a50b983c5e7c90ae93b",
        "md5OfMessageAttributes": "a512",
        "eventSource": "aws:sqs",
        "eventSourceARN": "arn:aws:sqs:us-east-1:123456789012:tasks",
        "awsRegion": "us-east-1",
    }


@pytest.mark.parametrize("answer", [None, {}, "text", {"batchItemFailures": []}, {"batchItemFailures": None}])
def test_no_listed_failure_means_the_batch_succeeded(answer):
    assert failed_message_ids(answer, ["a", "b"]) == set()


def test_only_listed_messages_failed():
    answer = {"batchItemFailures": [{"itemIdentifier": "b"}]}

    assert failed_message_ids(answer, ["a", "b", "c"]) == {"b"}


@pytest.mark.parametrize(
    "failures",
    [
        [{"itemIdentifier": ""}],
        [{"itemIdentifier": None}],
        [{"itemIdentifier": "stranger"}],
        [{"itemIdentifier": ["a"]}],
        [{"messageId": "a"}],
        ["a"],
        5,
    ],
)
def test_a_malformed_list_of_failures_fails_the_whole_batch(failures):
    assert failed_message_ids({"batchItemFailures": failures}, ["a", "b"]) == {"a", "b"}


def test_a_schedule_sends_the_schedulers_event():
    event = schedule_event("reaper", region="us-east-1", at=AT)

    assert event.pop("id")
    assert event == {
        "version": "0",
        "detail-type": "Scheduled Event",
        "source": "aws.scheduler",
        "account": "123456789012",
        "time": "2026-11-23T03:04:05Z",
        "region": "us-east-1",
        "resources": ["arn:aws:scheduler:us-east-1:123456789012:schedule/default/reaper"],
        "detail": "{}",
    }
