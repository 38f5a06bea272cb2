import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.domain.binary_patch import blob_id
from shared.domain.changes import FileChange, RunChanges
from shared.domain.errors import TooMany, Unavailable
from shared.domain.patch import File
from shared.domain.pull_request import COMMITTER, MAX_BODY_CHARS, MAX_TITLE_CHARS, GitHubRefused, TokenOwner
from shared.domain.redaction import REDACTED
from tests.fakes.github import FakeClient, FakeRepository
from tests.unit.api.conformance import undescribed

REPO_URL = "https://github.com/o/r"
TOKEN = "github_pat_11ABCDEFG0123456789_secretsecretsecret"
REGULAR = "100644"
README = File(REGULAR, b"# r\n\none\ntwo\n")
README_ID, OLD_ID = blob_id(README.content), blob_id(b"old\n")
FILES = {"README.md": README, "old.txt": File(REGULAR, b"old\n")}
PROMPT = "make the readme   better\nin every respect that anybody could think of"
DIFF = """\
diff --git a/README.md b/README.md
index 1111111..2222222 100644
--- a/README.md
+++ b/README.md
@@ -3,2 +3,2 @@
-one
+ONE
 two
"""
PATCH = f"""\
From 0123456789012345678901234567890123456789 Mon Sep 17 00:00:00 2001
From: AI Assistant <ai-assistant@e2b.dev>
Subject: [PATCH] AI: make it better

---
 README.md | 2 +-
 1 file changed, 1 insertion(+), 1 deletion(-)

{DIFF}--{" "}
2.39.5

"""
NEW_FILE = """\
diff --git a/new b/new
new file mode 100644
index 0000000..2222222
--- /dev/null
+++ b/new
@@ -0,0 +1 @@
+new
"""
CHANGED_README = File(REGULAR, b"# r\n\nONE\ntwo\n")


def refusal(answer):
    return answer.status, answer.json()["error"]


@pytest.fixture
def repository(world):
    """o/r, with one commit on main."""
    found = world.github.repositories["o/r"]
    found.add_commit(FILES, branch="main")
    return found


@pytest.fixture
def main(repository):
    return repository.commits[repository.branches["main"]]


# --- validate-token -----------------------------------------------------------------------------------------


@pytest.fixture
def validate(client, as_user):
    def send(github_token="tok", **body):
        return client.post("/api/validate-token", headers=as_user, json={"github_token": github_token} | body)

    return send


def permissions_of(answer):
    return answer.json()["repo"]["permissions"]


def test_a_token_that_may_write_is_valid_for_the_repository(client, validate, world):
    answer = validate(" tok ", repo_url=f"{REPO_URL}.git")
    assert undescribed(client, "validateGithubToken", answer) == []

    can_all_but_admin = {"read": True, "write": True, "admin": False, "read_branches": True, "create_branches": True}
    assert (answer.status, answer.json()) == (
        200,
        {
            "status": "success",
            "user": "octo",
            "repo": {"name": "o/r", "private": False, "default_branch": "main", "permissions": can_all_but_admin},
            "message": "Token is valid and has repository access",
        },
    )
    assert not world.github.changed


def test_a_token_alone_is_valid_too_and_nothing_is_said_of_a_repository(validate):
    for nothing in ({}, {"repo_url": None}, {"repo_url": ""}):
        assert validate(**nothing).json() == {
            "status": "success",
            "user": "octo",
            "repo": {},
            "message": "Token is valid and has repository access",
        }


@pytest.mark.parametrize(
    ("scopes", "private", "can_write"),
    [
        ({"repo"}, True, True),
        ({"repo", "gist"}, False, True),
        ({"public_repo"}, False, True),
        ({"public_repo"}, True, False),
        ({"gist"}, False, False),
        (set(), False, False),
        (None, True, True),
    ],
)
def test_a_classic_token_needs_the_scope_that_fits_the_repository(validate, world, scopes, private, can_write):
    world.github.owners["classic"] = TokenOwner("octo", None if scopes is None else frozenset(scopes))
    world.github.repositories["o/r"].only_for = "classic" if private else None

    found = permissions_of(validate("classic", repo_url=REPO_URL))

    assert (found["read"], found["write"], found["create_branches"]) == (True, can_write, can_write)


def test_whoever_may_not_push_can_create_no_branch(validate):
    assert permissions_of(validate("tok_ro", repo_url=REPO_URL))["create_branches"] is False


def test_a_token_that_github_refuses_is_not_valid(validate):
    answer = validate("badtoken", repo_url=REPO_URL)

    text = "Token validation failed: GitHub does not accept the token: Bad credentials"
    assert (answer.status, answer.json()) == (401, {"error": text, "code": "github_token_refused"})


def test_a_repository_that_the_token_cannot_see_is_named_with_its_owner(validate):
    answer = validate(repo_url="https://github.com/o/missing")

    assert answer.status == 403
    assert answer.json() == {
        "error": "Cannot access repository: Not Found",
        "code": "repository_not_accessible",
        "user": "octo",
    }


@pytest.mark.parametrize("url", ["https://github.com/o/r/tree/main", "https://evil.example/github.com/o", "x", " "])
def test_what_is_no_repository_of_github_is_refused_before_github_is_asked(validate, world, url):
    assert refusal(validate(repo_url=url)) == (400, f"Invalid GitHub URL format: {url}")
    assert not world.github.calls


@pytest.mark.parametrize("path", ["/api/validate-token", "/api/create-pr/{task}"])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({}, "github_token is required"),
        ([], "github_token is required"),
        ({"repo_url": REPO_URL}, "github_token is required"),
        ({"github_token": None}, "github_token is required"),
        ({"github_token": " \t"}, "github_token is required"),
        ({"github_token": "t" * 4097}, "github_token may have at most 4096 characters, all visible ASCII"),
        ({"github_token": "tok\r\nX: y"}, "github_token may have at most 4096 characters, all visible ASCII"),
        ({"github_token": "tök"}, "github_token may have at most 4096 characters, all visible ASCII"),
        ({"github_token": "a b"}, "github_token may have at most 4096 characters, all visible ASCII"),
    ],
)
def test_what_cannot_be_a_token_is_refused_before_github_is_asked(client, as_user, world, make_task, path, body, text):
    answer = client.post(path.format(task=make_task()), headers=as_user, json=body)

    assert refusal(answer) == (400, text)
    assert not world.github.calls


@pytest.mark.parametrize("path", ["/api/validate-token", "/api/create-pr/{task}"])
def test_github_being_down_or_tired_of_the_token_is_no_fault_of_the_token(client, as_user, world, make_task, path):
    path = path.format(task=make_task())
    body = {"github_token": "tok", "repo_url": REPO_URL}
    for name in ("access", "head"):
        world.github.fails[name] = Unavailable("GitHub is not responding. Try again.")
    down = client.post(path, headers=as_user, json=body)
    for name in ("access", "head"):
        world.github.fails[name] = TooMany("Later.", retry_after_s=77, code="github_rate_limited")
    limited = client.post(path, headers=as_user, json=body)

    assert (down.status, down.json()["code"]) == (503, "unavailable")
    assert (limited.status, limited.headers["retry-after"], limited.json()["code"]) == (
        429,
        "77",
        "github_rate_limited",
    )


# --- create-pr: which task ----------------------------------------------------------------------------------


@pytest.fixture
def make_task(world, user):
    """A completed task that changed README.md, of which only a patch is stored."""

    def make(owner=user, **columns):
        row = {
            "status": "completed",
            "git_patch": PATCH,
            "changed_files": ["README.md"],
            "chat_messages": [{"role": "user", "content": PROMPT, "timestamp": "2026-11-23T09:00:00+00:00"}],
        }
        return world.database.add_task(owner, **row | columns)

    return make


@pytest.fixture
def propose(client, as_user):
    def send(task_id, github_token="tok", **words):
        body = {"github_token": github_token} | words
        return client.post(f"/api/create-pr/{task_id}", headers=as_user, json=body)

    return send


def test_the_task_is_looked_at_before_what_was_sent(client, as_user, world, make_task):
    foreign, running = make_task(owner=world.new_user()), make_task(status="running")
    unchanged = [make_task(git_patch=patch, changed_files=files) for patch in ("", None) for files in ([], None)]
    expected = {987654: (404, "Task not found"), foreign: (404, "Task not found"), 2**63: (404, "Task not found")}
    expected |= {running: (400, "Task not completed yet"), make_task(status="failed"): (400, "Task not completed yet")}
    expected |= dict.fromkeys(unchanged, (400, "No patch data available for this task"))
    expected |= {make_task(): (400, "Send JSON, with the header Content-Type: application/json")}

    answers = {task_id: client.post(f"/api/create-pr/{task_id}", headers=as_user) for task_id in expected}

    assert {task_id: refusal(answer) for task_id, answer in answers.items()} == expected


def test_whoever_is_not_signed_in_is_not_told_about_tasks(client, make_task):
    for task_id in (make_task(), 987654):
        assert refusal(client.post(f"/api/create-pr/{task_id}")) == (401, "Missing authorization header")


# --- create-pr: what it makes -------------------------------------------------------------------------------


def test_a_patch_becomes_a_commit_a_branch_and_a_pull_request(client, propose, world, make_task, repository, main):
    answer = propose(task_id := make_task())
    assert undescribed(client, "createPullRequest", answer) == []

    branch = f"claude-code-{task_id}"
    commit = repository.commits[repository.branches[branch]]
    url = f"{REPO_URL}/pull/1"
    assert (answer.status, answer.json()) == (
        200,
        {"status": "success", "pr_url": url, "pr_number": 1, "branch": branch, "files_updated": 1},
    )
    assert repository.files(branch) == FILES | {"README.md": CHANGED_README}
    assert (commit.parents, commit.committer_email) == ((main.id,), COMMITTER[1])
    row = world.database.tasks[task_id]
    assert (row["pr_branch"], row["pr_number"], row["pr_url"]) == (branch, 1, url)
    assert world.github.calls.index("create_branch") > world.github.calls.index("create_commit")


def test_what_a_run_stored_file_by_file_needs_no_look_at_the_repository(propose, world, make_task, repository, main):
    newer = repository.add_commit(FILES | {"since.txt": File(REGULAR, b"x")}, main.id, branch="main")
    task_id = make_task(changed_files=["README.md", "bin", "link", "moved.txt"], git_patch="whatever it says")
    world.changes[task_id] = RunChanges(
        main.id,
        (
            FileChange(path="README.md", mode=None, before_id=README_ID, after=None),
            FileChange(path="bin", mode="100755", before_id=None, after=b"\0\xff"),
            FileChange(path="link", mode="120000", before_id=None, after=b"bin"),
            FileChange(path="moved.txt", previous_path="old.txt", mode=REGULAR, before_id=OLD_ID, after=b"new\n"),
        ),
    )

    answer = propose(task_id)

    branch = f"claude-code-{task_id}"
    assert (answer.status, answer.json()["files_updated"]) == (200, 4)
    assert repository.files(branch) == {
        "bin": File("100755", b"\0\xff"),
        "link": File("120000", b"bin"),
        "moved.txt": File(REGULAR, b"new\n"),
    }
    assert repository.commits[repository.branches[branch]].parents == (main.id,) != (newer,)
    assert not {"tree", "blob"} & set(world.github.calls)


def test_files_that_were_too_large_to_store_come_from_the_patch(propose, world, make_task, repository, main):
    task_id = make_task(changed_files=["README.md", "new.txt"])
    world.changes[task_id] = RunChanges(
        main.id, (FileChange(path="new.txt", mode=REGULAR, before_id=None, after=b"n"),)
    )

    answer = propose(task_id)

    assert answer.json()["files_updated"] == 2
    expected = FILES | {"README.md": CHANGED_README, "new.txt": File(REGULAR, b"n")}
    assert repository.files(f"claude-code-{task_id}") == expected
    assert world.github.calls.count("blob") == 1


def test_files_alone_will_do_where_the_patch_was_too_large(propose, world, make_task, main):
    task_id = make_task(git_patch=None)
    change = FileChange(path="README.md", mode=REGULAR, before_id=README_ID, after=b"x")

    assert refusal(propose(task_id)) == (400, "No patch data available for this task")
    world.changes[task_id] = RunChanges(main.id, (change,))
    assert propose(task_id).status == 200


@pytest.mark.parametrize(("agent", "name"), [("claude", "Claude Code"), ("codex", "Codex")])
def test_the_words_come_from_the_prompt_where_none_are_sent(propose, make_task, repository, main, agent, name):
    task_id = make_task(agent=agent, changed_files=["README.md", "b"])
    propose(task_id, title=None, body=None)

    [pull] = repository.pulls
    commit = repository.commits[repository.branches[f"claude-code-{task_id}"]]
    assert pull["title"] == f"{name}: make the readme better in every respect that any..."
    assert pull["body"] == (
        f"Automated changes generated by {name}.\n\nPrompt: {PROMPT}\n\nChanged files:\n- README.md\n- b"
    )
    assert commit.message == f"{name}: make the readme better in every respect that anybody could think of"
    assert pull["target"] == "main"


def test_without_a_prompt_or_a_list_of_files_there_are_words_all_the_same(propose, make_task, repository, main):
    task_id = make_task(chat_messages=[], changed_files=None)
    assert propose(task_id).status == 200

    [pull] = repository.pulls
    commit = repository.commits[repository.branches[f"claude-code-{task_id}"]]
    assert pull["title"] == commit.message == "Claude Code: Automated changes"
    assert pull["body"] == "Automated changes generated by Claude Code."


def test_words_that_are_sent_are_taken_with_the_title_on_one_line(propose, make_task, repository, main):
    propose(make_task(), title=" Fix:\n the readme ", body="")

    [pull] = repository.pulls
    assert (pull["title"], pull["body"]) == ("Fix: the readme", "")


def test_a_very_long_prompt_is_cut_to_what_github_accepts(propose, make_task, repository, main):
    messages = [{"role": "user", "content": "x" * 100_000, "timestamp": "2026-11-23T09:00:00+00:00"}]
    propose(make_task(chat_messages=messages))

    [pull] = repository.pulls
    assert len(pull["body"]) == MAX_BODY_CHARS
    assert pull["body"].endswith("x…")


@pytest.mark.parametrize("wrong", [{"title": 5}, {"body": []}, {"github_token": 5}, {"draft": "yes"}])
def test_what_is_no_text_is_refused(propose, world, make_task, wrong):
    answer = propose(make_task(), **wrong)

    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert not world.github.calls


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ({"title": "t" * (MAX_TITLE_CHARS + 1)}, "title may have at most 256 characters"),
        ({"body": "t" * (MAX_BODY_CHARS + 1)}, "body may have at most 65536 characters"),
    ],
)
def test_words_that_github_would_not_take_are_refused_before_it_is_asked(propose, world, make_task, words, text):
    assert refusal(propose(make_task(), **words)) == (400, text)
    assert not world.github.calls


# --- create-pr: what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize("patch", ["garbage", "From 0000\n", " "])
def test_a_patch_without_files_is_refused_and_github_stays_as_it_is(propose, world, make_task, main, patch):
    answer = propose(make_task(git_patch=patch))

    text = "Failed to apply patch - no file changes extracted"
    assert (answer.status, answer.json()) == (500, {"error": text, "code": "bad_patch"})
    assert not world.github.changed


def test_a_patch_that_fits_in_part_changes_nothing_at_all(propose, world, make_task, repository, main):
    repository.add_commit({"README.md": File(REGULAR, b"# r\n\nuno\ntwo\n")}, main.id, branch="main")

    answer = propose(make_task(git_patch=NEW_FILE + DIFF))

    assert refusal(answer) == (409, "README.md has changed: the patch does not fit it.")
    assert not world.github.changed


def test_a_patch_may_not_change_a_file_twice(propose, world, make_task, main):
    answer = propose(make_task(git_patch=PATCH + PATCH))

    assert refusal(answer) == (500, "Failed to apply patch - it changes README.md twice")
    assert not world.github.changed


@pytest.mark.parametrize("base_commit", ["1" * 40, None])
def test_where_the_agents_commit_is_gone_its_files_must_be_as_it_found_them(
    propose, world, make_task, repository, main, base_commit
):
    task_id = make_task(changed_files=["README.md", "new.txt"])
    files = (
        FileChange(path="README.md", mode=REGULAR, before_id=README_ID, after=b"changed\n"),
        FileChange(path="new.txt", mode=REGULAR, before_id=None, after=b"new\n"),
    )
    world.changes[task_id] = RunChanges(base_commit, files)
    taken = repository.add_commit(FILES | {"new.txt": README}, main.id, branch="main")
    refused = propose(task_id)
    free = repository.add_commit(FILES | {"other.txt": README}, taken, branch="main")
    accepted = propose(task_id)

    text = "new.txt has changed since the agent saw it. Run the task again on the current branch."
    assert (*refusal(refused), refused.json()["code"]) == (409, text, "patch_conflict")
    assert accepted.status == 200
    branch = f"claude-code-{task_id}"
    assert repository.commits[repository.branches[branch]].parents == (free,)
    assert repository.files(branch)["other.txt"] == README


def test_all_that_the_agent_did_must_arrive(propose, world, make_task, repository, main):
    change = FileChange(path="README.md", mode=REGULAR, before_id=README_ID, after=b"changed\n")
    changed = repository.commits[repository.add_commit(FILES | {"README.md": File(REGULAR, b"changed\n")})].tree
    short = make_task(execution_metadata={"tree": "1" * 40})
    whole = make_task(execution_metadata={"tree": changed})
    scrubbed = make_task(execution_metadata={"tree": "1" * 40})
    for task_id in (short, whole):
        world.changes[task_id] = RunChanges(main.id, (change,))
    without_secret = FileChange(path="README.md", mode=REGULAR, before_id=None, after=f"token: {REDACTED}\n".encode())
    world.changes[scrubbed] = RunChanges(main.id, (without_secret,))

    text = "The stored changes are incomplete. Run the task again."
    assert refusal(propose(short)) == (409, text)
    assert f"claude-code-{short}" not in repository.branches
    assert propose(whole).status == 200
    assert propose(scrubbed).status == 200


def test_a_repository_or_branch_that_is_gone_is_not_found(propose, make_task, main):
    no_repository = propose(make_task(repo_url="https://github.com/o/missing"))
    no_branch = propose(make_task(target_branch="gone"))

    assert refusal(no_repository) == (404, "Cannot access repository o/missing: Not Found")
    assert no_repository.json()["code"] == "repository_not_found"
    assert refusal(no_branch) == (404, "Branch 'gone' does not exist in o/r")
    assert no_branch.json()["code"] == "branch_not_found"


def test_a_repository_that_the_token_may_not_read_is_no_conflict(propose, world, make_task, main):
    world.github.fails["head"] = GitHubRefused(403, "Resource protected by organization SAML enforcement.")

    answer = propose(make_task())

    text = "Cannot access repository o/r: Resource protected by organization SAML enforcement."
    assert (*refusal(answer), answer.json()["code"]) == (403, text, "repository_not_accessible")


@pytest.mark.parametrize("columns", [{"repo_url": "https://evil.example/o/r"}, {"target_branch": "../main"}])
def test_a_row_is_not_trusted_to_say_where_the_token_goes(propose, world, make_task, columns):
    assert propose(make_task(**columns)).status == 400
    assert not world.github.calls


# --- create-pr: rights --------------------------------------------------------------------------------------


def test_a_token_that_may_not_write_is_told_what_it_lacks(propose, world, make_task, repository, main):
    world.github.owners["public"] = TokenOwner("octo", frozenset({"gist"}))
    text = (
        "GitHub token lacks permission to create branches. Please ensure your token has 'repo' scope "
        "(not just 'public_repo'). Error: "
    )
    fine_grained, classic = propose(make_task(), "tok_ro"), propose(make_task(), "public")

    assert refusal(fine_grained) == (403, f"{text}Resource not accessible by personal access token")
    assert refusal(classic) == (403, f"{text}Not Found")
    assert classic.json()["code"] == "github_token_lacks_permission"
    assert repository.branches.keys() == {"main"}


def test_workflows_need_a_right_that_github_does_not_name(propose, world, make_task, main):
    task_id = make_task(changed_files=[".github/workflows/ci.yml"])
    change = FileChange(path=".github/workflows/ci.yml", mode=REGULAR, before_id=None, after=b"on: push\n")
    world.changes[task_id] = RunChanges(main.id, (change,))
    world.github.fails["create_branch"] = GitHubRefused(404, "Not Found")

    status, text = refusal(propose(task_id))

    assert status == 403
    assert text.endswith("Error: Not Found. Changes below .github/workflows/ need the 'workflow' scope too.")


def test_a_token_that_github_refuses_makes_no_pull_request(propose, make_task):
    assert refusal(propose(make_task(), "badtoken")) == (401, "GitHub does not accept the token: Bad credentials")


def test_a_branch_that_github_does_not_want_is_named_with_its_reason(propose, world, make_task, main):
    world.github.fails["create_branch"] = GitHubRefused(403, "Repository was archived so is read-only.")
    task_id = make_task()

    text = f"Failed to create branch 'claude-code-{task_id}': Repository was archived so is read-only."
    assert refusal(propose(task_id)) == (403, text)


# --- create-pr: again ---------------------------------------------------------------------------------------


def test_asked_again_it_answers_with_the_open_pull_request(propose, world, make_task, repository, main):
    task_id = make_task()
    first = propose(task_id)
    world.github.calls.clear()

    again = propose(task_id, title="another")

    assert again.json() == first.json()
    assert len(repository.pulls) == 1
    assert not world.github.changed


def test_a_closed_pull_request_makes_room_for_a_new_one_from_the_same_branch(propose, make_task, repository, main):
    task_id = make_task()
    propose(task_id)
    head = repository.branches[f"claude-code-{task_id}"]
    repository.pulls[0]["open"] = False

    again = propose(task_id)

    assert (again.status, again.json()["pr_number"]) == (200, 2)
    assert repository.branches[f"claude-code-{task_id}"] == head


@pytest.mark.parametrize("call", ["create_pull_request", "create_branch", "create_commit"])
def test_what_broke_off_goes_on_when_it_is_asked_again(propose, world, make_task, repository, main, call):
    task_id = make_task()
    world.github.fails[call] = Unavailable("GitHub is not responding. Try again.")

    assert propose(task_id).status == 503
    assert world.database.tasks[task_id]["pr_url"] is None
    assert propose(task_id).status == 200
    assert len(repository.pulls) == 1


def test_a_pull_request_that_was_made_but_not_noted_is_found(propose, world, make_task, repository, main):
    task_id = make_task()
    made = propose(task_id).json()
    world.database.tasks[task_id] |= {"pr_branch": None, "pr_number": None, "pr_url": None}

    assert propose(task_id).json() == made
    assert world.database.tasks[task_id]["pr_url"] == made["pr_url"]
    assert len(repository.pulls) == 1


@pytest.fixture
def finish(world, repository, main):
    """The end of another run of the task: README.md holds `after` now; the tree is noted, as the executor does."""

    def end(task_id, after, *, prompt="and more", base=main, others=FILES):
        change = FileChange(path="README.md", mode=REGULAR, before_id=README_ID, after=after)
        world.changes[task_id] = RunChanges(base.id, (change,), prompt)
        commit = repository.add_commit(others | {"README.md": File(REGULAR, after)})
        row = world.database.tasks[task_id]
        said = [*row["chat_messages"], {"role": "user", "content": prompt, "timestamp": "2026-11-24T09:00:00+00:00"}]
        row |= {"execution_metadata": {"tree": repository.commits[commit].tree}, "chat_messages": said}

    return end


def test_after_a_follow_up_the_same_pull_request_gets_another_commit(
    propose, world, make_task, repository, main, finish
):
    task_id = make_task()
    first, branch = propose(task_id).json(), f"claude-code-{task_id}"
    head = repository.branches[branch]
    finish(task_id, b"second run\n")

    again = propose(task_id)

    commit = repository.commits[repository.branches[branch]]
    assert (again.status, again.json()) == (200, first)
    assert (commit.parents, commit.message) == ((head,), "Claude Code: and more")
    assert repository.files(branch) == FILES | {"README.md": File(REGULAR, b"second run\n")}
    assert len(repository.pulls) == 1
    world.github.calls.clear()
    assert propose(task_id).json() == first
    assert not world.github.changed


def test_a_pull_request_that_is_first_made_after_a_follow_up_is_one_commit(
    propose, make_task, repository, main, finish
):
    task_id = make_task()
    finish(task_id, b"both\n")

    propose(task_id)

    commit = repository.commits[repository.branches[f"claude-code-{task_id}"]]
    assert commit.parents == (main.id,)
    assert commit.message.startswith("Claude Code: make the readme better")


def test_a_retry_from_a_newer_base_does_not_claim_what_others_did_there(propose, make_task, repository, main, finish):
    task_id = make_task()
    propose(task_id)
    head = repository.branches[f"claude-code-{task_id}"]
    others = FILES | {"since.txt": File(REGULAR, b"x")}
    newer = repository.commits[repository.add_commit(others, main.id, branch="main")]
    finish(task_id, b"retried\n", base=newer, others=others)

    assert propose(task_id).status == 200
    commit = repository.commits[repository.branches[f"claude-code-{task_id}"]]
    assert commit.parents == (head, newer.id)
    assert repository.files(f"claude-code-{task_id}") == others | {"README.md": File(REGULAR, b"retried\n")}


def test_after_its_pull_request_was_closed_the_branch_goes_on_too(propose, make_task, repository, main, finish):
    task_id = make_task()
    propose(task_id)
    head = repository.branches[f"claude-code-{task_id}"]
    repository.pulls[0]["open"] = False
    finish(task_id, b"second run\n")

    answer = propose(task_id)

    assert (answer.status, answer.json()["pr_number"]) == (200, 2)
    assert repository.commits[repository.branches[f"claude-code-{task_id}"]].parents == (head,)


def test_work_of_somebody_else_on_top_of_ours_is_left_alone(propose, world, make_task, repository, main, finish):
    task_id = make_task()
    finish(task_id, b"first\n", prompt=PROMPT)
    first, branch = propose(task_id).json(), f"claude-code-{task_id}"
    theirs = repository.add_commit({"README.md": README}, repository.branches[branch], branch=branch)
    world.github.calls.clear()

    assert propose(task_id).json() == first  # there is nothing new
    assert not world.github.changed
    finish(task_id, b"second\n")
    refused = propose(task_id)

    assert (refused.status, refused.json()["code"]) == (409, "branch_has_moved")
    assert refused.json()["error"].startswith(f"Branch '{branch}' has commits of other authors")
    assert repository.branches[branch] == theirs


def elsewhere(action):
    """What another environment answers meanwhile."""
    with ThreadPoolExecutor(1, initializer=lambda: asyncio.set_event_loop(asyncio.new_event_loop())) as other:
        return other.submit(action).result()


@pytest.mark.parametrize("call", ["create_branch", "create_pull_request", "move_branch"])
def test_of_two_requests_at_once_both_get_the_same_pull_request(
    propose, make_task, repository, main, finish, monkeypatch, call
):
    task_id = make_task()
    if call == "move_branch":
        propose(task_id)
        finish(task_id, b"second\n")
    method, answers = getattr(FakeClient, call), []

    def overtaken(client, *arguments, **options):
        monkeypatch.setattr(FakeClient, call, method)
        answers.append(elsewhere(lambda: propose(task_id)))
        return method(client, *arguments, **options)

    monkeypatch.setattr(FakeClient, call, overtaken)
    answers.append(propose(task_id))

    assert [answer.status for answer in answers] == [200, 200]
    assert answers[0].json() == answers[1].json()
    assert len(repository.pulls) == 1
    made = [c for c in repository.ancestors(repository.branches[f"claude-code-{task_id}"]) if c != main.id]
    assert len(made) == (2 if call == "move_branch" else 1)


def test_a_push_of_somebody_else_in_the_very_moment_is_not_lost(
    propose, make_task, repository, main, finish, monkeypatch
):
    task_id = make_task()
    propose(task_id)
    finish(task_id, b"second\n")
    branch, move, theirs = f"claude-code-{task_id}", FakeClient.move_branch, []

    def after_a_push(client, *arguments):
        theirs.append(repository.add_commit(FILES, repository.branches[branch], branch=branch))
        return move(client, *arguments)

    monkeypatch.setattr(FakeClient, "move_branch", after_a_push)
    refused, again = propose(task_id), propose(task_id)

    assert refusal(refused) == (403, f"Failed to create branch '{branch}': Update is not a fast forward")
    assert (again.status, again.json()["code"]) == (409, "branch_has_moved")
    assert repository.branches[branch] == theirs[0]


@pytest.mark.parametrize(("asked", "draft"), [({}, False), ({"draft": True}, True)])
def test_a_pull_request_is_a_draft_where_that_is_asked_for(propose, make_task, repository, main, asked, draft):
    assert propose(make_task(), **asked).status == 200
    assert repository.pulls[0]["draft"] is draft


@pytest.mark.parametrize(
    "foreign",
    [
        {"email": "ada@example.test"},
        {"email": COMMITTER[1], "message": "Claude Code: something else"},
        {"email": "ada@example.test", "parents": 2},
    ],
)
def test_a_branch_of_somebody_else_is_never_touched(propose, make_task, repository, main, foreign):
    task_id = make_task()
    branch, message = f"claude-code-{task_id}", "Claude Code: " + " ".join(PROMPT.split())
    parents = [main.id] * foreign.pop("parents", 1)
    head = repository.add_commit(FILES, *parents, branch=branch, **{"message": message} | foreign)

    answer = propose(task_id)

    text = f"Branch '{branch}' already exists. Please try again or use a different task."
    assert (*refusal(answer), answer.json()["code"]) == (403, text, "branch_exists")
    assert repository.branches[branch] == head
    assert not repository.pulls


@pytest.mark.parametrize(
    ("refused", "status", "text"),
    [
        (
            GitHubRefused(422, "Validation Failed: No commits between main and claude-code-1"),
            409,
            "GitHub refused: Validation Failed: No commits between main and claude-code-1",
        ),
        (
            GitHubRefused(403, "Resource not accessible by personal access token"),
            403,
            "GitHub token lacks permission to create pull requests. "
            "Error: Resource not accessible by personal access token",
        ),
    ],
)
def test_no_branch_is_left_where_github_wants_no_pull_request(
    propose, world, make_task, repository, main, refused, status, text
):
    world.github.fails["create_pull_request"] = refused

    assert refusal(propose(make_task())) == (status, text)
    assert repository.branches.keys() == {"main"}


def test_a_branch_that_cannot_be_taken_away_does_not_hide_the_reason(
    propose, world, make_task, repository, main, caplog
):
    world.github.fails["create_pull_request"] = GitHubRefused(422, "Validation Failed")
    world.github.fails["delete_branch"] = Unavailable("GitHub is not responding. Try again.")

    assert refusal(propose(make_task())) == (409, "GitHub refused: Validation Failed")
    assert "branch.not_removed" in [record.message for record in caplog.records]


def test_a_branch_that_was_there_before_stays_where_github_wants_no_pull_request(
    propose, world, make_task, repository, main
):
    task_id = make_task()
    propose(task_id)
    repository.pulls[0]["open"] = False
    world.github.fails["create_pull_request"] = GitHubRefused(422, "Validation Failed")

    assert propose(task_id).status == 409
    assert f"claude-code-{task_id}" in repository.branches


# --- secrets ------------------------------------------------------------------------------------------------


def test_the_token_is_in_no_answer_and_no_log(validate, propose, world, make_task, main, caplog):
    caplog.set_level("DEBUG")
    world.github.owners[TOKEN] = TokenOwner("octo", frozenset({"repo"}))
    world.github.repositories["o/closed"] = FakeRepository(only_for="somebody")
    answers = [
        validate(TOKEN, repo_url=REPO_URL),
        validate(TOKEN, repo_url="https://github.com/o/closed"),
        validate(TOKEN, repo_url=f"https://{TOKEN}@github.com/o/r"),
        validate(f"{TOKEN} {TOKEN}"),
        propose(make_task(), TOKEN),
        propose(make_task(git_patch="x"), TOKEN),
        propose(make_task(), TOKEN, title=5),
    ]

    assert [answer.status for answer in answers] == [200, 403, 400, 400, 200, 500, 400]
    assert TOKEN not in json.dumps([answer.text for answer in answers])
    assert TOKEN not in "".join(str(record.__dict__) for record in caplog.records)
