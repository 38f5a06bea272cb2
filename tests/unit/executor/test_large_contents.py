"""Contents that are too large for the result: stored before the run ends, whatever happens meanwhile."""

import base64
from itertools import chain

import pytest

from functions.executor.work.large_contents import BUDGET_S
from shared.domain.binary_patch import blob_id
from shared.domain.contents import joined
from shared.domain.errors import Unavailable
from shared.domain.run import Phase
from tests.fakes.executor import ANTHROPIC_KEY, GIT_TOKEN, changed_file, collected, collects

LARGE = [bytes([number]) * 3_000_000 for number in range(3)]
PACKS = ([LARGE[0]], [LARGE[1], b"a small one"], [LARGE[2]])
ALL = [*chain(*PACKS)]


def apart(path, data):
    return changed_file(path, after=blob_id(data), encoding="apart", size=len(data))


def result(*packs):
    return collects(collected(*(apart(f"{n}", data) for n, data in enumerate(chain(*packs)))), *packs)


def contents(world):
    return joined(world.database.contents.values())


@pytest.fixture
def world(world):
    world.scripts["collect"] = result(*PACKS)
    world.start()
    return world


def test_they_are_stored_whole_and_the_files_name_them(world):
    world.run()

    assert world.task["status"] == "completed"
    assert contents(world) == {blob_id(data): data for data in ALL}
    assert [file["after"] for file in world.database.files] == [blob_id(data) for data in ALL]
    assert all(len(part.data) <= 1024 * 1024 for part in world.database.contents.values())


def test_small_ones_travel_together(world, monkeypatch):
    small = [b"%d" % number for number in range(500)]
    world.scripts["collect"] = result(small)
    calls = []
    store = world.store.store_contents
    monkeypatch.setattr(world.store, "store_contents", lambda run, parts: calls.append(len(parts)) or store(run, parts))

    world.run()

    assert calls == [500]


def test_a_step_that_takes_long_leaves_the_rest_to_the_next(world, monkeypatch):
    world.until(Phase.COLLECTING)
    store = world.store.store_contents

    def slowly(run, parts):
        world.clock.pass_(BUDGET_S)
        return store(run, parts)

    monkeypatch.setattr(world.store, "store_contents", slowly)
    before = world.run_row["seq"]
    world.run()

    assert world.task["status"] == "completed"
    assert len(contents(world)) == 4
    assert world.run_row["seq"] - before > len(PACKS) - 1


def test_an_outage_in_the_middle_costs_only_what_was_under_way(world, monkeypatch):
    store, calls = world.store.store_contents, []

    def sometimes(run, parts):
        calls.append(parts[0].id)
        if len(calls) == 5:
            raise Unavailable("The database is not responding.")
        return store(run, parts)

    monkeypatch.setattr(world.store, "store_contents", sometimes)
    world.run()

    assert world.task["status"] == "completed"
    assert len(contents(world)) == 4
    assert calls.count(blob_id(LARGE[0])) == 3  # it was whole, and is not fetched again


def test_whoever_has_lost_the_run_stores_nothing_and_does_not_end_it(world, monkeypatch):
    monkeypatch.setattr(world.store, "store_contents", lambda run, _: world.store.seize(run.id) is None)
    world.until(Phase.COLLECTING)
    world.deliver()

    assert world.run_row["status"] == "running"
    assert world.database.contents == {}


def test_what_git_would_call_otherwise_was_changed_on_the_way(world):
    world.until(Phase.COLLECTING)
    script = world.scripts["collect"]
    script.writes["contents/1"] = script.writes["contents/1"][::-1]

    world.run()

    assert (world.run_row["status"], world.run_row["error_code"]) == ("failed", "collect_failed")


def test_a_secret_in_them_is_taken_out_also_where_two_parts_meet(world):
    token = GIT_TOKEN.encode()
    data = b"x" * (1024 * 1024 - 10) + token + b"\0\xff"
    world.scripts["collect"] = result([data])

    world.run()

    assert contents(world) == {blob_id(data): data.replace(token, b"[REDACTED]")}
    assert [warning["code"] for warning in world.payloads("warning")] == ["secret_taken_out"]


def test_a_secret_in_a_file_that_is_no_text_is_taken_out_wherever_it_stands(world):
    for shift in range(3):
        data = b"\0" * shift + ANTHROPIC_KEY.encode() + b"\xff"
        row = changed_file(f"{shift}", after=base64.b64encode(data).decode(), encoding="base64")
        world.scripts["collect"] = collects(collected(row, diff="", patch=""))
        world.start()
    world.run()

    for shift, file in enumerate(row for row in world.database.files if row["encoding"] == "base64"):
        assert base64.b64decode(file["after"]) in {b"\0" * at + b"[REDACTED]\xff" for at in range(3)}, shift


def test_possible_keys_are_warned_of_by_their_place(world):
    place = {"path": "a.env", "line": 3, "kind": "a GitHub token"}
    world.scripts["collect"] = collects(collected(changed_file("a.env")) | {"possible_secrets": [place]})

    world.run()

    text = "a.env, line 3: this looks like a GitHub token. Check it before you merge."
    assert world.payloads("warning") == [{"code": "possible_secret", "text": text, **place}]
