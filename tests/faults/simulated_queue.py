"""One task from its creation until nothing is left to do, in a world that plays SQS and the schedule.

Time is the world's own: where all would wait, it passes at once, by moving every moment in the rows and every lease of
a sandbox back (`Lab.pass_time`). Real time is spent only on real work: the agent's, the clone's, the collector's.
"""

import heapq
import itertools
import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from functions.executor.dead_letters import give_up
from functions.executor.reaper import reap
from functions.executor.step import logger, on_message
from shared.adapters.local_box import LocalBox
from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.domain.agents import AgentName
from shared.domain.messages import RunMessage
from shared.domain.run import Phase
from shared.domain.secret import SealedFor, Secret
from tests.fakes.new_task import new_task
from tests.faults.faults import Died, NoFault, Tripwire
from tests.faults.stack import STAND_IN
from tests.integration.conftest import Gateway
from tests.integration.run_databases import RealDatabase

VISIBILITY_S = 720  # of the task queue in template.yaml
MAX_RECEIVES = 5
REAPER_EVERY_S = 60
CREDENTIAL_LIFE_S = 2 * 24 * 3600
MOST_ASLEEP = 8
PATIENCE = 3000  # deliveries and turns of the reaper in one story
AGENT_PATIENCE_S = 200  # real ones, for a program that works
GIT_TOKEN = "ghp_" + "TokenOfTheUserOfARun" * 2
PROMPT = """\
@say I begin.
@write src/new.txt: new
@say Going on.
@append README.md: two
@delete old.txt
@say All done."""
ENDED = {"completed", "failed", "cancelled"}


@dataclass(frozen=True)
class Scenario:
    """What is asked of the agent, and what must come of it: files (None: deleted) and the last word."""

    agent: str
    prompt: str = PROMPT
    base: Mapping = field(default_factory=lambda: {"README.md": "one\n", "old.txt": "bye\n"})
    becomes: Mapping = field(
        default_factory=lambda: {"README.md": "one\ntwo\n", "old.txt": None, "src/new.txt": "new\n"}
    )
    says: str = "All done."

    @property
    def key(self):
        return self.agent, self.prompt, self.base.get(STAND_IN)


class World:
    """`plan` says which calls of the executor meet a fault (see faults.py).

    `delay` makes a message's delay another one; each message comes `copies` times, to that many `executors` at once.
    """

    def __init__(self, lab, scenario, plan=None, *, delay=lambda delay_s: delay_s, copies=1, executors=1):
        lab.forget_everything()
        lab.queue.sent = self._on_sent
        self.lab, self.scenario = lab, scenario
        self.tripwire = Tripwire(self, plan or NoFault())
        self.passed = timedelta()
        self.raised = []  # what invocations ended with
        self.given_up = 0  # messages that became dead letters
        self._delay, self._copies, self._executors = delay, copies, executors
        self._waiting, self._order, self._lock = [], itertools.count(), threading.Lock()
        self._reaper_at = self.now
        self._sent = []
        self._cut_off = {}  # service -> until when
        self._asleep = 0  # executors that stand still now
        self._looks = 0  # good steps of the agent phase so far
        self._step_seen = None
        self._ports = [self.tripwire.watch(lab.executor(disturbed=plan is not None)) for _ in range(executors)]
        self.repository, url = lab.repository(scenario.base)
        self._start(url)

    def _start(self, url):
        """What POST /start-task does."""
        database = RealDatabase(_gateway_of(self.lab))
        self.user_id = database.new_user()
        task = new_task(prompt=self.scenario.prompt, repo_url=url, agent=AgentName(self.scenario.agent))
        owner = SealedFor(user_id=self.user_id, kind="git_token", id=task.credential_id)
        sealed = LocalBox.from_ring(Secret(self.lab.keys.secrets_master_keys)).seal(Secret(GIT_TOKEN), owner)
        store = SupabaseTaskStore(database.client_of(self.user_id))
        started = store.create(replace(task, credential=sealed))
        self.task_id, self.run_id = started.task_id, started.run_id
        self._on_sent("tasks", RunMessage(task_id=self.task_id, run_id=self.run_id, seq=0, user_id=self.user_id), 0)

    # --- looking

    @property
    def now(self):
        return datetime.now(UTC) + self.passed

    @property
    def run(self):
        return self.lab.row("runs", "id", self.run_id)

    @property
    def task(self):
        return self.lab.row("tasks", "id", self.task_id)

    def events(self):
        rows = self.lab.sql("select seq, kind, payload from task_events where task_id = %s order by seq", self.task_id)
        return [dict(zip(("seq", "kind", "payload"), row, strict=True)) for row in rows]

    def saved_work(self):
        """Whether changes were saved before the run's end, while the agent was at work."""
        return bool((self.run.get("checkpoint") or {}).get("files"))

    # --- acting

    def live(self):
        """Until the run has ended, every message has been read, and the reaper finds nothing more to do. Itself."""
        level = logger.log_level
        logger.setLevel("CRITICAL")
        try:
            for _ in range(PATIENCE):
                if self._over():
                    return self
                self._next()
        finally:
            logger.setLevel(level)
        raise AssertionError(f"The story does not end. {self.told_so_far()}")

    def let_others_work(self, seconds):
        """So much time passes, and whatever falls due by then is done by other executors, who meet faults as well.

        Of many that stand still at once, the last ones' time passes without anybody else: each is one call inside
        another here.
        """
        until = self.now + timedelta(seconds=seconds)
        self._asleep += 1
        try:
            while self._asleep <= MOST_ASLEEP and self._next_due() <= until:
                self._next()
            self._pass_until(until)
        finally:
            self._asleep -= 1

    def cut_off(self, service, seconds):
        """The service is down for so long."""
        self._cut_off[service] = self.now + timedelta(seconds=seconds)
        self._see_to_outages()

    def lose_messages(self):
        """All that are on their way now."""
        self._waiting.clear()

    def replay(self):
        """Every message that was ever sent comes again, the last one first."""
        for message in reversed(self._sent):
            self._put(message, 0, 0)
        self.live()

    def told_so_far(self):
        """What has happened, for whoever has to find out why."""
        faults = (f"{fault} at {place.call} ({place.stage}, {place.nth})" for place, fault in self.tripwire.injected)
        run, told = self.run, ("status", "phase", "seq", "attempt", "error_code", "error", "sandbox_id")
        now = {name: run[name] for name in told}
        return f"Injected: {'; '.join(faults) or 'nothing'}. Raised last: {self.raised[-3:]}. Run: {now}"

    # --- how SQS, the schedule and time behave

    def _over(self):
        ended = self.run["status"] in ENDED and not self._waiting and not self.lab.boxes()
        if ended and self.lab.sql("select 1 from user_credentials") and self.run["error_code"] == "internal":
            self._pass_until(self.now + timedelta(seconds=CREDENTIAL_LIFE_S))  # it was kept, to do the run again
            self._reap()
        return ended

    def _next_due(self):
        return min(self._reaper_at, self._waiting[0][0]) if self._waiting else self._reaper_at

    def _next(self):
        """The next message, or the reaper's turn: whatever is due first, when it is due."""
        due = self._next_due()
        self._pass_until(due)
        if due == self._reaper_at:
            self._reap()
        else:
            self._receive()

    def _pass_until(self, moment):
        """Time only moves on: what is overdue is done now."""
        left = moment - self.now
        if left > timedelta():
            self.lab.pass_time(left.total_seconds())
            self.passed += left
        self._see_to_outages()

    def _see_to_outages(self):
        down = {service for service, until in self._cut_off.items() if until > self.now}
        self.lab.weather.down.clear()
        self.lab.weather.down.update(down)

    def _on_sent(self, queue, message, delay_s):
        if queue == "tasks":
            self._sent.append(message)
            for _ in range(self._copies):
                self._put(message, self._delay(delay_s), 0)

    def _put(self, message, delay_s, received):
        with self._lock:
            due = self.now + timedelta(seconds=delay_s)
            heapq.heappush(self._waiting, (due, next(self._order), message, received))

    def _receive(self):
        with self._lock:
            _, _, message, received = heapq.heappop(self._waiting)
        if received >= MAX_RECEIVES:
            self.given_up += 1
            done = self._invoke("dead letter", give_up, message)
        else:
            self._settle()
            done = self._invoke(self._stage(), on_message, message)
            self._note_progress()
        if not done:
            self._put(message, VISIBILITY_S, received + 1)

    def _reap(self):
        self._reaper_at = self.now + timedelta(seconds=REAPER_EVERY_S)
        self._invoke("reaper", lambda _, ports: reap(ports), None)

    def _invoke(self, stage, act, message):
        """One invocation, by every executor at the same time. Whether the last of them came to its end."""
        if self._executors == 1 or threading.current_thread() is not threading.main_thread():
            return self._survives(stage, act, message, self._ports[0])
        done = []
        threads = [
            threading.Thread(target=lambda ports=ports: done.append(self._survives(stage, act, message, ports)))
            for ports in self._ports
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return all(done) and len(done) == len(threads)

    def _survives(self, stage, act, message, ports):
        """Whether it came to its end. What it raises is remembered, and is SQS's business."""
        try:
            with self.tripwire.invocation(stage):
                act(message, ports)
        except (Died, Exception) as end:  # noqa: BLE001  (promises.py judges them)
            self.raised.append(end)
            return False
        return True

    # --- the agent, at the pace of the looks

    def _stage(self):
        """What the next step finds: its phase, and how far the agent is by then."""
        phase = self.run["phase"]
        return f"{phase} {min(self._looks, LAST_LOOK)}" if phase == Phase.AGENT else phase

    def _settle(self):
        """Let real work come as far as the next step shall find it: the same place each time."""
        if self.run["phase"] != Phase.AGENT or not self._looks:
            self.lab.gate.allowed = 0
        elif self._looks < LAST_LOOK:
            self.lab.gate.allowed = 1  # the first of its files is written, and it waits for what to do next
            self._wait(lambda gone: gone or self.lab.gate.asked > 1)
            self._pass_until(self.now + timedelta(seconds=LOOK_EVERY_S))
        else:
            self.lab.gate.allowed = math.inf
            self._wait(lambda gone: gone)

    def _wait(self, condition):
        """Until it holds; its argument says that the agent, or its sandbox, has ended. Other jobs must have, too."""
        give_up_at = time.monotonic() + AGENT_PATIENCE_S
        while True:
            jobs = self.lab.job_folders(self.run_id)
            running = [path.parent.name for path in jobs if not (path / "exit.json").exists()]
            paused = any(box.state == "paused" for box in self.lab.boxes())
            if paused or (condition("agent" not in running) and set(running) <= {"agent"}):
                return
            assert time.monotonic() < give_up_at, f"the agent does not come to its end: {self.told_so_far()}"
            time.sleep(0.01)

    def _note_progress(self):
        """A step that was saved as done has reset the attempts."""
        run = self.run
        if run["phase"] == Phase.AGENT and run["attempt"] == 0 and run["seq"] != self._step_seen:
            self._looks += self._step_seen is not None
            self._step_seen = run["seq"]


# The first starts the agent, the next ones see it at work, the last one finds it at its end: between the first and the
# last, a checkpoint that was begun before anything was changed has been followed by another.
LAST_LOOK = 4
LOOK_EVERY_S = 12  # so that checkpoints are due in between


def _gateway_of(lab):
    keys = lab.keys
    return Gateway(
        url=lab.supabase_url,
        publishable_key=keys.supabase_publishable_key,
        secret_key=keys.supabase_secret_key,
        jwt_secret=keys.jwt_secret,
        dsn=lab.dsn,
    )
