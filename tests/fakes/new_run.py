"""A run as the executor has claimed it, for tests that need no database."""

import uuid

from shared.domain.agents import AgentName
from shared.domain.run import Phase, Run, RunKind, RunStatus


def new_run(**changes):
    """A run that needs a sandbox."""
    run = {
        "id": str(uuid.uuid4()),
        "task_id": 1,
        "user_id": str(uuid.uuid4()),
        "kind": RunKind.FIRST,
        "prompt": "p",
        "agent": AgentName.CLAUDE,
        "status": RunStatus.RUNNING,
        "phase": Phase.PROVISIONING,
        "seq": 0,
        "fence": 1,
        "attempt": 1,
        "repo_url": "https://github.com/o/r",
        "branch": "main",
    }
    return Run(**run | changes)
