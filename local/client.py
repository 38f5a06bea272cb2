"""The API as its frontend uses it: sign in, start a task, watch it, read the diff."""

from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from local.stack import Stack

DEMO_EMAIL = "demo@async-code.test"
Json = dict[str, Any]


class ApiError(Exception):
    """The API refused; the text is its own sentence."""


class Client:
    """Speaks to the API as one user. Raises ApiError with the API's sentence when it refuses."""

    def __init__(self, api_url: str, token: str) -> None:
        self.token = token
        self._http = httpx.Client(base_url=api_url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def start_task(self, *, prompt: str, repo_url: str, branch: str, model: str, github_token: str) -> int:
        """The new task's id."""
        body = {
            "prompt": prompt,
            "repo_url": repo_url,
            "branch": branch,
            "model": model,
            "github_token": github_token,
            "project_id": None,
        }
        return int(self._call("POST", "/api/start-task", json=body)["task_id"])

    def task(self, task_id: int) -> Json:
        """The whole row."""
        return dict(self._call("GET", f"/api/tasks/{task_id}")["task"])

    def tasks(self) -> dict[str, Json]:
        """All own tasks in short, by id."""
        return dict(self._call("GET", "/api/tasks")["tasks"])

    def status(self, task_id: int) -> str:
        return str(self._call("GET", f"/api/task-status/{task_id}")["task"]["status"])

    def diff(self, task_id: int) -> str:
        return self._call("GET", f"/api/git-diff/{task_id}")["git_diff"] or ""

    def propose(self, task_id: int, *, github_token: str) -> Json:
        """The pull request that was made: pr_url, pr_number, branch, files_updated."""
        return self._call("POST", f"/api/create-pr/{task_id}", json={"github_token": github_token})

    def events(self, task_id: int, *, after: int) -> list[Json]:
        """Entries of the live log after number `after`."""
        return list(self._call("GET", f"/api/tasks/{task_id}/events", params={"after": after})["events"])

    def _call(self, method: str, path: str, **arguments: Any) -> Json:
        response = self._http.request(method, path, **arguments)
        if response.is_error:
            raise ApiError(f"{method} {path}: {response.status_code} {_sentence(response)}")
        return dict(response.json())


def sign_in(stack: Stack, email: str = DEMO_EMAIL) -> tuple[str, Client]:
    """The id of this user, made when new, and a client that acts as that user."""
    user_id = _user(stack, email)
    answer = httpx.post(f"{stack.api_url}/api/auth/token", json={"user_id": user_id}, timeout=30)
    if answer.is_error:
        raise ApiError(f"No token for the demo user: {_sentence(answer)}")
    return user_id, Client(stack.api_url, answer.json()["access_token"])


def _user(stack: Stack, email: str) -> str:
    headers = {"apikey": stack.supabase_secret_key, "Authorization": f"Bearer {stack.supabase_secret_key}"}
    with httpx.Client(base_url=f"{stack.supabase_url}/auth/v1", headers=headers, timeout=30) as auth:
        for user in _pages(auth):
            if user["email"] == email:
                return str(user["id"])
        made = auth.post(
            "/admin/users", json={"email": email, "password": stack.keys.demo_password, "email_confirm": True}
        )
        if made.is_error:
            raise ApiError(f"The demo user could not be made: {_sentence(made)}")
        return str(made.json()["id"])


def _pages(auth: httpx.Client) -> Iterator[Json]:
    per_page = 100
    for page in range(1, 100):
        answer = auth.get("/admin/users", params={"page": page, "per_page": per_page})
        if answer.is_error:
            raise ApiError(f"The users cannot be listed: {_sentence(answer)}")
        users = answer.json()["users"]
        yield from users
        if len(users) < per_page:
            return


def _sentence(response: httpx.Response) -> str:
    try:
        body = response.json()
    except ValueError:
        return response.text[:200]
    return str(body.get("error") or body.get("msg") or body)
