"""Lists cost what a page costs, however many tasks somebody has and whatever their agents changed.

No clock says so, but the plans of the statements inside the functions, and PostgreSQL's count of what it has read of
the tasks' large values.
"""

import json
import random
import string
import uuid

import psycopg
import pytest

TASKS = 10_000
DEEP = 9_000  # tasks before the page that a deep cursor names
LIMIT = 50

# Every patch is stored out of line (TOAST): 200 KB each for the newest 200 tasks, 3 KB for the others, of letters and
# digits by chance, which PostgreSQL hardly compresses. That is 70 MB and takes two seconds; 200 KB for all, a minute.
FILL = """
    insert into tasks (
        user_id, project_id, status, created_at, repo_url, chat_messages, git_diff, git_patch, execution_metadata)
    select %(user)s, case when n %% 2 = 0 then %(project)s::bigint end,
        (array['completed', 'failed', 'running', 'pending'])[1 + n %% 4]::task_status,
        now() - n * interval '1 minute', 'https://github.com/o/r',
        jsonb_build_array(
            jsonb_build_object('role', 'user', 'content', 'add number ' || n, 'timestamp', now()),
            jsonb_build_object('role', 'assistant', 'content', left(%(large)s, 600), 'timestamp', now())),
        'diff', left(%(large)s, case when n <= 200 then 200000 else 3000 end),
        jsonb_build_object('file_changes', left(%(large)s, case when n <= 200 then 3000 else 10 end))
    from generate_series(1, %(count)s) n order by n desc
"""

EXPLAIN = """
    load 'auto_explain';
    set auto_explain.log_min_duration = 0;
    set auto_explain.log_nested_statements = on;
    set auto_explain.log_analyze = on;
    set auto_explain.log_timing = off;
    set auto_explain.log_format = json;
    set auto_explain.log_level = notice
"""


class Database:
    """Seen by a user who has many tasks, half of them in one project; somebody else has some, too."""

    def __init__(self, dsn):
        self.dsn = dsn
        self.user, self.project = self._add_user(TASKS)
        self._add_user(2000)
        self.sql("vacuum analyze tasks, projects")  # as autovacuum does by itself
        [self.deep] = self.sql(
            "select created_at, id from tasks where user_id = %s order by created_at desc offset %s limit 1",
            *(self.user, DEEP - 1),
        )

    def sql(self, statement, *values):
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, values)
            return cursor.fetchall() if cursor.description else []

    def _add_user(self, count):
        large = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=200_000))
        user = str(uuid.uuid4())
        self.sql("insert into auth.users (id, email) values (%s, %s)", user, f"{user}@example.test")
        [[project]] = self.sql(
            "insert into projects (user_id, repo_url, repo_owner, repo_name, name)"
            " values (%s, 'https://github.com/o/r', 'o', 'r', 'R') returning id",
            user,
        )
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(FILL, {"user": user, "project": project, "count": count, "large": large})
        return user, project

    def ask(self, function, **arguments):
        """The function's answer to the user, and what its statements did: the nodes of their plans."""
        named = ", ".join(f"{name} => %({name})s" for name in arguments)
        notices = []
        with psycopg.connect(self.dsn) as connection:
            connection.execute(EXPLAIN)
            claims = json.dumps({"sub": self.user, "role": "authenticated"})
            connection.execute("select set_config('request.jwt.claims', %s, true)", [claims])
            connection.execute("set local role authenticated")
            connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
            [answer] = connection.execute(f"select {function}({named})", arguments).fetchone()
            connection.execute("select pg_stat_force_next_flush()")
        plans = [json.loads(notice.partition("plan:\n")[2])["Plan"] for notice in notices if "plan:\n" in notice]
        return answer, [node for plan in plans for node in below(plan)]

    def large_values_read(self):
        """Blocks of the tasks' out-of-line storage that anybody has looked at so far, and of its index."""
        [[blocks]] = self.sql(
            "select toast_blks_read + toast_blks_hit + tidx_blks_read + tidx_blks_hit"
            " from pg_statio_user_tables where relname = 'tasks'"
        )
        return blocks


def below(node):
    """A node of a plan and everything that it reads from."""
    return [node, *(inner for child in node.get("Plans", []) for inner in below(child))]


def of_tasks(nodes):
    return [node for node in nodes if node.get("Relation Name") == "tasks"]


@pytest.fixture(scope="module")
def database(fresh_database):
    return Database(fresh_database())


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize(("one_project", "index"), [(False, "idx_tasks_user_id"), (True, "idx_tasks_project_id")])
def test_a_page_is_found_through_an_index_wherever_it_begins(database, one_project, index, deep):
    at, task_id = database.deep
    position = {"p_after_at": at, "p_after_id": task_id} if deep else {}
    project = {"p_project_id": database.project} if one_project else {}

    answer, nodes = database.ask("list_tasks", p_limit=LIMIT, **project, **position)

    assert (len(answer["tasks"]), answer["more"]) == (LIMIT, True)
    assert answer["total"] == (TASKS / 2 if one_project else TASKS)
    [page] = [node for node in nodes if node["Node Type"] == "Limit"]
    [scan] = of_tasks(below(page))
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Scan", index)
    assert ("ROW(created_at, id) < ROW(" in scan["Index Cond"]) is deep
    assert scan["Actual Rows"] == LIMIT + 1
    assert scan.get("Rows Removed by Filter", 0) == 0
    assert not [node for node in below(page) if "Sort" in node["Node Type"]]


@pytest.mark.parametrize("one_project", [False, True])
@pytest.mark.parametrize("status", [{}, {"p_status": "running"}])
def test_tasks_are_counted_without_reading_them(database, one_project, status):
    project = {"p_project_id": database.project} if one_project else {}

    answer, nodes = database.ask("list_tasks", p_limit=LIMIT, **project, **status)

    assert answer["total"] == TASKS / (4 if status else 2 if one_project else 1)
    assert sorted(node["Node Type"] for node in of_tasks(nodes)) == ["Index Only Scan", "Index Scan"]


def test_projects_are_listed_without_reading_their_tasks(database):
    [project], nodes = database.ask("list_projects")

    counts = [project[key] for key in ("task_count", "completed_tasks", "active_tasks")]
    assert counts == [TASKS / 2, TASKS / 4, TASKS / 4]
    [scan] = of_tasks(nodes)
    assert (scan["Node Type"], scan["Index Name"]) == ("Index Only Scan", "idx_tasks_project_id")


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("list_tasks", {"p_limit": 1000}),
        ("list_tasks", {"p_limit": LIMIT, "p_status": "failed"}),
        ("list_tasks", {"p_limit": LIMIT, "p_search": "number 99"}),
        ("list_projects", {}),
    ],
)
def test_nothing_that_an_agent_produced_is_read(database, function, arguments):
    before = database.large_values_read()

    database.ask(function, **arguments)

    assert database.large_values_read() == before


def test_what_an_agent_produced_would_be_seen_if_it_were_read(database):
    before = database.large_values_read()

    database.sql("select sum(length(git_patch)), pg_stat_force_next_flush() from tasks where id = %s", database.deep[1])

    assert database.large_values_read() > before
