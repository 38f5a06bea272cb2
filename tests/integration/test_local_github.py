"""GitHub's stand-in as a program of its own, and what it answers where GitHub refuses."""

import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from local.listening import listen
from local.mirrors import TOKEN_FILE
from local.processes import ProcessGroup
from local.services.github import Account
from shared.domain.patch import File
from tests.integration.github_servers import bare_repository, serving

FILES = {"README.md": File("100644", b"# r\n")}
UNKNOWN_ID = "1" * 40
NO_BLOB = {"path": "a", "mode": "100644", "sha": UNKNOWN_ID}
NOT_FOUND = {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}


@pytest.fixture
def git(tmp_path):
    git = bare_repository(tmp_path, "o", "r")
    git.add_commit(FILES, branch="main")
    return git


@pytest.fixture
def main(git):
    return git("rev-parse", "main")


@pytest.fixture
def ask(git, tmp_path):
    """Ask about o/r; the answer, with its JSON."""
    with serving(tmp_path, web_url="http://127.0.0.1:3000") as url:

        def send(method, path="", body=None, *, token="tok", repository="o/r"):
            headers = {"Authorization": f"token {token}"} if token else {}
            return httpx.request(method, f"{url}/repos/{repository}{path}", json=body, headers=headers, timeout=30)

        send.url = url
        yield send


def refusal(answer):
    return answer.status_code, answer.json()["message"]


def test_nobody_is_asked_to_authenticate_and_a_stranger_is_refused(ask):
    assert refusal(ask("GET", token=None)) == (401, "Requires authentication")
    assert refusal(ask("GET", token="badtoken")) == (401, "Bad credentials")
    assert refusal(httpx.get(f"{ask.url}/user")) == (401, "Requires authentication")


def test_what_is_not_there_or_not_to_be_seen_is_not_found(ask, git, tmp_path):
    bare_repository(tmp_path, "o", "secret")
    (tmp_path / "o" / "secret.git" / TOKEN_FILE).write_text("another\n")
    (tmp_path / "o" / "notes.git").mkdir()

    for repository in ("o/missing", "o/secret", "o/notes", "x/r", "o/..", "%2e%2e/o"):
        answer = ask("GET", repository=repository)
        assert answer.status_code == 404, repository
    assert ask("GET", repository="o/missing").json() == NOT_FOUND
    for path in ("/git/ref/heads/mai", "/git/commits/main", f"/git/trees/{UNKNOWN_ID}", "/git/blobs/--help"):
        assert ask("GET", path).json() == NOT_FOUND


def test_pages_of_pull_requests_are_where_the_operator_says(ask, git, main, tmp_path):
    git.add_commit({}, main, branch="b")

    made = ask("POST", "/pulls", {"title": "t", "head": "b", "base": "main"})

    assert (made.status_code, made.json()["html_url"]) == (201, "http://127.0.0.1:3000/o/r/pull/1")
    [kept] = json.loads((tmp_path / "o" / "r.pulls.json").read_text())
    assert (kept["branch"], kept["target"], kept["login"], kept["state"]) == ("b", "main", "octo", "open")


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({"head": "none", "base": "none"}, [("head", "invalid"), ("base", "invalid")]),
        ({"title": " "}, [("title", "missing_field")]),
    ],
)
def test_a_failed_validation_names_what_is_wrong(ask, git, main, body, errors):
    git.add_commit({}, main, branch="b")

    answer = ask("POST", "/pulls", {"title": "t", "head": "b", "base": "main"} | body)

    assert refusal(answer) == (422, "Validation Failed")
    assert [(error["field"], error["code"]) for error in answer.json()["errors"]] == errors


def entry(**changes):
    return {"path": "a", "mode": "100644", "type": "blob", "content": "a"} | changes


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("/git/trees", {"tree": [entry(path="../a")]}, "tree.path contains a malformed path component"),
        ("/git/trees", {"tree": [entry(path=".git/config")]}, "tree.path contains a malformed path component"),
        ("/git/trees", {"tree": [{"path": "a", "mode": "100644"}]}, "Must supply either tree.sha or tree.content"),
        ("/git/trees", {"tree": [NO_BLOB]}, f"tree.sha {UNKNOWN_ID} is not a valid blob"),
        ("/git/trees", {"tree": [entry(mode="100777")]}, "tree.mode must be one of 100644, 100755, 120000"),
        ("/git/commits", {"message": "m", "tree": UNKNOWN_ID}, "Tree SHA does not exist"),
        ("/git/refs", {"ref": "refs/heads/a..b", "sha": UNKNOWN_ID}, "refs/heads/a..b is not a valid ref name."),
        ("/git/refs", {"ref": "refs/heads/a"}, 'Invalid request.\n\n"sha" wasn\'t supplied.'),
        ("/git/blobs", {"content": "=", "encoding": "base64"}, "content is not valid Base64"),
    ],
)
def test_what_cannot_be_made_is_refused(ask, path, body, message):
    assert refusal(ask("POST", path, body)) == (422, message)


def test_a_branch_is_moved_sideways_only_by_force(ask, git, main):
    git.add_commit({}, main, branch="b")
    other = git.add_commit({"x": File("100644", b"x")}, main)

    refused = ask("PATCH", "/git/refs/heads/b", {"sha": other})
    forced = ask("PATCH", "/git/refs/heads/b", {"sha": other, "force": True})

    assert refusal(refused) == (422, "Update is not a fast forward")
    assert (forced.status_code, git("rev-parse", "b")) == (200, other)


def test_what_is_no_json_is_refused(ask):
    answer = httpx.post(f"{ask.url}/repos/o/r/pulls", content=b"{", headers={"Authorization": "Bearer tok"})

    assert refusal(answer) == (400, "Problems parsing JSON")


def test_at_once_only_one_of_many_makes_a_branch(ask, git, main):
    with ThreadPoolExecutor(6) as threads:
        body = {"ref": "refs/heads/b", "sha": main}
        found = [answer.status_code for answer in threads.map(lambda _: ask("POST", "/git/refs", body), range(6))]

    assert sorted(found) == [201, 422, 422, 422, 422, 422]


def test_it_is_a_program_with_accounts_of_your_own(git, tmp_path):
    accounts = tmp_path / "accounts.json"
    accounts.write_text(json.dumps({"mine": {"login": "ada", "scopes": ["repo"]}, "fine": {"login": "ada"}}))
    argv = ["-m", "local.services.github", "--root", str(tmp_path), "--accounts", str(accounts)]
    with ProcessGroup(tmp_path / "logs") as processes:
        environment = {"PATH": os.environ["PATH"]}
        github = processes.start("github", [sys.executable, *argv], env=environment, listener=listen())
        mine, fine, tok = (
            httpx.get(f"{github.url}/user", headers={"Authorization": f"Bearer {token}"})
            for token in ("mine", "fine", "tok")
        )

    assert (mine.json()["login"], mine.headers["x-oauth-scopes"]) == ("ada", "repo")
    assert "x-oauth-scopes" not in fine.headers
    assert tok.status_code == 401


@pytest.mark.parametrize(
    ("account", "may_write"),
    [
        (Account(login="a"), True),
        (Account(login="a", can_write=False), False),
        (Account(login="a", scopes=["public_repo"]), True),
        (Account(login="a", scopes=["gist"]), False),
        (Account(login="a", scopes=["repo"], can_write=False), False),
    ],
)
def test_who_may_write_needs_the_right_and_the_scope(account, may_write):
    assert account.may_write is may_write


@pytest.fixture
def pulled(ask, git, main):
    """Pull request 1: from b, which adds a file, to main, which has moved on meanwhile."""
    changed = FILES | {"new": File("100755", b"new\n")}
    git.add_commit(changed, main, branch="b")
    git.add_commit(FILES | {"others": File("100644", b"x\n")}, main, branch="main")

    def make(**facts):
        return ask("POST", "/pulls", {"title": "t", "head": "b", "base": "main"} | facts).json()["number"]

    return make


def test_a_pull_request_is_merged_by_a_commit_with_both_parents(ask, git, pulled):
    number, before = pulled(), git("rev-parse", "main")

    merged = ask("PUT", f"/pulls/{number}/merge", {})

    assert (merged.status_code, merged.json()["sha"]) == (200, git("rev-parse", "main"))
    assert git("rev-parse", "main^1", "main^2").split() == [before, git("rev-parse", "b")]
    assert git("ls-tree", "--format=%(objectmode) %(path)", "main").splitlines() == [
        "100644 README.md",
        "100755 new",
        "100644 others",
    ]
    assert git("log", "-1", "--format=%s|%an", "main") == "Merge pull request #1 from o/b|octo"
    assert ask("GET", "/pulls?state=open").json() == []
    assert refusal(ask("PUT", f"/pulls/{number}/merge", {})) == (405, "Pull Request is not mergeable")


def test_what_conflicts_or_is_a_draft_is_not_merged(ask, git, pulled, main):
    draft = pulled(draft=True)
    assert ask("GET", "/pulls").json()[0]["draft"] is True
    git.add_commit({"README.md": File("100644", b"theirs\n")}, main, branch="theirs")
    git.add_commit({"README.md": File("100644", b"ours\n")}, main, branch="main")
    conflicting = pulled(head="theirs")
    before = git("for-each-ref")

    for number in (draft, conflicting):
        assert refusal(ask("PUT", f"/pulls/{number}/merge", {})) == (405, "Pull Request is not mergeable")
    assert refusal(ask("PUT", "/pulls/99/merge", {})) == (404, "Not Found")
    assert ask("PUT", f"/pulls/{conflicting}/merge", {}, token="tok_ro").status_code == 403
    assert git("for-each-ref") == before


def test_the_history_of_a_branch_has_commits_with_their_people(ask, git, main):
    newest = git.add_commit({}, main, branch="b", message="two\n\nlines")

    listed = ask("GET", "/commits?sha=b&per_page=1").json()

    assert [(one["sha"], one["commit"]["message"], one["parents"]) for one in listed] == [
        (newest, "two\n\nlines", [{"sha": main}])
    ]
    assert [one["sha"] for one in ask("GET", "/commits?sha=b").json()] == [newest, main]
    assert refusal(ask("GET", "/commits?sha=none")) == (404, "Not Found")
