"""Requests and reports survive the way between executor and sandbox, and nothing else is taken for one."""

import dataclasses
import json
from typing import Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.programs import protocol
from sandbox.programs.protocol import (
    CloneReport,
    Failure,
    JobReport,
    JobRequest,
    LookRequest,
    ProtocolError,
    UsageLog,
    from_json,
    report_from_value,
    to_json,
    to_value,
)

MESSAGES = [
    kind
    for kind in vars(protocol).values()
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and kind.__module__ == protocol.__name__
]
LIMITED = {
    "pattern": st.lists(st.text("abc*.-", min_size=1).filter(lambda part: part != ".."), min_size=1).map("/".join),
    "word": st.text(min_size=1),
    "argv": st.lists(st.text(), min_size=1).map(tuple),
    "max_bytes": st.integers(min_value=1),
    **dict.fromkeys(("secret_env_file", "secret_home_file", "stdin"), st.none() | st.text("abc._")),
    **dict.fromkeys(("timeout_s", "stop_grace_s", "wait_s"), st.floats(min_value=0, max_value=1e9)),
    "idle_timeout_s": st.none() | st.floats(min_value=0, max_value=1e9),
    **dict.fromkeys(("max_output_bytes", "niceness", "offset"), st.integers(min_value=0)),
}


def messages(kind):
    """Any message of this kind that its own rules allow."""
    types = get_type_hints(kind)
    own = {name: LIMITED[name] for name in types if name in LIMITED and kind in (JobRequest, LookRequest, UsageLog)}
    return st.builds(kind, **{name: values(hint) for name, hint in types.items()} | own)


def values(hint):
    if get_origin(hint) is Union:
        return st.none() | values(get_args(hint)[0])
    if dataclasses.is_dataclass(hint):
        return messages(hint)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    return st.from_type(hint)


for nested in MESSAGES:
    st.register_type_strategy(nested, lambda kind: st.deferred(lambda: messages(kind)))
any_message = st.sampled_from(MESSAGES).flatmap(messages)


def test_every_message_is_known_here():
    assert {JobRequest, JobReport, CloneReport, Failure} < set(MESSAGES)
    assert len(MESSAGES) >= 18


@given(any_message)
def test_a_message_arrives_as_it_was_sent_on_one_line_of_ascii(message):
    line = to_json(message)

    assert line.isascii()
    assert "\n" not in line
    assert from_json(type(message), line) == message


@given(any_message, st.text(min_size=1))
def test_a_field_that_the_message_does_not_have_is_refused(message, name):
    fields = to_value(message)
    if name not in fields:
        with pytest.raises(ProtocolError, match="unknown field"):
            from_json(type(message), json.dumps(fields | {name: 1}))


@given(any_message, st.data())
def test_a_field_without_a_default_may_not_be_missing(message, data):
    fields = to_value(message)
    name = data.draw(st.sampled_from(sorted(fields)))
    missing = json.dumps({other: value for other, value in fields.items() if other != name})
    [field] = [each for each in dataclasses.fields(message) if each.name == name]
    if dataclasses.MISSING is field.default is field.default_factory:
        with pytest.raises(ProtocolError, match="lacks the field"):
            from_json(type(message), missing)
    else:
        from_json(type(message), missing)


# Of the JSON type that is easily taken for the right one; a field of any other type does not take lists of lists of
# numbers.
WRONG = {str: 7, int: True, float: "1.5", bool: 1, bytes: "not base64!"}


@given(any_message, st.data())
def test_a_value_of_another_type_is_refused(message, data):
    fields = to_value(message)
    name = data.draw(st.sampled_from(sorted(fields)))
    hint = get_type_hints(type(message))[name]
    of_value = get_args(hint)[0] if get_origin(hint) is Union else hint
    wrong = WRONG.get(of_value, [[7]])
    with pytest.raises(ProtocolError):
        from_json(type(message), json.dumps(fields | {name: wrong}))


@given(st.text() | st.binary())
def test_whatever_else_is_printed_is_no_report(printed):
    for kind in MESSAGES:
        with pytest.raises(ProtocolError):
            from_json(kind, printed)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"offset": NaN}', '{"wait_s": Infinity}', "null", "[]", '"x"'])
def test_json_that_no_program_prints_is_refused(text):
    with pytest.raises(ProtocolError):
        from_json(LookRequest, text)


def test_an_error_names_the_field_and_never_the_value_which_may_be_a_secret():
    with pytest.raises(ProtocolError) as refused:
        from_json(dict[str, str], '{"KEY": ["s3cret"]}', "secret_env.json")

    assert "secret_env.json" in str(refused.value)
    assert "s3cret" not in str(refused.value)
    assert refused.value.__cause__ is None


def test_a_failure_comes_in_the_place_of_any_report():
    failure = Failure("of a newer program", "why")

    assert report_from_value(CloneReport, to_value(failure)) == failure
    with pytest.raises(ProtocolError):
        report_from_value(CloneReport, {"ok": None})


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (JobRequest, {"argv": ()}),
        (JobRequest, {"stdin": "../secret"}),
        (JobRequest, {"secret_env_file": "/etc/shadow"}),
        (JobRequest, {"timeout_s": -1}),
        (JobRequest, {"idle_timeout_s": -1}),
        (LookRequest, {"offset": -1}),
        (LookRequest, {"max_bytes": 0}),
        (LookRequest, {"wait_s": -1}),
    ],
)
def test_a_request_that_makes_no_sense_cannot_be_made(kind, changes):
    job = {"argv": ("true",), "user": "agent", "timeout_s": 1, "max_output_bytes": 1, "stop_grace_s": 1}
    with pytest.raises(ProtocolError):
        kind(**({**job, **changes} if kind is JobRequest else changes))


def test_a_job_of_before_a_field_was_added_can_be_read():
    known = {"argv": ["true"], "user": "root", "timeout_s": 1, "max_output_bytes": 1, "stop_grace_s": 1}

    assert from_json(JobRequest, json.dumps(known)).niceness == 0
    assert from_json(LookRequest, "{}") == LookRequest()
    assert from_json(LookRequest, json.dumps({"usage_log": {"pattern": "*", "word": "w"}})).usage_log == UsageLog(
        "*", "w"
    )


@pytest.mark.parametrize("pattern", ["", "/etc/passwd", "../*", "a/../b", "a//b", "a/", "a\0b"])
def test_a_usage_log_lies_below_the_home(pattern):
    with pytest.raises(ProtocolError):
        UsageLog(pattern, "count")


def test_a_usage_log_has_a_word():
    with pytest.raises(ProtocolError):
        UsageLog("a/*", "")
