"""Before a sandbox is kept for a follow-up, the run's secrets are taken out of all that was written down in it."""

import json
from collections.abc import Iterable

from functions.executor.context import StepContext
from functions.executor.work.job_reports import report_of
from functions.executor.work.jobs import JobSpec, RunFolder
from functions.executor.work.secret_delivery import was_in_sandbox
from functions.executor.work.workspace import AGENT_JOB, CLONE_JOB, WORK_TREE
from sandbox.programs.protocol import OUR_SECRETS, USERS_SECRETS, JobReport, WipeReport, WipeRequest, to_json
from shared.domain.errors import AppError
from shared.domain.secret import Secret
from shared.observability import get_logger

logger = get_logger("executor")

JOB = "wipe_secrets"
START_WAIT_S = 3
TIMEOUT_S = 120  # some ten gigabytes; a sandbox that holds more is not kept


def look(ctx: StepContext, folder: RunFolder) -> bool | None:
    """Whether the sandbox may be kept; None while that is being worked on."""
    if not ctx.settings.follow_up_window_s:
        return False
    state = folder.look(JOB)
    if state.absent:
        state = folder.start(JOB, _job(ctx, folder), wait_s=START_WAIT_S)
    return _succeeded(state) if state.over else None


def _job(ctx: StepContext, folder: RunFolder) -> JobSpec:
    preferences, _ = ctx.secrets.preferences()
    # Ours whatever the preferences say now: they may have changed since the agent was started with it.
    ours = ctx.settings.models[ctx.run.agent].key
    # What never came into the sandbox is not brought there now.
    if not was_in_sandbox(folder, AGENT_JOB, ctx.ports):
        ours = None
    token = ctx.secrets.git_token() if was_in_sandbox(folder, CLONE_JOB, ctx.ports) else None
    users = [*preferences.secrets(), token]
    request = WipeRequest(files=ctx.run.agent.profile.secret_files, work_tree=WORK_TREE)
    return JobSpec(
        argv=("wipe_secrets", f"{JOB}/spec.json"),
        user="root",
        timeout_s=TIMEOUT_S,
        secret_env={OUR_SECRETS: _listed([ours]), USERS_SECRETS: _listed(users)},
        files={"spec.json": to_json(request).encode()},
    )


def _listed(secrets: Iterable[Secret | None]) -> Secret:
    return Secret(json.dumps([secret.reveal() for secret in secrets if secret]))


def _succeeded(state: JobReport) -> bool:
    """Whether all of them are gone; whatever kept it from that costs the sandbox, not the run."""
    try:
        return isinstance(report_of(state, WipeReport), WipeReport)
    except AppError as error:
        logger.warning("wipe_secrets.failed", extra=error.for_log())
        return False
