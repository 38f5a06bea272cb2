"""What our client asks of GitHub, and what it makes of the answers."""

import base64
import json
import time

import httpx
import pytest

from shared.adapters.github import API_VERSION, HttpGitHub
from shared.domain.binary_patch import blob_id
from shared.domain.changes import TreeEntry
from shared.domain.errors import Conflict, TooMany, Unavailable
from shared.domain.patch import File
from shared.domain.pull_request import COMMITTER, GitHubRefused, TokenOwner, TokenRefused
from shared.domain.repository import Repository
from shared.domain.secret import Secret

TOKEN = "github_pat_11ABCDEFG0123456789_secretsecretsecret"
REPOSITORY = Repository("https://github.com", "o", "o.github.io")
ROOT = "https://api.github.test/repos/o/o.github.io"
USER = (200, {"login": "octo"})


class GitHub:
    """Answers one after the other, and remembers the requests."""

    def __init__(self, *answers, **options):
        self.answers = list(answers)
        self.requests = []
        http = httpx.Client(transport=httpx.MockTransport(self._answer))
        self.client = HttpGitHub("https://api.github.test", Secret(TOKEN), http=http, **options)

    @property
    def asked(self):
        return [(request.method, str(request.url)) for request in self.requests]

    def body(self, at=-1):
        return json.loads(self.requests[at].content)

    def _answer(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        status, body, *headers = answer
        content = {"text": body} if isinstance(body, str) else {"json": body}
        return httpx.Response(status, headers=dict(*headers), **content)


def test_every_request_carries_the_token_and_names_the_version_it_was_written_for():
    github = GitHub(USER)

    assert github.client.owner() == TokenOwner("octo", None)
    [request] = github.requests
    assert github.asked == [("GET", "https://api.github.test/user")]
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["x-github-api-version"] == API_VERSION
    assert request.headers["accept"] == "application/vnd.github+json"
    assert "python" not in request.headers["user-agent"]


@pytest.mark.parametrize(
    ("header", "scopes"), [("repo, gist", {"repo", "gist"}), ("repo", {"repo"}), ("", set()), (" ", set())]
)
def test_the_scopes_of_a_classic_token_stand_in_a_header(header, scopes):
    github = GitHub((*USER, {"X-OAuth-Scopes": header}))

    assert github.client.owner().scopes == scopes


@pytest.mark.parametrize(
    ("permissions", "expected"),
    [
        ({"permissions": {"push": True, "admin": False}}, (True, False)),
        ({}, (False, False)),
        ({"permissions": None}, (False, False)),
    ],
)
def test_rights_that_github_does_not_name_are_none(permissions, expected):
    facts = {"full_name": "o/o.github.io", "private": False, "default_branch": "main"}
    access = GitHub((200, facts | permissions)).client.access(REPOSITORY)

    assert (access.can_push, access.is_admin) == expected


def test_names_are_written_into_paths_so_that_they_stay_names():
    github = GitHub(*[(404, {"message": "Not Found"})] * 2, (200, []))

    github.client.head(REPOSITORY, "feature/a b?#%ü")
    github.client.commit(REPOSITORY, "../x")
    github.client.open_pull_request(REPOSITORY, "a&state=all")

    assert github.asked == [
        ("GET", f"{ROOT}/git/ref/heads/feature/a%20b%3F%23%25%C3%BC"),
        ("GET", f"{ROOT}/git/commits/..%2Fx"),
        ("GET", f"{ROOT}/pulls?state=open&head=o%3Aa%26state%3Dall"),
    ]


def test_text_stands_in_the_one_tree_and_only_the_rest_is_uploaded_each_content_once():
    github = GitHub((201, {"sha": "blob-1"}), (201, {"sha": "blob-2"}), (201, {"sha": "tree"}))
    files = {
        "text": File("100644", "grün\r\n".encode()),
        "script": File("100755", b"#!\n"),
        "link": File("120000", b"text"),
        "binary": File("100644", b"\xff"),
        "same": File("100644", b"\xff"),
        "empty": File("100644", b""),
        "gone": None,
    }

    assert github.client.create_tree(REPOSITORY, "base", files) == "tree"
    assert github.asked == [("POST", f"{ROOT}/git/blobs")] * 2 + [("POST", f"{ROOT}/git/trees")]
    assert github.body(0) == {"content": base64.b64encode(b"\xff").decode(), "encoding": "base64"}
    assert github.body(1) == {"content": "", "encoding": "base64"}
    assert github.body()["base_tree"] == "base"
    assert github.body()["tree"] == [
        {"path": "text", "mode": "100644", "type": "blob", "content": "grün\r\n"},
        {"path": "script", "mode": "100755", "type": "blob", "content": "#!\n"},
        {"path": "link", "mode": "120000", "type": "blob", "content": "text"},
        {"path": "binary", "mode": "100644", "type": "blob", "sha": "blob-1"},
        {"path": "same", "mode": "100644", "type": "blob", "sha": "blob-1"},
        {"path": "empty", "mode": "100644", "type": "blob", "sha": "blob-2"},
        {"path": "gone", "mode": "100644", "type": "blob", "sha": None},
    ]


@pytest.mark.parametrize(
    ("gone", "put"), [("a/b/c", "a"), ("a/b/c", "a/b"), ("a", "a/b/c"), ("a/b", "a/b/c")], ids=lambda path: path
)
def test_a_file_and_a_folder_of_one_name_do_not_meet_in_one_tree(gone, put):
    github = GitHub((201, {"sha": "without"}), (201, {"sha": "with"}))

    assert github.client.create_tree(REPOSITORY, "base", {put: File("100644", b"x"), gone: None}) == "with"
    without, with_ = github.body(0), github.body(1)
    assert (without["base_tree"], [entry["path"] for entry in without["tree"]]) == ("base", [gone])
    assert (with_["base_tree"], [entry["path"] for entry in with_["tree"]]) == ("without", [put])


def test_large_text_is_uploaded_and_so_is_what_would_make_the_tree_too_large():
    files = {f"{n}": File("100644", b"%d" % n * 450_000) for n in range(8)} | {"large": File("100644", b"l" * 600_000)}
    github = GitHub(*[(201, {"sha": f"blob-{n}"}) for n in range(3)], (201, {"sha": "tree"}))

    github.client.create_tree(REPOSITORY, "base", files)

    inline = [entry["path"] for entry in github.body()["tree"] if "content" in entry]
    assert inline == ["0", "1", "2", "3", "4", "5"]
    assert len(github.requests[-1].content) < 3_100_000


THERE, MISSING = (200, ""), (404, "")
MANY = [b"\xff%d" % n for n in range(12)]
MANY_FILES = {f"{n}": File("100644", content) for n, content in enumerate(MANY)}


def uploads(contents):
    return [(201, {"sha": blob_id(content)}) for content in contents]


def test_of_many_blobs_those_that_a_call_has_sent_which_broke_off_are_not_sent_again():
    # The 7th, the 4th, the 2nd and the 3rd are looked for.
    github = GitHub(MISSING, MISSING, THERE, MISSING, *uploads(MANY[2:]), (201, {"sha": "tree"}))

    github.client.create_tree(REPOSITORY, "base", MANY_FILES)

    assert [method for method, _ in github.asked] == ["HEAD"] * 4 + ["POST"] * 11
    assert github.asked[0][1] == f"{ROOT}/git/blobs/{blob_id(MANY[6])}"
    assert [entry["sha"] for entry in github.body()["tree"]] == [blob_id(content) for content in MANY]


def test_blobs_that_were_wrongly_taken_as_sent_are_sent_when_github_misses_them():
    missed, tree = (422, {"message": "tree.sha is not a valid blob"}), (201, {"sha": "tree"})
    probes = [THERE, MISSING, MISSING, MISSING]
    github = GitHub(*probes, *uploads(MANY[7:]), missed, *uploads(MANY[:7]), tree)

    assert github.client.create_tree(REPOSITORY, "base", MANY_FILES) == "tree"
    assert not github.answers


def test_a_history_is_read_as_commits():
    commit = {"tree": {"sha": "t"}, "message": "m", "committer": {"email": "e"}}
    github = GitHub((200, [{"sha": "c", "commit": commit, "parents": [{"sha": "p"}]}]))

    [found] = github.client.history(REPOSITORY, "claude-code-7")

    assert github.asked == [("GET", f"{ROOT}/commits?sha=claude-code-7&per_page=100")]
    assert (found.id, found.tree, found.parents, found.message, found.committer_email) == ("c", "t", ("p",), "m", "e")


def test_names_that_only_begin_alike_share_a_tree():
    github = GitHub((201, {"sha": "tree"}))
    github.client.create_tree(REPOSITORY, "base", {"ab/c": File("100644", b"x"), "a": None, "a.txt": None})

    assert len(github.requests) == 1


def test_a_commit_is_the_token_owners_and_committed_by_us():
    answer = {
        "sha": "c",
        "tree": {"sha": "t"},
        "parents": [{"sha": "p"}],
        "message": "m\n",
        "committer": {"email": COMMITTER[1]},
    }
    github = GitHub((201, answer))

    commit = github.client.create_commit(REPOSITORY, tree="t", parents=("p", "q"), message="m")

    assert github.body() == {
        "message": "m",
        "tree": "t",
        "parents": ["p", "q"],
        "committer": {"name": COMMITTER[0], "email": COMMITTER[1]},
    }
    assert (commit.id, commit.parents, commit.message) == ("c", ("p",), "m")


def test_branches_are_made_moved_and_deleted():
    github = GitHub((201, {}), (200, {}), (204, ""))
    github.client.create_branch(REPOSITORY, "b/1", "c")
    github.client.move_branch(REPOSITORY, "b/1", "d")
    github.client.delete_branch(REPOSITORY, "b/1")

    assert github.asked == [
        ("POST", f"{ROOT}/git/refs"),
        ("PATCH", f"{ROOT}/git/refs/heads/b/1"),
        ("DELETE", f"{ROOT}/git/refs/heads/b/1"),
    ]
    assert github.body(0) == {"ref": "refs/heads/b/1", "sha": "c"}
    assert github.body(1) == {"sha": "d", "force": False}


def test_a_blob_comes_in_lines_of_base64():
    content = bytes(range(256))
    github = GitHub((200, {"content": base64.encodebytes(content).decode(), "encoding": "base64"}))

    assert github.client.blob(REPOSITORY, TreeEntry("100644", "b")) == content
    assert github.asked == [("GET", f"{ROOT}/git/blobs/b")]


def test_a_tree_that_is_cut_is_not_taken_for_the_whole():
    with pytest.raises(Conflict, match="too many files"):
        GitHub((200, {"tree": [], "truncated": True})).client.tree(REPOSITORY, "t")


def test_folders_are_no_files_of_a_tree():
    entries = [
        {"path": "a", "mode": "040000", "type": "tree", "sha": "1"},
        {"path": "a/b", "mode": "100644", "type": "blob", "sha": "2"},
        {"path": "sub", "mode": "160000", "type": "commit", "sha": "3"},
    ]

    found = GitHub((200, {"tree": entries, "truncated": False})).client.tree(REPOSITORY, "t")

    assert {path: (entry.mode, entry.id) for path, entry in found.items()} == {
        "a/b": ("100644", "2"),
        "sub": ("160000", "3"),
    }


def test_a_renamed_repository_is_followed():
    moved = (
        301,
        {"message": "Moved Permanently"},
        {"Location": "https://api.github.test/repositories/7/git/ref/heads/main"},
    )
    github = GitHub(moved, (200, {"object": {"sha": "c"}}))

    assert github.client.head(REPOSITORY, "main") == "c"
    assert github.requests[1].headers["authorization"]


def test_the_token_does_not_follow_to_another_host():
    github = GitHub((301, {}, {"Location": "https://elsewhere.test/user"}), USER)
    github.client.owner()

    assert "authorization" not in github.requests[1].headers


# --- refusals and outages -----------------------------------------------------------------------------------


def test_a_token_that_github_does_not_know_is_refused():
    with pytest.raises(TokenRefused, match=r"^GitHub does not accept the token: Bad credentials$"):
        GitHub((401, {"message": "Bad credentials", "documentation_url": "https://docs"})).client.owner()


@pytest.mark.parametrize(
    ("status", "body", "reason"),
    [
        (404, {"message": "Not Found", "documentation_url": "https://docs", "status": "404"}, "Not Found"),
        (
            422,
            {"message": "Validation Failed", "errors": [{"code": "custom", "message": "No commits between a and b"}]},
            "Validation Failed: No commits between a and b",
        ),
        (422, {"message": "Validation Failed", "errors": [{"code": "invalid", "field": "head"}]}, "Validation Failed"),
        (
            422,
            {"message": "Invalid request.\n\nNo subschema", "errors": ["one", "two"]},
            "Invalid request. No subschema: one: two",
        ),
        (422, {"message": f"no {TOKEN} here"}, "no [REDACTED] here"),
        (422, {"message": "x" * 1000}, "x" * 300),
        (403, "<html>Forbidden</html>", "HTTP 403"),
        (403, {}, "HTTP 403"),
        (409, [], "HTTP 409"),
    ],
)
def test_a_refusal_says_what_github_said_and_nothing_else_of_its_answer(status, body, reason):
    with pytest.raises(GitHubRefused) as raised:
        GitHub((status, body)).client.access(REPOSITORY)

    assert (raised.value.status, raised.value.reason) == (status, reason)
    assert str(raised.value) == f"GitHub refused: {reason}"


@pytest.mark.parametrize("status", [404, 409])
def test_what_does_not_exist_is_none(status):
    github = GitHub(*[(status, {"message": "Git Repository is empty."})] * 2)

    assert github.client.head(REPOSITORY, "main") is None
    assert github.client.commit(REPOSITORY, "c") is None


@pytest.mark.parametrize(
    ("status", "headers", "retry_after_s"),
    [
        (403, {"Retry-After": "17"}, 17),
        (429, {"Retry-After": "17"}, 17),
        (429, {}, 60),
        (403, {"X-RateLimit-Remaining": "0"}, 60),
        (403, {"Retry-After": "soon"}, 60),
        (403, {"Retry-After": "999999"}, 3600),
        (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, 1),
    ],
)
def test_a_limit_of_githubs_says_when_to_come_back(status, headers, retry_after_s):
    with pytest.raises(TooMany) as raised:
        GitHub((status, {"message": "API rate limit exceeded for user ID 1."}, headers)).client.owner()

    assert (raised.value.retry_after_s, raised.value.code) == (retry_after_s, "github_rate_limited")


def test_a_secondary_limit_is_known_by_its_words_alone():
    message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again."
    with pytest.raises(TooMany) as raised:
        GitHub((403, {"message": message}, {"X-RateLimit-Remaining": "4999"})).client.owner()

    assert raised.value.retry_after_s == 60


def test_a_limit_per_hour_ends_with_the_hour():
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 1000)}
    with pytest.raises(TooMany) as raised:
        GitHub((403, {"message": "API rate limit exceeded"}, headers)).client.owner()

    assert 900 < raised.value.retry_after_s <= 1000


def test_a_refusal_with_requests_left_is_no_limit():
    with pytest.raises(GitHubRefused):
        GitHub((403, {"message": "Forbidden"}, {"X-RateLimit-Remaining": "4999"})).client.access(REPOSITORY)


@pytest.mark.parametrize(
    "answer",
    [
        (500, {"message": "Server Error"}),
        (502, "<html>Unicorn!</html>"),
        (503, ""),
        (200, "<html>a proxy</html>"),
        (200, []),
        (200, {"name": "no login"}),
        httpx.ConnectError("refused"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("gone"),
    ],
)
def test_an_outage_is_an_outage_and_is_not_asked_again(answer):
    github = GitHub(answer)

    with pytest.raises(Unavailable, match="Try again"):
        github.client.owner()
    assert len(github.requests) == 1


def test_all_calls_together_have_a_deadline():
    github = GitHub(USER, deadline_s=0)

    with pytest.raises(Unavailable, match="takes too long"):
        github.client.owner()
    assert not github.requests


def test_no_call_waits_longer_than_what_is_left():
    github = GitHub(USER, USER, deadline_s=2)
    patient = GitHub(USER, deadline_s=60)
    github.client.owner()
    patient.client.owner()

    assert 0 < github.requests[0].extensions["timeout"]["read"] <= 2
    assert patient.requests[0].extensions["timeout"]["read"] == 10
