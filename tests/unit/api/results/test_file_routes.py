"""What a task has changed, file by file and as a patch."""

import base64

import pytest

from functions.api.web.json_response import MAX_BYTES
from tests.fakes.tokens import bearer, own_claims, signed
from tests.unit.api.conformance import undescribed

LATIN1 = "grün\n".encode("latin-1")
PATCH = "From 0123 Mon Sep 17 00:00:00 2001\nSubject: [PATCH] grün\r\n"


def coded(data):
    return base64.b64encode(data).decode()


def row(path, before="before\n", after="after\r\n", encoding="utf-8", **facts):
    """A row of task_files."""
    known = {"previous_path": None, "status": "modified", "mode": "100644", "size": 7, "truncated": False}
    return {"path": path, "before": before, "after": after, "encoding": encoding, **known, **facts}


@pytest.fixture
def task_id(world, user):
    """A task of the user's that has changed some files."""
    found = world.database.add_task(user, status="completed", git_patch=PATCH, changed_files=["a"])
    world.files[found] = [
        row("grün/ü"),
        row("a", before=None, status="added", mode="100755"),
        row("bin", before=coded(LATIN1), after=coded(b"a\0"), encoding="base64"),
        row("large.txt", before="b" * 4_000_000, after="a" * 4_000_000, size=4_000_000),
        row("apart.txt", before=b"small\n", after=b"a" * 4_000_000, encoding="apart"),
        row("apart.bin", before=None, after=b"\xff" * 5_000_000, encoding="apart"),
        row("too large", before=None, after=None, truncated=True, size=99_000_000),
        row("gone", after=None, status="deleted", mode=None, size=0),
    ]
    return found


@pytest.fixture
def get(client, as_user):
    return lambda path: client.get(f"/api/tasks/{path}", headers=as_user)


def refusal(answer):
    return answer.status, answer.json()["code"]


def test_the_files_are_listed_by_path_without_their_contents(get, client, task_id):
    answer = get(f"{task_id}/files")

    files = answer.json()["files"]
    assert [file["path"] for file in files] == sorted(file["path"] for file in files)
    assert files[0] == {
        "path": "a",
        "previous_path": None,
        "status": "added",
        "mode": "100755",
        "size": 7,
        "truncated": False,
    }
    assert undescribed(client, "listTaskFiles", answer) == []


def test_a_task_that_has_changed_nothing_has_no_files(get, world, user):
    assert get(f"{world.database.add_task(user)}/files").json()["files"] == []


@pytest.mark.parametrize(
    ("path", "encoding", "before", "after"),
    [
        ("gr%C3%BCn/%C3%BC", "utf-8", "before\n", "after\r\n"),
        ("a", "utf-8", None, "after\r\n"),
        ("gone", "utf-8", "before\n", None),
        ("bin", "base64", coded(LATIN1), coded(b"a\0")),
        ("bin&side=before", "base64", coded(LATIN1), None),
        ("apart.txt", "utf-8", "small\n", "a" * 4_000_000),
        ("apart.txt&side=before", "utf-8", "small\n", None),
        ("too%20large", "utf-8", None, None),
    ],
)
def test_a_file_is_read_with_both_sides_or_with_one(get, client, task_id, path, encoding, before, after):
    answer = get(f"{task_id}/files/content?path={path}")

    file = answer.json()["file"]
    assert (file["encoding"], file["before"], file["after"]) == (encoding, before, after)
    assert file["truncated"] is (path == "too%20large")
    assert undescribed(client, "getTaskFile", answer) == []


def test_what_does_not_fit_into_an_answer_is_refused_and_its_sides_may_fit(get, task_id):
    assert refusal(get(f"{task_id}/files/content?path=large.txt")) == (413, "too_large")
    assert refusal(get(f"{task_id}/files/content?path=apart.bin")) == (413, "too_large")
    for side in ("before", "after"):
        assert get(f"{task_id}/files/content?path=large.txt&side={side}").status == 200


@pytest.mark.parametrize("path", ["nothing", "A", "%00", "a/", "../a"])
def test_a_file_that_was_not_changed_is_not_found(get, task_id, path):
    assert refusal(get(f"{task_id}/files/content?path={path}")) == (404, "file_not_found")


@pytest.mark.parametrize("query", ["", "?path=a&side=both", "?path=" + "a" * 4097])
def test_what_names_no_file_is_refused(get, task_id, query):
    assert refusal(get(f"{task_id}/files/content{query}")) == (400, "invalid_input")


def test_the_patch_is_a_text_and_nothing_else(client, get, task_id):
    answer = get(f"{task_id}/patch")

    assert (answer.status, answer.headers["content-type"]) == (200, "text/x-patch; charset=utf-8")
    assert answer.headers["content-disposition"] == f'attachment; filename="{task_id}.patch"'
    assert answer.body == PATCH.encode()
    assert undescribed(client, "getTaskPatch", answer) == []


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"git_patch": "", "changed_files": []}, (404, "no_changes")),
        ({"git_patch": None, "changed_files": None}, (404, "no_changes")),
        ({"git_patch": None, "changed_files": ["a"]}, (409, "patch_not_stored")),
        ({"git_patch": "x" * MAX_BYTES, "changed_files": ["a"]}, (413, "too_large")),
    ],
)
def test_a_patch_that_is_not_there_says_why(get, world, user, columns, expected):
    assert refusal(get(f"{world.database.add_task(user, **columns)}/patch")) == expected


@pytest.mark.parametrize("path", ["files", "files/content?path=a", "patch"])
def test_files_of_somebody_elses_task_look_absent(client, world, task_id, path):
    headers = bearer(signed(own_claims(world.new_user())))

    answers = [client.get(f"/api/tasks/{one}/{path}", headers=headers) for one in (task_id, 987654)]

    assert [answer.status for answer in answers] == [404, 404]
    assert answers[0].body == answers[1].body
    assert client.get(f"/api/tasks/{task_id}/{path}").status == 401
