"""GET /api/usage: what the own runs have cost."""

from datetime import UTC, datetime, timedelta

import pytest

from shared.domain.usage import totals
from tests.unit.api.conformance import undescribed

NOW = datetime.now(UTC)
USED = {"input_tokens": 10, "cached_input_tokens": 100, "cache_write_tokens": 1, "output_tokens": 5}


@pytest.fixture
def get(client, as_user):
    return lambda query="": client.get(f"/api/usage{query}", headers=as_user)


@pytest.fixture
def spend(world, user):
    def add(cost_usd, *, days_ago=0, agent="claude", owner=user, project_id=None):
        at = NOW - timedelta(days=days_ago)
        world.ledger.add(owner, at=at, agent=agent, usage=USED | {"cost_usd": cost_usd}, project_id=project_id)

    return add


def test_runs_are_summed_up_in_all_by_agent_and_by_day(client, get, spend):
    spend(0.5)
    spend(0.25, agent="codex", days_ago=1)
    spend(None, days_ago=1)

    answer = get()

    assert (answer.status, undescribed(client, "getUsage", answer)) == (200, [])
    usage = answer.json()["usage"]
    assert (usage["runs"], usage["unpriced_runs"], usage["cost_usd"], usage["input_tokens"]) == (3, 1, 0.75, 30)
    assert [(part["agent"], part["runs"], part["cost_usd"]) for part in usage["by_agent"]] == [
        ("claude", 2, 0.5),
        ("codex", 1, 0.25),
    ]
    days = [(NOW - timedelta(days=ago)).date().isoformat() for ago in (1, 0)]
    assert [(part["day"], part["runs"], part["cost_usd"]) for part in usage["by_day"]] == [
        (days[0], 2, 0.25),
        (days[1], 1, 0.5),
    ]


def test_whoever_has_spent_nothing_gets_zeros_and_sees_nothing_of_others(client, world, get, spend):
    spend(9.0, owner=world.new_user())

    answer = get()

    assert answer.json()["usage"] == totals([]) | {"by_agent": [], "by_day": []}
    assert undescribed(client, "getUsage", answer) == []


def test_a_time_and_a_project_can_be_chosen_and_30_days_are_the_default(get, spend):
    for days, project in ((0, 7), (10, None), (40, 7)):
        spend(1.0, days_ago=days, project_id=project)
    ago = {days: (NOW - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (5, 50)}

    assert get().json()["usage"]["runs"] == 2
    assert get("?project_id=7").json()["usage"]["runs"] == 1
    assert get(f"?from={ago[50]}").json()["usage"]["runs"] == 3
    assert get(f"?from={ago[50]}&to={ago[5]}&project_id=7").json()["usage"]["runs"] == 1


@pytest.mark.parametrize(
    "query",
    [
        "?from=yesterday",
        "?from=2026-11-01T00:00:00",
        "?to=2026-11-01",
        "?from=2026-11-02T00:00:00Z&to=2026-11-01T00:00:00Z",
        "?from=2020-01-01T00:00:00Z&to=2026-11-01T00:00:00Z",
        "?to=0001-01-02T00:00:00Z",
        "?project_id=0",
        "?project_id=x",
        "?project_id=9223372036854775808",
    ],
)
def test_a_time_or_project_that_makes_no_sense_is_refused(client, get, query):
    answer = get(query)

    assert (answer.status, undescribed(client, "getUsage", answer)) == (400, [])


def test_nobody_sees_it_without_a_token(client):
    assert client.get("/api/usage").status == 401
