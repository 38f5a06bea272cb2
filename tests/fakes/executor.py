"""The executor's whole surroundings in memory: rows, queue, sandboxes, a clock, and what SQS and the schedule do."""

import hashlib
import heapq
import itertools
import json
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from functions.executor.dead_letters import give_up
from functions.executor.ports import Ports
from functions.executor.reaper import reap
from functions.executor.step import on_message
from sandbox.programs.protocol import CloneReport, CollectReport, Failure, WipeReport, to_json
from shared.adapters.local_box import LocalBox
from shared.config import ExecutorSettings
from shared.domain.agents import PROFILES, AgentName
from shared.domain.binary_patch import blob_id
from shared.domain.errors import Unavailable
from shared.domain.messages import RunMessage
from shared.domain.ports import Row, StartedRun
from shared.domain.run import Phase
from shared.domain.secret import SealedFor, Secret
from tests.fakes.clock import FakeClock
from tests.fakes.new_task import new_task
from tests.fakes.run_queue import FakeRunQueue
from tests.fakes.run_store import ALIVE, FakeRunDatabase
from tests.fakes.sandboxes import FakeSandboxes, Script

GIT_TOKEN = "ghp_" + "GitTokenOfTheUser" * 2
ANTHROPIC_KEY = "sk-ant-" + "key-of-the-deployment"
OPENAI_KEY = "a-gateways-key-has-no-known-shape"
E2B_KEY = "e2b_" + "0123456789abcdef" * 2
BASE_COMMIT = "b" * 40
SESSION = "519dc8ef-9fd2-4fb1-83ec-4923649de7c0"

VISIBILITY_S = 720  # of the task queue in template.yaml
MAX_RECEIVES = 5
REAPER_EVERY_S = 60

SETTINGS = ExecutorSettings.from_env(
    {
        "ENVIRONMENT": "test",
        "SUPABASE_URL": "https://project.supabase.co",
        "SUPABASE_SECRET_KEY": "sb_secret_0123456789",
        "TASK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/tasks",
        "SECRETS_MASTER_KEYS": "v1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        "E2B_API_KEY": E2B_KEY,
        **{profile.key_variable: f"key-of-the-deployment-for-{name}" for name, profile in PROFILES.items()},
        "ANTHROPIC_API_KEY": ANTHROPIC_KEY,
        "OPENAI_API_KEY": OPENAI_KEY,
        "CLAUDE_MODEL": "claude-opus-5-5",
        "CODEX_MODEL": "gpt-6.1-sol",
        "FOLLOW_UP_WINDOW_S": "600",  # a story lasts until nobody needs its sandboxes
        "REPLAY_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/123456789012/replay",
    }
)


def json_lines(*objects: dict) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in objects)


CLAUDE_INIT = {"type": "system", "subtype": "init", "session_id": SESSION, "model": "claude-opus-5-5"}


def claude_says(text: str) -> dict:
    return {"type": "assistant", "message": {"content": [{"type": "text", "text": text}]}, "session_id": SESSION}


def claude_result(text: str = "All done.", **changes) -> dict:
    usage = {"input_tokens": 30, "output_tokens": 12, "cache_read_input_tokens": 8, "cache_creation_input_tokens": 2}
    facts = {"subtype": "success", "is_error": False, "num_turns": 3, "duration_ms": 900, "total_cost_usd": 0.25}
    return {"type": "result", "result": text, "session_id": SESSION, "usage": usage, **facts} | changes


def changed_file(path: str, **changes) -> Row:
    """A file as collect.py lists it: by default a new one."""
    file = {"path": path, "previous_path": None, "status": "added", "mode": "100644", "previous_mode": None}
    return file | {"before": None, "after": "new\n", "encoding": "utf-8", "size": 4, "truncated": False} | changes


def collected(*files: Row, **changes) -> dict:
    """A result as collect.py writes it."""
    result = {
        "base_commit": BASE_COMMIT,
        "commit": "c" * 40 if files else None,
        "tree": "d" * 40,
        "base_tree": "e" * 40,
        "diff": "".join(f"diff --git a/{file['path']} b/{file['path']}\n" for file in files),
        "diff_truncated": False,
        "patch": "".join(f"patch of {file['path']}\n" for file in files),
        "patch_truncated": False,
        "changed_files": [file["path"] for file in files],
        "files": list(files),
        "contents": [],
        "possible_secrets": [],
        "additions": len(files),
        "deletions": 0,
        "warnings": [],
        "files_changed": len(files),
    }
    return result | changes


def reports(report: object, writes: Mapping[str, bytes] | None = None) -> Script:
    """A program of ours that reports after a second."""
    return Script(ends_at=1, output=((1, to_json(report).encode() + b"\n"),), writes=writes or {})


def cloned(**changes) -> Script:
    place = {"branch": "main", "work_tree": "/home/agent/repo"}
    return reports(CloneReport(**{"base_commit": BASE_COMMIT, "bytes": 1000, "took_s": 1.0} | place | changes))


def clone_failed(error: str, message: str = "git said no") -> Script:
    return reports(Failure(error, message))


def collects(result: dict, *packs: list[bytes], into: str = "result.json") -> Script:
    """`packs` are contents that lie apart, by the file that they come in."""
    listed = [[{"id": blob_id(data), "size": len(data)} for data in pack] for pack in packs]
    raw = json.dumps(result | {"contents": listed}, ensure_ascii=False).encode()
    digest = hashlib.sha256(raw).hexdigest()
    report = CollectReport(bytes=len(raw), sha256=digest, files=result["files_changed"], tree=result["tree"])
    written = {f"contents/{number}": b"".join(pack) for number, pack in enumerate(packs)}
    return reports(report, writes={into: raw, **written})


def wipes_secrets() -> Script:
    return reports(WipeReport(changed=0))


def prints(*objects: dict, at: float = 5, **changes) -> Script:
    """A job that prints JSON lines, one every second up to its end at `at` seconds."""
    first = at - len(objects) + 1
    output = tuple((first + n, json_lines(each)) for n, each in enumerate(objects))
    return replace(Script(output=output, ends_at=at), **changes)


def good_scripts() -> dict[str, Script]:
    """All goes well, and one file is new."""
    return {
        "clone": cloned(),
        "setup": Script(ends_at=2, output=((1, b"installing\n"), (2, b"installed\n"))),
        "agent": prints(CLAUDE_INIT, claude_says("I will look."), claude_result(), at=40),
        "wipe_secrets": wipes_secrets(),
        "collect": collects(collected(changed_file("new.txt"))),
        "checkpoint": collects(collected(changed_file("half.txt"), tree="9" * 40), into="checkpoint.json"),
    }


def make_ports(world: "World", **settings) -> Ports:
    """The ports of a world; `settings` replace some of its settings."""
    return Ports(
        runs=world.store,
        queue=world.queue,
        replays=world.replays,
        sandboxes=world.sandboxes,
        box=world.box,
        settings=replace(SETTINGS, **settings),
        now=world.clock,
    )


@dataclass
class World:
    """A task queue with its redelivery and dead letters, a schedule, and the executor between them.

    `deliver` brings one message. `run` lets time pass: messages when they are due, the reaper each minute.
    """

    clock: FakeClock = field(default_factory=FakeClock)
    scripts: dict[str, Script] = field(default_factory=good_scripts)
    waiting: list = field(default_factory=list)  # heap of (due, order, message, times received)
    order: itertools.count = field(default_factory=itertools.count)
    forgives: tuple[type[BaseException], ...] = (Unavailable,)  # what an invocation may raise; else the test fails
    patience: int = 2000  # deliveries and reaper runs of one story; one of some minutes needs far fewer

    def __post_init__(self) -> None:
        self.database = FakeRunDatabase(self.clock)
        self.queue = FakeRunQueue()
        self.replays = FakeRunQueue()
        self.sandboxes = FakeSandboxes(self.clock, self.scripts, lease_s=SETTINGS.sandbox_lease_s)
        self.box = LocalBox.from_ring(SETTINGS.secrets_master_keys)
        self.store = self.database.store(lease_s=SETTINGS.step_lease_s, run_timeout_s=SETTINGS.run_timeout_s)
        self.ports = make_ports(self)

    # --- arranging

    def start(
        self,
        *,
        token: str | None = GIT_TOKEN,
        user_id: str | None = None,
        setup_script=None,
        env=None,
        network=None,
        **changes,
    ):
        """A task whose first message is in the queue; the message."""
        user_id, credential_id = user_id or str(uuid.uuid4()), str(uuid.uuid4())
        sealed = token and self.box.seal(Secret(token), SealedFor(user_id=user_id, kind="git_token", id=credential_id))
        task = new_task(credential_id=credential_id, credential=sealed, credential_hint=None, **changes)
        started = self.database.create_task(
            user_id, task, setup_script=setup_script, project_env=env, project_network=network
        )
        message = RunMessage(task_id=started.task_id, run_id=started.run_id, seq=0, user_id=user_id, trace_id="trace-1")
        self.queue.send(message)
        return message

    def follow_up(self, prompt: str = "and now this") -> RunMessage:
        """Another prompt for the last run's task; the message."""
        return self._send(self.database.follow_up(self.run_row["task_id"], prompt))

    def retry(self) -> RunMessage:
        """The last run's task again; the message."""
        return self._send(self.database.retry(self.run_row["task_id"]))

    def replay(self) -> None:
        """What `make replay` does: the messages that were put aside go back to the task queue."""
        for message, _ in self.replays.sent:
            self.queue.send(message)
        self.replays.sent.clear()

    def _send(self, started: StartedRun) -> RunMessage:
        user_id = self.database.runs[started.run_id]["user_id"]
        message = RunMessage(task_id=started.task_id, run_id=started.run_id, seq=0, user_id=user_id)
        self.queue.send(message)
        return message

    def set(self, **settings) -> None:
        self.ports = replace(self.ports, settings=replace(self.ports.settings, **settings))

    def set_model(self, agent: AgentName, **changes) -> None:
        """Change the deployment's access to an agent's model."""
        models = self.ports.settings.models
        self.set(models={**models, agent: replace(models[agent], **changes)})

    # --- acting

    def deliver(self) -> RunMessage:
        """The next message, whenever it is due. What the executor raises, this raises."""
        self._take_sent()
        due, _, message, _ = heapq.heappop(self.waiting)
        self.clock.now = max(self.clock.now, due)
        on_message(message, self.ports)
        self._take_sent()
        return message

    def until(self, phase: Phase) -> Row:
        """Deliver messages until the run is in this phase; its row."""
        while self.run_row["phase"] is not phase:
            self.deliver()
        return self.run_row

    def run_to_end(self) -> None:
        """Deliver messages until the last run has ended, and no longer: its sandbox may be there still."""
        while self._alive():
            self.deliver()

    def run(self, *, after_each: Callable[[], None] = lambda: None) -> None:
        """Live until nothing is left to do. An invocation that raises has its message delivered again."""
        reaper_at = self.clock.now
        for _ in range(self.patience):
            self._take_sent()
            if not (self.waiting or self._alive() or self.sandboxes.boxes or self.sandboxes.secrets):
                return
            reaper_at = max(reaper_at, self.clock.now)
            if self.waiting and self.waiting[0][0] <= reaper_at:
                self._receive()
            else:
                self.clock.now = reaper_at
                self._survive(reap, self.ports)
                reaper_at = self.clock.later(REAPER_EVERY_S)
            after_each()
        raise AssertionError("The story does not end.")

    # --- looking

    @property
    def run_row(self) -> Row:
        return list(self.database.runs.values())[-1]

    @property
    def task(self) -> Row:
        return self.database.tasks[self.run_row["task_id"]]

    @property
    def events(self) -> list[Row]:
        return self.database.events_of(self.run_row["task_id"])

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    def payloads(self, kind: str) -> list[Row]:
        return [event["payload"] for event in self.events if event["kind"] == kind]

    # --- how SQS and the schedule behave

    def _take_sent(self) -> None:
        for message, delay_s in self.queue.sent:
            self._put(message, delay_s, 0)
        self.queue.sent.clear()

    def _put(self, message: RunMessage, delay_s: float, received: int) -> None:
        due = self.clock.later(delay_s)
        heapq.heappush(self.waiting, (due, next(self.order), message, received))

    def _receive(self) -> None:
        due, _, message, received = heapq.heappop(self.waiting)
        self.clock.now = max(self.clock.now, due)
        if received >= MAX_RECEIVES:
            done = self._survive(give_up, message, self.ports)
        else:
            done = self._survive(on_message, message, self.ports)
        if not done:
            self._put(message, VISIBILITY_S, received + 1)

    def _survive(self, act: Callable, *arguments) -> bool:
        try:
            act(*arguments)
        except self.forgives:
            return False
        return True

    def _alive(self) -> bool:
        return self.database.active(ALIVE) > 0
