import pytest

from functions.api.web.json_response import MAX_BYTES
from shared.domain.usage import totals
from tests.unit.api.conformance import undescribed

LONG = "do a thing that is longer than fifty characters for sure, ok?"
AT = "2026-11-23T00:55:50.240582+00:00"
CHAT = [
    {"role": "assistant", "content": "hello", "timestamp": 1795424400.25},
    {"role": "user", "content": LONG, "timestamp": AT},
]
WHILE_RUNNING = {"id", "status", "prompt", "repo_url", "branch", "model", "commit_hash", "changed_files", "error"}
WHILE_RUNNING |= {"created_at", "project_id", "usage", "run_id", "phase", "queue_position"}
OPERATIONS = {
    "/api/task-status/{}": "getTaskStatus",
    "/api/tasks/{}": "getTask",
    "/api/git-diff/{}": "getGitDiff",
    "/api/tasks/{}/events": "listTaskEvents",
}
READS = list(OPERATIONS)


@pytest.fixture
def get(client, as_user):
    return lambda path: client.get(path, headers=as_user)


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("status", ["pending", "completed"])
def test_answers_are_as_they_are_described(client, get, world, user, path, status):
    project, given = (
        world.database.add_project(user),
        {"started_at": AT, "completed_at": AT, "error": "e", "pr_number": 1},
    )
    full = world.database.add_task(user, project_id=project, status=status, chat_messages=CHAT, git_patch="p", **given)
    bare = world.database.add_task(user, status=status, chat_messages=None, changed_files=None, execution_metadata=None)
    world.database.add_event(full, "phase", {"phase": "queued"})

    for task_id, expected in ((full, 200), (bare, 200), (987654, 404)):
        answer = get(path.format(task_id))
        assert (answer.status, undescribed(client, OPERATIONS[path], answer)) == (expected, [])
    assert undescribed(client, OPERATIONS[path], client.get(path.format(full))) == []


@pytest.mark.parametrize("path", READS)
def test_another_users_task_looks_absent(get, world, path):
    foreign = world.database.add_task(world.new_user())

    for task_id in (foreign, 987654, 0, "9" * 19, "9" * 5000):
        answer = get(path.format(task_id))
        assert (answer.status, answer.json()["error"]) == (404, "Task not found")


@pytest.mark.parametrize("path", READS)
@pytest.mark.parametrize("task_id", ["abc", "-1", "1.5", "1e3", "%D9%A1", ""])
def test_an_id_that_is_no_number_is_no_route_with_or_without_a_token(client, as_user, path, task_id):
    for headers in (as_user, {}):
        answer = client.get(path.format(task_id), headers=headers)
        assert (answer.status, answer.json()["error"]) == (404, "Not found")


@pytest.mark.parametrize("path", READS)
def test_every_read_wants_a_token(client, path):
    assert client.get(path.format(1)).status == 401


def test_leading_zeros_are_no_part_of_an_id(get, world, user):
    task_id = world.database.add_task(user)

    assert get(f"/api/tasks/000{task_id}").json()["task"]["id"] == task_id


def test_a_running_task_has_the_contracts_keys_and_no_more(get, world, user):
    task_id = world.database.add_task(user, status="running", chat_messages=CHAT, pr_url="x", agent="codex")

    task = get(f"/api/task-status/{task_id}").json()["task"]

    assert task.keys() == WHILE_RUNNING
    assert (task["prompt"], task["branch"], task["model"]) == (LONG, "main", "codex")


@pytest.mark.parametrize("status", ["completed", "failed", "cancelled"])
def test_an_ended_task_tells_the_polling_page_what_it_would_learn_by_reloading(get, world, user, status):
    task_id = world.database.add_task(user, status=status, chat_messages=CHAT, completed_at=AT, pr_number=7)

    task = get(f"/api/task-status/{task_id}").json()["task"]

    extra = {key: value for key, value in task.items() if key not in WHILE_RUNNING}
    assert extra == {"chat_messages": CHAT, "execution_metadata": {}, "completed_at": AT, "pr_number": 7}


@pytest.mark.parametrize("chat", [None, [], [{"role": "assistant", "content": "x", "timestamp": "t"}]])
def test_a_task_without_a_users_message_has_an_empty_prompt(get, world, user, chat):
    task_id = world.database.add_task(user, chat_messages=chat)

    assert get(f"/api/task-status/{task_id}").json()["task"]["prompt"] == ""


def test_the_whole_row_has_every_column(get, world, user):
    task_id = world.database.add_task(user, git_diff="d", git_patch="p")

    body = get(f"/api/tasks/{task_id}").json()

    assert body == {"status": "success", "task": world.database.tasks[task_id] | {"usage": totals([])}}


def test_a_task_tells_what_all_its_runs_have_used(get, world, user):
    used = {"input_tokens": 10, "cached_input_tokens": 100, "cache_write_tokens": 1, "output_tokens": 5}
    task_id = world.database.add_task(user, status="running")
    world.database.usages[task_id] = [used | {"cost_usd": 0.1}, used | {"cost_usd": None}, {}]

    usage = {"runs": 3, "unpriced_runs": 1, "cost_usd": 0.1} | {name: 2 * count for name, count in used.items()}
    assert get(f"/api/tasks/{task_id}").json()["task"]["usage"] == usage
    assert get(f"/api/task-status/{task_id}").json()["task"]["usage"] == usage


def test_a_diff_is_null_until_there_is_one(get, world, user):
    pending, done = world.database.add_task(user), world.database.add_task(user, git_diff="Grüße, 世界")

    assert get(f"/api/git-diff/{pending}").json() == {"status": "success", "git_diff": None, "task_id": pending}
    answer = get(f"/api/git-diff/{done}")
    assert answer.json()["git_diff"] == "Grüße, 世界"
    assert "Grüße, 世界" in answer.text  # as UTF-8, not escaped


def test_the_live_log_is_read_piece_by_piece(get, world, user):
    task_id = world.database.add_task(user, status="running")
    empty = get(f"/api/tasks/{task_id}/events").json()
    for number in range(5):
        world.database.add_event(task_id, "note", {"number": number})

    first = get(f"/api/tasks/{task_id}/events?limit=2").json()
    rest = get(f"/api/tasks/{task_id}/events?after={first['next']}").json()
    none = get(f"/api/tasks/{task_id}/events?after={rest['next']}").json()

    assert empty == {"status": "success", "events": [], "next": 0, "task_status": "running"}
    assert [event["payload"]["number"] for event in first["events"] + rest["events"]] == [0, 1, 2, 3, 4]
    assert (first["next"], rest["next"], none["events"], none["next"]) == (2, 5, [], 5)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1", "after=x", "after=" + "9" * 19])
def test_impossible_pieces_of_the_log_are_refused(get, world, user, query):
    answer = get(f"/api/tasks/{world.database.add_task(user)}/events?{query}")

    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["error"].startswith(query.partition("=")[0])


def test_a_task_too_large_for_lambda_is_sent_without_its_heaviest_columns(client, get, world, user):
    patch = world.database.add_task(user, git_patch="+" * MAX_BYTES, git_diff="small")
    both = world.database.add_task(user, git_patch="+" * MAX_BYTES, git_diff="\n" * MAX_BYTES)
    everything = {"file_changes": ["x" * MAX_BYTES]}
    all_three = world.database.add_task(user, git_patch="p", git_diff="d", execution_metadata=everything)
    long = [{"role": "user", "content": "x" * MAX_BYTES, "timestamp": AT}]
    even_the_chat = world.database.add_task(user, chat_messages=long)

    answers = [get(f"/api/tasks/{task_id}") for task_id in (patch, both, all_three, even_the_chat)]

    assert [problem for answer in answers for problem in undescribed(client, "getTask", answer)] == []
    bodies = [answer.json() for answer in answers]

    assert [body["omitted"] for body in bodies] == [
        ["git_patch"],
        ["git_patch", "git_diff"],
        ["git_patch", "git_diff", "execution_metadata"],
        ["git_patch", "git_diff", "execution_metadata", "changed_files", "chat_messages"],
    ]
    assert (bodies[0]["task"]["git_patch"], bodies[0]["task"]["git_diff"]) == (None, "small")
    assert bodies[2]["task"]["execution_metadata"] == {}
    assert bodies[3]["task"]["chat_messages"] == []


def test_a_status_too_large_for_lambda_is_sent_without_its_chat(client, get, world, user):
    long = [*CHAT, {"role": "assistant", "content": "x" * MAX_BYTES, "timestamp": AT}]
    answer = get(f"/api/task-status/{world.database.add_task(user, status='failed', chat_messages=long)}")

    assert (answer.status, answer.json()["task"]["chat_messages"]) == (200, [])
    assert undescribed(client, "getTaskStatus", answer) == []


def test_a_part_of_the_log_too_large_for_lambda_is_cut_shorter(client, get, world, user):
    task_id = world.database.add_task(user)
    for _ in range(8):
        world.database.add_event(task_id, "output", {"text": "é" * 200_000})

    first = get(f"/api/tasks/{task_id}/events")
    rest = get(f"/api/tasks/{task_id}/events?after={first.json()['next']}").json()

    assert [event["seq"] for event in first.json()["events"] + rest["events"]] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert undescribed(client, "listTaskEvents", first) == []


def test_a_diff_too_large_for_lambda_is_a_clear_error(client, get, world, user):
    answer = get(f"/api/git-diff/{world.database.add_task(user, git_diff='é' * (MAX_BYTES // 6))}")

    assert (answer.status, answer.json()["code"]) == (413, "too_large")
    assert undescribed(client, "getGitDiff", answer) == []
