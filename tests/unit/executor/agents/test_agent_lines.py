"""Whatever an agent prints, reading it never fails, and what comes of it can be stored."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functions.executor.agents import DRIVERS, ReaderState
from functions.executor.agents.output_lines import MAX_LINE_BYTES, MAX_WARNINGS
from shared.domain.agents import AgentName

RECORDED = sorted((Path(__file__).parents[3] / "fixtures" / "agents").glob("*.jsonl"))
START = ReaderState.start(workdir="/home/user/repo", model="gpt-6.1-sol")
BOTH = pytest.mark.parametrize("agent", DRIVERS.values(), ids=DRIVERS)


def stored(state):
    """The state as the next step finds it: through a JSON column."""
    return ReaderState.from_json(json.loads(json.dumps(state.to_json())))


def as_stored(events):
    return [(event.kind, json.loads(json.dumps(event.payload))) for event in events]


@pytest.mark.parametrize("recorded", RECORDED, ids=lambda path: path.stem)
def test_reading_byte_by_byte_gives_the_same_as_reading_at_once(recorded):
    agent = DRIVERS[AgentName(recorded.stem.split("-")[0])]
    output = recorded.read_bytes()
    at_once, end = agent.read(output, START)

    state, one_by_one = START, []
    for index in range(len(output)):
        events, state = agent.read(output[index : index + 1], state)
        one_by_one += events
        if events:
            state = stored(state)

    assert as_stored(one_by_one) == as_stored(at_once)
    assert stored(state) == stored(end)


@BOTH
def test_a_character_cut_in_two_by_a_look_is_whole_again_after_the_next(agent):
    line = json.dumps({"type": "unheard-of", "text": "é"}, ensure_ascii=False).encode()
    middle = line.index(b"\xc3") + 1

    _, state = agent.read(line[:middle], START)
    events, state = agent.read(line[middle:] + b"\n", stored(state))

    assert events == []
    assert state.unfinished_line == ""


@BOTH
@pytest.mark.parametrize(
    "line", [b"Hello", b"[1]", b'"text"', b"{", b"\xff\xfe", b"[" * 100_000, b'{"n":' + b"9" * 5_000 + b"}"]
)
def test_a_line_that_is_no_json_object_is_a_warning(agent, line):
    events, _ = agent.read(line + b"\n", START)

    assert [event.kind for event in events] == ["warning"]
    assert len(events[0].payload["text"]) < 300


@BOTH
def test_a_program_that_prints_no_json_at_all_does_not_fill_the_log(agent):
    events, state = agent.read(b"Segmentation fault\n" * 1_000, START)

    assert len(events) == MAX_WARNINGS
    assert state.warnings == 1_000


@BOTH
def test_blank_lines_say_nothing(agent):
    assert agent.read(b"\n\r\n  \n", START)[0] == []


@BOTH
def test_a_line_without_end_is_left_out_and_the_next_one_read(agent):
    state, events = START, []
    for _ in range(3):
        more, state = agent.read(b"x" * MAX_LINE_BYTES, state)
        events += more
        assert len(state.unfinished_line) < 2 * MAX_LINE_BYTES
    more, state = agent.read(b'x\n{"type":"unheard-of"}\nno json\n', stored(state))

    assert [event.payload["text"][:30] for event in events + more] == [
        "The agent printed a line of mo",
        "The agent printed a line that ",
    ]


@BOTH
def test_a_long_line_that_comes_at_once_is_left_out(agent):
    events, state = agent.read(b"x" * (MAX_LINE_BYTES + 1) + b"\n", START)

    assert "left out" in events[0].payload["text"]
    assert not state.skipping_line


def test_what_postgres_refuses_is_removed():
    said = {"type": "text", "text": "a\0b\ud800c"}
    line = json.dumps({"type": "assistant", "message": {"content": [said]}}).encode()

    events, _ = DRIVERS[AgentName.CLAUDE].read(line + b"\n", START)

    assert events[0].payload == {"text": "ab?c"}


def test_numbers_that_json_cannot_hold_become_null():
    use = '{"type": "tool_use", "id": "t", "name": "Wait", "input": {"a": NaN, "b": 1e999, "c": 0.5}}'
    line = f'{{"type": "assistant", "message": {{"content": [{use}]}}}}'

    events, _ = DRIVERS[AgentName.CLAUDE].read(line.encode() + b"\n", START)

    assert events[0].payload["input"] == {"a": None, "b": None, "c": 0.5}


def test_a_state_stored_by_another_version_can_be_read():
    assert ReaderState.from_json({}) == ReaderState()
    assert ReaderState.from_json({"session_id": "abc", "of_the_future": 1}) == ReaderState(session_id="abc")


LINES = [(path.stem.split("-")[0], json.loads(line)) for path in RECORDED for line in path.read_text().splitlines()]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@st.composite
def damaged_lines(draw):
    """A recorded line with one of its values, however deep, replaced by any other."""
    agent, line = draw(st.sampled_from(LINES))
    line = json.loads(json.dumps(line))
    place = line
    while True:
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else list(range(len(place)))))
        if not place[key] or not isinstance(place[key], dict | list) or draw(st.booleans()):
            place[key] = draw(JSON)
            return agent, line
        place = place[key]


@settings(max_examples=200, deadline=None)
@given(damaged_lines())
def test_no_value_in_a_line_can_break_the_reading(damaged):
    agent, line = damaged

    events, state = DRIVERS[AgentName(agent)].read(json.dumps(line).encode() + b"\n", START)

    for kept in [state.to_json(), *(dict(event.payload) for event in events)]:
        text = json.dumps(kept, allow_nan=False, ensure_ascii=False)
        assert "\\u0000" not in text
        text.encode()
