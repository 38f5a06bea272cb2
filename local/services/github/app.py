"""The paths of GitHub's REST API, with its statuses and messages."""

import asyncio
import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from local.mirrors import NAME, TOKEN_FILE
from local.services.github.accounts import DEFAULT_ACCOUNTS, Account, Accounts
from local.services.github.pulls import Pull, Pulls
from local.services.github.repository import Commit, Entry, GitRefused, Person, Repository

Json = dict[str, Any]
Answer = tuple[int, Any]

MODES = {"100644", "100755", "120000"}
DOCUMENTATION = "https://docs.github.com/rest"


class Refused(Exception):
    """What GitHub answers instead. `details` are the `errors` that come with a failed validation."""

    def __init__(self, status: int, message: str, *details: Json) -> None:
        super().__init__(message)
        self.status = status
        self.details = details


NOT_FOUND = (404, "Not Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request about one repository, by somebody who may see it."""

    account: Account
    owner: str
    name: str
    repository: Repository
    pulls: Pulls
    params: dict[str, str]
    query: dict[str, str]
    body: Json
    web_url: str

    @property
    def private(self) -> bool:
        return (self.repository.folder / TOKEN_FILE).exists()

    def check_may_write(self) -> None:
        if self.account.may_write:
            return
        if self.account.scopes is None:
            raise Refused(403, "Resource not accessible by personal access token")
        raise Refused(*NOT_FOUND)

    def wanted(self, key: str) -> Any:
        """A part of the body that must be there."""
        if key not in self.body:
            raise Refused(422, f'Invalid request.\n\n"{key}" wasn\'t supplied.')
        return self.body[key]


Handler = Callable[[Call], Answer]


def create_app(root: Path, *, accounts: Accounts = DEFAULT_ACCOUNTS, web_url: str = "https://github.com") -> Starlette:
    """The API of the repositories below `root`, for whoever has one of the `accounts`' tokens.

    `web_url` is where the pull requests say that their pages are.
    """
    one_at_a_time = asyncio.Lock()

    async def user(request: Request) -> Response:
        try:
            account = _account(request, accounts)
        except Refused as refused:
            return _refusal(refused)
        scopes = {} if account.scopes is None else {"x-oauth-scopes": ", ".join(account.scopes)}
        return JSONResponse({"login": account.login, "type": "User"}, headers=scopes)

    def serving(handle: Handler, *, writes: bool = False) -> Callable[[Request], Any]:
        async def serve(request: Request) -> Response:
            try:
                call = _call(request, await request.body(), accounts, root, web_url)
                if writes:
                    call.check_may_write()
                async with one_at_a_time:
                    status, answer = await run_in_threadpool(handle, call)
            except Refused as refused:
                return _refusal(refused)
            return Response(status_code=status) if answer is None else JSONResponse(answer, status)

        return serve

    def get(path: str, handle: Handler) -> Route:
        return Route(f"/repos/{{owner}}/{{name}}{path}", serving(handle), methods=["GET"])

    def change(method: str, path: str, handle: Handler) -> Route:
        return Route(f"/repos/{{owner}}/{{name}}{path}", serving(handle, writes=True), methods=[method])

    return Starlette(
        routes=[
            Route("/user", user, methods=["GET"]),
            get("", _repository),
            get("/git/ref/heads/{branch:path}", _branch),
            get("/git/commits/{id}", _commit),
            get("/commits", _history),
            get("/git/trees/{id}", _tree),
            get("/git/blobs/{id}", _blob),
            get("/pulls", _list_pulls),
            change("POST", "/git/blobs", _create_blob),
            change("POST", "/git/trees", _create_tree),
            change("POST", "/git/commits", _create_commit),
            change("POST", "/git/refs", _create_branch),
            change("PATCH", "/git/refs/heads/{branch:path}", _move_branch),
            change("DELETE", "/git/refs/heads/{branch:path}", _delete_branch),
            change("POST", "/pulls", _create_pull),
            change("PUT", "/pulls/{number:int}/merge", _merge_pull),
        ]
    )


# --- who asks, and about what -------------------------------------------------------------------------------


def _account(request: Request, accounts: Accounts) -> Account:
    given = _token(request)
    if not given:
        raise Refused(401, "Requires authentication")
    if given not in accounts:
        raise Refused(401, "Bad credentials")
    return accounts[given]


def _token(request: Request) -> str:
    return request.headers.get("authorization", "").partition(" ")[2]


def _call(request: Request, body: bytes, accounts: Accounts, root: Path, web_url: str) -> Call:
    account = _account(request, accounts)
    owner, name = request.path_params["owner"], request.path_params["name"]
    folder = root / owner / f"{name}.git"
    if not (NAME.fullmatch(owner) and NAME.fullmatch(name) and (folder / "HEAD").is_file()):
        raise Refused(*NOT_FOUND)
    only_for = folder / TOKEN_FILE
    if only_for.exists() and only_for.read_text().strip() != _token(request):
        raise Refused(*NOT_FOUND)
    return Call(
        account=account,
        owner=owner,
        name=name,
        repository=Repository(folder),
        pulls=Pulls(root / owner / f"{name}.pulls.json"),
        params=dict(request.path_params),
        query=dict(request.query_params),
        body=_body(body),
        web_url=web_url,
    )


def _body(sent: bytes) -> Json:
    try:
        body = json.loads(sent or b"{}")
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise Refused(400, "Problems parsing JSON")
    return body


def _refusal(refused: Refused) -> Response:
    errors = {"errors": list(refused.details)} if refused.details else {}
    answer = {"message": str(refused), **errors, "documentation_url": DOCUMENTATION, "status": str(refused.status)}
    return JSONResponse(answer, refused.status)


# --- what is there ------------------------------------------------------------------------------------------


def _repository(call: Call) -> Answer:
    return 200, {
        "name": call.name,
        "full_name": f"{call.owner}/{call.name}",
        "private": call.private,
        "owner": {"login": call.owner},
        "default_branch": call.repository.default_branch,
        "permissions": {"admin": call.account.is_admin, "push": call.account.can_write, "pull": True},
    }


def _branch(call: Call) -> Answer:
    branch = call.params["branch"]
    head = call.repository.head(branch)
    if head is None:
        raise Refused(*NOT_FOUND)
    return 200, _reference(branch, head)


def _commit(call: Call) -> Answer:
    commit = call.repository.commit(call.params["id"])
    if commit is None:
        raise Refused(*NOT_FOUND)
    return 200, _commit_json(commit)


def _history(call: Call) -> Answer:
    """Of one branch: the backend asks for nothing else."""
    head = call.repository.head(call.query.get("sha") or call.repository.default_branch)
    if head is None:
        raise Refused(*NOT_FOUND)
    found = call.repository.history(head, min(int(call.query.get("per_page", 30)), 100))
    return 200, [_listed_commit_json(commit) for commit in found]


def _tree(call: Call) -> Answer:
    """Always recursive: the backend asks for nothing else."""
    entries = call.repository.tree(call.params["id"])
    if entries is None:
        raise Refused(*NOT_FOUND)
    found = [{"path": one.path, "mode": one.mode, "type": one.kind, "sha": one.id} for one in entries]
    return 200, {"sha": call.params["id"], "tree": found, "truncated": False}


def _blob(call: Call) -> Answer:
    content = call.repository.blob(call.params["id"])
    if content is None:
        raise Refused(*NOT_FOUND)
    text = base64.encodebytes(content).decode("ascii")
    return 200, {"sha": call.params["id"], "size": len(content), "encoding": "base64", "content": text}


def _list_pulls(call: Call) -> Answer:
    state, head = call.query.get("state", "open"), call.query.get("head")
    found = [pull for pull in call.pulls.all() if state in {"all", pull.state}]
    return 200, [_pull_json(call, pull) for pull in found if head in {None, f"{call.owner}:{pull.branch}"}]


# --- what is made -------------------------------------------------------------------------------------------


def _create_blob(call: Call) -> Answer:
    content: str = call.wanted("content")
    try:
        data = base64.b64decode(content, validate=True) if call.body.get("encoding") == "base64" else content.encode()
    except binascii.Error:
        raise Refused(422, "content is not valid Base64") from None
    return 201, {"sha": call.repository.create_blob(data)}


def _create_tree(call: Call) -> Answer:
    base: str | None = call.body.get("base_tree")
    if base is not None and not call.repository.has(base, "tree"):
        raise Refused(422, "base_tree is not a valid tree oid")
    there = {entry.path for entry in call.repository.tree(base) or ()} if base else set()
    entries = [_entry(call, sent) for sent in call.wanted("tree")]
    if any(entry.id is None and entry.path not in there for entry in entries):
        raise Refused(422, "GitRPC::BadObjectState")
    try:
        return 201, {"sha": call.repository.create_tree(base, entries)}
    except GitRefused:
        raise Refused(422, "tree.path contains a malformed path component") from None


def _entry(call: Call, sent: Json) -> Entry:
    if sent.get("mode") not in MODES:
        raise Refused(422, "tree.mode must be one of 100644, 100755, 120000")  # the backend sends files only
    if "content" in sent:
        blob: str | None = call.repository.create_blob(sent["content"].encode())
    elif "sha" in sent:
        blob = sent["sha"]
    else:
        raise Refused(422, "Must supply either tree.sha or tree.content")
    if blob is not None and not call.repository.has(blob, "blob"):
        raise Refused(422, f"tree.sha {blob} is not a valid blob")
    return Entry(sent["path"], sent["mode"], "blob", blob)


def _create_commit(call: Call) -> Answer:
    tree, parents = call.wanted("tree"), call.body.get("parents", [])
    if not call.repository.has(tree, "tree"):
        raise Refused(422, "Tree SHA does not exist")
    if not all(call.repository.has(parent, "commit") for parent in parents):
        raise Refused(422, "Parent SHA does not exist or is not a commit object")
    login = call.account.login
    author = _person(call.body.get("author")) or Person(login, f"{login}@users.noreply.github.com")
    made = call.repository.create_commit(
        tree=tree,
        parents=parents,
        message=call.wanted("message"),
        author=author,
        committer=_person(call.body.get("committer")) or author,
    )
    commit = call.repository.commit(made)
    assert commit is not None  # noqa: S101 - it was made just now
    return 201, _commit_json(commit)


def _person(sent: Json | None) -> Person | None:
    return Person(sent["name"], sent["email"]) if sent else None


def _create_branch(call: Call) -> Answer:
    branch, commit = str(call.wanted("ref")).removeprefix("refs/heads/"), call.wanted("sha")
    if not call.repository.is_valid_branch(branch):
        raise Refused(422, f"refs/heads/{branch} is not a valid ref name.")
    if not call.repository.has(commit, "commit"):
        raise Refused(422, "Object does not exist")
    try:
        call.repository.set_head(branch, commit, only_new=True)
    except GitRefused:
        raise Refused(422, "Reference already exists") from None
    return 201, _reference(branch, commit)


def _move_branch(call: Call) -> Answer:
    branch, commit = call.params["branch"], call.wanted("sha")
    there = _existing(call, branch)
    if not call.repository.has(commit, "commit"):
        raise Refused(422, "Object does not exist")
    if not call.body.get("force") and call.repository.commits_between(commit, there):
        raise Refused(422, "Update is not a fast forward")
    call.repository.set_head(branch, commit)
    for pull in call.pulls.all():
        if (pull.branch, pull.state) == (branch, "open"):
            call.repository.keep_pull(pull.number, commit)
    return 200, _reference(branch, commit)


def _delete_branch(call: Call) -> Answer:
    _existing(call, call.params["branch"])
    call.repository.remove_head(call.params["branch"])
    call.pulls.close(call.params["branch"])
    return 204, None


def _existing(call: Call, branch: str) -> str:
    head = call.repository.head(branch)
    if head is None:
        raise Refused(422, "Reference does not exist")
    return head


def _create_pull(call: Call) -> Answer:
    branch, target, title = (str(call.wanted(key)) for key in ("head", "base", "title"))
    heads = {field: call.repository.head(name) for field, name in (("head", branch), ("base", target))}
    wrong = [_detail(field=field, code="invalid") for field, commit in heads.items() if commit is None]
    if not title.strip():
        wrong.append(_detail(field="title", code="missing_field"))
    if wrong:
        raise Refused(422, "Validation Failed", *wrong)
    open_ones = {pull.branch for pull in call.pulls.all() if pull.state == "open"}
    if branch in open_ones:
        said = f"A pull request already exists for {call.owner}:{branch}."
        raise Refused(422, "Validation Failed", _detail(code="custom", message=said))
    if not call.repository.commits_between(str(heads["base"]), str(heads["head"])):
        said = f"No commits between {target} and {branch}"
        raise Refused(422, "Validation Failed", _detail(code="custom", message=said))
    pull = Pull(
        number=call.pulls.next_number(call.repository.pull_numbers()),
        title=title,
        body=call.body.get("body"),
        branch=branch,
        target=target,
        login=call.account.login,
        draft=bool(call.body.get("draft", False)),
    )
    call.repository.keep_pull(pull.number, str(heads["head"]))
    call.pulls.add(pull)
    return 201, _pull_json(call, pull)


def _merge_pull(call: Call) -> Answer:
    """By a merge commit of whoever asks."""
    pull = next((one for one in call.pulls.all() if one.number == int(call.params["number"])), None)
    if pull is None:
        raise Refused(*NOT_FOUND)
    if pull.state != "open" or pull.draft:
        raise Refused(405, "Pull Request is not mergeable")
    login = call.account.login
    try:
        merged = call.repository.merge(
            pull.branch,
            pull.target,
            message=f"Merge pull request #{pull.number} from {call.owner}/{pull.branch}\n\n{pull.title}",
            author=Person(login, f"{login}@users.noreply.github.com"),
        )
    except GitRefused:
        raise Refused(405, "Pull Request is not mergeable") from None
    call.pulls.merged(pull.number, merged)
    return 200, {"sha": merged, "merged": True, "message": "Pull Request successfully merged"}


# --- how it is shown ----------------------------------------------------------------------------------------


def _detail(**facts: str) -> Json:
    return {"resource": "PullRequest", **facts}


def _reference(branch: str, commit_id: str) -> Json:
    return {"ref": f"refs/heads/{branch}", "object": {"type": "commit", "sha": commit_id}}


def _commit_json(commit: Commit) -> Json:
    return {
        "sha": commit.id,
        "tree": {"sha": commit.tree},
        "parents": [{"sha": parent} for parent in commit.parents],
        "author": {"name": commit.author.name, "email": commit.author.email},
        "committer": {"name": commit.committer.name, "email": commit.committer.email},
        "message": commit.message,
    }


def _listed_commit_json(commit: Commit) -> Json:
    whole = _commit_json(commit)
    return {"sha": commit.id, "parents": whole["parents"], "commit": whole}


def _pull_json(call: Call, pull: Pull) -> Json:
    return {
        "number": pull.number,
        "state": pull.state,
        "draft": pull.draft,
        "title": pull.title,
        "body": pull.body,
        "html_url": f"{call.web_url}/{call.owner}/{call.name}/pull/{pull.number}",
        "user": {"login": pull.login},
        "head": {"ref": pull.branch, "label": f"{call.owner}:{pull.branch}"},
        "base": {"ref": pull.target, "label": f"{call.owner}:{pull.target}"},
    }
