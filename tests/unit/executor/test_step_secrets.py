"""No secret of a run in anything that is stored, whatever the agent does with it; and nothing else is touched."""

import base64
import json
import zlib
from dataclasses import replace
from io import StringIO

import pytest

from functions.executor.agents import DRIVERS, ReaderState
from functions.executor.phases import PHASES
from functions.executor.step import logger
from sandbox.programs.protocol import Failure, to_json
from shared.domain.binary_patch import blob_id
from shared.domain.errors import CannotOpen, RunFailed
from shared.domain.patch import parse
from shared.domain.run import Advance, Event, Finish, Phase, Result, RunStatus
from shared.domain.secret import Secret
from shared.observability import register_secret
from tests.fakes.executor import (
    ANTHROPIC_KEY,
    CLAUDE_INIT,
    E2B_KEY,
    GIT_TOKEN,
    OPENAI_KEY,
    Script,
    changed_file,
    claude_result,
    claude_says,
    clone_failed,
    collected,
    collects,
    prints,
)

SECRETS = (GIT_TOKEN, ANTHROPIC_KEY, OPENAI_KEY, E2B_KEY)
SPILLED = " ".join(SECRETS)
# What a tester writes into a fixture: the shape of a token, and nobody's.
TOKEN_LIKE = "ghp_" + "0000exampleTokenForTests0000"


def stored(world):
    """Everything a run leaves in the database, as one text."""
    rows = [world.database.tasks, world.database.runs, world.database.events, world.database.files]
    return json.dumps(rows, default=str, ensure_ascii=False)


def assert_clean(world):
    text = stored(world)
    for secret in SECRETS:
        assert secret not in text
        assert base64.b64encode(secret.encode()).decode() not in text
    assert "[REDACTED]" in text


# Of no known shape: they are taken out only by their values.
PLAIN_TOKEN, PASSWORD = "a token of my own git host", "correct horse battery staple"
KNOWN = (ANTHROPIC_KEY, OPENAI_KEY, E2B_KEY, PASSWORD)
TOLD = " ".join((*KNOWN, PLAIN_TOKEN))
TOLD_RESULT = Result(
    commit_hash=None,
    diff=TOLD,
    patch=TOLD,
    changed_files=(TOLD,),
    files=(changed_file("a.txt", after=TOLD),),
    metadata={"note": TOLD},
)


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "outcome",
    [
        Advance(check_in_s=60, events=(Event("said", {"text": TOLD}),)),
        Advance(check_in_s=60, changes={"reader_state": {"last": TOLD}}),
        Finish(status=RunStatus.COMPLETED, message=TOLD, result=TOLD_RESULT),
        Finish(status=RunStatus.FAILED, error_code="x", error=TOLD),
        RunFailed(TOLD, error_code="x"),
    ],
    ids=["events", "changes", "result", "error", "raised"],
)
def test_a_phase_that_asks_for_no_secret_stores_none_all_the_same(world, monkeypatch, phase, outcome):
    """As one that is added tomorrow, whose author has not thought of it."""

    def careless(_ctx):
        if isinstance(outcome, RunFailed):
            raise outcome
        return outcome

    message = world.start(setup_script="true", token=PLAIN_TOKEN)
    world.database.preferences[message.user_id] = {"claudeCode": {"env": {"DB_PASSWORD": PASSWORD}}}
    if phase is not Phase.PROVISIONING:  # which begins with the first message
        world.until(phase)
    monkeypatch.setitem(PHASES, phase, careless)
    world.deliver()

    # An agent that works does not have the git token: it is opened for what ends a run.
    opened = KNOWN if isinstance(outcome, Advance) else (*KNOWN, PLAIN_TOKEN)
    assert [secret for secret in opened if secret in stored(world)] == []
    assert "[REDACTED]" in stored(world)


@pytest.mark.parametrize("phase", PHASES)
def test_why_a_run_failed_is_not_stored_where_its_token_cannot_be_taken_out(world, monkeypatch, phase):
    def careless(_ctx):
        raise RunFailed(f"git says: {PLAIN_TOKEN}", error_code="x")

    world.start(setup_script="true", token=PLAIN_TOKEN)
    if phase is not Phase.PROVISIONING:
        world.until(phase)
    monkeypatch.setitem(PHASES, phase, careless)
    monkeypatch.setattr(world.box, "open", refuse)
    world.deliver()

    assert world.run_row["error_code"] == "credential_unreadable"
    assert PLAIN_TOKEN not in stored(world)


def refuse(*_):
    raise CannotOpen("no such key")


def test_an_agent_that_prints_every_secret_leaves_none_in_the_events_or_the_chat(world):
    tool = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": f"echo {SPILLED}"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": SPILLED}
    world.scripts["agent"] = prints(
        CLAUDE_INIT,
        claude_says(f"I found {SPILLED}"),
        {"type": "assistant", "message": {"content": [tool]}},
        {"type": "user", "message": {"content": [result]}},
        claude_result(f"They are {SPILLED}"),
    )
    world.start()

    world.run()

    assert_clean(world)
    assert world.task["chat_messages"][-1]["content"] == "They are " + " ".join(["[REDACTED]"] * len(SECRETS))


def test_an_agent_that_writes_every_secret_into_files_leaves_none_in_the_result(world):
    result = collected(
        changed_file(f"{GIT_TOKEN}.txt", before=SPILLED, after=f"key={SPILLED}\n", status="modified"),
        changed_file("b.txt", previous_path=f"{ANTHROPIC_KEY}.txt", status="renamed", after="x"),
        diff=f"+{SPILLED}\n",
        patch=f"+{SPILLED}\n",
        warnings=[f"Not collected: {GIT_TOKEN}."],
    )
    world.scripts["collect"] = collects(result)
    world.start()

    world.run()

    assert_clean(world)
    assert world.task["changed_files"] == ["[REDACTED].txt", "b.txt"]
    assert world.task["git_diff"] == "+" + " ".join(["[REDACTED]"] * len(SECRETS)) + "\n"
    [first, second] = world.database.files
    assert (first["path"], second["previous_path"]) == ("[REDACTED].txt", "[REDACTED].txt")


@pytest.mark.parametrize(
    "form",
    [
        base64.b64encode(GIT_TOKEN.encode()).decode(),
        base64.b64encode(f"x-access-token:{GIT_TOKEN}".encode()).decode(),
    ],
    ids=["base64", "git's Basic header"],
)
def test_the_token_is_known_in_the_forms_it_travels_in(world, form):
    world.scripts["collect"] = collects(collected(changed_file("a", after=form), diff=form))
    world.start()

    world.run()

    assert world.task["git_diff"] == "[REDACTED]"
    assert form not in stored(world)


def test_a_test_string_that_only_looks_like_a_token_stays_in_the_diff_as_the_agent_wrote_it(world):
    result = collected(changed_file("a.txt", after=TOKEN_LIKE), diff=f"+{TOKEN_LIKE}", patch=f"+{TOKEN_LIKE}")
    world.scripts["collect"] = collects(result)
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says(f"I wrote {TOKEN_LIKE}"), claude_result())
    world.start()

    world.run()

    assert (world.task["git_diff"], world.task["git_patch"]) == (f"+{TOKEN_LIKE}", f"+{TOKEN_LIKE}")
    assert world.database.files[0]["after"] == TOKEN_LIKE
    assert world.task["execution_metadata"]["file_changes"][0]["after"] == TOKEN_LIKE
    assert world.payloads("agent_message") == [{"text": "I wrote [REDACTED]"}]  # a log is no place for shapes


def binary_patch(content):
    """As `git diff --binary` tells of a new file; base85 lines of 52 bytes at most."""
    packed = zlib.compress(content)
    lines = [packed[at : at + 52] for at in range(0, len(packed), 52)]
    letters = [chr(64 + len(line)) if len(line) <= 26 else chr(70 + len(line)) for line in lines]
    coded = [a + base64.b85encode(line, pad=True).decode() for a, line in zip(letters, lines, strict=True)]
    head = f"diff --git a/bin b/bin\nnew file mode 100644\nindex {'0' * 40}..{blob_id(content)}\nGIT binary patch\n"
    return "\n".join([f"{head}literal {len(content)}", *coded, "", "literal 0", "HcmV?d00001", "", ""])


@pytest.mark.parametrize("secret", [GIT_TOKEN, ""])
def test_a_patch_in_which_a_secret_is_packed_is_not_stored(world, secret):
    content = b"\0" * 100 + secret.encode() + b"\xff"
    row = changed_file("bin", after=base64.b64encode(content).decode(), encoding="base64")
    patch = binary_patch(content)
    assert parse(patch)[0].applied_to(None).content == content
    world.scripts["collect"] = collects(collected(row, diff="Binary files differ\n", patch=patch))
    world.start()

    world.run()

    assert world.task["status"] == "completed"
    assert world.task["git_patch"] == (None if secret else patch)
    stored_content = base64.b64decode(world.database.files[0]["after"])
    assert stored_content == content.replace(GIT_TOKEN.encode(), b"[REDACTED]")
    assert [warning["code"] for warning in world.payloads("warning")] == (["secret_taken_out"] if secret else [])


def test_git_repeating_the_token_in_its_complaint_is_not_stored(world):
    world.scripts["clone"] = clone_failed("failed", f"fatal: https://x:{GIT_TOKEN}@github.com/ says {SPILLED}")
    world.start()

    world.run()

    assert world.task["status"] == "failed"
    assert_clean(world)


def test_a_token_of_no_known_shape_is_taken_out_of_the_complaint_of_a_clone_that_took_several_looks(world):
    token = "token of another forge, 0123456789"
    failure = to_json(Failure("failed", f"fatal: {token}")).encode()
    world.scripts["clone"] = Script(ends_at=30, output=((30, failure + b"\n"),))
    world.start(token=token)

    world.run()

    assert world.task["error"] == "Failed to clone repository: fatal: [REDACTED]"
    assert token not in stored(world)


@pytest.mark.parametrize("job", ["setup", "agent"])
def test_a_program_that_dies_with_a_secret_on_its_lips_is_not_quoted(world, job):
    world.scripts[job] = Script(ends_at=1, exit_code=1, output=((1, f"{SPILLED}\n".encode()),), stderr=SPILLED)
    world.start(setup_script="make")

    world.run()

    assert world.task["status"] == "failed"
    assert_clean(world)


@pytest.mark.parametrize("job", ["clone", "collect"])
def test_what_a_broken_program_says_is_the_operators_to_read_and_without_secrets(world, job, monkeypatch):
    written = StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", written)
    for key in (ANTHROPIC_KEY, OPENAI_KEY, E2B_KEY):
        register_secret(Secret(key), lasting=True)  # as functions/executor/wiring.py does
    world.scripts[job] = Script(ends_at=1, exit_code=1, stderr=f"Traceback\nKeyError: 'it' {SPILLED}")
    world.start()

    world.run()

    assert world.run_row["error_code"] == "internal"
    assert "KeyError: 'it'" in written.getvalue()
    assert "KeyError" not in stored(world)
    assert not any(secret in written.getvalue() + stored(world) for secret in SECRETS)


def test_a_sandbox_that_is_refused_with_our_key_in_the_answer_is_not_quoted(world):
    world.start()
    world.sandboxes.down = RunFailed(f"Failed to create E2B sandbox: {E2B_KEY}", error_code="sandbox_refused")

    world.deliver()

    assert world.task["error"] == "Failed to create E2B sandbox: [REDACTED]"


def test_no_secret_reaches_the_log_either(world, monkeypatch):
    written = StringIO()
    monkeypatch.setattr(logger.registered_handler, "stream", written)
    world.scripts["agent"] = Script(ends_at=1, exit_code=1, stderr=SPILLED)
    world.start()
    world.run()

    assert "run.ended" in written.getvalue()
    assert not any(secret in written.getvalue() for secret in SECRETS)


def test_nuls_are_dropped_wherever_they_turn_up(world):
    result = collected(changed_file("a", after="x\x00y"), diff="d\x00", patch="p\x00", warnings=["w\x00"])
    world.scripts["collect"] = collects(result)
    world.scripts["setup"] = Script(ends_at=1, output=((1, b"set\x00up\n"),))
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("a\x00b"), claude_result("c\x00d"))
    world.start(setup_script="make")

    world.run()

    assert (world.task["git_diff"], world.task["git_patch"]) == ("d", "p")
    assert world.database.files[0]["after"] == "xy"
    assert world.payloads("setup_output") == [{"text": "setup\n"}]
    assert world.payloads("agent_message") == [{"text": "ab"}]
    assert world.task["chat_messages"][-1]["content"] == "cd"
    assert "\x00" not in stored(world)


def test_nuls_in_the_words_of_a_failure_are_dropped_too(world):
    world.scripts["agent"] = Script(ends_at=1, exit_code=1, stderr="a\x00b")
    world.start()

    world.run()

    assert world.task["error"] == "Claude agent failed: ab"


def test_the_git_token_of_another_run_is_not_opened(world):
    world.start()
    world.until(Phase.CLONING)
    [row] = world.database.credentials.values()
    row["user_id"] = "somebody else"

    world.run()

    assert json.loads(world.sandboxes.last.uploaded("clone", "spec.json"))["token_file"] is None


@pytest.mark.parametrize("spilled", [E2B_KEY, f"{ANTHROPIC_KEY}\t"])
def test_a_half_line_that_holds_a_secret_does_not_break_the_reading_of_its_other_half(world, spilled):
    """What is remembered between two looks is base64 and scrubbed as well; it must stay readable.

    The secret begins at a multiple of three bytes: there its own base64 stands in that of the line.
    """
    half = b" " * 3 * 50_000 + spilled.encode() + b" " * 120_000  # more than one look reads
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("the other half"), claude_result(), at=8)
    good = world.scripts["agent"]
    world.scripts["agent"] = replace(good, output=((1, half), (3, b" \n"), *good.output))
    world.start()

    world.run()

    assert world.task["status"] == "completed"
    assert not any(secret in stored(world) for secret in SECRETS)


@pytest.mark.parametrize("half", ["A", "QUJ[REDACTED]", "[REDACTED]QUJDRA"])
@pytest.mark.parametrize("agent", DRIVERS.values(), ids=DRIVERS)
def test_a_half_line_that_scrubbing_has_made_unreadable_is_dropped(agent, half):
    events, state = agent.read(b"{}\n", ReaderState(unfinished_line=half))

    assert events == []
    assert state.unfinished_line == ""
