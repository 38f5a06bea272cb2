"""Every case of the wire contract as real HTTP, through Lambda's runner.

The cases of a file are one story, told in its order: some look at what an earlier one did.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from tests.contract.case_files import FILES, read
from tests.contract.matching import ABSENT, mismatches
from tests.contract.stage import filled

GIVEN = Path(__file__).with_name("contract-cases.yaml")
# Of every error: a sentence without Python's own, and a stable code.
ERROR = {"error": r"$re:^(?![\s\S]*(Traceback|has no attribute|\{'))", "code": "$re:^[a-z_]+$"}
CASES = [(file, case) for file in FILES for case in read(file)]


@pytest.mark.parametrize(("file", "case"), [pytest.param(*found, id=found[1]["id"]) for found in CASES])
def test_case(file, case, stage_of, deployments):
    stage = stage_of(file)
    answer = check(case, stage, deployments)
    if "save" in case:
        stage.save(case["save"], answer.json())
    if "expect_after" in case:
        check(case["expect_after"] | {"values": case["values"]}, stage, deployments)


def test_every_case_of_the_contract_is_run_and_every_id_is_given_once():
    collected = [each.id for each in test_case.pytestmark[0].args[1]]
    written = re.findall(r"^- \{id: (\w+),", GIVEN.read_text(encoding="utf-8"), re.MULTILINE)

    assert written == collected[: len(written)]
    assert [name for name, times in Counter(collected).items() if times > 1] == []


def test_polling_is_not_limited(stage_of, deployments):
    """The old backend answered 429 to the 201st request of an hour."""
    stage = stage_of("polling")
    case = {"method": "GET", "path": "/api/task-status/${T_RUN}", "auth": "valid", "expect_status": 200, "values": {}}

    for _ in range(201):
        check(case, stage, deployments)


def check(case, stage, deployments):
    """Send what the case says; return the answer, which is as it expects."""
    now = {key: part for key, part in case.items() if key != "expect_after"}  # which may name what is saved now
    case = filled(now, stage.values | filled(case["values"], stage.values))
    answer = deployments.client(case.get("needs")).request(**stage.request(case))

    status, expected = answer.status, allowed(case["expect_status"])
    assert status in expected, answer.text
    if "expect_json" in case:
        assert mismatches(case["expect_json"], answer.json()) == []
    found = {name: answer.headers.get(name.lower(), ABSENT) for name in case.get("expect_header", {})}
    assert mismatches(case.get("expect_header", {}), found) == []
    assert not {name.lower() for name in case.get("expect_no_header", [])} & set(answer.headers)
    if status >= 400 and case["method"] != "HEAD":
        assert mismatches(ERROR, answer.json()) == []
    return answer


def allowed(status):
    """Where a case allows several, 500 is what the old backend answered and we never do."""
    return [each for each in status if each != 500] if isinstance(status, list) else [status]
