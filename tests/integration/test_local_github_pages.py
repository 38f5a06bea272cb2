"""The pages that a person opens in a browser: of a repository, and of a pull request."""

import json
import logging
import re

import httpx
import pytest

from local.mirrors import TOKEN_FILE, make_sample_repository, publish
from local.services.git import server as git_server
from local.services.github import pages
from local.services.github.pulls import Pull, Pulls
from shared.domain.patch import File
from tests.integration.github_servers import Git, bare_repository, serving, serving_app

HOSTILE = "<script>alert(1)</script>\"' &amp; \x1b[31m \u202e"
SHOWN = "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27; &amp;amp; ␛[31m \ufffd"


@pytest.fixture
def source(tmp_path):
    make_sample_repository(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def root(tmp_path, source):
    publish(tmp_path / "root", "o", "r", source)
    return tmp_path / "root"


@pytest.fixture
def git(root):
    return Git(root / "o" / "r.git")


@pytest.fixture
def web(root):
    """The origin of the pages."""
    with serving_app(git_server.create_app(root)) as url:
        yield url


@pytest.fixture
def ask(root, web):
    """Ask the API about o/r; the JSON of its answer."""
    with serving(root, web_url=web) as url:

        def send(method, path, body=None):
            headers = {"Authorization": "Bearer tok"}
            answer = httpx.request(method, f"{url}/repos/o/r{path}", json=body, headers=headers, timeout=30)
            answer.raise_for_status()
            return answer.json() if answer.content else None

        yield send


@pytest.fixture
def proposed(ask, git):
    """Pull request 1 of the branch b, which adds a file; its facts may be changed."""

    def make(files=None, message="Add a file", **facts):
        git.add_commit(files or {"new.txt": File("100644", b"new\n")}, "main", branch="b", message=message)
        return ask("POST", "/pulls", {"title": "Something new", "head": "b", "base": "main"} | facts)

    return make


def text_of(answer):
    assert answer.status_code == 200, answer.text
    return re.sub(r"<style>.*?</style>", "", answer.text, flags=re.DOTALL)


def test_a_merged_pull_request_stays_merged_when_the_repository_is_published_again(
    proposed, ask, root, source, web, tmp_path, git
):
    made = proposed()
    merged = ask("PUT", "/pulls/1/merge", {})["sha"]
    git("update-ref", "-d", "refs/heads/b")

    publish(root, "o", "r", source)

    Git(tmp_path)("clone", "-q", f"{web}/o/r", "clone")
    assert Git(tmp_path / "clone")("rev-parse", "HEAD") == merged
    page = text_of(httpx.get(made["html_url"]))
    assert '"badge merged">merged<' in page
    assert f"merge commit</td><td><code>{merged[:12]}" in page
    assert "is deleted" in page
    assert "Add a file" in page
    assert '<span class="added">+new</span>' in page
    assert made["html_url"] == f"{web}/o/r/pull/1"


def test_the_page_of_an_open_pull_request_says_what_it_is_and_what_it_changes(proposed, web, git):
    made = proposed(body="Because.\n\n- one")

    page = text_of(httpx.get(made["html_url"]))

    for part in ("Something new", '"badge open">open<', "Because.\n\n- one", git("rev-parse", "--short=12", "b")):
        assert part in page
    assert git("rev-parse", "--short=12", "main") in page
    assert '<span class="removed">-# pocketbook</span>' in page


def test_a_commit_on_the_branch_after_it_was_proposed_is_shown_and_kept(proposed, ask, git, web):
    made = proposed()
    tip = git.add_commit({"more.txt": File("100644", b"more\n")}, "b", message="More")
    ask("PATCH", "/git/refs/heads/b", {"sha": tip})
    assert "+more" in text_of(httpx.get(made["html_url"]))

    ask("DELETE", "/git/refs/heads/b")
    page = text_of(httpx.get(made["html_url"]))

    assert '"badge closed">closed<' in page
    assert "+more" in page


def test_a_repository_has_its_pull_requests_branches_and_commits_on_one_page(proposed, web, git):
    proposed()

    page = text_of(httpx.get(f"{web}/o/r"))

    assert f"git clone {web}/o/r<" in page
    assert 'href="/o/r/pull/1">Something new</a>' in page
    for part in ("main", "b", "Test the ledger", "Ada Example", git("rev-parse", "--short=12", "main")):
        assert part in page
    assert httpx.get(f"{web}/o/r.git").text == httpx.get(f"{web}/o/r").text


def test_whatever_agents_write_is_only_text(proposed, web, git):
    files = {"a\"<b>'.txt": File("100644", HOSTILE.encode() + b"\n\xff\n")}
    git.add_commit(files, "main", branch='x"<i>')
    made = proposed(files, HOSTILE, title=HOSTILE, body=f"{HOSTILE}\n</pre>")

    for url in (f"{web}/o/r", made["html_url"]):
        answer = httpx.get(url)
        page = text_of(answer)
        assert SHOWN in page
        assert not re.search(r"<(script|i|b)>|[\x00-\x08\x1b\u202e]", page)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src" not in policy


def test_the_policy_allows_the_style_that_the_page_has(web):
    answer = httpx.get(f"{web}/o/r")
    [style] = re.findall(r"<style>(.*?)</style>", answer.text, re.DOTALL)

    assert style == pages.STYLE
    assert f"'sha256-{pages._HASH}'" in answer.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    ["/", "/o", "/o/none", "/x/r", "/o/r/pull/2", "/o/r/pull/x", f"/o/r/pull/{'9' * 5000}", "/o/r/pulls", "/%2e/r"],
)
def test_what_is_not_there_is_a_sentence(web, path):
    answer = httpx.get(f"{web}{path}")

    assert answer.status_code == 404
    assert answer.headers["content-type"].startswith("text/plain")
    assert re.fullmatch(r"[A-Z].+\.", answer.text)


def test_a_private_repository_is_shown_only_with_its_token(proposed, root, web):
    proposed()
    (root / "o" / "r.git" / TOKEN_FILE).write_text("s3cret")

    for path in ("/o/r", "/o/r/pull/1", "/o/r/pull/2"):
        for auth in (None, ("x", "wrong")):
            answer = httpx.get(f"{web}{path}", auth=auth)
            assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Basic realm="git"')
            assert "Something" not in answer.text
    assert "Something new" in text_of(httpx.get(f"{web}/o/r", auth=("x", "s3cret")))


def test_a_long_diff_is_cut_and_says_so(proposed, web, monkeypatch):
    monkeypatch.setattr(pages, "DIFF_BYTES", 2000)
    made = proposed({"long.txt": File("100644", b"".join(b"line %d\n" % number for number in range(100_000)))})

    page = text_of(httpx.get(made["html_url"]))

    assert "The diff is longer than 2 kB" in page
    assert "git fetch origin pull/1/head" in page
    assert "line 99999" not in page


def test_a_repository_without_a_commit_and_a_pull_request_without_its_commits_have_pages(root, web):
    bare_repository(root, "o", "empty")
    Pulls(root / "o" / "empty.pulls.json").add(
        Pull(number=1, title="t", body=None, branch="b", target="main", login="octo", merge_commit="1" * 40)
    )

    assert "There is none yet." in text_of(httpx.get(f"{web}/o/empty"))
    assert "are gone" in text_of(httpx.get(f"{web}/o/empty/pull/1"))


@pytest.mark.parametrize("broken", ["", "{", '[{"number": 1}]', '{"a": 1}', "[1]", '[{"number": "x"}]', "null", "\0"])
def test_a_broken_list_of_pull_requests_is_set_aside_and_no_number_is_used_twice(
    proposed, ask, root, web, caplog, broken
):
    proposed()
    file = root / "o" / "r.pulls.json"
    file.write_text(broken)
    caplog.set_level(logging.WARNING)

    assert httpx.get(f"{web}/o/r").status_code == 200
    second = ask("POST", "/pulls", {"title": "again", "head": "b", "base": "main"})

    assert second["number"] == 2
    assert [pull["number"] for pull in json.loads(file.read_text())] == [2]
    assert file.with_name("r.pulls.json.broken-1").read_text() == broken
    assert "is broken" in caplog.text
