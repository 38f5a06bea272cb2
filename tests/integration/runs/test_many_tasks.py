"""Many tasks of several users at once: each gets its own diff, nobody sees another's, nothing is left behind."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from local.client import ApiError

TASKS, USERS = 20, 3


def test_twenty_tasks_of_three_users_all_end_with_the_right_diff(lab):
    clients = [lab.user() for _ in range(USERS)]
    paths = [lab.repository({"README.md": f"repository {n}\n"}) for n in range(USERS)]

    def start(n):
        client, (_, url) = clients[n % USERS], paths[n % USERS]
        agent = ("claude", "codex")[n % 2]
        prompt = (
            f"@write task-{n}.txt: the work of task {n}\n@append README.md: line of task {n}\n@say Task {n} is done."
        )
        return lab.start(client, prompt, url, agent=agent)

    with ThreadPoolExecutor(TASKS) as at_once:
        ids = list(at_once.map(start, range(TASKS)))

    rows = [lab.finished(clients[n % USERS], task_id, timeout_s=300) for n, task_id in enumerate(ids)]

    for n, task in enumerate(rows):
        assert task["status"] == "completed", (n, task["error"])
        assert task["changed_files"] == ["README.md", f"task-{n}.txt"]
        assert f"+the work of task {n}\n" in task["git_diff"]
        assert f"+line of task {n}\n" in task["git_diff"]
        assert f" repository {n % USERS}\n" in task["git_diff"]
        assert task["chat_messages"][-1]["content"] == f"Task {n} is done."
        lab.assert_patch_makes(task, paths[n % USERS][0])

    for user, client in enumerate(clients):
        own = {task_id for n, task_id in enumerate(ids) if n % USERS == user}
        assert {int(task_id) for task_id in client.tasks()} == own
        for foreign in set(ids) - own:
            for look in (client.task, client.status, client.diff, partial(client.events, after=0)):
                with pytest.raises(ApiError, match="404 Task not found"):
                    look(foreign)

    lab.until(lambda: not lab.sandboxes() and not lab.agent_processes())
