"""One example of each answer and body, for the API's description. Tests hold them next to what is really sent."""

from typing import Any

Json = dict[str, Any]

_AT = "2026-11-23T09:00:00.000000+00:00"
_USER = "5f0c1f0e-8d5c-4b61-9a34-2f1f6d3f2a10"
_JWT = "eyJhbGciOi…"
_REPO = "https://github.com/acme/widgets"
_PROMPT = "Add a section about installing to the README"
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
    "project_id": None,
}
STARTED: Json = {"status": "success", "task_id": 7, "message": "Task started successfully"}

TASK_STATUS: Json = {
    "status": "success",
    "task": {
        "id": 7,
        "status": "running",
        "prompt": _PROMPT,
        "repo_url": _REPO,
        "branch": "main",
        "model": "claude",
        "commit_hash": None,
        "changed_files": [],
        "error": None,
        "created_at": _AT,
        "project_id": None,
    },
}
TASK_LIST: Json = {
    "status": "success",
    "tasks": {
        "7": {
            "id": 7,
            "status": "running",
            "created_at": _AT,
            "prompt": _PROMPT,
            "has_patch": False,
            "project_id": None,
            "repo_url": _REPO,
            "agent": "claude",
            "chat_messages": _CHAT,
        }
    },
    "total_tasks": 1,
}
TASK: Json = {
    "status": "success",
    "task": {
        "id": 7,
        "user_id": _USER,
        "project_id": None,
        "status": "running",
        "agent": "claude",
        "repo_url": _REPO,
        "target_branch": "main",
        "pr_branch": None,
        "container_id": None,
        "commit_hash": None,
        "pr_number": None,
        "pr_url": None,
        "git_diff": None,
        "git_patch": None,
        "changed_files": [],
        "error": None,
        "chat_messages": _CHAT,
        "execution_metadata": {},
        "created_at": _AT,
        "updated_at": _AT,
        "started_at": _AT,
        "completed_at": None,
        "is_test_data": False,
        "has_patch": False,
    },
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
GIT_DIFF: Json = {"status": "success", "git_diff": "diff --git a/README.md b/README.md\n…", "task_id": 7}

ERROR: Json = {"error": "Task not found", "code": "not_found"}


def of(example: Json) -> dict[int | str, Json]:
    """What the description says about an operation's answers: `example`, and how errors look."""
    return {
        200: {"description": "Done.", "content": {"application/json": {"example": example}}},
        "default": {"description": "Refused or failed.", "content": {"application/json": {"example": ERROR}}},
    }
