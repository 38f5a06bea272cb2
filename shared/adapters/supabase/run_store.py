"""Runs, for the executor. The only module that spells the names of the run functions and their columns."""

import base64
import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from postgrest import SyncPostgrestClient

from shared.adapters.supabase.postgrest_client import call, speaking_our_errors
from shared.domain.agents import AgentName
from shared.domain.contents import ContentPart
from shared.domain.errors import RunFailed
from shared.domain.messages import RunMessage, is_uuid
from shared.domain.ports import Claim, ClaimOutcome, OwnersEnvironment
from shared.domain.run import Advance, Event, Finish, Phase, Result, Run, RunKind, RunStatus, check_phase
from shared.domain.secret import Sealed


class SupabaseRunStore:
    """Each method is one transaction. `client` must carry the service key.

    `lease_s`: how long a claim holds; `run_timeout_s`: from admission to the run's deadline.
    """

    def __init__(self, client: SyncPostgrestClient, *, lease_s: int, run_timeout_s: int) -> None:
        self._client = client
        self._lease_s = lease_s
        self._run_timeout_s = run_timeout_s

    def claim(self, message: RunMessage) -> Claim:
        """Take the lease on the step that the message names. Raises Unavailable."""
        with speaking_our_errors():
            answer = call(
                self._client,
                "claim_run",
                {
                    "p_run_id": message.run_id,
                    "p_seq": message.seq,
                    "p_lease_s": self._lease_s,
                    "p_run_timeout_s": self._run_timeout_s,
                },
            )
        return Claim(
            ClaimOutcome(answer["outcome"]),
            _run(answer["run"]) if "run" in answer else None,
            answer.get("retry_in_s"),
            answer.get("seq"),
        )

    def seize(self, run_id: str) -> Run | None:
        """Take a run from whoever holds it; None when it has ended or never was. Raises Unavailable."""
        with speaking_our_errors():
            answer = call(self._client, "seize_run", {"p_run_id": run_id, "p_lease_s": self._lease_s})
        return _run(answer["run"]) if answer["outcome"] == ClaimOutcome.CLAIMED else None

    def advance(self, run: Run, step: Advance) -> int | None:
        """Save a step and give the lease back. The next step's number, or None when the fence was lost."""
        check_phase(run.phase, step.phase or run.phase)
        changes = {**step.changes, "phase": step.phase or run.phase}
        with speaking_our_errors():
            seq: int | None = call(
                self._client,
                "advance_run",
                {
                    "p_run_id": run.id,
                    "p_fence": run.fence,
                    "p_changes": changes,
                    "p_events": _events(step.events),
                    "p_check_in_s": step.check_in_s,
                },
            )
        return seq

    def finish(self, run: Run, end: Finish) -> bool:
        """End the run and its task in one transaction. False when the fence was lost."""
        with speaking_our_errors():
            done = call(
                self._client,
                "finish_run_keeping_sandbox" if end.keep_sandbox_s else "finish_run",
                {
                    "p_keep_s": end.keep_sandbox_s or None,
                    "p_run_id": run.id,
                    "p_fence": run.fence,
                    "p_status": end.status,
                    "p_error_code": end.error_code,
                    "p_error": end.error,
                    "p_result": _columns(end.result) if end.result else {},
                    "p_files": _files(end.result) if end.result else [],
                    "p_message": end.message,
                    "p_events": _events(end.events),
                },
            )
        return done is True

    def save_checkpoint(self, run: Run, result: Result) -> bool:
        """Save what the run has changed so far, in place of what was saved before. False when the fence was lost."""
        arguments = {"p_run_id": run.id, "p_fence": run.fence, "p_result": _columns(result), "p_files": _files(result)}
        with speaking_our_errors():
            return call(self._client, "save_checkpoint", arguments) is True

    def stored_contents(self, run: Run) -> set[str]:
        """The ids of the run's contents that are stored whole. Raises Unavailable."""
        with speaking_our_errors():
            return set(call(self._client, "stored_contents", {"p_run_id": run.id}))

    def store_contents(self, run: Run, parts: Collection[ContentPart]) -> bool:
        """Store parts of contents; those that are there stay. False when the fence was lost."""
        rows = [
            {"id": one.id, "part": one.part, "parts": one.parts, "data": base64.b64encode(one.data).decode()}
            for one in parts
        ]
        arguments = {"p_run_id": run.id, "p_fence": run.fence, "p_parts": rows}
        with speaking_our_errors():
            return call(self._client, "store_contents", arguments) is True

    def due(self, *, grace_s: int, limit: int) -> list[RunMessage]:
        """Nudges for runs whose step is overdue by `grace_s` seconds and held by nobody."""
        with speaking_our_errors():
            rows = call(self._client, "due_runs", {"p_grace_s": grace_s, "p_limit": limit})
        return [RunMessage(**row) for row in rows]

    def wake(self) -> list[RunMessage]:
        """Nudges for sleeping runs that sandboxes are free for. Raises Unavailable."""
        with speaking_our_errors():
            rows = call(self._client, "wake_runs", {})
        return [RunMessage(**row) for row in rows]

    def needed(self, sandboxes: Mapping[str, str]) -> set[str]:
        """Which of these sandboxes (id -> the run that it was made for) an active run works in or may take over."""
        made_for = {sandbox: run_id if is_uuid(run_id) else None for sandbox, run_id in sandboxes.items()}
        with speaking_our_errors():
            return set(call(self._client, "needed_sandboxes", {"p_sandboxes": made_for}))

    def without_sandbox(self, sandboxes: Collection[str], *, grace_s: int) -> list[RunMessage]:
        """Nudges for running runs whose sandbox is none of these, and that nobody has touched for `grace_s` seconds."""
        arguments = {"p_sandboxes": sorted(sandboxes), "p_grace_s": grace_s}
        with speaking_our_errors():
            rows = call(self._client, "runs_without_sandbox", arguments)
        return [RunMessage(**row) for row in rows]

    def end_stuck(self, *, waited_s: int, waited: RunFailed, orphaned: str) -> int:
        """End runs that have waited so long for a sandbox, and active tasks without an active run. How many."""
        arguments = {
            "p_waited_s": waited_s,
            "p_waited_code": waited.error_code,
            "p_waited_error": str(waited),
            "p_orphaned_error": orphaned,
        }
        with speaking_our_errors():
            return int(call(self._client, "end_stuck", arguments))

    def replay(self, run_id: str) -> RunMessage | None:
        """Have done again what a run was to do that ended as INTERNAL: the nudge of the new run, or None."""
        with speaking_our_errors():
            row = call(self._client, "replay_run", {"p_run_id": run_id})
        return RunMessage(**row) if row else None

    def saved_patch(self, run: Run) -> str | None:
        """What the task's earlier runs have changed; "" for nothing, None when it was too large to be stored."""
        query = self._client.table("tasks").select("git_patch,changed_files")
        with speaking_our_errors():
            rows: list[Any] = query.eq("id", run.task_id).eq("user_id", run.user_id).execute().data
        task = rows[0] if rows else {}
        return task.get("git_patch") or (None if task.get("changed_files") else "")

    def git_credential(self, run: Run) -> Sealed | None:
        """The run's sealed git token; None when it has none or it was deleted."""
        if run.git_credential_id is None:
            return None
        query = self._client.table("user_credentials").select("ciphertext,key_id,alg")
        with speaking_our_errors():
            rows: list[Any] = query.eq("id", run.git_credential_id).eq("user_id", run.user_id).execute().data
        return Sealed(**rows[0]) if rows else None

    def environment(self, run: Run) -> OwnersEnvironment:
        """What the run's user and its project want programs to be given, as it stands in the rows. Raises Unavailable.

        It is fetched as text: the user may have written what no JSON reader takes (thousands of brackets or digits),
        and what cannot be read should look unsound to whoever checks it, not fail here. Then it is that text.
        """
        with speaking_our_errors():
            found = call(self._client, "run_environment", {"p_run_id": run.id}) or {}
        return OwnersEnvironment(
            _object(found.get("preferences")),
            _object(found.get("project_env")),
            _object(found.get("project_network") or "null"),
        )

    def expire_credentials(self) -> int:
        """Delete sealed secrets that have expired or whose run has ended. How many."""
        with speaking_our_errors():
            return int(call(self._client, "expire_credentials", {}))


def _run(row: Mapping[str, Any]) -> Run:
    return Run(
        id=row["id"],
        task_id=row["task_id"],
        user_id=row["user_id"],
        kind=RunKind(row["kind"]),
        prompt=row["prompt"],
        agent=AgentName(row["agent"]),
        status=RunStatus(row["status"]),
        phase=Phase(row["phase"]),
        seq=row["seq"],
        fence=row["fence"],
        attempt=row["attempt"],
        repo_url=row["repo_url"],
        branch=row["branch"],
        model=row["model"],
        max_cost_usd=row["max_cost_usd"],
        max_duration_s=row["max_duration_s"],
        setup_script=row["setup_script"],
        deadline_at=_time(row["deadline_at"]),
        cancel_requested=row["cancel_requested_at"] is not None,
        sandbox_id=row["sandbox_id"],
        agent_session_id=row["agent_session_id"],
        base_commit=row["base_commit"],
        output_offset=row["output_offset"],
        reader_state=row["reader_state"],
        usage=row["usage"],
        checkpoint=row["checkpoint"],
        exit_code=row["exit_code"],
        error_code=row["error_code"],
        error=row["error"],
        git_credential_id=row["git_credential_id"],
        trace_id=row["trace_id"],
        created_at=_time(row["created_at"]),
        started_at=_time(row["started_at"]),
    )


def _object(text: str | None) -> object:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _events(events: Collection[Event]) -> list[dict[str, Any]]:
    return [{"kind": event.kind, "payload": dict(event.payload)} for event in events]


def _columns(result: Result) -> dict[str, Any]:
    return {
        "commit_hash": result.commit_hash,
        "git_diff": result.diff,
        "git_patch": result.patch,
        "changed_files": list(result.changed_files),
        "execution_metadata": dict(result.metadata),
    }


def _files(result: Result) -> list[dict[str, Any]]:
    return [dict(file) for file in result.files]
