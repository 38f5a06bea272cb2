"""The secrets of one step, and the one place where they are taken out of what the step stores.

A phase does not have to think of it: before something is stored, the run's secrets are opened, whether the phase asked
for them or not.
"""

import base64
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

from functions.executor.ports import Ports
from shared.domain.binary_patch import BinaryChange
from shared.domain.errors import CannotOpen, RunFailed
from shared.domain.patch import BadPatch, parse
from shared.domain.ports import OwnersEnvironment
from shared.domain.preferences import AgentPreferences, read_preferences
from shared.domain.project import read_project_env, read_project_network
from shared.domain.redaction import Redactor
from shared.domain.run import Advance, Event, Finish, Outcome, Result, Run
from shared.domain.secret import SealedFor, Secret
from shared.observability import register_secret

NUL = "\x00"  # PostgreSQL stores it in neither text nor jsonb
TAKEN_OUT = "The changes contained a secret of this run. It is replaced by [REDACTED] in everything that is stored."


class StepSecrets:
    """Opens each of the run's secrets once, and takes them out of everything that the step saves."""

    def __init__(self, run: Run, ports: Ports) -> None:
        self._run = run
        self._ports = ports
        keys = (*ports.settings.model_keys(), ports.settings.e2b_api_key)
        self._redactor = Redactor(key.reveal() for key in keys)
        self._found_in_contents = False

    def git_token(self) -> Secret | None:
        """The run's GitHub token; None when it needs none. Raises RunFailed when it cannot be opened, Unavailable."""
        return self._git_token

    @cached_property
    def _git_token(self) -> Secret | None:
        sealed = self._ports.runs.git_credential(self._run)
        if sealed is None or self._run.git_credential_id is None:
            return None
        owner = SealedFor(user_id=self._run.user_id, kind="git_token", id=self._run.git_credential_id)
        try:
            token = self._ports.box.open(sealed, owner)
        except CannotOpen as error:
            raise RunFailed(
                "The stored GitHub token cannot be read any more. Start the task again.",
                error_code="credential_unreadable",
            ) from error
        self._redactor.add(token.reveal())
        register_secret(token)
        return token

    def preferences(self) -> tuple[AgentPreferences, tuple[str, ...]]:
        """What the run's agent is to be given, by its user and, below that, by its project.

        And a sentence for each thing that was left out of the user's preferences. Raises Unavailable.
        """
        preferences, problems = read_preferences(self._run.agent, self._owners.preferences)
        whole = preferences.over(self._run.agent, self.project_env()[0])
        self._remember(whole)
        return whole, problems

    def project_env(self) -> tuple[Mapping[str, Secret], tuple[str, ...]]:
        """The variables of the run's project, and a sentence for each that was left out. Remembered in the same way."""
        env, problems = read_project_env(self._run.agent, self._owners.project_env)
        self._remember(AgentPreferences(env=env))
        return env, problems

    def project_network(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The hosts that the run's project wants to reach, and a sentence for each that was left out. No secrets."""
        return read_project_network(self._owners.project_network)

    @cached_property
    def _owners(self) -> OwnersEnvironment:
        return self._ports.runs.environment(self._run)

    def _remember(self, preferences: AgentPreferences) -> None:
        for value in preferences.values():
            register_secret(value)
        for secret in preferences.secrets():
            self._redactor.add(secret.reveal())

    def scrub(self, outcome: Outcome) -> Outcome:
        """The same outcome without secrets and NUL characters.

        Texts lose everything that looks like a token; diffs lose only the run's own secrets, so that a test string
        of that shape stays as the agent wrote it. Where they lose one, there is a warning.

        Raises Unavailable when the secrets cannot be had now, and RunFailed when the git token cannot be opened.
        """
        self._open_for(outcome)
        written = outcome.result if isinstance(outcome, Finish) else None
        result = self.scrub_result(written) if written else None
        found = self._found_in_contents or _changes(result) != _changes(written)
        warnings = [Event("warning", {"code": "secret_taken_out", "text": TAKEN_OUT})] * found
        told = (Event(event.kind, self._text(dict(event.payload))) for event in outcome.events)
        events = (*warnings, *told)
        if isinstance(outcome, Advance):
            return replace(outcome, events=events, changes=self._text(dict(outcome.changes)))
        return replace(
            outcome,
            events=events,
            error=self._text(outcome.error),
            message=self._text(outcome.message),
            result=result,
        )

    def scrub_bytes(self, data: bytes) -> bytes:
        """The same of a content that is stored apart from the result."""
        self._open_all()
        clean = self._redactor.raw(data)
        self._found_in_contents |= clean != data
        return clean

    def scrub_result(self, result: Result) -> Result:
        """The same result without the run's own secrets and NUL characters."""
        self._open_all()
        return replace(
            result,
            diff=self._values(result.diff),
            patch=self._scrub_patch(result.patch),
            changed_files=tuple(self._values(list(result.changed_files))),
            files=tuple(self._scrub_file(dict(file)) for file in result.files),
            metadata=self._values(dict(result.metadata)),
        )

    def _open_for(self, outcome: Outcome) -> None:
        """Open what the texts of the outcome may hold. A step that stores no text opens nothing."""
        if isinstance(outcome, Advance):
            if outcome.events or outcome.changes:
                self.preferences()
        else:
            self._open_all()

    def _open_all(self) -> None:
        self.preferences()
        self.git_token()

    def _scrub_patch(self, patch: str | None) -> str | None:
        """None where a file that is no text holds a secret: it is packed there, and nothing can be taken out of it."""
        try:
            parts = parse(patch) if patch and "\nGIT binary patch\n" in patch else ()
        except BadPatch:  # what it names cannot be told as text
            parts = ()
        packed = (part.change.data for part in parts if isinstance(part.change, BinaryChange))
        if any(self._redactor.raw(data) != data for data in packed):
            return None
        scrubbed: str | None = self._values(patch)
        return scrubbed

    def _scrub_file(self, file: dict[str, Any]) -> Any:
        """Of a file that is no text, its bytes are looked at: in base64 a secret looks different at each place."""
        if file["encoding"] == "base64":
            file |= {side: self._scrub_base64(file[side]) for side in ("before", "after")}
        return self._values(file)

    def _scrub_base64(self, text: str | None) -> str | None:
        return None if text is None else base64.b64encode(self._redactor.raw(base64.b64decode(text))).decode()

    def _text(self, value: Any) -> Any:
        return _mapped(value, lambda text: self._redactor.text(text.replace(NUL, "")))

    def _values(self, value: Any) -> Any:
        return _mapped(value, lambda text: self._redactor.values(text.replace(NUL, "")))


def _changes(result: Result | None) -> object:
    return result and (result.diff, result.patch, tuple(map(dict, result.files)))


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(item, change) for item in value]
    return value
