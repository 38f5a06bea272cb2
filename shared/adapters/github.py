"""GitHub's REST API, as far as pull requests need it. The only module that spells its paths and fields."""

import base64
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, TypeVar
from urllib.parse import quote

import httpx

from shared.domain.binary_patch import blob_id
from shared.domain.changes import Files, TreeEntry, folders
from shared.domain.errors import AppError, Conflict, TooMany, Unavailable
from shared.domain.patch import File
from shared.domain.pull_request import (
    COMMITTER,
    Commit,
    GitHubRefused,
    PullRequest,
    RepositoryAccess,
    TokenOwner,
    TokenRefused,
)
from shared.domain.redaction import Redactor
from shared.domain.repository import Repository
from shared.domain.secret import Secret

T = TypeVar("T")
Json = dict[str, Any]

API_VERSION = "2022-11-28"
DEADLINE_S = 20.0  # for all calls of one request, which has 29 s at API Gateway: the database needs some of them
CONNECT_S, READ_S = 3.0, 10.0  # GitHub itself gives up on a request after 10 s
RETRY_AFTER_S = 60  # when GitHub limits and does not say for how long (its documentation asks for a minute)
MAX_RETRY_AFTER_S = 3600  # its limits are per hour
MAX_REASON_CHARS = 300
HISTORY = 100  # the most that one answer has
# Of text that stands in a tree itself; more is uploaded as blobs, for GitHub refuses a large tree (November 2026: "your
# input was too large to process. Consider creating the blobs directly").
INLINE_BYTES, INLINE_BYTES_IN_ALL = 500_000, 3_000_000
# So many may be more than GitHub takes within one request of ours (some 80 a minute): the next one goes on after them.
MANY_BLOBS = 10


@cache
def _http() -> httpx.Client:
    # A thawed Lambda finds idle connections dead, so they are dropped soon; connecting (not sending) is tried twice.
    # It keeps no cookies: they would carry one user's session to the next.
    return httpx.Client(
        limits=httpx.Limits(max_connections=10, keepalive_expiry=5),
        transport=httpx.HTTPTransport(retries=1),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
    )


class HttpGitHub:
    """One token's view of GitHub, for one request of ours: `deadline_s` is for all its calls together.

    Every method raises TokenRefused, GitHubRefused, TooMany and Unavailable.
    """

    def __init__(
        self, api_url: str, token: Secret, *, http: httpx.Client | None = None, deadline_s: float = DEADLINE_S
    ) -> None:
        self._api_url = api_url
        self._token = token
        self._http = http or _http()
        self._until = time.monotonic() + deadline_s

    def owner(self) -> TokenOwner:
        response = self._send("GET", "/user")
        scopes = response.headers.get("x-oauth-scopes")
        return TokenOwner(
            _read(response, lambda user: str(user["login"])),
            None if scopes is None else frozenset(scopes.replace(",", " ").split()),
        )

    def access(self, repository: Repository) -> RepositoryAccess:
        return self._ask("GET", _path(repository), _access)

    def head(self, repository: Repository, branch: str) -> str | None:
        return self._find(_branch_path(repository, "git/ref", branch), lambda ref: str(ref["object"]["sha"]))

    def commit(self, repository: Repository, commit_id: str) -> Commit | None:
        return self._find(_path(repository, "git/commits", commit_id), _commit)

    def history(self, repository: Repository, branch: str) -> tuple[Commit, ...]:
        """The branch's newest commits, the newest first, at most HISTORY; none without such a branch."""
        path = f"{_path(repository, 'commits')}?sha={quote(branch, safe='')}&per_page={HISTORY}"
        return self._find(path, lambda answer: tuple(_listed_commit(one) for one in answer)) or ()

    def tree(self, repository: Repository, tree_id: str) -> Mapping[str, TreeEntry]:
        """All files by their paths. Raises Conflict when they are too many for one answer (100,000)."""
        entries, is_cut = self._ask("GET", f"{_path(repository, 'git/trees', tree_id)}?recursive=1", _entries)
        if is_cut:
            raise Conflict("The repository has too many files to apply a patch. Run the task again.")
        return entries

    def blob(self, repository: Repository, entry: TreeEntry) -> bytes:
        path = _path(repository, "git/blobs", entry.id)
        return self._ask("GET", path, lambda blob: base64.b64decode(blob["content"]))

    def create_tree(self, repository: Repository, base_tree: str, files: Files) -> str:
        """The id of the base with these files put, or removed where None."""
        apart = _not_inline(file.content for file in files.values() if file)
        sent = self._sent_before(repository, apart)
        blobs = {content: blob_id(content) for content in apart[:sent]} | self._create_blobs(repository, apart[sent:])
        try:
            return self._tree_with(repository, base_tree, files, blobs)
        except GitHubRefused:
            if not sent:
                raise
            # Some were in the repository anyway, and were taken for a sign that all before them had been sent.
            blobs |= self._create_blobs(repository, apart[:sent])
            return self._tree_with(repository, base_tree, files, blobs)

    def create_commit(self, repository: Repository, *, tree: str, parents: tuple[str, ...], message: str) -> Commit:
        """By the token's owner, committed by COMMITTER, on no branch yet."""
        committer = dict(zip(("name", "email"), COMMITTER, strict=True))
        body = {"message": message, "tree": tree, "parents": list(parents), "committer": committer}
        return self._ask("POST", _path(repository, "git/commits"), _commit, body)

    def create_branch(self, repository: Repository, branch: str, commit_id: str) -> None:
        self._send("POST", _path(repository, "git/refs"), {"ref": f"refs/heads/{branch}", "sha": commit_id})

    def move_branch(self, repository: Repository, branch: str, commit_id: str) -> None:
        """Forward only: GitHubRefused when a commit that is on the branch now would be lost."""
        self._send("PATCH", _branch_path(repository, "git/refs", branch), {"sha": commit_id, "force": False})

    def delete_branch(self, repository: Repository, branch: str) -> None:
        self._send("DELETE", _branch_path(repository, "git/refs", branch))

    def open_pull_request(self, repository: Repository, branch: str) -> PullRequest | None:
        head = quote(f"{repository.owner}:{branch}", safe="")
        path = f"{_path(repository, 'pulls')}?state=open&head={head}"
        found = self._ask("GET", path, lambda answer: [_pull_request(one) for one in answer])
        return found[0] if found else None

    def create_pull_request(
        self, repository: Repository, *, branch: str, target: str, title: str, body: str, draft: bool
    ) -> PullRequest:
        words = {"title": title, "body": body, "head": branch, "base": target, "draft": draft}
        return self._ask("POST", _path(repository, "pulls"), _pull_request, words)

    def _tree_with(self, repository: Repository, tree: str, files: Files, blobs: Mapping[bytes, str]) -> str:
        for part in _separately(files):
            entries = [_entry(path, file, blobs) for path, file in part.items()]
            body = {"base_tree": tree, "tree": entries}
            tree = self._ask("POST", _path(repository, "git/trees"), _id, body)
        return tree

    def _sent_before(self, repository: Repository, contents: Sequence[bytes]) -> int:
        """How many of them, from the first on, a call has sent that broke off; not asked where they are few."""
        if len(contents) <= MANY_BLOBS:
            return 0
        return bisect_left(contents, True, key=lambda content: not self._has_blob(repository, blob_id(content)))

    def _create_blobs(self, repository: Repository, contents: Iterable[bytes]) -> dict[bytes, str]:
        """Upload them; ids by contents."""
        path = _path(repository, "git/blobs")
        blobs: dict[bytes, str] = {}
        for content in contents:
            body = {"content": base64.b64encode(content).decode("ascii"), "encoding": "base64"}
            blobs[content] = self._ask("POST", path, _id, body)
        return blobs

    def _has_blob(self, repository: Repository, object_id: str) -> bool:
        try:
            self._send("HEAD", _path(repository, "git/blobs", object_id))
        except GitHubRefused:
            return False
        return True

    def _find(self, path: str, read: Callable[[Any], T]) -> T | None:
        try:
            return self._ask("GET", path, read)
        except GitHubRefused as refused:
            if refused.status in {404, 409}:  # 409: the repository has no commit at all
                return None
            raise

    def _ask(self, method: str, path: str, read: Callable[[Any], T], body: Json | None = None) -> T:
        """What `read` makes of the answer."""
        return _read(self._send(method, path, body), read)

    def _send(self, method: str, path: str, body: Json | None = None) -> httpx.Response:
        left = self._until - time.monotonic()
        if left <= 0:
            raise Unavailable("GitHub takes too long to respond. Try again.")
        try:
            response = self._http.request(
                method,
                f"{self._api_url}{path}",
                json=body,
                headers={
                    "Authorization": f"Bearer {self._token.reveal()}",
                    "Accept": "application/vnd.github+json",
                    "X-GitHub-Api-Version": API_VERSION,
                    "User-Agent": "async-code",
                },
                timeout=httpx.Timeout(min(READ_S, left), connect=min(CONNECT_S, left)),
                follow_redirects=True,  # a renamed repository answers with its new address
            )
        except httpx.HTTPError as error:
            raise Unavailable("GitHub is not responding. Try again.", reason=type(error).__name__) from error
        if response.is_success:
            return response
        raise _refusal(response, self._token)


# --- what GitHub is sent ------------------------------------------------------------------------------------


def _path(repository: Repository, kind: str = "", name: str = "") -> str:
    parts = ["/repos", repository.owner, repository.name, kind, quote(name, safe="")]
    return "/".join(part for part in parts if part)


def _branch_path(repository: Repository, kind: str, branch: str) -> str:
    return f"{_path(repository, kind)}/heads/{quote(branch, safe='/')}"


def _separately(files: Files) -> list[Files]:
    """All at once; or first those to remove, where a file takes the place of a folder, or a folder that of a file."""
    gone = {path: file for path, file in files.items() if file is None}
    put = {path: file for path, file in files.items() if file is not None}
    if folders(put) & gone.keys() or folders(gone) & put.keys():
        return [gone, put]
    return [files]


def _entry(path: str, file: File | None, blobs: Mapping[bytes, str]) -> Json:
    if file is None:
        return {"path": path, "mode": "100644", "type": "blob", "sha": None}
    blob = blobs.get(file.content)
    content = {"sha": blob} if blob else {"content": file.content.decode()}
    return {"path": path, "mode": file.mode, "type": "blob", **content}


def _not_inline(contents: Iterable[bytes]) -> list[bytes]:
    """Those that have to be blobs before they can be in a tree, each once."""
    apart, left = [], INLINE_BYTES_IN_ALL
    for content in dict.fromkeys(contents):
        if _is_text(content) and len(content) <= min(INLINE_BYTES, left):
            left -= len(content)
        else:
            apart.append(content)
    return apart


def _is_text(content: bytes) -> bool:
    """Whether it can stand in a tree; nothing at all cannot."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return bool(text) and "\0" not in text


# --- what GitHub answers ------------------------------------------------------------------------------------


def _read(response: httpx.Response, read: Callable[[Any], T]) -> T:
    try:
        return read(response.json())
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unavailable("GitHub returned an unexpected response. Try again.", reason=type(error).__name__) from error


def _id(answer: Json) -> str:
    return str(answer["sha"])


def _access(answer: Json) -> RepositoryAccess:
    permissions = answer.get("permissions") or {}
    return RepositoryAccess(
        full_name=answer["full_name"],
        private=answer["private"],
        default_branch=answer["default_branch"],
        can_push=permissions.get("push") is True,
        is_admin=permissions.get("admin") is True,
    )


def _commit(answer: Json) -> Commit:
    return Commit(
        id=answer["sha"],
        tree=answer["tree"]["sha"],
        parents=tuple(parent["sha"] for parent in answer["parents"]),
        message=answer["message"].strip(),
        committer_email=answer["committer"]["email"],
    )


def _listed_commit(answer: Json) -> Commit:
    """As in a list, where the commit itself stands in `commit`."""
    return _commit({**answer["commit"], "sha": answer["sha"], "parents": answer["parents"]})


def _entries(answer: Json) -> tuple[dict[str, TreeEntry], bool]:
    files = (entry for entry in answer["tree"] if entry["type"] != "tree")
    return {entry["path"]: TreeEntry(entry["mode"], entry["sha"]) for entry in files}, answer["truncated"]


def _pull_request(answer: Json) -> PullRequest:
    return PullRequest(answer["head"]["ref"], answer["number"], answer["html_url"])


def _refusal(response: httpx.Response, token: Secret) -> AppError:
    status, reason = response.status_code, _reason(response, token)
    if status >= 500:
        return Unavailable("GitHub returned an unexpected response. Try again.", status=status, reason=reason)
    if status == 401:
        return TokenRefused(f"GitHub does not accept the token: {reason}")
    spent = response.headers.get("x-ratelimit-remaining") == "0" or "retry-after" in response.headers
    spent = spent or "secondary rate limit" in reason.lower()  # which may come without either header
    if status == 429 or (status == 403 and spent):
        text = "The token has reached GitHub's rate limit. Try again later."
        return TooMany(text, retry_after_s=_retry_after_s(response.headers), code="github_rate_limited", reason=reason)
    return GitHubRefused(status, reason)


def _reason(response: httpx.Response, token: Secret) -> str:
    """GitHub's sentences, on one line and without the token; never the rest of its answer."""
    try:
        answer = response.json()
        details = (error.get("message") if isinstance(error, dict) else error for error in answer.get("errors") or ())
        said = [str(text) for text in (answer.get("message"), *details) if text]
    except (ValueError, TypeError, AttributeError):
        said = []
    line = " ".join(": ".join(said).split()) or f"HTTP {response.status_code}"
    return Redactor([token.reveal()]).text(line)[:MAX_REASON_CHARS]


def _retry_after_s(headers: httpx.Headers) -> int:
    """Seconds until GitHub accepts the token again: it says how many, or when its present hour ends."""
    try:
        seconds = int(headers.get("retry-after") or int(headers["x-ratelimit-reset"]) - time.time())
    except (KeyError, ValueError):
        return RETRY_AFTER_S
    return min(max(seconds, 1), MAX_RETRY_AFTER_S)
