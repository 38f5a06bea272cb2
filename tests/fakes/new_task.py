"""A task to be started, as the API hands it to the store."""

import uuid
from dataclasses import fields
from typing import get_args, get_type_hints

from shared.domain.ports import NewTask, TaskOptions
from shared.domain.run import AgentName
from shared.domain.secret import Sealed

SEALED = Sealed(ciphertext="c2VhbGVk", key_id="local:v1", alg="AES-256-GCM")
OPTIONS = {each.name for each in fields(TaskOptions)}
EXAMPLES = {int: (7200, 3600), float: (2.5, 0.5), str: ("one", "another")}


def option_values(name):
    """Two different values that an option may have, by its type."""
    return next(EXAMPLES[kind] for kind in get_args(get_type_hints(TaskOptions)[name]) if kind in EXAMPLES)


def new_task(**changes) -> NewTask:
    """`changes` name fields of the task or of its options."""
    options = TaskOptions(**{name: value for name, value in changes.items() if name in OPTIONS})
    values = {
        "prompt": "make it so",
        "repo_url": "https://github.com/o/r",
        "branch": "main",
        "agent": AgentName.CLAUDE,
        "credential_id": str(uuid.uuid4()),
        "credential": SEALED,
        "credential_hint": "wxyz",
        "idempotency_key": None,
        "trace_id": "trace-1",
    }
    return NewTask(**values | {name: value for name, value in changes.items() if name not in OPTIONS}, options=options)
