import json
import os
import sys
import threading

import httpx
import psutil
import pytest
import yaml

from local.listening import listen
from local.processes import PROJECT_ROOT, ProcessError, ProcessGroup, has_said
from local.services.aws.lambda_runner import (
    Environment,
    EnvironmentLost,
    Environments,
    Function,
    HandlerRaised,
    TimedOut,
)
from local.services.aws.queue import create_queues, sqs_client
from tests.process_table import is_alive
from tests.waiting import wait_for

SAMPLES = "tests.fixtures.sample_handlers"


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder


@pytest.fixture
def group(tmp_path):
    with ProcessGroup(tmp_path / "logs", grace_s=5) as group:
        yield group


@pytest.fixture
def environ(notes):
    return {"PATH": os.environ["PATH"], "NOTES": str(notes)}


def module(name, *options):
    return [sys.executable, "-m", f"local.services.aws.{name}", *map(str, options)]


def template_resources():
    """The resources of template.yaml; CloudFormation's tags become their plain values."""

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("!", lambda _loader, tag, node: f"{tag} {node.value}")
    return yaml.load((PROJECT_ROOT / "template.yaml").read_text(), Loader)["Resources"]


def function(name, timeout_s=20):
    return Function(handler=f"{SAMPLES}:{name}", name=name, timeout_s=timeout_s)


class TestEnvironments:
    def test_an_environment_is_used_again_and_keeps_its_globals(self):
        with Environments(function("http"), most=3) as environments:
            answers = [environments.invoke({"rawPath": "/echo"}) for _ in range(2)]

        first, second = (json.loads(answer["body"]) for answer in answers)
        assert first["pid"] == second["pid"]
        assert (first["invocations_here"], second["invocations_here"]) == (1, 2)

    def test_an_environment_survives_an_exception(self):
        with Environments(function("http"), most=1) as environments:
            with pytest.raises(HandlerRaised, match="http raised ValueError") as error:
                environments.invoke({"rawPath": "/crash"})
            answer = environments.invoke({"rawPath": "/echo"})

        assert "secret" not in str(error.value)
        assert json.loads(answer["body"])["invocations_here"] == 2

    def test_an_environment_that_ended_is_replaced(self):
        with Environments(function("http"), most=1) as environments:
            with pytest.raises(EnvironmentLost):
                environments.invoke({"rawPath": "/exit"})
            answer = environments.invoke({"rawPath": "/echo"})

        assert json.loads(answer["body"])["invocations_here"] == 1

    def test_an_invocation_that_takes_too_long_ends_its_process(self):
        environment = Environment(function("http", timeout_s=0.5))

        with pytest.raises(TimedOut, match=r"timed out after 0\.50 seconds"):
            environment.invoke({"rawPath": "/sleep"})

        assert not is_alive(environment.pid)

    def test_no_more_environments_run_than_allowed(self):
        with Environments(function("http"), most=2) as environments:
            pids = []
            threads = [
                threading.Thread(
                    target=lambda: pids.append(json.loads(environments.invoke({"rawPath": "/echo"})["body"])["pid"])
                )
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)

        assert len(pids) == 8
        assert 1 <= len(set(pids)) <= 2

    def test_closing_ends_an_invocation_under_way(self):
        others = set(psutil.Process().children())  # servers of other tests of this process
        environments = Environments(function("http"), most=1)
        outcomes = []

        def invoke():
            try:
                environments.invoke({"rawPath": "/sleep"})
            except EnvironmentLost as error:
                outcomes.append(error)

        thread = threading.Thread(target=invoke)
        thread.start()
        wait_for(lambda: environments._busy)
        environments.close()
        thread.join(60)

        assert len(outcomes) == 1
        assert set(psutil.Process().children()) <= others

    def test_a_handler_that_cannot_be_imported_is_named(self, capfd):
        broken = Function(handler="tests.fixtures.broken_handler:handler", name="broken", timeout_s=5)

        with pytest.raises(EnvironmentLost, match=r"INIT of tests\.fixtures\.broken_handler:handler failed"):
            Environment(broken)

        assert "this module cannot be imported" in capfd.readouterr().err


class TestHttp:
    @pytest.fixture
    def start(self, group, environ):
        def start(timeout_s=20, environments=1):
            options = ("--handler", f"{SAMPLES}:http", "--name", "api", "--timeout-s", timeout_s)
            argv = module("http_function", *options, "--environments", environments, "--verbose")
            child = group.start("api", argv, env=environ, listener=listen())
            return httpx.Client(base_url=child.url, timeout=60), child

        return start

    def test_a_request_reaches_the_handler_as_an_event(self, start):
        client, child = start()

        response = client.post(
            "/echo%20here?b=2&a=1&a=%C3%A4",
            json={"name": "ä"},
            headers=[("X-Twice", "1"), ("X-Twice", "2"), ("Cookie", "one=1; two=2")],
        )

        answer = response.json()
        event, context = answer["event"], answer["context"]
        assert event["rawPath"] == "/echo here"
        assert event["rawQueryString"] == "b=2&a=1&a=%C3%A4"
        assert event["queryStringParameters"] == {"b": "2", "a": "1,ä"}
        assert event["headers"]["x-twice"] == "1,2"
        assert event["headers"]["x-forwarded-for"] == "127.0.0.1"
        assert event["cookies"] == ["one=1", "two=2"]
        assert json.loads(event["body"]) == {"name": "ä"}
        assert event["requestContext"]["http"]["method"] == "POST"
        assert event["requestContext"]["requestId"] == response.headers["apigw-requestid"]
        assert 0 < answer["remaining_ms"] <= 20_000
        assert context["function_name"] == "api"
        assert context["memory_limit_in_mb"] == "512"
        assert context["invoked_function_arn"] == "arn:aws:lambda:us-east-1:123456789012:function:api"

        log = wait_for(lambda: "REPORT" in child.output() and child.output())
        assert json.dumps({"message": "echoed", "request_id": context["aws_request_id"]}) in log.splitlines()
        assert "INIT api" in log

    def test_the_function_sees_its_own_environment_only(self, start, monkeypatch):
        monkeypatch.setenv("SOMEBODY_ELSES_SECRET", "x")
        client, _ = start()
        pid = client.get("/echo").json()["pid"]

        environ = psutil.Process(pid).environ()

        assert "SOMEBODY_ELSES_SECRET" not in environ
        assert environ["AWS_LAMBDA_FUNCTION_NAME"] == "api"

    def test_a_binary_response_arrives_with_its_cookies(self, start):
        client, _ = start()

        response = client.get("/binary")

        assert response.status_code == 201
        assert response.content == b"\x00\xff\x10"
        assert response.headers["content-type"] == "image/png"
        assert response.headers.get_list("set-cookie") == ["a=1; Path=/", "b=2"]

    def test_an_answer_that_is_no_response_is_a_200(self, start):
        client, _ = start()

        assert client.get("/plain").json() == {"hello": "world"}

    @pytest.mark.parametrize("path", ["/crash", "/exit", "/malformed"])
    def test_a_failed_invocation_is_a_500_and_the_next_one_works(self, start, path):
        client, _ = start()

        response = client.get(path)

        assert response.status_code == 500
        assert response.json() == {"message": "Internal Server Error"}
        assert client.get("/echo").status_code == 200

    def test_a_timeout_is_a_503_and_the_next_request_works(self, start):
        client, child = start(timeout_s=3)

        response = client.get("/sleep")

        assert response.status_code == 503
        assert response.json() == {"message": "Service Unavailable"}
        assert "api timed out after 3.00 seconds" in child.output()
        assert client.get("/echo").status_code == 200

    def test_a_response_over_6_mb_is_a_502(self, start):
        client, _ = start()

        assert len(client.get("/large?bytes=6000000").content) == 6_000_000
        assert client.get("/large?bytes=6300000").status_code == 502

    def test_a_request_over_6_mb_is_refused(self, start):
        client, _ = start()

        assert client.post("/echo", content=b"x" * 6_500_000).status_code == 413

    def test_concurrent_requests_run_in_separate_processes(self, start):
        client, _ = start(environments=2)
        pids = set()
        threads = [threading.Thread(target=lambda: pids.add(client.get("/echo").json()["pid"])) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert 1 <= len(pids) <= 2

    def test_stopping_leaves_no_environment_even_in_an_invocation(self, start, group):
        client, _ = start()
        pid = client.get("/echo").json()["pid"]
        with pytest.raises(httpx.TimeoutException):
            client.get("/sleep", timeout=0.3)
        assert is_alive(pid)

        group.stop("api")

        assert not is_alive(pid)

    def test_a_killed_runner_takes_its_environments_along(self, start):
        client, _ = start()
        pid = client.get("/echo").json()["pid"]

        psutil.Process(pid).parent().kill()

        wait_for(lambda: not is_alive(pid))

    def test_a_handler_that_cannot_be_imported_stops_the_start(self, group, environ):
        argv = module("http_function", "--handler", "tests.fixtures.broken_handler:handler", "--timeout-s", 5)

        with pytest.raises(ProcessError, match="this module cannot be imported"):
            group.start("api", argv, env=environ, ready=lambda _: False)


class TestQueue:
    @pytest.fixture
    def endpoint(self, group):
        sqs = [sys.executable, "-m", "local.services.aws"]
        return group.start("sqs", sqs, env=os.environ, listener=listen()).url

    @pytest.fixture
    def sqs(self, endpoint):
        return sqs_client(endpoint)

    @pytest.fixture
    def start(self, group, environ, endpoint):
        def start(queue_url, *options, name="executor", timeout_s=20):
            argv = module(
                "queue_function",
                *("--handler", f"{SAMPLES}:queue", "--name", name, "--timeout-s", timeout_s),
                *("--queue-url", queue_url, "--endpoint-url", endpoint, *options),
            )
            return group.start(name, argv, env=environ, ready=has_said("POLLING"))

        return start

    @pytest.fixture
    def noted(self, notes):
        return lambda: [json.loads(file.read_text()) for file in sorted(notes.glob("[0-9]*"))]

    @staticmethod
    def left(sqs, url):
        names = [
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ]
        attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(count) for count in attributes.values())

    def test_queues_have_the_numbers_of_the_template(self, sqs, endpoint):
        urls = create_queues(endpoint)
        again = create_queues(endpoint)
        tasks, dead_letters, replays = (
            sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
            for url in (urls.tasks, urls.dead_letters, urls.replays)
        )
        redrive, last = json.loads(tasks["RedrivePolicy"]), json.loads(dead_letters["RedrivePolicy"])
        template = template_resources()
        expected_tasks = template["TaskQueue"]["Properties"]
        expected_dead_letters = template["DeadLetterQueue"]["Properties"]

        assert again == urls
        assert int(tasks["VisibilityTimeout"]) == expected_tasks["VisibilityTimeout"]
        assert int(redrive["maxReceiveCount"]) == expected_tasks["RedrivePolicy"]["maxReceiveCount"]
        assert redrive["deadLetterTargetArn"] == dead_letters["QueueArn"]
        assert int(dead_letters["VisibilityTimeout"]) == expected_dead_letters["VisibilityTimeout"]
        assert int(dead_letters["MessageRetentionPeriod"]) == expected_dead_letters["MessageRetentionPeriod"]
        assert last["deadLetterTargetArn"] == replays["QueueArn"]
        assert int(last["maxReceiveCount"]) == expected_dead_letters["RedrivePolicy"]["maxReceiveCount"]
        expected_replays = template["ReplayQueue"]["Properties"]
        assert int(replays["MessageRetentionPeriod"]) == expected_replays["MessageRetentionPeriod"]

    def test_a_message_is_handled_and_deleted(self, sqs, endpoint, start, noted):
        urls = create_queues(endpoint)
        start(urls.tasks)
        sent = sqs.send_message(QueueUrl=urls.tasks, MessageBody="{}", MessageGroupId="user-1")

        (note,) = wait_for(noted)
        wait_for(lambda: self.left(sqs, urls.tasks) == 0)

        record = note["record"]
        assert record["messageId"] == sent["MessageId"]
        assert record["md5OfBody"] == sent["MD5OfMessageBody"]
        assert record["body"] == "{}"
        assert record["eventSource"] == "aws:sqs"
        assert record["eventSourceARN"] == "arn:aws:sqs:us-east-1:123456789012:tasks"
        assert record["attributes"]["ApproximateReceiveCount"] == "1"
        assert record["attributes"]["MessageGroupId"] == "user-1"
        assert record["attributes"].keys() >= {
            "SentTimestamp",
            "SenderId",
            "ApproximateFirstReceiveTimestamp",
        }

    def test_only_reported_messages_of_a_batch_come_back(self, sqs, endpoint, start, noted):
        urls = create_queues(endpoint, max_receive_count=2)
        entries = [
            {"Id": str(n), "MessageBody": json.dumps({"n": n, "do": "fail" if n == 1 else ""})} for n in range(3)
        ]
        sqs.send_message_batch(QueueUrl=urls.tasks, Entries=entries)

        start(urls.tasks, "--batch-size", 10, "--retry-visibility-s", 1)

        wait_for(lambda: self.left(sqs, urls.dead_letters) == 1)
        handled = [json.loads(note["record"]["body"])["n"] for note in noted()]
        assert sorted(handled) == [0, 1, 1, 2]
        assert self.left(sqs, urls.tasks) == 0

    def test_a_message_whose_handler_raises_ends_in_the_dead_letter_queue(self, sqs, endpoint, start, noted, notes):
        urls = create_queues(endpoint, max_receive_count=2)
        start(urls.tasks, "--retry-visibility-s", 1)
        sqs.send_message(QueueUrl=urls.tasks, MessageBody='{"do": "raise"}')
        wait_for(lambda: self.left(sqs, urls.dead_letters) == 1)
        assert len(noted()) == 2
        sqs.purge_queue(QueueUrl=urls.dead_letters)
        for file in notes.iterdir():
            file.unlink()

        start(urls.dead_letters, "--cold", name="dead-letters")
        sqs.send_message(QueueUrl=urls.dead_letters, MessageBody='{"run": 1}')

        (note,) = wait_for(noted)
        assert note["record"]["eventSourceARN"].endswith(":tasks-dead-letters")
        wait_for(lambda: self.left(sqs, urls.dead_letters) == 0)

    def test_a_killed_environment_gives_its_message_back_to_the_queue(self, sqs, endpoint, start, noted):
        urls = create_queues(endpoint, visibility_timeout_s=3)
        start(urls.tasks)
        sqs.send_message(QueueUrl=urls.tasks, MessageBody='{"do": "sleep"}')
        (first,) = wait_for(noted)

        psutil.Process(first["pid"]).kill()

        second = wait_for(lambda: noted()[1:])[0]
        assert second["pid"] != first["pid"]
        assert second["record"]["messageId"] == first["record"]["messageId"]
        assert second["record"]["attributes"]["ApproximateReceiveCount"] == "2"

    def test_an_invocation_that_times_out_is_killed_and_delivered_again(self, sqs, endpoint, start, noted):
        urls = create_queues(endpoint)
        child = start(urls.tasks, "--retry-visibility-s", 1, timeout_s=1)
        sqs.send_message(QueueUrl=urls.tasks, MessageBody='{"do": "sleep"}')

        wait_for(lambda: len(noted()) >= 2)  # there may be a third by the time anyone looks

        first, second = noted()[:2]
        assert first["pid"] != second["pid"]
        assert not is_alive(first["pid"])
        assert "executor timed out after 1.00 seconds" in child.output()

    def test_each_environment_takes_one_message_at_a_time(self, sqs, endpoint, start, noted):
        urls = create_queues(endpoint)
        start(urls.tasks, "--environments", 2)
        for _ in range(3):
            sqs.send_message(QueueUrl=urls.tasks, MessageBody='{"do": "sleep"}')

        wait_for(lambda: len(noted()) == 2)
        wait_for(lambda: self.left(sqs, urls.tasks) == 3)

        assert len({note["pid"] for note in noted()}) == 2

    def test_a_stopped_function_leaves_no_environment_and_returns_its_message(self, sqs, endpoint, start, noted, group):
        urls = create_queues(endpoint)
        start(urls.tasks, "--retry-visibility-s", 0)
        sqs.send_message(QueueUrl=urls.tasks, MessageBody='{"do": "sleep"}')
        (note,) = wait_for(noted)

        group.stop("executor")

        assert not is_alive(note["pid"])
        assert sqs.receive_message(QueueUrl=urls.tasks).get("Messages")

    def test_a_killed_runner_takes_its_environments_along(self, sqs, endpoint, start, noted):
        urls = create_queues(endpoint)
        child = start(urls.tasks)
        sqs.send_message(QueueUrl=urls.tasks, MessageBody='{"do": "sleep"}')
        (note,) = wait_for(noted)

        psutil.Process(note["pid"]).parent().kill()

        wait_for(lambda: not child.is_alive())
        wait_for(lambda: not is_alive(note["pid"]))

    def test_a_queue_that_comes_back_is_polled_again(self, sqs, endpoint, start, noted, group):
        urls = create_queues(endpoint)
        child = start(urls.tasks)
        group.stop("sqs")
        wait_for(lambda: "The queue is not responding" in child.output())

        group.restart("sqs")
        create_queues(endpoint)
        sqs.send_message(QueueUrl=urls.tasks, MessageBody="{}")

        assert wait_for(noted)


class TestSchedule:
    def test_runs_follow_each_other_and_never_overlap(self, group, environ, notes):
        options = ("--handler", f"{SAMPLES}:slow_schedule", "--timeout-s", 5, "--every-s", "0.1")
        group.start("reaper", module("schedule", *options), env=environ)

        wait_for(lambda: len(list(notes.glob("[0-9]*"))) >= 6)
        group.stop("reaper")

        facts = [json.loads(file.read_text()) for file in sorted(notes.glob("[0-9]*"))]
        kinds = ["ended" if "ended" in fact else "began" for fact in facts]
        assert kinds[:6] == ["began", "ended"] * 3
        assert facts[0]["event"]["source"] == "aws.scheduler"
