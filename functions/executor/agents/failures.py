"""From a provider's message about a failure to our stable code."""

import re

from functions.executor.agents.driver import AgentFailure
from shared.domain.agents import PROFILES

_KEYS = "|".join(profile.program_key_variable.lower() for profile in PROFILES.values())
# The first match decides; the words are those of claude 2.1.330 and codex 0.163.0, November 2026
_WORDS = (
    (AgentFailure.CREDIT, r"credit balance|insufficient_quota|quota exceeded|exceeded your current quota|billing"),
    (AgentFailure.CONTEXT_TOO_LONG, r"prompt is too long|context window|context_length|context length"),
    (AgentFailure.AUTH, r"invalid api key|incorrect api key|failed to authenticate|authentication|unauthorized"),
    (AgentFailure.AUTH, rf"not logged in|missing environment variable: `({_KEYS})`"),  # no key at all
    (AgentFailure.RATE_LIMITED, r"rate.?limit|too many requests|usage limit"),
    (AgentFailure.OVERLOADED, r"overloaded|high demand|at capacity|internal server error"),
)
_STATUS = re.compile(r"\bstatus:? (\d{3})\b")


def classify(text: str, status: int | None = None) -> AgentFailure:
    """Words about money and length are surer than the HTTP status, which is 400 or 429 for both."""
    said = text.lower()
    by_words = next((failure for failure, words in _WORDS if re.search(words, said)), None)
    if by_words in (AgentFailure.CREDIT, AgentFailure.CONTEXT_TOO_LONG):
        return by_words
    if status is None and (match := _STATUS.search(said)):
        status = int(match[1])
    return _by_status(status) or by_words or AgentFailure.FAILED


def _by_status(status: int | None) -> AgentFailure | None:
    if status in (401, 403):
        return AgentFailure.AUTH
    if status == 429:
        return AgentFailure.RATE_LIMITED
    if status is not None and status >= 500:
        return AgentFailure.OVERLOADED
    return None
