"""The executor killed before and after every single call it makes: the run ends once all the same, as without it.

Each story is told once to count the calls; then once more for each call and side, with the process dying there. What
follows is what AWS does: the message comes again after its visibility timeout, the reaper each minute, the dead-letter
queue in the end.

Most stories are told of a team without egress injection; those named "... by egress" of one that has it.
"""

import base64
import re
from datetime import timedelta
from functools import cache
from random import Random
from typing import NamedTuple

import pytest

from functions.executor.reaper import reap
from functions.executor.step import logger
from sandbox.programs.protocol import SetupScript
from shared.domain.errors import Unavailable
from shared.domain.run import Phase
from tests.fakes.executor import (
    ANTHROPIC_KEY,
    CLAUDE_INIT,
    GIT_TOKEN,
    Script,
    World,
    changed_file,
    claude_result,
    claude_says,
    clone_failed,
    cloned,
    collected,
    collects,
    json_lines,
    make_ports,
    prints,
)
from tests.fakes.run_store import ALIVE

SIDES = ("before", "after")
LAST_EVENTS = {"ended"}


class Killed(BaseException):
    """SIGKILL, as far as a test can have it: nothing in the executor may catch it."""


class Bug(Exception):
    """Something nobody foresaw, in the executor itself."""


# --- the places where it dies


class Tripwire:
    """Counts the calls to the outside world and kills the process before or after one of them."""

    def __init__(self, index=None, side=None):
        self.calls = []
        self.trip = (index, side)

    def watch(self, port, name):
        return Watched(port, name, self)

    def call(self, name, function, *arguments, **options):
        index = len(self.calls)
        self.calls.append(name)
        if self.trip == (index, "before"):
            raise Killed
        answer = function(*arguments, **options)
        if self.trip == (index, "after"):
            raise Killed
        return answer


class Watched:
    """A port whose every call passes the tripwire; what `attach` gives is watched as well."""

    def __init__(self, port, name, tripwire):
        self._port, self._name, self._tripwire = port, name, tripwire

    def __getattr__(self, method):
        def call(*arguments, **options):
            answer = self._tripwire.call(f"{self._name}.{method}", getattr(self._port, method), *arguments, **options)
            return Watched(answer, "workbench", self._tripwire) if method == "attach" else answer

        return call


class WatchedWorld(World):
    """A world whose executor dies once. `forgives` the death: the invocation is lost, nothing else."""

    def __init__(self, tripwire):
        super().__init__(forgives=(Killed, Bug, Unavailable))
        ports = self.ports
        self.ports = type(ports)(
            runs=tripwire.watch(ports.runs, "runs"),
            queue=tripwire.watch(ports.queue, "queue"),
            replays=tripwire.watch(ports.replays, "replays"),
            sandboxes=tripwire.watch(ports.sandboxes, "sandboxes"),
            box=tripwire.watch(ports.box, "box"),
            settings=ports.settings,
            now=ports.now,
        )


# --- the stories


def all_goes_well(world):
    world.start(setup_script="make")
    world.run()


def the_repository_brings_a_setup_of_its_own(world):
    world.scripts["clone"] = cloned(setup=SetupScript(script="make deps"))
    world.scripts["repository_setup"] = Script(ends_at=2, output=((1, b"own\n"),))
    world.start(setup_script="make", env={"REGION": "eu"})
    world.run()


def the_setup_of_the_repository_fails(world):
    world.scripts["clone"] = cloned(setup=SetupScript(script="make deps"))
    world.scripts["repository_setup"] = Script(ends_at=5, exit_code=2, output=((1, b"own\n"),), stderr="no rule")
    world.start(setup_script="make")
    world.run()


def the_clone_is_refused(world):
    world.scripts["clone"] = clone_failed("auth")
    world.start()
    world.run()


def the_agent_fails(world):
    answer = claude_result("Credit balance is too low", is_error=True)
    world.scripts["agent"] = prints(CLAUDE_INIT, answer, at=3, exit_code=1)
    world.start()
    world.run()


def the_agent_is_interrupted(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("I begin."), at=2, ends_at=None, crashes_at=4)
    world.start()
    world.run()


def the_collector_is_interrupted(world):
    world.scripts["collect-2"] = world.scripts["collect"]
    world.scripts["collect"] = Script(ends_at=None, crashes_at=1)
    world.start()
    world.run()


def the_agent_hangs_after_its_last_word(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_result(), at=2, ends_at=None)
    world.start()
    world.run()


def the_agent_works_on_until_the_deadline(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("Still at it."), at=2, ends_at=None)
    world.set(agent_idle_timeout_s=10_000)
    world.start()

    def let_hours_pass():
        if world.run_row["output_offset"]:
            world.clock.now = max(world.clock.now, world.run_row["deadline_at"] - timedelta(seconds=10))

    world.run(after_each=let_hours_pass)


def the_agent_works_on_until_the_steps_are_used_up(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("Still at it."), at=2, ends_at=None)
    world.set(max_steps=6)
    world.start()
    world.run()


def the_user_cancels_while_the_agent_works(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("I begin."), at=2, ends_at=None)
    world.start()

    def cancel():
        if world.run_row["output_offset"] and world.run_row["cancel_requested_at"] is None:
            world.database.request_cancel(world.task["id"])

    world.run(after_each=cancel)


def the_user_cancels_before_there_is_a_sandbox(world):
    world.start()
    world.database.request_cancel(world.task["id"])
    world.run()


def the_sandbox_is_lost(world):
    world.start()

    def lose():
        if world.run_row["phase"] is Phase.AGENT:
            world.sandboxes.boxes.clear()

    world.run(after_each=lose)


def the_agent_works_long_enough_for_checkpoints(world):
    said = tuple((at, json_lines(claude_says(f"Second {at}"))) for at in range(0, 60, 10))
    world.scripts["agent"] = Script(output=(*said, (60, json_lines(claude_result()))), ends_at=60)
    world.set(checkpoint_every_s=15)
    world.start()
    world.run()


def the_sandbox_is_lost_after_a_checkpoint(world):
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("Still at it."), at=2, ends_at=None)
    world.set(checkpoint_every_s=15)
    world.start()

    def lose():
        if world.run_row["checkpoint"].get("tree"):
            world.sandboxes.boxes.clear()

    world.run(after_each=lose)


def a_run_that_was_given_up_is_replayed(world):
    well, broken = world.box.open, []

    def broken_at_first(*arguments):
        if len(world.database.runs) == 1:
            broken.append(True)
            raise Bug
        return well(*arguments)

    def mend():
        if world.run_row["status"] not in ALIVE:
            world.replay()

    world.box.open = broken_at_first
    world.start()
    world.run(after_each=mend)


def the_sandbox_does_not_answer_for_a_while(world):
    world.start()
    silent = []

    def fall_silent():
        if world.run_row["phase"] is Phase.AGENT and len(silent) < 3:
            silent.append(True)
            world.sandboxes.down = Unavailable("The sandbox is not responding.")
        else:
            world.sandboxes.down = None

    world.run(after_each=fall_silent)


def every_step_fails_until_the_message_is_dead(world):
    def broken(*_):
        raise Bug

    world.box.open = broken
    world.start()
    world.run()


def follow_up_once(world):
    """For `after_each`: asks for more as soon as the first run has ended."""

    def ask():
        if len(world.database.runs) == 1 and world.run_row["status"] not in ALIVE:
            world.follow_up()

    return ask


def a_follow_up_goes_on_in_the_same_sandbox(world):
    world.start()
    world.run(after_each=follow_up_once(world))


def a_follow_up_finds_its_sandbox_gone(world):
    world.start()
    ask = follow_up_once(world)

    def ask_when_it_is_gone():
        ask()
        if len(world.database.runs) == 2 and not lost:
            lost.append(world.sandboxes.boxes.clear())

    lost = []
    world.run(after_each=ask_when_it_is_gone)


def a_follow_up_is_cancelled_while_the_agent_works(world):
    world.start()
    ask = follow_up_once(world)

    def ask_and_cancel():
        ask()
        if len(world.database.runs) == 2 and world.run_row["phase"] is Phase.AGENT:
            world.database.request_cancel(world.task["id"])

    world.run(after_each=ask_and_cancel)


def a_retry_takes_a_fresh_sandbox(world):
    world.start()

    def ask():
        if len(world.database.runs) == 1 and world.run_row["status"] not in ALIVE:
            world.retry()

    world.run(after_each=ask)


STORIES = {
    story.__name__: story
    for story in (
        a_follow_up_goes_on_in_the_same_sandbox,
        a_follow_up_finds_its_sandbox_gone,
        a_follow_up_is_cancelled_while_the_agent_works,
        a_retry_takes_a_fresh_sandbox,
        all_goes_well,
        the_repository_brings_a_setup_of_its_own,
        the_setup_of_the_repository_fails,
        the_clone_is_refused,
        the_agent_fails,
        the_agent_is_interrupted,
        the_collector_is_interrupted,
        the_agent_hangs_after_its_last_word,
        the_agent_works_on_until_the_deadline,
        the_agent_works_on_until_the_steps_are_used_up,
        the_user_cancels_while_the_agent_works,
        the_user_cancels_before_there_is_a_sandbox,
        the_sandbox_is_lost,
        the_agent_works_long_enough_for_checkpoints,
        the_sandbox_is_lost_after_a_checkpoint,
        a_run_that_was_given_up_is_replayed,
        the_sandbox_does_not_answer_for_a_while,
        every_step_fails_until_the_message_is_dead,
    )
}


BY_EGRESS, WITHOUT_RULES = " by egress", " without rules"
TEAMS = {BY_EGRESS: {"secrets", "rules"}, WITHOUT_RULES: {"secrets"}}
# Those in which a secret is given and taken back in a way of their own
ABOUT_SECRETS = (
    "all_goes_well",
    "the_clone_is_refused",
    "the_user_cancels_while_the_agent_works",
    "the_sandbox_is_lost",
    "a_follow_up_goes_on_in_the_same_sandbox",
)
TOLD = [*STORIES, *(f"{story}{BY_EGRESS}" for story in ABOUT_SECRETS), f"all_goes_well{WITHOUT_RULES}"]


def tell(story, tripwire):
    """The world at the story's end."""
    story, _, team = story.partition(" ")
    world = WatchedWorld(tripwire)
    world.sandboxes.team_has = TEAMS.get(f" {team}", set())
    world.scripts["agent"] = prints(CLAUDE_INIT, claude_says("I will look."), claude_result(), at=5)
    world.scripts["collect"] = collects(collected(changed_file("new.txt"), changed_file("src/other.txt")))
    level = logger.log_level
    logger.setLevel("CRITICAL")
    try:
        STORIES[story](world)
    finally:
        logger.setLevel(level)
    return world


# --- what must be the same


class Ending(NamedTuple):
    status: str
    task: dict
    run: dict
    files: list
    events: list


def ending_of(world):
    times = {"started_at", "completed_at", "id", "user_id", "chat_messages"}
    task = {name: value for name, value in world.task.items() if name not in times}
    task["chat"] = [(message["role"], message["content"]) for message in world.task["chat_messages"]]
    task["error"] = without_times(task["error"])
    if task["execution_metadata"].get("checkpoint_at"):
        task["execution_metadata"] |= {"checkpoint_at": "some time"}
    kept = ("status", "phase", "error_code", "exit_code", "usage", "agent_session_id", "base_commit", "output_offset")
    return Ending(
        status=task["status"],
        task=task,
        run={name: world.run_row[name] for name in kept},
        files=[(file["path"], file["status"], file["after"]) for file in world.database.files],
        events=told(world),
    )


def told(world):
    """The live log; a script's output may come in other pieces, a checkpoint and a deadline some seconds later."""
    log = []
    for event in world.events:
        if event["kind"] == "changes":
            continue
        payload = {name: without_times(value) for name, value in event["payload"].items()}
        if log and event["kind"] == log[-1][0] == "setup_output":
            log[-1] = ("setup_output", {"text": log[-1][1]["text"] + payload["text"]})
        else:
            log.append((event["kind"], payload))
    return log


def without_times(value):
    return re.sub(r"\d+ seconds|\d\d:\d\d UTC", "some time", value) if isinstance(value, str) else value


@cache
def undisturbed(story):
    """The calls of a story in which nobody dies, and how it ends."""
    tripwire = Tripwire()
    world = tell(story, tripwire)
    return tripwire.calls, ending_of(world), len(world.sandboxes.created)


EXPECTED = {
    "a_follow_up_goes_on_in_the_same_sandbox": ("completed", None, 1),
    "a_follow_up_finds_its_sandbox_gone": ("completed", None, 2),
    "a_follow_up_is_cancelled_while_the_agent_works": ("cancelled", "cancelled", 1),
    "a_retry_takes_a_fresh_sandbox": ("completed", None, 2),
    "all_goes_well": ("completed", None, 1),
    "the_repository_brings_a_setup_of_its_own": ("completed", None, 1),
    "the_setup_of_the_repository_fails": ("failed", "setup_failed", 1),
    "the_clone_is_refused": ("failed", "git_auth", 1),
    "the_agent_fails": ("failed", "agent_credit", 1),
    "the_agent_is_interrupted": ("failed", "agent_interrupted", 1),
    "the_collector_is_interrupted": ("completed", None, 1),
    "the_agent_hangs_after_its_last_word": ("completed", None, 1),
    "the_agent_works_on_until_the_deadline": ("failed", "timeout", 1),
    "the_agent_works_on_until_the_steps_are_used_up": ("failed", "too_many_steps", 1),
    "the_user_cancels_while_the_agent_works": ("cancelled", "cancelled", 1),
    "the_user_cancels_before_there_is_a_sandbox": ("cancelled", "cancelled", 0),
    "the_sandbox_is_lost": ("failed", "sandbox_lost", 1),
    "the_agent_works_long_enough_for_checkpoints": ("completed", None, 1),
    "the_sandbox_is_lost_after_a_checkpoint": ("failed", "sandbox_lost", 1),
    "a_run_that_was_given_up_is_replayed": ("completed", None, 2),
    "the_sandbox_does_not_answer_for_a_while": ("completed", None, 1),
    "every_step_fails_until_the_message_is_dead": ("failed", "internal", 1),
}


@pytest.mark.parametrize("story", TOLD)
def test_the_undisturbed_story_ends_as_it_should(story):
    _, ending, sandboxes = undisturbed(story)

    assert (ending.status, ending.run["error_code"], sandboxes) == EXPECTED[story.partition(" ")[0]]


def every_death():
    for story in TOLD:
        for index, call in enumerate(undisturbed(story)[0]):
            for side in SIDES:
                yield pytest.param(story, index, side, id=f"{story}-{index}-{side}-{call}")


@pytest.mark.parametrize(("story", "index", "side"), list(every_death()))
def test_a_death_anywhere_changes_neither_the_end_nor_leaves_anything_behind(story, index, side):
    _, ending, sandboxes = undisturbed(story)

    world = tell(story, Tripwire(index, side))

    assert ending_of(world) == ending
    assert len(world.sandboxes.created) == sandboxes
    assert world.sandboxes.boxes == {}
    assert [event["seq"] for event in world.events] == list(range(1, len(world.events) + 1))
    assert sum(kind in LAST_EVENTS for kind in world.kinds()) == len(world.database.runs)
    world.clock.pass_(2 * 24 * 3600 + 1)  # what a replay would need is kept so long
    assert reap(make_ports(world))["end_stuck_tasks"] == 0
    assert world.database.credentials == {}
    check_secrets(world, by_egress=story.endswith(BY_EGRESS))


LITERALS = [
    text.encode()
    for text in (GIT_TOKEN, base64.b64encode(f"x-access-token:{GIT_TOKEN}".encode()).decode(), ANTHROPIC_KEY)
]


def check_secrets(world, *, by_egress):
    """None is left at E2B; each was in use for its own job only, and by egress none ever came into a sandbox."""
    assert world.sandboxes.secrets == {}
    for box in world.sandboxes.ever:
        started = ((job, network) for job, network in box.started if "checkpoint" not in job)  # made beside the agent
        live = {job: [rule.secret.rpartition("-")[2] for rule in network.rules] for job, network in started}
        assert all(live[job] == [] for job in live.keys() - {"clone", "agent"})
        if by_egress:
            assert live.get("agent", ["model"]) == ["model"]
            assert live.get("clone") in (["git"], [], None)  # a follow-up or a retry has no token in these stories
            assert not any(literal in data for literal in LITERALS for _, data in box.uploads)


class Storm(Tripwire):
    """Kills the process at three calls in a hundred."""

    def __init__(self, seed):
        super().__init__()
        self._dice = Random(seed)

    def call(self, name, function, *arguments, **options):
        self.trip = (len(self.calls), self._dice.choice(SIDES)) if self._dice.random() < 0.03 else (None, None)
        return super().call(name, function, *arguments, **options)


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("team", ["", BY_EGRESS, WITHOUT_RULES])
@pytest.mark.parametrize("story", ["all_goes_well", "the_user_cancels_while_the_agent_works"])
def test_in_a_storm_of_deaths_a_run_still_ends_once_with_one_sandbox_and_none_left(story, team, seed):
    world = tell(f"{story}{team}", Storm(seed))

    assert world.task["status"] in {"completed", "failed", "cancelled"}
    assert len(world.sandboxes.created) == 1
    assert world.sandboxes.boxes == {}
    assert [event["seq"] for event in world.events] == list(range(1, len(world.events) + 1))
    assert sum(kind in LAST_EVENTS for kind in world.kinds()) == 1
    check_secrets(world, by_egress=team == BY_EGRESS)
