import pytest

from functions.api import examples
from functions.api.answers import MAX_BYTES

LONG = "do a thing that is longer than fifty characters for sure, ok?"
CHAT = [
    {"role": "assistant", "content": "hello", "timestamp": "t"},
    {"role": "user", "content": LONG, "timestamp": "t"},
]
WHILE_RUNNING = {"id", "status", "prompt", "repo_url", "branch", "model", "commit_hash", "changed_files", "error"}
WHILE_RUNNING |= {"created_at", "project_id"}
READS = ["/api/task-status/{}", "/api/tasks/{}", "/api/git-diff/{}", "/api/tasks/{}/events"]


@pytest.fixture
def get(client, as_user):
    return lambda path: client.get(path, headers=as_user)


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


@pytest.mark.parametrize("path", [*READS, "/api/tasks"])
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
    task_id = world.database.add_task(user, status=status, chat_messages=CHAT, completed_at="t", pr_number=7)

    task = get(f"/api/task-status/{task_id}").json()["task"]

    extra = {key: value for key, value in task.items() if key not in WHILE_RUNNING}
    assert examples.TASK_STATUS["task"].keys() == WHILE_RUNNING | extra.keys() | {"pr_branch", "pr_url"}
    assert extra == {"chat_messages": CHAT, "execution_metadata": {}, "completed_at": "t", "pr_number": 7}


@pytest.mark.parametrize("chat", [None, [], [{"role": "assistant", "content": "x", "timestamp": "t"}]])
def test_a_task_without_a_users_message_has_an_empty_prompt(get, world, user, chat):
    task_id = world.database.add_task(user, chat_messages=chat)

    assert get(f"/api/task-status/{task_id}").json()["task"]["prompt"] == ""
    assert get("/api/tasks").json()["tasks"][str(task_id)]["prompt"] == ""


def test_the_list_is_keyed_by_id_with_short_prompts_and_no_patches(get, world, user):
    done = world.database.add_task(user, git_patch="patch", chat_messages=CHAT)
    short = world.database.add_task(user, chat_messages=[{"role": "user", "content": LONG[:50], "timestamp": "t"}])
    world.database.add_task(world.new_user())

    body = get("/api/tasks").json()

    assert body["total_tasks"] == 2
    assert body["tasks"].keys() == {str(done), str(short)}
    assert all(task.keys() == examples.TASK_LIST["tasks"]["7"].keys() for task in body["tasks"].values())
    assert body["tasks"][str(done)]["prompt"] == "do a thing that is longer than fifty characters fo..."
    assert body["tasks"][str(short)]["prompt"] == LONG[:50]
    assert [body["tasks"][str(i)]["has_patch"] for i in (done, short)] == [True, False]


def test_the_list_can_be_of_one_project_and_a_filter_that_is_none_is_ignored(get, world, user):
    project = world.database.add_project(user)
    inside, outside = world.database.add_task(user, project_id=project), world.database.add_task(user)

    def listed(query):
        return {int(key) for key in get(f"/api/tasks?{query}").json()["tasks"]}

    assert listed(f"project_id={project}") == {inside}
    assert listed("project_id=987654") == set()
    for none in ("", "project_id=", "project_id=0", "project_id=abc", "project_id=1.5"):
        assert listed(none) == {inside, outside}


def test_the_whole_row_has_every_column(get, world, user):
    task_id = world.database.add_task(user, git_diff="d", git_patch="p")

    body = get(f"/api/tasks/{task_id}").json()

    assert body == {"status": "success", "task": world.database.tasks[task_id]}
    assert body["task"].keys() == examples.TASK["task"].keys()


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
    assert first["events"][0].keys() == examples.EVENTS["events"][0].keys()
    assert [event["payload"]["number"] for event in first["events"] + rest["events"]] == [0, 1, 2, 3, 4]
    assert (first["next"], rest["next"], none["events"], none["next"]) == (2, 5, [], 5)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1", "after=x", "after=" + "9" * 19])
def test_impossible_pieces_of_the_log_are_refused(get, world, user, query):
    answer = get(f"/api/tasks/{world.database.add_task(user)}/events?{query}")

    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert answer.json()["error"].startswith(query.partition("=")[0])


def test_a_task_too_large_for_lambda_is_sent_without_its_heaviest_columns(get, world, user):
    patch = world.database.add_task(user, git_patch="+" * MAX_BYTES, git_diff="small")
    both = world.database.add_task(user, git_patch="+" * MAX_BYTES, git_diff="\n" * MAX_BYTES)
    everything = {"file_changes": ["x" * MAX_BYTES]}
    all_three = world.database.add_task(user, git_patch="p", git_diff="d", execution_metadata=everything)

    bodies = [get(f"/api/tasks/{task_id}").json() for task_id in (patch, both, all_three)]

    assert [body["omitted"] for body in bodies] == [
        ["git_patch"],
        ["git_patch", "git_diff"],
        ["git_patch", "git_diff", "execution_metadata"],
    ]
    assert (bodies[0]["task"]["git_patch"], bodies[0]["task"]["git_diff"]) == (None, "small")
    assert bodies[2]["task"]["execution_metadata"] == {}


def test_a_diff_too_large_for_lambda_is_a_clear_error(get, world, user):
    answer = get(f"/api/git-diff/{world.database.add_task(user, git_diff='é' * (MAX_BYTES // 6))}")

    assert (answer.status, answer.json()["code"]) == (413, "too_large")
