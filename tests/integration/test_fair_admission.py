"""Who gets the next sandbox, on a real PostgreSQL: turns between users, limits with many at once, no asking in vain."""

import queue
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest
from psycopg.rows import dict_row

PATIENCE_S = 120
PLENTY = 1_000_000


class Hall:
    """Runs that wait, and what the executor does for them: claim, finish, wake. Each thread has its own connection."""

    def __init__(self, dsn):
        self._dsn = dsn
        self._own = threading.local()

    def sql(self, statement, *values):
        if not hasattr(self._own, "connection"):
            self._own.connection = psycopg.connect(self._dsn, autocommit=True, row_factory=dict_row)
        cursor = self._own.connection.execute(statement, values)
        return cursor.fetchall() if cursor.description else []

    @contextmanager
    def connected(self):
        try:
            yield
        finally:
            self._own.connection.close()
            del self._own.connection

    def limit(self, *, per_user=PLENTY, in_all=PLENTY, per_second=PLENTY):
        self.sql(
            "update run_limits set running_per_user = %s, running_in_all = %s, started_per_second = %s",
            *(per_user, in_all, per_second),
        )

    def user(self):
        [row] = self.sql(
            "insert into auth.users (id, email) select id, id || '@example.test' from gen_random_uuid() id returning id"
        )
        return row["id"]

    def queue(self, user, runs=1):
        """So many runs of the user, each of a task of its own; their ids, in the order in which they came."""
        rows = self.sql(
            """
            with made as (
                insert into tasks (user_id, repo_url, target_branch, agent)
                select %s, 'https://github.com/o/r', 'main', 'claude' from generate_series(1, %s) returning id, user_id)
            insert into runs (task_id, user_id, prompt, agent, created_at)
            select id, user_id, 'p', 'claude', clock_timestamp() from made returning id, created_at
            """,
            *(user, runs),
        )
        return [row["id"] for row in sorted(rows, key=lambda row: (row["created_at"], row["id"]))]

    def claim(self, run):
        [row] = self.sql("select claim_run(%s, 0, 60, 600) as answer", run)
        return row["answer"]

    def admitted(self, run):
        return self.claim(run)["outcome"] == "claimed"

    def finish(self, run):
        [row] = self.sql("select finish_run(%s, 1, 'completed') as done", run)
        assert row["done"]

    def wake(self):
        return [row["run_id"] for row in self.sql("select * from wake_runs()")]

    def in_status(self, status):
        return {row["id"] for row in self.sql("select id from runs where status = %s::run_status", status)}


@pytest.fixture
def hall(fresh_database):
    hall = Hall(fresh_database())
    with hall.connected():
        yield hall


# --- turns


def test_sandboxes_go_to_whoever_has_fewest_then_to_whoever_waits_longest(hall):
    hall.limit(in_all=1)
    full = hall.queue(hall.user())
    assert hall.admitted(*full)
    many, few = hall.user(), hall.user()
    first, second, third = hall.queue(many, 3)
    later = hall.queue(few)
    for run in (third, *later, second, first):
        assert hall.claim(run) == {"outcome": "waiting"}

    hall.limit(in_all=3)

    assert set(hall.wake()) == {first, *later}
    assert not hall.admitted(second)
    assert hall.admitted(*later)
    assert hall.admitted(first)
    assert hall.wake() == []
    hall.finish(*full)
    assert hall.wake() == [second]


def test_a_run_of_a_user_at_their_limit_keeps_no_place_from_others(hall):
    hall.limit(per_user=1, in_all=2)
    busy = hall.user()
    running, waiting = hall.queue(busy, 2)
    assert hall.admitted(running)
    assert not hall.admitted(waiting)

    assert hall.wake() == []
    assert hall.admitted(*hall.queue(hall.user()))


def test_a_run_that_has_never_asked_keeps_no_place_from_others(hall):
    hall.limit(in_all=1)
    hall.queue(hall.user())  # its message was lost, or never sent

    assert hall.admitted(*hall.queue(hall.user()))


def test_a_run_that_is_woken_is_due_so_that_its_lost_message_is_sent_again(hall):
    hall.limit(in_all=1)
    first, second = hall.queue(hall.user(), 2)
    hall.claim(first), hall.claim(second)
    hall.sql("update runs set lease_until = null, next_check_at = now() where id = %s", first)
    due = "select run_id from due_runs(-1, 10)"  # due within the next second
    assert [row["run_id"] for row in hall.sql(due)] == [first]

    hall.finish(first)
    assert hall.wake() == [second]

    assert [row["run_id"] for row in hall.sql(due)] == [second]


def test_a_sleeping_run_that_is_cancelled_is_woken_though_nothing_is_free(hall):
    hall.limit(in_all=1)
    running, sleeping = hall.queue(hall.user(), 2)
    hall.claim(running), hall.claim(sleeping)
    hall.sql("update runs set cancel_requested_at = now() where id = %s", sleeping)

    assert hall.wake() == [sleeping]
    answer = hall.claim(sleeping)
    assert (answer["outcome"], answer["run"]["status"]) == ("claimed", "queued")


# --- a flood


class Flood:
    """A thousand runs of one user, messages that arrive in any order, sandboxes that end in any order."""

    RUNS, SANDBOXES, GUESTS = 1000, 10, 25

    def __init__(self, hall, seed):
        self._hall = hall
        self._dice = random.Random(seed)
        hall.limit(per_user=self.SANDBOXES, in_all=self.SANDBOXES)
        self.messages = hall.queue(hall.user(), self.RUNS)
        self.running = []
        self.claims = self.woken = self.ended = 0

    def deliver(self):
        """One message, whichever; the run when it was admitted."""
        run = self.messages.pop(self._dice.randrange(len(self.messages)))
        self.claims += 1
        if self._hall.admitted(run):
            self.running.append(run)
            assert len(self.running) <= self.SANDBOXES
            return run
        return None

    def end_one(self):
        """A sandbox ends; the runs that were woken."""
        self._hall.finish(self.running.pop(self._dice.randrange(len(self.running))))
        self.ended += 1
        woken = self._hall.wake()
        self.woken += len(woken)
        self.messages += woken
        return woken

    def live(self):
        if self.messages and (not self.running or self._dice.random() < 0.6):
            self.deliver()
        else:
            self.end_one()

    def guest(self):
        """Another user's single run arrives, and must have its sandbox before one more than the next has ended."""
        [run] = self._hall.queue(self._hall.user())
        self.messages.append(run)
        seen_full = False
        while run not in self.running:
            asked_before = run not in self.messages
            if asked_before and self._dice.random() < 0.5:
                assert not seen_full, "a sandbox ended, and it was not for the guest"
                seen_full = True
                assert run in self.end_one()
            elif self.messages:
                self.deliver()
        assert not self._hall.sql("select 1 from runs where id = %s and status = 'queued'", run)


@pytest.mark.parametrize("seed", range(3))
def test_a_flood_of_one_user_keeps_another_waiting_for_one_sandbox_at_most_and_nobody_asks_in_vain(hall, seed):
    flood = Flood(hall, seed)
    guests = 0
    while flood.messages or flood.running:
        flood.live()
        if guests < flood.GUESTS and flood.ended >= guests * flood.RUNS // flood.GUESTS // 2:
            flood.guest()
            guests += 1

    assert guests == flood.GUESTS
    assert hall.in_status("queued") == set()
    runs = flood.RUNS + guests
    assert len(hall.in_status("completed")) == runs
    # Each asks once by itself, then only when it was woken: once for each sandbox that ended, and once more for each
    # guest that came before it and took what it had been woken for.
    assert flood.claims == runs + flood.woken
    assert flood.woken <= flood.ended + guests


def test_while_nothing_ends_a_thousand_waiting_runs_ask_nothing(hall):
    flood = Flood(hall, seed=0)
    while flood.messages:
        flood.deliver()
    hall.sql("update runs set lease_until = now() + interval '1 hour'")

    assert flood.claims == flood.RUNS
    assert hall.wake() == []
    assert hall.sql("select * from due_runs(-86400, 10000)") == []  # as of tomorrow


# --- many at once


class Crowd:
    """Threads that take messages, let runs end and wake others, as Lambda environments do."""

    THREADS, USERS, RUNS_EACH = 8, 5, 24

    def __init__(self, hall):
        self._hall = hall
        self._messages = queue.Queue()
        self._lock = threading.Lock()
        self._running = {}
        self.most_in_all, self.most_of_one = 0, 0
        self.left = self.USERS * self.RUNS_EACH
        for _ in range(self.USERS):
            user = hall.user()
            for run in hall.queue(user, self.RUNS_EACH):
                self._messages.put((run, user))
        self._owner = {row["id"]: row["user_id"] for row in hall.sql("select id, user_id from runs")}

    def live(self):
        with ThreadPoolExecutor(self.THREADS) as threads:
            for done in [threads.submit(self._work, seed) for seed in range(self.THREADS)]:
                done.result()

    def _work(self, seed):
        dice, give_up_at = random.Random(seed), time.monotonic() + PATIENCE_S
        with self._hall.connected():
            while self.left > 0:
                assert time.monotonic() < give_up_at, f"{self.left} runs were forgotten"
                try:
                    run, user = self._messages.get(timeout=0.02)
                except queue.Empty:
                    self._end(dice)
                    continue
                if self._hall.admitted(run):
                    self._started(run, user)
                if dice.random() < 0.5:
                    self._end(dice)

    def _started(self, run, user):
        with self._lock:
            self._running[run] = user
            self.most_in_all = max(self.most_in_all, len(self._running))
            self.most_of_one = max(self.most_of_one, *Counter(self._running.values()).values())

    def _end(self, dice):
        with self._lock:
            if not self._running:
                return
            run = dice.choice(list(self._running))
            del self._running[run]
        self._hall.finish(run)
        for woken in self._hall.wake():
            self._messages.put((woken, self._owner[woken]))
        with self._lock:
            self.left -= 1


@pytest.mark.timeout(PATIENCE_S * 2)
def test_many_at_once_exceed_no_limit_and_forget_nobody(hall):
    hall.limit(per_user=3, in_all=7)
    crowd = Crowd(hall)

    crowd.live()

    assert crowd.most_in_all <= 7
    assert crowd.most_of_one <= 3
    assert hall.in_status("queued") | hall.in_status("running") == set()


def test_of_many_at_once_as_many_start_as_a_second_allows_and_the_rest_are_told_when(hall):
    hall.limit(per_second=3)
    runs = hall.queue(hall.user(), 20)
    ready = threading.Barrier(len(runs), timeout=PATIENCE_S)

    def claim(run):
        with hall.connected():
            hall.sql("select 1")
            ready.wait()
            return hall.claim(run)

    with ThreadPoolExecutor(len(runs)) as threads:
        answers = list(threads.map(claim, runs))

    started = [row["started_at"] for row in hall.sql("select started_at from runs order by started_at")]
    started = [at for at in started if at]
    for earlier, later in zip(started, started[3:], strict=False):
        assert (later - earlier).total_seconds() >= 1
    waits = [answer["retry_in_s"] for answer in answers if answer["outcome"] == "waiting"]
    assert len(waits) == len(runs) - len(started)
    assert min(waits) >= 1
    assert max(waits) <= 1 + len(runs) // 3


def test_a_second_later_the_next_ones_may_start(hall):
    hall.limit(per_second=2)
    runs = hall.queue(hall.user(), 5)
    assert [hall.claim(run).get("retry_in_s") for run in runs] == [None, None, 1, 1, 2]

    hall.sql("update runs set started_at = started_at - interval '1 second'")

    assert [hall.admitted(run) for run in runs[2:]] == [True, True, False]
