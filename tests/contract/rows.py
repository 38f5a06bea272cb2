"""The rows that the cases name: what `meta.fixtures` of both case files describes."""

import secrets
import uuid

import psycopg
from psycopg.types.json import Jsonb

LONG = "do a thing that is longer than fifty characters for sure, ok?"
FIFTY = "exactly fifty characters, which needs no dots now."
REPOSITORY = "https://github.com/o/r"


def insert_rows(dsn, patches):
    """Insert users, projects and tasks of their own for one case file; return `{name: id or text}`."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        return _Rows(connection).fill(patches)


class _Rows:
    def __init__(self, connection):
        self._connection = connection

    def fill(self, patches):
        a, b, c = (self._user() for _ in range(3))
        projects = {
            "P_A": self._project(a, "widgets", name="Widgets"),
            "P_A2": self._project(a, "second"),
            "P_DOOMED": self._project(a, "doomed"),
            "P_B": self._project(b, "widgets", name="Widgets"),
            "P_C1": self._project(c, "older", created_at="2026-11-20T09:00:00Z"),
            "P_C2": self._project(c, "newer", created_at="2026-11-21T09:00:00Z"),
        }
        return {
            "LONG": LONG,
            "FIFTY": FIFTY,
            "RAND": secrets.token_hex(4),
            "NOUSER": str(uuid.uuid4()),
            "USER_A": str(a),
            "USER_B": str(b),
            "USER_C": str(c),
            "TEST_USER": str(self._user(raw_app_meta_data=Jsonb({"is_test_user": True}))),
            "TEST_EXPIRED": str(self._user(raw_app_meta_data=Jsonb({"is_test_user": True, "ttl_hours": 0}))),
            **projects,
            "P_T": projects["P_A"],  # the project of T_DONE
            **self._tasks(a, patches, project_id=projects["P_A"], doomed=projects["P_DOOMED"]),
            "T_B": self._task(b, "pending"),
            **self._tasks_of_c(c, projects["P_C1"]),
        }

    def _tasks(self, a, patches, *, project_id, doomed):
        """Of user A, in every state that the cases look at."""
        ended = {"changed_files": Jsonb(["README.md"]), "execution_metadata": Jsonb({"turns": 2})}
        ended |= {"git_diff": patches.plain, "git_patch": patches.readme, "commit_hash": "0" * 40}
        several = {"git_patch": patches.several, "changed_files": Jsonb(["README.md", "new.txt", "old.txt"])}
        said = [{"role": "assistant", "content": "Hello", "timestamp": 1763888400.5}, _message(FIFTY)]
        return {
            "T_DONE": self._task(a, "completed", project_id=project_id, **ended),
            "T_DONE2": self._task(a, "completed", **ended | several),
            "T_PLAIN": self._task(a, "completed", **ended | {"git_patch": patches.plain, "changed_files": None}),
            "T_CODEX": self._task(a, "completed", agent="codex", **ended),
            "T_CONFLICT": self._task(a, "completed", **ended | {"git_patch": patches.conflicting}),
            "T_BADPATCH": self._task(a, "completed", **ended | {"git_patch": "garbage"}),
            "T_NO_REPO": self._task(a, "completed", repo_url="https://github.com/o/missing", **ended),
            "T_NO_BASE": self._task(a, "completed", target_branch="no-such-branch", **ended),
            "T_EMPTY": self._task(a, "completed", git_patch=""),
            "T_NOPATCH": self._task(a, "completed"),
            "T_PEND": self._task(a, "pending"),
            "T_RUN": self._task(a, "running"),
            "T_FAIL": self._task(a, "failed", error="boom"),
            "T_CANCELLED": self._task(a, "cancelled"),
            "T_NOMSG": self._task(a, "pending", chat_messages=Jsonb([])),
            "T_ODD": self._task(a, "pending", chat_messages=Jsonb(said)),
            "T_DOOMED": self._task(a, "pending", project_id=doomed),
        }

    def _tasks_of_c(self, c, project_id):
        """Three of one project, a day apart: the newest has the highest number."""
        states = {"T_C1": "completed", "T_C2": "running", "T_C3": "pending"}
        common = {"project_id": project_id, "git_diff": "diff", "git_patch": "patch"}
        return {
            name: self._task(c, status, created_at=f"2026-11-2{name[-1]}T09:00:00Z", **common)
            for name, status in states.items()
        }

    def _user(self, **columns):
        user_id = uuid.uuid4()
        return self._insert("auth.users", id=user_id, email=f"{user_id}@example.test", **columns)

    def _project(self, user_id, repo_name, **columns):
        row = {"repo_owner": "acme", "repo_name": repo_name, "repo_url": f"https://github.com/acme/{repo_name}"}
        return self._insert("public.projects", user_id=user_id, **row | {"name": repo_name} | columns)

    def _task(self, user_id, status, **columns):
        row = {"repo_url": REPOSITORY, "chat_messages": Jsonb([_message(LONG)])}
        return self._insert("public.tasks", user_id=user_id, status=status, **row | columns)

    def _insert(self, table, **columns):
        marks = ", ".join(["%s"] * len(columns))
        statement = f"insert into {table} ({', '.join(columns)}) values ({marks}) returning id"
        return self._connection.execute(statement, list(columns.values())).fetchone()[0]


def _message(content):
    return {"role": "user", "content": content, "timestamp": "2026-11-23T09:00:00.000000+00:00"}
