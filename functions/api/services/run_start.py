"""What every start of a run has in common: the sealed token, the hash of what is asked for, the nudge."""

import hashlib
import json
import logging
import uuid
from collections.abc import Mapping

from shared.domain.errors import AppError, InvalidInput
from shared.domain.messages import RunMessage
from shared.domain.ports import RunQueue, SecretBox
from shared.domain.secret import SealedFor, SealedToken, Secret, hint_of

log = logging.getLogger("api.run_start")

MAX_TOKEN_BYTES = 4096  # what KMS encrypts directly; no git host issues longer ones


def check_prompt(prompt: str, *, max_chars: int) -> None:
    """Raises InvalidInput."""
    if len(prompt) > max_chars:
        raise InvalidInput(f"prompt may have at most {max_chars} characters")


def check_token(token: Secret) -> None:
    """Raises InvalidInput."""
    if len(token.reveal().encode()) > MAX_TOKEN_BYTES:
        raise InvalidInput(f"github_token may have at most {MAX_TOKEN_BYTES} bytes")


def sealed_token(token: Secret, *, user_id: str, box: SecretBox) -> SealedToken:
    """The token, sealed for its owner. Raises Unavailable."""
    owner = SealedFor(user_id=user_id, kind="git_token", id=str(uuid.uuid4()))
    return SealedToken(owner.id, box.seal(token, owner), hint_of(token))


def hash_of(request: Mapping[str, object]) -> str:
    """What is asked for, as SHA-256 in hexadecimal digits. Leave the token out: it may have been renewed in between."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def nudge(message: RunMessage, queue: RunQueue, *, delay_s: int = 0) -> None:
    """Have the executor look at a run that is safely stored."""
    try:
        queue.send(message, delay_s=delay_s)
    except AppError as error:  # the row is the truth: the reaper finds the run and sends again
        log.warning("run.nudge_failed", extra={"task_id": message.task_id, "run_id": message.run_id} | error.for_log())
