import base64
import json
from urllib.parse import quote

import pytest

from functions.api.web.json_response import MAX_BYTES
from tests.unit.api.conformance import undescribed

LONG = "do a thing that is longer than fifty characters for sure, ok?"
# Such as PostgREST writes them: microseconds, and none where there are none.
SAME_MOMENT = "2026-11-23T00:55:50.240582+00:00"
TIMES = [
    "2026-11-23T00:55:50.240581+00:00",
    SAME_MOMENT,
    SAME_MOMENT,
    SAME_MOMENT,
    "2026-11-23T00:55:50.240583+00:00",
    "2026-11-23T00:55:51+00:00",
    "2026-11-23T00:55:51.1+00:00",
]


def chat(*contents):
    roles = ("user", "assistant") * len(contents)
    return [{"role": role, "content": c, "timestamp": SAME_MOMENT} for role, c in zip(roles, contents, strict=False)]


@pytest.fixture
def get(client, as_user):
    return lambda path: client.get(path, headers=as_user)


@pytest.fixture
def project(world, user):
    return world.database.add_project(user)


@pytest.fixture(params=["all", "project"])
def tasks_of(request, get, project):
    """Asks for a page, of all tasks or of the project's; gives the tasks' rows, and the whole body."""
    path = {"all": "/api/tasks", "project": f"/api/projects/{project}/tasks"}[request.param]

    def ask(query=""):
        body = get(f"{path}?{query}").json()
        tasks = body["tasks"]
        return (tasks if isinstance(tasks, list) else list(tasks.values())), body

    return ask


def ids(rows):
    return [row["id"] for row in rows]


def test_the_list_is_keyed_by_id_with_short_prompts_and_no_patches(client, get, world, user):
    done = world.database.add_task(user, git_patch="patch", chat_messages=chat(LONG, "hello"), status="completed")
    short = world.database.add_task(user, chat_messages=chat(LONG[:50]))
    silent = world.database.add_task(user, chat_messages=None)
    world.database.add_task(world.new_user())

    answer = get("/api/tasks")

    assert undescribed(client, "listTasks", answer) == []
    body = answer.json()
    assert (body["total_tasks"], body["next_cursor"]) == (3, None)
    assert list(body["tasks"]) == [str(silent), str(short), str(done)]
    found = [body["tasks"][str(task_id)] for task_id in (done, short, silent)]
    assert [task["prompt"] for task in found] == [
        "do a thing that is longer than fifty characters fo...",
        LONG[:50],
        "",
    ]
    assert [task["has_patch"] for task in found] == [True, False, False]
    assert [task["chat_messages"] for task in found] == [chat(LONG, "hello"), chat(LONG[:50]), None]


def test_the_tasks_of_a_project_are_whole_rows_without_what_is_heavy(client, get, world, user, project):
    heavy = {"git_diff": "d", "git_patch": "p", "execution_metadata": {"file_changes": []}}
    task_id = world.database.add_task(user, project_id=project, **heavy)
    world.database.add_task(user)

    answer = get(f"/api/projects/{project}/tasks")

    assert undescribed(client, "listProjectTasks", answer) == []
    light = {"git_diff": None, "git_patch": None, "execution_metadata": {}}
    assert answer.json() == {
        "status": "success",
        "tasks": [world.database.tasks[task_id] | light],
        "total_tasks": 1,
        "next_cursor": None,
    }


def test_a_foreign_project_looks_absent(client, get, world):
    foreign = world.database.add_project(world.new_user())

    for project_id in (foreign, 987654, 0, 2**63, "9" * 5000):
        answer = get(f"/api/projects/{project_id}/tasks")
        assert (answer.status, answer.json()["error"]) == (404, "Project not found")
    assert undescribed(client, "listProjectTasks", answer) == []


@pytest.mark.parametrize("path", ["/api/tasks", "/api/projects/1/tasks"])
def test_a_list_wants_a_token_before_it_looks_at_parameters(client, path):
    assert client.get(f"{path}?limit=0&cursor=x").status == 401


def test_no_tasks_are_an_empty_page(tasks_of):
    rows, body = tasks_of()

    assert (rows, body["total_tasks"], body["next_cursor"]) == ([], 0, None)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_pages_end_to_end_are_all_tasks_once_and_newest_first(tasks_of, world, user, project, limit):
    added = [world.database.add_task(user, project_id=project, created_at=at) for at in TIMES]

    rows, body = tasks_of(f"limit={limit}")
    pages = [rows]
    while body["next_cursor"]:
        rows, body = tasks_of(f"limit={limit}&cursor={body['next_cursor']}")
        pages.append(rows)
        assert body["total_tasks"] == len(TIMES)

    assert [task_id for page in pages for task_id in ids(page)] == added[::-1]
    assert [len(page) for page in pages[:-1]] == [limit] * (len(pages) - 1)
    assert 0 < len(pages[-1]) <= limit


def test_a_new_task_between_two_pages_moves_nothing(tasks_of, world, user, project):
    added = [world.database.add_task(user, project_id=project, created_at=at) for at in TIMES]
    first, body = tasks_of("limit=3")
    world.database.add_task(user, project_id=project)

    rest, _ = tasks_of(f"cursor={body['next_cursor']}")

    assert ids(first) + ids(rest) == added[::-1]


def test_without_a_limit_a_page_has_as_many_tasks_as_the_old_backend_sent(tasks_of, world, user, project):
    for _ in range(1001):
        world.database.add_task(user, project_id=project)

    rows, body = tasks_of()
    rest, end = tasks_of(f"cursor={body['next_cursor']}")

    assert (len(rows), len(rest), body["total_tasks"]) == (1000, 1, 1001)
    assert end["next_cursor"] is None


# The first is cut by the database, which counts UTF-8; the second again by the API, because Lambda may escape it.
@pytest.mark.parametrize(("character", "count"), [("x", 40), ("😀", 9)])
def test_a_page_too_large_for_lambda_is_cut_shorter_and_the_next_goes_on_from_there(
    get, world, user, project, character, count
):
    chats = [chat(character * 100_000, character * 100_000) for _ in range(count)]
    added = [world.database.add_task(user, project_id=project, chat_messages=messages) for messages in chats]

    seen, cursor, pages = [], "", 0
    while cursor is not None:
        answer = get(f"/api/projects/{project}/tasks?cursor={cursor}" if cursor else f"/api/projects/{project}/tasks")
        assert len(json.dumps(answer.text)) <= MAX_BYTES
        seen += ids(answer.json()["tasks"])
        cursor, pages = answer.json()["next_cursor"], pages + 1

    assert seen == added[::-1]
    assert pages > 1


def test_a_task_too_large_for_lambda_stops_nobody_from_seeing_the_others(client, get, world, user, project):
    old = world.database.add_task(user, project_id=project)
    large = world.database.add_task(user, project_id=project, chat_messages=chat("hello", *["é" * 100_000] * 60))
    new = world.database.add_task(user, project_id=project)

    for path, operation in (("/api/tasks", "listTasks"), (f"/api/projects/{project}/tasks", "listProjectTasks")):
        seen, cursor = [], ""
        while cursor is not None:
            answer = get(f"{path}?cursor={cursor}" if cursor else path)
            assert undescribed(client, operation, answer) == []
            tasks, cursor = answer.json()["tasks"], answer.json()["next_cursor"]
            seen += tasks if isinstance(tasks, list) else tasks.values()
        assert ids(seen) == [new, large, old]
        assert seen[1]["chat_messages"] == []


def test_a_list_can_be_of_one_status(tasks_of, world, user, project):
    by_status = {
        status: world.database.add_task(user, project_id=project, status=status)
        for status in ("pending", "running", "completed", "failed", "cancelled")
    }

    for status, task_id in by_status.items():
        rows, body = tasks_of(f"status={status}")
        assert (ids(rows), body["total_tasks"]) == ([task_id], 1)


def test_a_search_looks_into_all_prompts_in_any_case_and_nowhere_else(tasks_of, world, user, project):
    said = chat("Fix the 100% wrong TOTAL_ü", "total nonsense", "then add tests")
    found = world.database.add_task(user, project_id=project, chat_messages=said)
    world.database.add_task(user, project_id=project, chat_messages=chat("hello", "100% tests"))
    world.database.add_task(user, project_id=project, chat_messages=None)

    for text in ("total_Ü", "100%", "  TESTS ", "wro\0ng"):
        rows, body = tasks_of(f"q={quote(text)}")
        assert (ids(rows), body["total_tasks"]) == ([found], 1)
    assert tasks_of("q=nonsense")[0] == tasks_of("q=t_tal")[0] == []


@pytest.mark.parametrize("text", ["", "  ", "\0", " \0 "])
def test_a_search_for_nothing_is_none(tasks_of, world, user, project, text):
    world.database.add_task(user, project_id=project)

    assert tasks_of(f"q={quote(text)}")[1]["total_tasks"] == 1


def test_filters_hold_together_and_across_pages(tasks_of, world, user, project):
    wanted = {"project_id": project, "status": "failed", "chat_messages": chat("fix it")}
    added = [world.database.add_task(user, **wanted) for _ in range(3)]
    for other in ({"status": "completed"}, {"chat_messages": chat("add it")}):
        world.database.add_task(user, **wanted | other)

    first, body = tasks_of("status=failed&q=fix&limit=2")
    rest, end = tasks_of(f"status=failed&q=fix&limit=2&cursor={body['next_cursor']}")

    assert ids(first) + ids(rest) == added[::-1]
    assert (body["total_tasks"], end["total_tasks"], end["next_cursor"]) == (3, 3, None)


def test_the_list_can_be_of_one_project_and_a_filter_that_is_none_is_ignored(get, world, user, project):
    inside, outside = world.database.add_task(user, project_id=project), world.database.add_task(user)

    def listed(query):
        return {int(key) for key in get(f"/api/tasks?{query}").json()["tasks"]}

    assert listed(f"project_id={project}") == {inside}
    for nobody in ("project_id=987654", "project_id=-1", f"project_id={2**63}", f"project_id={'9' * 40}"):
        assert listed(nobody) == set()
    for none in ("", "project_id=", "project_id=0", "project_id=abc", "project_id=1.5", "project_id=%00"):
        assert listed(none) == {inside, outside}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("limit=0", "limit must be 1 or more"),
        ("limit=1001", "limit must be 1000 or less"),
        ("limit=-1", "limit must be 1 or more"),
        ("limit=x", "limit must be a whole number"),
        ("limit=", "limit must be a whole number"),
        ("status=done", "status must be 'pending', 'running', 'completed', 'failed' or 'cancelled'"),
        ("status=", "status must be 'pending', 'running', 'completed', 'failed' or 'cancelled'"),
        ("status=Failed", "status must be 'pending', 'running', 'completed', 'failed' or 'cancelled'"),
        (f"q={'x' * 201}", "q may have at most 200 characters"),
    ],
)
def test_what_is_no_filter_is_refused_with_a_sentence(client, get, query, text):
    answer = get(f"/api/tasks?{query}")

    assert (answer.status, answer.json()["error"]) == (400, text)
    assert undescribed(client, "listTasks", answer) == []


def encoded(text):
    return base64.urlsafe_b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "1",
        "%00",
        "%F0%9F%98%80",
        "!!!!",
        encoded("nonsense"),
        encoded(SAME_MOMENT),
        encoded(f"{SAME_MOMENT} x"),
        encoded("yesterday 7"),
        encoded("2026-13-01T00:00:00+00:00 7"),
        base64.urlsafe_b64encode(b"\xff\xfe 7").decode(),
    ],
)
def test_a_broken_cursor_is_refused(client, get, cursor):
    answer = get(f"/api/tasks?cursor={cursor}")

    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["error"].startswith("cursor ")
    assert undescribed(client, "listTasks", answer) == []


def test_a_cursor_of_somebody_else_shows_nothing_of_theirs(tasks_of, world, user, project):
    own = world.database.add_task(user, project_id=project, created_at=TIMES[0])
    foreign = world.database.add_task(world.new_user(), created_at=TIMES[1])

    rows, _ = tasks_of(f"cursor={encoded(f'{TIMES[1]} {foreign}')}")

    assert ids(rows) == [own]
