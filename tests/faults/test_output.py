"""What no real agent prints: a program that the repository brings stands in for it (see `Lab`)."""

from textwrap import dedent

import pytest

from tests.faults.faults import EveryPlaceOnce
from tests.faults.promises import learn
from tests.faults.simulated_queue import Scenario
from tests.faults.stack import STAND_IN

HEAD = """\
#!/usr/bin/env python3
import json, os, sys, time
from pathlib import Path

def line(kind, **rest):
    return json.dumps({"type": kind, **rest}).encode() + b"\\n"

def says(text):
    return line("assistant", message={"content": [{"type": "text", "text": text}]})

def put(*data):
    for each in data:
        sys.stdout.buffer.write(each)
    sys.stdout.buffer.flush()

result = line("result", subtype="success", is_error=False, result="All done.", num_turns=1, total_cost_usd=0.01)
put(line("system", subtype="init", session_id="519dc8ef-9fd2-4fb1-83ec-4923649de7c0", model="m"))
Path("made.txt").write_text("made\\n")
"""

HALF_A_LINE = """
text = says("One whole line with an é in it.")
middle = text.index(b"\\\\u00e9") + 3  # inside the escape
put(says("Before."), text[:middle])
time.sleep(2)  # a look comes by
put(text[middle:], result[:40])
time.sleep(1)
put(result[40:])
"""
DIES_IN_A_LINE = """
put(says("Before."), says("Never said to its end.")[:30])
os.kill(os.getpid(), 9)
"""
NUL_AND_NO_UTF_8 = r"""
put(says("nul \x00 escape \ud800 alone"), b"\x00\x01\x02 no json \xff\xfe\n", b"\x00" * 5000 + b"\n")
put(b'{"type":"assistant","message":{"content":[{"type":"text","text":"bytes \xff\xfe \x00 raw"}]}}\n')
put(b'{"type":"assistant","message":{"content":[{"type":"text","text":"cut in a character: \xc3"}]}}\n')
put(b"[" * 100000 + b"\n", b'{"type":"result","result":' + b"9" * 10000 + b"}\n", b"\n\r\n")
Path("made.bin").write_bytes(bytes(range(256)))
put(result)
"""
A_HUNDRED_MB = """
for _ in range(50):
    put(b"x" * 1_000_000)  # one line of 50 MB
put(b"\\n")
for _ in range(50):
    put(line("user", message={"content": [{"type": "tool_result", "tool_use_id": "t", "content": "y" * 999_900}]}))
put(result)
"""


def stand_in(program, **changes):
    """The scenario of a repository that brings this program, in the agent's place."""
    base = {"README.md": "one\n", STAND_IN: HEAD + dedent(program)}
    expected = {"base": base, "prompt": "make it so", "becomes": {"made.txt": "made\n"}}
    return Scenario("claude", **expected | changes)


def said(world):
    return [event["payload"]["text"] for event in world.events() if event["kind"] == "agent_message"]


@pytest.mark.parametrize("fault", [None, "death after", "reset after"])
def test_a_line_that_is_half_written_is_told_once_it_is_whole(outlive, fault):
    world = outlive(stand_in(HALF_A_LINE), EveryPlaceOnce(fault))

    assert said(world) == ["Before.", "One whole line with an é in it."]


def test_an_agent_that_dies_in_the_middle_of_a_line_fails_and_what_it_has_done_is_kept(outlive):
    world = outlive(stand_in(DIES_IN_A_LINE, says="Before."), may_fail_as={"agent_failed"})

    assert (world.run["error_code"], said(world)) == ("agent_failed", ["Before."])
    assert world.task["changed_files"] == ["made.txt"]


@pytest.mark.parametrize("fault", [None, "death after"])
def test_nul_bytes_and_invalid_utf_8_are_told_as_far_as_a_text_can_hold_them(outlive, fault):
    becomes = {"made.txt": "made\n", "made.bin": bytes(range(256))}

    world = outlive(stand_in(NUL_AND_NO_UTF_8, becomes=becomes), EveryPlaceOnce(fault))

    assert [text[:5] for text in said(world)] == ["nul  ", "bytes", "cut i"]


def test_a_hundred_megabytes_of_output_are_read_to_their_end(lab):
    world = learn(lab, stand_in(A_HUNDRED_MB))

    assert world.run["output_offset"] > 100_000_000
    assert len([event for event in world.events() if event["kind"] == "tool_result"]) == 50
