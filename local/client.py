"""The API as its frontend uses it: sign in, start a task, watch it, read the diff."""

from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import httpx

from local.stack import Stack

DEMO_EMAIL = "demo@async-code.test"
TIMEOUT_S = 30
NO_SIGN_IN = {400, 403, 422}  # as GoTrue answers: a wrong password, or no sign-in by password in this project
USER_EXISTS = 422
PER_PAGE, MAX_PAGES = 100, 100
Json = dict[str, Any]


class ApiError(Exception):
    """A service of the stack refused or did not answer; the text is a sentence for a person."""


class Refused(ApiError):
    """`status` is that of the answer."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Client:
    """Speaks to the API as one user. Raises ApiError with the API's sentence when it refuses."""

    def __init__(self, api_url: str, token: str) -> None:
        self.token = token
        self._http = http_client(api_url, token)

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
        return answer_to(self._http, method, path, **arguments)


def http_client(url: str, token: str | None = None, **headers: str) -> httpx.Client:
    """For a service of the stack. Proxies and certificates of the environment apply to real ones only."""
    local = urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    bearer = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=url, headers=bearer | headers, timeout=TIMEOUT_S, trust_env=not local)


def answer_to(http: httpx.Client, method: str, path: str, **arguments: Any) -> Json:
    """The JSON object that a service answers. Raises Refused with its sentence, ApiError where it does not answer."""
    asked = f"{method} {str(http.base_url).rstrip('/')}{path}"
    try:
        response = http.request(method, path, **arguments)
    except httpx.HTTPError as error:
        raise ApiError(f"{asked}: no answer ({error or type(error).__name__}).") from error
    try:
        body = response.json()
    except ValueError:
        body = None
    if response.is_error:
        raise Refused(response.status_code, f"{asked}: {response.status_code} {_sentence(body, response.text)}")
    if not isinstance(body, dict):
        raise ApiError(f"{asked}: the answer is no JSON object, so another program may be listening there.")
    return body


def sign_in(stack: Stack, email: str = DEMO_EMAIL) -> tuple[str, Client]:
    """The id of this user, made when new, and a client that acts as that user."""
    user_id = _user(stack, email)
    with http_client(stack.api_url) as api:
        made = answer_to(api, "POST", "/api/auth/token", json={"user_id": user_id})
    return user_id, Client(stack.api_url, made["access_token"])


def _user(stack: Stack, email: str) -> str:
    """Whoever has the password already; else a new user. One from before the keys were made gets the password."""
    key, by_password = stack.supabase_secret_key, {"email": email, "password": stack.keys.demo_password}
    with http_client(f"{stack.supabase_url}/auth/v1", key, apikey=key) as auth:
        try:
            return _id(answer_to(auth, "POST", "/token", params={"grant_type": "password"}, json=by_password)["user"])
        except Refused as refused:
            if refused.status not in NO_SIGN_IN:
                raise
        try:
            return _id(answer_to(auth, "POST", "/admin/users", json={**by_password, "email_confirm": True}))
        except Refused as refused:
            if refused.status != USER_EXISTS:
                raise
        user_id = _id_by_email(auth, email)
        answer_to(auth, "PUT", f"/admin/users/{user_id}", json={"password": by_password["password"]})
        return user_id


def _id_by_email(auth: httpx.Client, email: str) -> str:
    """GoTrue answers with those alone that `filter` fits; the local gateway lists all of its own."""
    for page in range(1, MAX_PAGES):
        sought = {"page": page, "per_page": PER_PAGE, "filter": email}
        users = answer_to(auth, "GET", "/admin/users", params=sought)["users"]
        for user in users:
            if user["email"] == email.lower():
                return _id(user)
        if len(users) < PER_PAGE:
            break
    raise ApiError(f"Supabase says that {email} is registered, but does not list it.")


def _id(user: Json) -> str:
    return str(user["id"])


def _sentence(body: Any, text: str) -> str:
    """What a refusal says: our API, GoTrue and GitHub each have a key of their own for it."""
    said = isinstance(body, dict) and next((body[key] for key in ("error", "msg", "message") if body.get(key)), None)
    return str(said or text[:200] or "without a word")
