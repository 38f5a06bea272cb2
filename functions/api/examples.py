"""One example of each answer and body, for the description of the API. Tests compare their keys with what is sent."""

from typing import Any

Json = dict[str, Any]

_AT = "2026-11-23T09:00:00.000000+00:00"
_USER = "5f0c1f0e-8d5c-4b61-9a34-2f1f6d3f2a10"
_JWT = "eyJhbGciOi…"
_REPO = "https://github.com/acme/widgets"
_PROMPT = "Add a section about installing to the README"
_DIFF = "diff --git a/README.md b/README.md\n…"
_CHAT = [{"role": "user", "content": _PROMPT, "timestamp": _AT}]

WELCOME: Json = {
    "status": "success",
    "message": "Claude Code Automation API",
    "endpoints": ["/ping", "/start-task", "/task-status", "/git-diff", "/create-pr"],
}
PONG: Json = {"status": "success", "message": "pong", "timestamp": 1795424400.0}

TOKEN_BODY: Json = {"user_id": _USER, "access_token": _JWT}
TOKENS: Json = {"access_token": _JWT, "refresh_token": _JWT, "expires_in": 3600}
REFRESH_BODY: Json = {"refresh_token": _JWT}
REFRESHED: Json = {"access_token": _JWT, "expires_in": 3600}
VERIFIED: Json = {"valid": True, "user_id": _USER}

START_TASK_BODY: Json = {
    "prompt": _PROMPT,
    "repo_url": _REPO,
    "github_token": "github_pat_…",
    "branch": "main",
    "model": "claude",
    "project_id": 3,
}
STARTED: Json = {"status": "success", "task_id": 7, "message": "Task started successfully"}

# A follow-up that failed, on a task that has a pull request: nothing in it is null, which OpenAPI's encoder would drop.
TASK: Json = {
    "status": "success",
    "task": {
        "id": 7,
        "user_id": _USER,
        "project_id": 3,
        "status": "failed",
        "agent": "claude",
        "repo_url": _REPO,
        "target_branch": "main",
        "pr_branch": "claude-code-7",
        "container_id": "i3k9d2m1x8",
        "commit_hash": "3f0c5b1e9a7d2c4b6e8f0a1b2c3d4e5f60718293",
        "pr_number": 12,
        "pr_url": f"{_REPO}/pull/12",
        "git_diff": _DIFF,
        "git_patch": _DIFF,
        "changed_files": ["README.md"],
        "error": "Claude agent timed out after 300 seconds",
        "chat_messages": _CHAT,
        "execution_metadata": {"file_changes": [{"filename": "README.md", "before": "…", "after": "…"}]},
        "created_at": _AT,
        "updated_at": _AT,
        "started_at": _AT,
        "completed_at": _AT,
        "is_test_data": False,
        "has_patch": True,
    },
}
TASK_STATUS: Json = {
    "status": "success",
    "task": {
        "id": 7,
        "status": "failed",
        "repo_url": _REPO,
        "branch": "main",
        "model": "claude",
        "commit_hash": TASK["task"]["commit_hash"],
        "changed_files": ["README.md"],
        "error": TASK["task"]["error"],
        "created_at": _AT,
        "project_id": 3,
        "prompt": _PROMPT,
        "chat_messages": _CHAT,
        "execution_metadata": TASK["task"]["execution_metadata"],
        "completed_at": _AT,
        "pr_branch": "claude-code-7",
        "pr_number": 12,
        "pr_url": f"{_REPO}/pull/12",
    },
}
TASK_LIST: Json = {
    "status": "success",
    "tasks": {
        "7": {
            "prompt": _PROMPT,
            "id": 7,
            "status": "failed",
            "created_at": _AT,
            "has_patch": True,
            "project_id": 3,
            "repo_url": _REPO,
            "agent": "claude",
            "chat_messages": _CHAT,
        }
    },
    "total_tasks": 1,
}
EVENTS: Json = {
    "status": "success",
    "events": [
        {
            "seq": 1,
            "run_id": "0b9d1b46-6a0c-4f43-8b5c-6f3a1f0f7a55",
            "kind": "phase",
            "payload": {"phase": "queued"},
            "at": _AT,
        }
    ],
    "next": 1,
    "task_status": "pending",
}
GIT_DIFF: Json = {"status": "success", "git_diff": _DIFF, "task_id": 7}

ERROR: Json = {"error": "Task not found", "code": "not_found"}


def of(example: Json) -> dict[int | str, Json]:
    """What the description says about an operation's answers: `example`, and how errors look."""
    return {
        200: {"description": "Done.", "content": {"application/json": {"example": example}}},
        "default": {"description": "Refused or failed.", "content": {"application/json": {"example": ERROR}}},
    }
