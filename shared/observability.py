"""Logs that people and machines can read, and that hold no secret."""

import logging
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

from shared.domain.redaction import REDACTED, Redactor
from shared.domain.secret import Secret

# Fields whose value is never wanted in a log, whatever it looks like.
_SECRET_KEYS = frozenset(
    {
        "authorization",
        "apikey",
        "api_key",
        "token",
        "github_token",
        "access_token",
        "refresh_token",
        "password",
        "secret",
    }
)

RECENT_SECRETS = 150  # of one run: a warm environment sees one user after the other, and logs of the present one only

_lasting = Redactor()
_recent = Redactor(limit=RECENT_SECRETS)


def register_secret(secret: Secret | None, *, lasting: bool = False) -> None:
    """From now on this value is replaced in every log line of the process: `lasting` ones for good."""
    if secret:
        (_lasting if lasting else _recent).add(secret.reveal())


class _RedactingFormatter(LambdaPowertoolsFormatter):
    """Masks by key, by registered value and by shape, in the message, the fields and the stack trace alike."""

    def serialize(self, log: dict[str, Any]) -> str:  # type: ignore[override]  # the base class names a TypedDict
        # Nobody's value may blank out how bad a line is: users name some of the values themselves.
        return super().serialize(_masked(log) | {"level": log.get("level")})


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: REDACTED if str(k).lower() in _SECRET_KEYS and v else _masked(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_masked(item) for item in value]
    return (
        value if value is None or isinstance(value, bool | int | float) else _lasting.values(_recent.text(str(value)))
    )


def get_logger(service: str) -> Logger:
    """A JSON logger: event name first (`run.claimed`), facts as fields through `extra`.

    The level comes from POWERTOOLS_LOG_LEVEL or Lambda's own setting. HTTP clients, which log URLs, stay quiet.
    """
    for chatty in ("httpx", "httpcore", "e2b", "botocore", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return Logger(service=service, logger_formatter=_RedactingFormatter())
