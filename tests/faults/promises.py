"""What must be true of a run when all is over, whatever has gone wrong meanwhile. One place for all tests of faults.

Everything is read from the database and from the E2B server's own memory, not from what the executor believes.
"""

import base64
import json
import secrets
import subprocess

from local.services.e2b.box import mark_of
from shared.domain.errors import AppError
from tests.faults.faults import Died
from tests.faults.simulated_queue import ENDED, GIT_TOKEN, World
from tests.integration.runs.conftest import git
from tests.process_table import command_of, descendants
from tests.waiting import happens

# What no two runs have in common.
VOLATILE = {"id", "session_id", "duration_ms", "cost_usd", "usage", "commit", "cli_version"}


def violations(world, *, may_fail_as=(), sandboxes=1):
    """The promises that were broken, as sentences; [] when all were kept.

    `may_fail_as` are the error codes that the run may end with instead of its result; `sandboxes`, how many it may have
    had one after the other.
    """
    run, task, events = world.run, world.task, world.events()
    broken = [*_of_its_end(world, run, task, events, may_fail_as), *_of_its_log(world, run, events)]
    broken += _of_its_result(world, task, run) if run["status"] == "completed" else _of_its_failure(world, run, task)
    broken += [f"An executor raised {end!r}, which nobody foresaw." for end in world.raised if not foreseen(end)]
    return [*broken, *_of_its_sandboxes(world, sandboxes), *_of_its_secrets(world, run)]


def foreseen(end):
    """Whether an invocation may end like that: killed, or by an error that has a name."""
    return isinstance(end, Died | AppError)


def _of_its_end(world, run, task, events, may_fail_as):
    if run["status"] not in ENDED or task["status"] != run["status"]:
        yield f"The run ended as {run['status']}, its task as {task['status']}."
    if run["status"] != "completed" and run["error_code"] not in may_fail_as:
        yield f"The run ended as {run['status']}, {run['error_code']}: {run['error']}"
    if run["phase"] != "done" or run["lease_until"] is not None:
        yield f"The ended run is in phase {run['phase']}, leased until {run['lease_until']}."
    if [event["kind"] for event in events].count("ended") != 1:
        yield "There is not exactly one event `ended`."
    if len(world.lab.sql("select 1 from spending where run_id = %s", world.run_id)) != 1:
        yield "What the run has cost is not recorded exactly once."


def _of_its_log(world, run, events):
    if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
        yield f"The events' numbers have a gap or a double: {[event['seq'] for event in events]}"
    if events[-1]["kind"] != "ended":
        yield f"After its end the run says {events[-1]}."
    told, expected = story_of(events), reference_of(world)
    if run["status"] == "completed" and told != expected:
        yield f"The live log differs: {_difference(told, expected)}"
    if run["status"] != "completed" and told[:-1] != expected[: len(told) - 1]:
        yield f"The live log of the failed run is no beginning of the whole one: {_difference(told, expected)}"


def _of_its_result(world, task, run):
    scenario = world.scenario
    wanted = sorted(scenario.becomes)
    if sorted(task["changed_files"] or []) != wanted:
        yield f"Changed files are {task['changed_files']}."
    rows = world.lab.sql("select path, after, encoding from task_files where run_id = %s", world.run_id)
    files = {path: base64.b64decode(after) if encoding == "base64" else after for path, after, encoding in rows}
    if files != scenario.becomes:
        yield f"The files are {files}."
    said = [(message["role"], message["content"]) for message in task["chat_messages"]]
    if said != [("user", scenario.prompt), ("assistant", scenario.says)]:
        yield f"The chat is {said}."
    if run["error_code"] is None and tree_of(world, task["git_patch"]) != expected_tree(world):
        yield "The patch, applied to the base, does not make the files that the agent left."


def _of_its_failure(world, run, task):
    """Work that was saved is there."""
    if task["git_patch"] and tree_of(world, task["git_patch"]) is None:
        yield "The patch of the failed run does not apply."
    if world.saved_work() and not task["git_patch"]:
        yield "A checkpoint was stored, and its patch is gone."
    if [message["role"] for message in task["chat_messages"]].count("assistant") > 1:
        yield "The agent's last word is there twice."


def _of_its_sandboxes(world, sandboxes):
    census = world.lab.census
    if census.most_at_once[world.run_id] > 1:
        yield f"{census.most_at_once[world.run_id]} sandboxes lived at once."
    if len(census.born.get(world.run_id, ())) > sandboxes:
        yield f"The run had {len(census.born[world.run_id])} sandboxes."
    if world.lab.boxes():
        yield f"{len(world.lab.boxes())} sandboxes are left."
    if not happens(lambda: not _processes_of_sandboxes()):
        yield f"Processes of sandboxes are left: {_processes_of_sandboxes()}"


def _processes_of_sandboxes():
    """The commands of this process's descendants that belong to a sandbox, isolated or not."""
    commands = [(command_of(process), mark_of(process)) for process in descendants()]
    return [command for command, mark in commands if command[:1] == ["bwrap"] or mark]


def _of_its_secrets(world, run):
    if world.lab.sql("select id from user_credentials"):
        yield "The sealed git token is left."
    keys = world.lab.keys
    stored = json.dumps([run, world.task, world.events(), world.lab.sql("select to_jsonb(f) from task_files f")])
    for name, secret in {
        "git token": GIT_TOKEN,
        "model key": keys.scripted_model_key,
        "E2B key": keys.e2b_api_key,
    }.items():
        if secret in stored:
            yield f"The {name} is written down in the rows."


# --- what the run tells


def story_of(events):
    """The live log, as far as two runs can be compared; what was spent and changed so far is told at any time."""
    return [
        (event["kind"], _lasting(event["payload"])) for event in events if event["kind"] not in {"usage", "changes"}
    ]


def _lasting(payload):
    return {name: value for name, value in payload.items() if name not in VOLATILE}


def reference_of(world):
    """The story of the same scenario, with nothing gone wrong."""
    return world.lab.references[world.scenario.key]


def learn(lab, scenario, may_fail_as=()):
    """Have one undisturbed run of the scenario, for all others to be compared with; its world."""
    if scenario.key not in lab.references:
        world = lab.undisturbed[scenario.key] = World(lab, scenario).live()
        lab.references[scenario.key] = story_of(world.events())
        assert violations(world, may_fail_as=may_fail_as) == [], world.told_so_far()
        assert world.raised == []
    return lab.undisturbed[scenario.key]


def _difference(told, expected):
    for number, (one, other) in enumerate(zip(told, expected, strict=False), 1):
        if one != other:
            return f"entry {number} is {one}, not {other}"
    return f"{len(told)} entries, not {len(expected)}"


# --- what the patch makes


def tree_of(world, patch):
    """The tree that the patch makes of the base; None when it does not apply."""
    clone = world.lab.folder / "clones" / secrets.token_hex(4)
    git(world.lab.folder, "clone", "-q", str(world.repository), str(clone))
    try:
        git(clone, "apply", "--index", "--whitespace=nowarn", "--allow-empty", "-", stdin=(patch or "").encode())
    except subprocess.CalledProcessError:
        return None
    return git(clone, "write-tree")


def expected_tree(world):
    """The tree of the base with the files that the scenario wants."""
    clone = world.lab.folder / "clones" / secrets.token_hex(4)
    git(world.lab.folder, "clone", "-q", str(world.repository), str(clone))
    for path, text in world.scenario.becomes.items():
        (clone / path).parent.mkdir(exist_ok=True)
        (clone / path).unlink(missing_ok=True)
        if text is not None:
            (clone / path).write_bytes(text if isinstance(text, bytes) else text.encode())
    git(clone, "add", "-A")
    return git(clone, "write-tree")
