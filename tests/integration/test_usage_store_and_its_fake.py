"""What users have spent: the ledger behind the real gateway, and the fake that the unit tests stand on."""

from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from shared.adapters.supabase.task_store import SupabaseTaskStore
from shared.adapters.supabase.usage_store import SupabaseUsageStore
from shared.domain.agents import AgentName
from shared.domain.errors import InvalidInput
from shared.domain.run import Advance, Finish, RunStatus
from shared.domain.usage import totals
from tests.fakes.usage_store import FakeLedger
from tests.integration.run_databases import RealDatabase

USED = {"input_tokens": 10, "cached_input_tokens": 100, "cache_write_tokens": 1, "output_tokens": 5}
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


class RealLedger(RealDatabase):
    """Spending by runs that are claimed, advanced and finished, as the executor does it."""

    def working(self, user_id, *, cost_usd=1.0, **changes):
        """A run that has spent something and goes on; what its user started, and the run as claimed."""
        _, started = self.start(user_id, **changes)
        run = self.runs.claim(self.message(user_id, started)).run
        usage = USED | {"cost_usd": cost_usd, "model": "a-model"}
        seq = self.runs.advance(run, Advance(changes={"usage": usage}))
        return started, self.runs.claim(self.message(user_id, started, seq)).run

    def spend(self, user_id, cost_usd, *, agent="claude", project_id=None):
        started, run = self.working(user_id, cost_usd=cost_usd, agent=AgentName(agent), project_id=project_id)
        assert self.runs.finish(run, Finish(status=RunStatus.FAILED, error_code="x", error="y"))
        return started

    def store_of(self, user_id):
        return SupabaseUsageStore(self.client_of(user_id))

    def new_project(self, user_id):
        statement = (
            "insert into projects (user_id, repo_url, repo_name, repo_owner, name) "
            "values (%s, gen_random_uuid()::text, 'r', 'o', 'n') returning id"
        )
        [(project_id,)] = self.sql(statement, user_id)
        return project_id

    def ledger_of(self, user_id):
        return self.sql("select run_id::text, cost_usd, input_tokens, model from spending where user_id = %s", user_id)


class FakeSpending:
    def __init__(self):
        self.ledger = FakeLedger()
        self.names = iter(range(1, 100))

    def new_user(self):
        return f"user-{next(self.names)}"

    def new_project(self, user_id):
        return next(self.names)

    def spend(self, user_id, cost_usd, *, agent="claude", project_id=None):
        usage = USED | {"cost_usd": cost_usd}
        self.ledger.add(user_id, at=datetime.now(UTC), agent=agent, usage=usage, project_id=project_id)

    def store_of(self, user_id):
        return self.ledger.store_of(user_id)


@pytest.fixture
def db(supabase_gateway):
    return RealLedger(supabase_gateway)


@pytest.fixture(params=["fake", "real"])
def world(request):
    return request.getfixturevalue("db") if request.param == "real" else FakeSpending()


def all_of(world, user_id, **chosen):
    chosen = {"start": LONG_AGO, "end": None, "project_id": None} | chosen
    return world.store_of(user_id).totals(**chosen)


# --- both


def test_nothing_spent_is_zeros(world):
    assert all_of(world, world.new_user()) == totals([]) | {"by_agent": [], "by_day": []}


def test_runs_are_summed_up_by_agent_and_by_day(world):
    user = world.new_user()
    for agent, cost in (("claude", 0.5), ("claude", None), ("codex", 0.000001)):
        world.spend(user, cost, agent=agent)

    found = all_of(world, user)

    tokens = {name: 3 * count for name, count in USED.items()}
    total = {"runs": 3, "unpriced_runs": 1, "cost_usd": 0.500001, **tokens}
    by_agent, by_day = found.pop("by_agent"), found.pop("by_day")
    assert found == total
    assert [(part["agent"], part["runs"], part["unpriced_runs"], part["cost_usd"]) for part in by_agent] == [
        ("claude", 2, 1, 0.5),
        ("codex", 1, 0, 0.000001),
    ]
    assert by_day == [total | {"day": by_day[0]["day"]}]
    assert abs(datetime.fromisoformat(by_day[0]["day"]).date() - datetime.now(UTC).date()) <= timedelta(days=1)


def test_what_another_user_spent_is_not_seen(world):
    user, other = world.new_user(), world.new_user()
    project = world.new_project(other)
    world.spend(other, 1.0, project_id=project)

    assert all_of(world, user)["runs"] == all_of(world, user, project_id=project)["runs"] == 0
    assert all_of(world, other)["cost_usd"] == 1.0


def test_a_project_or_a_time_can_be_chosen(world):
    user = world.new_user()
    project = world.new_project(user)
    world.spend(user, 1.0, project_id=project)
    world.spend(user, 2.0)
    soon = datetime.now(UTC) + timedelta(hours=1)

    assert all_of(world, user, project_id=project)["cost_usd"] == 1.0
    assert all_of(world, user, end=soon)["cost_usd"] == 3.0
    assert all_of(world, user, start=soon)["runs"] == 0
    assert all_of(world, user, end=LONG_AGO + timedelta(days=1))["runs"] == 0


# --- the database alone


def test_an_active_run_counts_with_what_it_has_spent_so_far_and_once_when_it_has_ended(db):
    user = db.new_user()
    _, run = db.working(user, cost_usd=0.25)
    assert (all_of(db, user)["runs"], all_of(db, user)["cost_usd"]) == (1, 0.25)

    db.runs.finish(run, Finish(status=RunStatus.COMPLETED))

    assert (all_of(db, user)["runs"], all_of(db, user)["cost_usd"]) == (1, 0.25)
    assert db.ledger_of(user) == [(run.id, pytest.approx(0.25), 10, "a-model")]


def test_a_run_that_never_came_to_its_agent_has_spent_nothing(db):
    user, started = db.start()
    run = db.runs.claim(db.message(user, started)).run
    db.runs.finish(run, Finish(status=RunStatus.CANCELLED))

    assert db.ledger_of(user) == [(run.id, 0, 0, None)]


@pytest.mark.parametrize("ended", [True, False], ids=["after its end", "in mid-work"])
def test_what_was_spent_is_known_when_the_project_is_deleted_with_its_tasks(db, ended):
    user = db.new_user()
    project = db.new_project(user)
    if ended:
        db.spend(user, 0.75, project_id=project)
    else:
        db.working(user, cost_usd=0.75, project_id=project)

    db.client_of(user).table("projects").delete().eq("id", project).execute()

    assert db.sql("select count(*) from runs where user_id = %s", user) == [(0,)]
    assert (all_of(db, user)["runs"], all_of(db, user)["cost_usd"]) == (1, 0.75)


def test_whoever_is_deleted_takes_the_ledger_along(db):
    user = db.new_user()
    db.spend(user, 1.0)
    db.working(user)

    db.sql("delete from auth.users where id = %s", user)

    assert db.ledger_of(user) == []


def test_a_user_reads_the_own_ledger_and_writes_none(db):
    user, other = db.new_user(), db.new_user()
    for each in (user, other):
        db.spend(each, 1.0)

    rows = db.client_of(user).table("spending").select("user_id,cost_usd").execute().data
    assert rows == [{"user_id": user, "cost_usd": 1.0}]
    for statement in ("delete from spending", "update spending set cost_usd = 0"):
        with psycopg.connect(db.gateway.dsn) as connection:
            connection.execute("set local role authenticated")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_task_tells_what_all_its_runs_have_used(db):
    user = db.new_user()
    started = db.spend(user, 0.5)
    again = db.retry(user, started)
    run = db.runs.claim(db.message(user, again)).run
    db.runs.advance(run, Advance(changes={"usage": USED | {"cost_usd": 0.25}}))
    store = SupabaseTaskStore(db.client_of(user))

    usage = store.get(started.task_id, owner_id=user)["usage"]

    assert (usage["runs"], usage["cost_usd"], usage["output_tokens"]) == (2, 0.75, 10)
    assert store.get_columns(started.task_id, ["id", "usage"], owner_id=user) == {
        "id": started.task_id,
        "usage": usage,
    }


@pytest.mark.parametrize("limit", [0, -1, 1e9])
def test_the_database_refuses_an_impossible_limit(db, limit):
    with pytest.raises(InvalidInput):
        db.start(max_cost_usd=limit)


def test_the_ledger_is_read_through_its_index(db):
    user = db.new_user()
    with psycopg.connect(db.gateway.dsn) as connection:
        connection.execute("set local enable_seqscan = off")
        query = "select * from spending s where s.user_id = %s and s.at >= now() - interval '30 days'"
        plan = "\n".join(row[0] for row in connection.execute(f"explain {query}", [user]))
    assert "idx_spending_user_id" in plan
