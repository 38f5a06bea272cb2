"""Whole runs through every real part: API, queue, executor, sandbox, agent program, database."""

import re

import pytest

from shared.domain.agents import AgentName
from tests.integration.runs.conftest import git

AGENTS = tuple(AgentName)


@pytest.mark.parametrize("agent", AGENTS)
def test_a_prompt_becomes_a_diff_a_patch_files_and_an_answer(lab, agent):
    path, url = lab.repository({"README.md": "one\ntwo\n", "old.txt": "bye\n"})
    prompt = "@say I begin.\n@append README.md: three\n@write src/new.py: print('hi')\n@delete old.txt\n@say All done."
    client = lab.user()
    task_id = lab.start(client, prompt, url, agent=agent)

    task = lab.finished(client, task_id)

    assert (task["status"], task["error"]) == ("completed", None)
    assert task["changed_files"] == ["README.md", "old.txt", "src/new.py"]
    assert "+three" in client.diff(task_id)
    assert re.fullmatch("[0-9a-f]{40}", task["commit_hash"])
    lab.assert_patch_makes(task, path)
    assert [(m["role"], m["content"]) for m in task["chat_messages"]] == [("user", prompt), ("assistant", "All done.")]
    usage = task["execution_metadata"]["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert {"filename": "old.txt", "before": "bye\n", "after": "FILE_DELETED"} in task["execution_metadata"][
        "file_changes"
    ]
    [(session, base)] = lab.sql("select agent_session_id, base_commit from runs where task_id = %s", task_id)
    assert session
    assert base == git(path, "rev-parse", "HEAD")


@pytest.mark.parametrize("agent", AGENTS)
def test_the_live_log_tells_the_run_in_order_and_without_gaps(lab, agent):
    _, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@say Look at this.\n@run echo out of the shell\n@say Bye.", url, agent=agent)
    lab.finished(client, task_id)

    events = client.events(task_id, after=0)

    assert [e["seq"] for e in events] == list(range(1, len(events) + 1))
    phases = [e["payload"]["phase"] for e in events if e["kind"] == "phase"]
    assert phases == ["queued", "provisioning", "cloning", "agent", "collecting"]
    texts = [e["payload"]["text"] for e in events if e["kind"] == "agent_message"]
    assert texts == ["Look at this.", "Bye."]
    assert any("echo out of the shell" in e["payload"]["title"] for e in events if e["kind"] == "tool_use")
    assert any("out of the shell" in e["payload"]["output"] for e in events if e["kind"] == "tool_result")
    assert events[-1]["kind"] == "ended"


HARD_FILES = {
    "README.md": "hello\n",
    "gone.txt": "x\n" * 30,
    "was.txt": "".join(f"line {n}\n" for n in range(40)),
    "image.bin": bytes(range(256)),
    "umlaut-ä.txt": "ä\n",
    "script.sh": "echo hi\n",
    "link": ("link", "README.md"),
    "latin1.txt": "caf\xe9\n".encode("latin-1"),
    "crlf.txt": b"a\r\nb\r\n",
}
HARD_CHANGES = """
@delete gone.txt
@move was.txt -> is.txt
@run printf '\\000\\001\\377' > image.bin
@run chmod +x script.sh
@run ln -sf script.sh link
@run printf 'neu \\303\\244' > 'neu-日本.txt'
@run printf 'caf\\351 cr\\350me\\n' > latin1.txt
@run printf 'a\\r\\nB\\r\\n' > crlf.txt
@run mkdir -p 'a b/c' && : > 'a b/c/empty'
@run printf 'ignored\\n' > .gitignore && echo secret > ignored
"""


@pytest.mark.parametrize(
    "commits", ["", "@commit the agent commits itself", "@run git checkout -q -b other && git add -A"]
)
def test_every_kind_of_change_is_collected_exactly_whether_the_agent_commits_or_not(lab, commits):
    path, url = lab.repository(HARD_FILES)

    task = lab.run(HARD_CHANGES + commits, url)

    assert task["status"] == "completed", task["error"]
    clone = lab.assert_patch_makes(task, path)
    assert (clone / "image.bin").read_bytes() == b"\x00\x01\xff"
    assert (clone / "neu-日本.txt").read_text() == "neu ä"
    assert (clone / "latin1.txt").read_bytes() == b"caf\xe9 cr\xe8me\n"
    assert not (clone / "ignored").exists()
    files = {
        f: rest
        for f, *rest in lab.sql("select path, status, mode, encoding from task_files where task_id = %s", task["id"])
    }
    assert files["gone.txt"][0] == "deleted"
    assert files["is.txt"][0] == "renamed"
    assert files["image.bin"][2] == "base64"
    assert files["script.sh"][1] == "100755"
    assert files["link"][1] == "120000"
    assert "ignored" not in files


def test_a_run_that_changes_nothing_completes_and_says_so(lab):
    _, url = lab.repository()

    task = lab.run("@say I looked and found nothing to do.", url)

    assert (task["status"], task["git_diff"], task["git_patch"]) == ("completed", "", "")
    assert (task["commit_hash"], task["changed_files"]) == (None, [])
    assert task["chat_messages"][-1]["content"].endswith("No files were changed.")


PLANTED = """
@run git config core.fsmonitor "touch $(cd .. && pwd)/PLANTED" && git config core.hooksPath .git/hooks
@run git config filter.evil.clean "touch $(cd .. && pwd)/PLANTED; cat"
@run git config diff.evil.textconv "touch $(cd .. && pwd)/PLANTED; cat"
@run printf '* filter=evil diff=evil\\n' > .gitattributes && git config diff.external "touch $(cd .. && pwd)/PLANTED"
@run mkdir -p .git/hooks && printf '#!/bin/sh\\ntouch %s/PLANTED\\n' "$(cd .. && pwd)" > .git/hooks/pre-commit
@run cp .git/hooks/pre-commit .git/hooks/post-index-change && chmod +x .git/hooks/*
@run git init -q nested && echo x > nested/y && git -C nested add y && git -C nested commit -q -m x
@run git -C nested config core.fsmonitor "touch $(cd .. && pwd)/PLANTED" && echo z > nested/y
@run echo changed > README.md; rm -f ../PLANTED
"""


def test_nothing_that_the_agent_planted_is_executed(lab):
    path, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, PLANTED, url)
    looks = []

    def collected():
        # From here on whoever runs git in the sandbox is us.
        if any(e["payload"].get("phase") == "collecting" for e in client.events(task_id, after=0)):
            looks.append([str(p) for p in lab.stack.sandboxes_root.glob("*/home/agent/PLANTED")])
        return client.status(task_id) in {"completed", "failed"}

    lab.until(collected)
    task = client.task(task_id)

    assert task["status"] == "completed", task["error"]
    assert task["changed_files"] == [".gitattributes", "README.md"]
    assert any("nested" in warning for warning in task["execution_metadata"]["warnings"])
    lab.assert_patch_makes(task, path)
    assert len(looks) > 1
    assert not any(looks)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize(
    ("prompt", "error_code", "text"),
    [
        ("@fail 401", "agent_auth", "agent failed: "),
        ("@fail 429", "agent_rate_limited", "agent failed: "),
        ("@fail credit", "agent_credit", "agent failed: "),
    ],
)
def test_an_agent_whose_model_refuses_fails_with_a_code_and_keeps_its_work(lab, agent, prompt, error_code, text):
    path, url = lab.repository()

    task = lab.run(f"@write kept.txt: kept\n{prompt}", url, agent=agent)

    assert task["status"] == "failed"
    assert text in task["error"]
    [(code,)] = lab.sql("select error_code from runs where task_id = %s", task["id"])
    assert code == error_code
    assert task["changed_files"] == ["kept.txt"]
    lab.assert_patch_makes(task, path)


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_that_dies_without_a_result_fails_and_keeps_its_work(lab, agent):
    _, url = lab.repository()

    task = lab.run("@write kept.txt: kept\n@no-result", url, agent=agent)

    assert task["status"] == "failed"
    assert "agent failed: " in task["error"]
    assert task["changed_files"] == ["kept.txt"]


def test_a_missing_repository_and_a_missing_branch_fail_with_the_contracts_text(lab):
    _, url = lab.repository()
    text = "Repository not found or branch '{}' does not exist."

    assert lab.run("@say hi", f"{lab.stack.git_url}/local/nothing-here")["error"] == text.format("main")
    assert lab.run("@say hi", url, branch="no/such")["error"] == text.format("no/such")


def test_a_private_repository_needs_its_token_and_the_token_is_stored_nowhere(lab):
    token = "the-token-of-the-private-repository"
    _, url = lab.repository({"README.md": "hello\n"}, token=token)
    client = lab.user()

    refused = lab.finished(client, lab.start(client, "@say hi", url, token="some-other-token"))
    assert refused["status"] == "failed"
    assert refused["error"] == "GitHub authentication failed. Please check your GitHub token permissions."

    hunt = (
        f"@run cat .git/config; env; grep -rs {token[:20]} ~ /proc/*/environ /proc/*/cmdline; echo {token} > leak.txt"
    )
    task_id = lab.start(client, hunt, url, token=token)
    assert lab.finished(client, task_id)["status"] == "completed"

    for table in ("tasks", "runs", "task_events", "task_files", "user_credentials"):
        # The prompt itself names it; whoever writes a secret into a prompt has published it to their own task.
        rows = [
            str(row) for row in lab.sql(f"select * from {table}") if hunt not in str(row) and "leak.txt" not in str(row)
        ]
        assert not [row for row in rows if token in row], table
    task = client.task(task_id)
    assert token not in task["git_diff"]
    assert token not in task["git_patch"]
    assert "[REDACTED]" in task["git_diff"]
    for log in lab.stack.logs.iterdir():
        assert token not in log.read_text(errors="replace"), log.name
    assert not lab.sql("select 1 from user_credentials where user_id = %s", client.user_id)


def test_the_agent_finds_no_credential_of_ours(lab):
    _, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@run env; ls -la /root 2>&1; cat ~/../../root/runs/*/*/* 2>&1 | head -c 2000", url)

    lab.finished(client, task_id)

    said = "\n".join(str(e["payload"]) for e in client.events(task_id, after=0))
    keys = lab.stack.keys
    for secret in (keys.supabase_secret_key, keys.jwt_secret, keys.e2b_api_key, keys.secrets_master_keys):
        assert secret not in said
    # Its own model key is in its environment; what it prints of it is not stored.
    assert keys.scripted_model_key not in said
    assert "ANTHROPIC_API_KEY=[REDACTED]" in said


def test_a_cancelled_task_ends_soon_with_the_work_so_far(lab):
    path, url = lab.repository()
    client = lab.user()
    task_id = lab.start(client, "@write half.txt: half\n@hang", url)
    lab.until(lambda: any(e["kind"] == "tool_result" for e in client.events(task_id, after=0)))

    lab.cancel(client, task_id)
    task = lab.finished(client, task_id)

    assert task["status"] == "cancelled"
    assert task["changed_files"] == ["half.txt"]
    lab.assert_patch_makes(task, path)
    assert lab.agent_processes() == []


def test_when_all_is_done_no_sandbox_and_no_process_is_left(lab):
    lab.until(lambda: not lab.sandboxes() and not lab.agent_processes())
