"""Runs, for the executor. The only module that spells the names of the run functions and their columns."""

import json
from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from postgrest import SyncPostgrestClient

from shared.adapters.postgrest_client import call, speaking_our_errors
from shared.domain.messages import RunMessage, is_uuid
from shared.domain.ports import Claim, ClaimOutcome
from shared.domain.run import Advance, AgentName, Event, Finish, Phase, Run, RunStatus, check_phase
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
            answer.get("retry_in_s", 0),
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
                "finish_run",
                {
                    "p_run_id": run.id,
                    "p_fence": run.fence,
                    "p_status": end.status,
                    "p_error_code": end.error_code,
                    "p_error": end.error,
                    "p_result": _result(end),
                    "p_files": [dict(file) for file in end.result.files] if end.result else [],
                    "p_message": end.message,
                    "p_events": _events(end.events),
                },
            )
        return done is True

    def due(self, *, grace_s: int, limit: int) -> list[RunMessage]:
        """Nudges for runs whose step is overdue by `grace_s` seconds and held by nobody."""
        with speaking_our_errors():
            rows = call(self._client, "due_runs", {"p_grace_s": grace_s, "p_limit": limit})
        return [RunMessage(**row) for row in rows]

    def live(self, run_ids: Collection[str]) -> set[str]:
        """Which of these runs have not ended. What is no run's id at all is not among them."""
        ids = [run_id for run_id in run_ids if is_uuid(run_id)]
        if not ids:
            return set()
        alive = [RunStatus.QUEUED, RunStatus.RUNNING]
        query = self._client.table("runs").select("id").in_("id", ids).in_("status", alive)
        with speaking_our_errors():
            rows: list[Any] = query.execute().data
        return {row["id"] for row in rows}

    def git_credential(self, run: Run) -> Sealed | None:
        """The run's sealed git token; None when it has none or it was deleted."""
        if run.git_credential_id is None:
            return None
        query = self._client.table("user_credentials").select("ciphertext,key_id,alg")
        with speaking_our_errors():
            rows: list[Any] = query.eq("id", run.git_credential_id).eq("user_id", run.user_id).execute().data
        return Sealed(**rows[0]) if rows else None

    def preferences(self, run: Run) -> object:
        """What the run's user wants agents to be given, as it stands in the row, unchecked; {} for nothing.

        It is fetched as text: the user may have written what no JSON reader takes (thousands of brackets or digits),
        and what cannot be read should look unsound to whoever checks it, not fail here. Then it is that text.
        """
        query = self._client.table("users").select("preferences::text").eq("id", run.user_id)
        with speaking_our_errors():
            rows: list[Any] = query.execute().data
        text = rows[0]["preferences"] if rows else None
        try:
            return json.loads(text or "{}")
        except (ValueError, RecursionError):
            return text

    def expire_credentials(self) -> int:
        """Delete sealed secrets that have expired or whose run has ended. How many."""
        with speaking_our_errors():
            return int(call(self._client, "expire_credentials", {}))


def _run(row: Mapping[str, Any]) -> Run:
    return Run(
        id=row["id"],
        task_id=row["task_id"],
        user_id=row["user_id"],
        kind=row["kind"],
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
        setup_script=row["setup_script"],
        deadline_at=_time(row["deadline_at"]),
        cancel_requested=row["cancel_requested_at"] is not None,
        sandbox_id=row["sandbox_id"],
        agent_session_id=row["agent_session_id"],
        base_commit=row["base_commit"],
        output_offset=row["output_offset"],
        reader_state=row["reader_state"],
        usage=row["usage"],
        exit_code=row["exit_code"],
        error_code=row["error_code"],
        error=row["error"],
        git_credential_id=row["git_credential_id"],
        trace_id=row["trace_id"],
        created_at=_time(row["created_at"]),
        started_at=_time(row["started_at"]),
    )


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _events(events: Collection[Event]) -> list[dict[str, Any]]:
    return [{"kind": event.kind, "payload": dict(event.payload)} for event in events]


def _result(end: Finish) -> dict[str, Any]:
    if end.result is None:
        return {}
    return {
        "commit_hash": end.result.commit_hash,
        "git_diff": end.result.diff,
        "git_patch": end.result.patch,
        "changed_files": list(end.result.changed_files),
        "execution_metadata": dict(end.result.metadata),
    }
