"""One suite for the change store: the real one on PostgreSQL, and the fake of the unit tests."""

import base64

import psycopg
import pytest
from postgrest.exceptions import APIError

from shared.adapters.supabase.change_store import SupabaseChangeStore
from shared.adapters.supabase.postgrest_client import postgrest_client
from shared.domain.binary_patch import blob_id
from shared.domain.changes import FileChange, RunChanges
from shared.domain.contents import ContentPart, parts_of
from shared.domain.errors import Forbidden, InvalidInput, NotFound
from shared.domain.messages import RunMessage
from shared.domain.pull_request import PullRequest
from shared.domain.run import Advance, Finish, Phase, Result, RunStatus
from shared.domain.secret import Secret
from tests.fakes.change_store import FakeChangeStore
from tests.fakes.task_store import FakeDatabase
from tests.integration.run_databases import RealDatabase

BASE = "1" * 40
BEFORE_ID = blob_id(b"before\r\n")
LATIN1 = "ü".encode("latin-1")
PULL_REQUEST = PullRequest("claude-code-7", 12, "https://github.com/o/r/pull/12")


def row(path, **columns):
    """A row as collect.py writes it."""
    return {
        "path": path,
        "previous_path": None,
        "status": "modified",
        "mode": "100644",
        "before": "before\r\n",
        "after": "after\r\n",
        "encoding": "utf-8",
        "size": 7,
        "truncated": False,
    } | columns


def coded(data):
    return base64.b64encode(data).decode()


ROWS = [
    row("text"),
    row("grün/ü", status="added", before=None, mode="100755"),
    row("gone", status="deleted", after=None, mode=None),
    row("new name", status="renamed", previous_path="old name"),
    row("bin", encoding="base64", before=coded(LATIN1), after=coded(b"\0")),
    row("empty", after=""),
]
CHANGES = (
    FileChange(path="text", mode="100644", before_id=BEFORE_ID, after=b"after\r\n"),
    FileChange(path="grün/ü", mode="100755", before_id=None, after=b"after\r\n"),
    FileChange(path="gone", mode=None, before_id=BEFORE_ID, after=None),
    FileChange(path="new name", previous_path="old name", mode="100644", before_id=BEFORE_ID, after=b"after\r\n"),
    FileChange(path="bin", mode="100644", before_id=blob_id(LATIN1), after=b"\0"),
    FileChange(path="empty", mode="100644", before_id=BEFORE_ID, after=b""),
)


class FakeWorld:
    def __init__(self):
        self.database, self.changes, self.rows = FakeDatabase(), {}, {}

    def new_user(self):
        return f"user-{next(self.database.ids)}"

    def store_of(self, user_id):
        return FakeChangeStore(self.database, self.changes, user_id, self.rows)

    def add_task(self, user_id):
        """A completed task with CHANGES."""
        task_id = self.database.add_task(user_id, status="completed")
        self.changes[task_id] = RunChanges(BASE, CHANGES, "make it so")
        self.rows[task_id] = ROWS
        return task_id

    def add_old_task(self, user_id):
        return self.database.add_task(user_id, status="completed")

    def task(self, task_id):
        return self.database.tasks[task_id]


class RealWorld(RealDatabase):
    def store_of(self, user_id):
        return SupabaseChangeStore(self.client_of(user_id))

    def add_task(self, user_id, rows=ROWS):
        _, started = self.start(user_id)
        self.finish(self.claim(user_id, started), rows)
        return started.task_id

    def claim(self, user_id, started):
        return self.runs.claim(self.message(user_id, started)).run

    def finish(self, run, rows, status=RunStatus.COMPLETED):
        seq = self.runs.advance(run, Advance(phase=Phase.PROVISIONING, changes={"base_commit": BASE}))
        message = RunMessage(task_id=run.task_id, run_id=run.id, seq=seq, user_id=run.user_id)
        result = Result(commit_hash=None, diff="d", patch="p", changed_files=(), files=tuple(rows), metadata={})
        assert self.runs.finish(self.runs.claim(message).run, Finish(status=status, result=result))

    def add_old_task(self, user_id):
        [(task_id,)] = self.sql("insert into tasks (user_id, status) values (%s, 'completed') returning id", user_id)
        return task_id

    def task(self, task_id):
        with psycopg.connect(self.gateway.dsn, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute("select * from tasks where id = %s", [task_id]).fetchone()


@pytest.fixture(params=["fake", "real"])
def world(request):
    return FakeWorld() if request.param == "fake" else RealWorld(request.getfixturevalue("supabase_gateway"))


@pytest.fixture
def real(supabase_gateway):
    return RealWorld(supabase_gateway)


@pytest.fixture
def user(world):
    return world.new_user()


def by_path(changes):
    return {change.path: change for change in changes}


def test_a_run_is_read_back_as_it_was_stored_byte_by_byte(world, user):
    found = world.store_of(user).latest(world.add_task(user), owner_id=user)

    assert (found.base_commit, found.prompt) == (BASE, "make it so")
    assert by_path(found.files) == by_path(CHANGES)


def test_a_task_without_runs_of_ours_has_no_files(world, user):
    assert world.store_of(user).latest(world.add_old_task(user), owner_id=user) == RunChanges()


def test_what_is_somebody_elses_looks_as_if_there_were_nothing(world, user):
    stranger = world.new_user()
    foreign = world.add_task(stranger)

    for task_id, owner_id in ((foreign, user), (foreign, stranger), (987654321, user)):
        assert world.store_of(user).latest(task_id, owner_id=owner_id) == RunChanges()


def test_files_are_listed_by_path_without_their_contents(world, user):
    files = world.store_of(user).files(world.add_task(user), owner_id=user)

    assert [file["path"] for file in files] == ["bin", "empty", "gone", "grün/ü", "new name", "text"]
    assert files[-2] == {
        "path": "new name",
        "previous_path": "old name",
        "status": "renamed",
        "mode": "100644",
        "size": 7,
        "truncated": False,
    }


def test_a_file_is_read_with_the_bytes_of_both_sides(world, user):
    store, task_id = world.store_of(user), world.add_task(user)

    def sides(path):
        file = store.file(task_id, path, sides=("before", "after"), owner_id=user)
        return file["before"], file["after"], file["status"]

    assert sides("bin") == (LATIN1, b"\0", "modified")
    assert sides("gone") == (b"before\r\n", None, "deleted")
    assert sides("grün/ü") == (None, b"after\r\n", "added")
    assert store.file(task_id, "nothing", sides=("after",), owner_id=user) is None


def test_nobody_reads_files_of_somebody_elses(world, user):
    stranger = world.new_user()
    foreign = world.add_task(stranger)

    for task_id, owner_id in ((foreign, user), (foreign, stranger), (987654321, user)):
        assert world.store_of(user).files(task_id, owner_id=owner_id) == []
        assert world.store_of(user).file(task_id, "text", sides=("after",), owner_id=owner_id) is None


def test_a_pull_request_is_noted_on_an_own_task_and_can_be_replaced(world, user):
    task_id, store = world.add_old_task(user), world.store_of(user)

    store.record_pull_request(task_id, PullRequest("claude-code-7", 3, "https://github.com/o/r/pull/3"))
    store.record_pull_request(task_id, PULL_REQUEST)

    row = world.task(task_id)
    assert (row["pr_branch"], row["pr_number"], row["pr_url"]) == ("claude-code-7", 12, PULL_REQUEST.url)


def test_a_pull_request_is_not_noted_on_what_is_somebody_elses(world, user):
    foreign = world.add_old_task(world.new_user())

    for task_id in (foreign, 987654321):
        with pytest.raises(NotFound, match="Task not found"):
            world.store_of(user).record_pull_request(task_id, PULL_REQUEST)
    assert world.task(foreign)["pr_url"] is None


# --- what only the database can do --------------------------------------------------------------------------


def test_files_without_all_of_their_contents_are_left_out(real):
    user = real.new_user()
    rows = [
        row("text"),
        row("large", before=None, after=None, truncated=True),
        row("module", mode="160000", before=None, after=None),
        row("scrubbed", encoding="base64", after="AB[REDACTED]"),
    ]

    found = real.store_of(user).latest(real.add_task(user, rows), owner_id=user)

    assert [change.path for change in found.files] == ["text"]


def test_the_last_completed_run_counts_not_a_later_one_that_failed(real):
    user_id, started = real.start()
    real.finish(real.claim(user_id, started), [row("first")])
    for path, status in (("second", RunStatus.COMPLETED), ("third", RunStatus.FAILED)):
        again = real.retry(user_id, started)
        real.finish(real.claim(user_id, again), [row(path)], status)

    found = real.store_of(user_id).latest(started.task_id, owner_id=user_id)

    assert [change.path for change in found.files] == ["second"]


LARGE = bytes(range(256)) * 12_345  # four parts
LARGE_ID, LARGE_BEFORE_ID = blob_id(LARGE), blob_id(b"was small")
APART = row("large", encoding="apart", before=LARGE_BEFORE_ID, after=LARGE_ID, size=len(LARGE))


def test_what_lies_apart_is_put_together_again(real):
    user, started = real.start()
    run = real.claim(user, started)
    some = [ContentPart(blob_id(b"%d" % n), 0, 1, b"%d" % n) for n in range(120)]
    for parts in ([*parts_of(LARGE_ID, LARGE)], [*parts_of(LARGE_BEFORE_ID, b"was small")], some):
        assert real.runs.store_contents(run, parts)
    small = [row(f"small {n}", encoding="apart", before=None, after=one.id, size=3) for n, one in enumerate(some)]
    real.finish(run, [APART, row("text"), *small])

    store = real.store_of(user)
    found = by_path(store.latest(started.task_id, owner_id=user).files)
    [both, one] = (
        store.file(started.task_id, "large", sides=s, owner_id=user) for s in (("before", "after"), ["after"])
    )

    assert (found["large"].after, found["large"].before_id) == (LARGE, LARGE_BEFORE_ID)
    assert len(found) == 122
    assert found["small 119"].after == b"119"
    assert (both["before"], both["after"]) == (b"was small", LARGE)
    assert (one["before"], one["after"]) == (None, LARGE)


@pytest.mark.parametrize("there", [0, 3])
def test_what_lies_apart_but_is_not_whole_is_left_out(real, there):
    user, started = real.start()
    run = real.claim(user, started)
    if there:
        real.runs.store_contents(run, [*parts_of(LARGE_ID, LARGE)][:there])
    real.finish(run, [APART])

    store = real.store_of(user)
    assert store.latest(started.task_id, owner_id=user).files == ()
    assert store.file(started.task_id, "large", sides=("after",), owner_id=user)["after"] is None


def test_contents_are_their_owners_alone_and_go_with_the_run(real):
    user, started = real.start()
    run = real.claim(user, started)
    real.runs.store_contents(run, [*parts_of(LARGE_ID, LARGE)])
    own, foreign = real.client_of(user), real.client_of(real.new_user())

    def seen_by(client):
        return len(client.table("task_contents").select("part").eq("run_id", run.id).execute().data)

    assert (seen_by(own), seen_by(foreign)) == (4, 0)
    with pytest.raises(APIError, match="permission denied"):
        own.table("task_contents").update({"data": "x"}).eq("run_id", run.id).execute()
    real.sql("delete from tasks where id = %s", started.task_id)
    assert real.sql("select 1 from task_contents where run_id = %s", run.id) == []


def test_contents_are_kept_until_another_run_is_completed(real):
    user, started = real.start()
    first = real.claim(user, started)
    real.runs.store_contents(first, [*parts_of(LARGE_ID, LARGE)])
    real.finish(first, [APART])

    def again(status):
        run = real.claim(user, real.retry(user, started))
        real.runs.store_contents(run, [*parts_of(LARGE_BEFORE_ID, b"was small")])
        real.finish(run, [], status)
        return real.runs.stored_contents(first), real.runs.stored_contents(run)

    assert again(RunStatus.FAILED) == ({LARGE_ID}, {LARGE_BEFORE_ID})
    assert real.store_of(user).latest(started.task_id, owner_id=user).files[0].after == LARGE
    assert again(RunStatus.COMPLETED) == (set(), {LARGE_BEFORE_ID})


def test_the_files_of_a_run_that_failed_are_shown_but_not_those_before_one_that_changed_nothing(real):
    user, started = real.start()
    store = real.store_of(user)

    def shown(status, *rows):
        real.finish(real.claim(user, real.retry(user, started)), rows, status)
        return [file["path"] for file in store.files(started.task_id, owner_id=user)]

    real.finish(real.claim(user, started), [row("first")])
    assert shown(RunStatus.FAILED, row("second")) == ["second"]
    assert shown(RunStatus.FAILED) == ["second"]
    assert shown(RunStatus.COMPLETED) == []


@pytest.mark.parametrize(
    "wrong",
    [
        PullRequest("", 1, PULL_REQUEST.url),
        PullRequest("b" * 256, 1, PULL_REQUEST.url),
        PullRequest("b", 0, PULL_REQUEST.url),
        PullRequest("b", 1, "javascript:alert(1)//pull/1"),
        PullRequest("b", 1, 'https://x" onclick="/pull/1'),
        PullRequest("b", 1, "https://github.com/o/r"),
    ],
)
def test_what_is_no_pull_request_is_not_noted(real, wrong):
    user = real.new_user()
    task_id = real.add_old_task(user)

    with pytest.raises(InvalidInput):
        real.store_of(user).record_pull_request(task_id, wrong)
    assert real.task(task_id)["pr_url"] is None


def test_nobody_notes_a_pull_request_without_signing_in(real):
    task_id = real.add_old_task(real.new_user())
    anonymous = postgrest_client(real.gateway.url, api_key=Secret(real.gateway.publishable_key))

    with pytest.raises(Forbidden):
        SupabaseChangeStore(anonymous).record_pull_request(task_id, PULL_REQUEST)
    assert real.task(task_id)["pr_url"] is None
