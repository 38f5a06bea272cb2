"""The repository comes into the sandbox: a pristine copy that the agent cannot reach, and the agent's working copy."""

from functions.executor.agents import ReaderState
from functions.executor.context import StepContext
from functions.executor.decisions import RESTARTED
from functions.executor.work import secret_delivery
from functions.executor.work.job_reports import report_of
from functions.executor.work.jobs import JobSpec
from functions.executor.work.model_access import model_access
from functions.executor.work.setup_scripts import scripts
from functions.executor.work.workspace import BASE_GIT, CLONE_JOB, WORK_TREE, open_workspace, repository_of
from sandbox.programs.protocol import TOKEN_FILE, CloneReport, CloneRequest, Failure, JobReport, to_json
from shared.domain.errors import InvalidInput, RunFailed
from shared.domain.repository import branch_name
from shared.domain.run import Advance, Event, Outcome, Phase

JOB = CLONE_JOB
PATCH_FILE = "patch"
START_WAIT_S = 3  # most clones end within it, and the step need not be taken again


def step(ctx: StepContext) -> Outcome:
    """Start the clone, or look how far it is; when it has ended, go on to the setup or the agent."""
    folder = open_workspace(ctx)
    state = folder.look(JOB)
    if state.absent:
        state = folder.start(JOB, _clone(ctx), wait_s=START_WAIT_S)
    if not state.over:
        return Advance(check_in_s=ctx.poll_delay_s)
    cloned = _report(state)
    if isinstance(cloned, Failure):
        raise _failure(ctx, cloned)
    return Advance(
        phase=Phase.SETUP if scripts(ctx.run, cloned) else Phase.AGENT,
        changes={"base_commit": cloned.base_commit, "reader_state": _nothing_read(ctx, cloned)},
        events=(Event("cloned", {"commit": cloned.base_commit, "branch": ctx.run.branch}),),
    )


def _nothing_read(ctx: StepContext, cloned: CloneReport) -> dict[str, object]:
    """Where the reading of the agent's output will start: what the agent itself does not tell."""
    preferences, _ = ctx.secrets.preferences()
    model = model_access(ctx.run.agent, ctx.settings, preferences).model
    start = ReaderState.start(
        workdir=cloned.work_tree, real_workdir=cloned.real_work_tree or "", model=ctx.run.model or model
    )
    return start.to_json()


def _clone(ctx: StepContext) -> JobSpec:
    repository = repository_of(ctx)
    try:
        branch = branch_name(ctx.run.branch)  # of the same row, which is not trusted
    except InvalidInput as error:
        raise RunFailed(str(error), error_code="repository_refused") from error
    token = ctx.secrets.git_token()
    by_egress = token is not None and secret_delivery.git_by_egress(ctx, repository, token)
    token_file = token if not by_egress else None
    patch = _patch(ctx)
    request = CloneRequest(
        url=repository.url,
        branch=branch,
        commit=ctx.run.base_commit,
        patch_file=f"{JOB}/{PATCH_FILE}" if patch else None,
        depth=ctx.settings.clone_depth,
        token_file=f"{JOB}/{TOKEN_FILE}" if token_file else None,
        base_git=BASE_GIT,
        work_tree=WORK_TREE,
        timeout_s=ctx.settings.clone_timeout_s,
    )
    files = {"spec.json": to_json(request).encode()}
    if token_file:
        files[TOKEN_FILE] = token_file.reveal().encode()
    if patch:
        files[PATCH_FILE] = patch.encode()
    return JobSpec(
        argv=("clone", f"{JOB}/spec.json"),
        user="root",
        timeout_s=ctx.settings.clone_timeout_s + 30,
        env=secret_delivery.TRUSTING_E2B if by_egress else {},
        files=files,
    )


def _patch(ctx: StepContext) -> str:
    """What the runs before a follow-up have changed. Raises RunFailed when that is not known."""
    if ctx.run.base_commit is None:
        return ""
    patch = ctx.ports.runs.saved_patch(ctx.run)
    if patch is None:
        raise RunFailed(
            "The changes so far were too large to be stored, and their sandbox is gone. Retry the task.",
            error_code="patch_missing",
        )
    return patch


def _report(state: JobReport) -> CloneReport | Failure:
    """What clone.py reports; a failure of the executor's own when it did not come that far."""
    return report_of(state, CloneReport) or Failure("timeout" if state.ended_by == "timeout" else "interrupted")


def _failure(ctx: StepContext, report: Failure) -> RunFailed:
    missing = f"Repository not found or branch '{ctx.run.branch}' does not exist."
    texts = {
        "auth": ("git_auth", "GitHub authentication failed. Please check your GitHub token permissions."),
        "not_found": ("repository_not_found", missing),
        "branch_not_found": ("branch_not_found", missing),
        "patch_conflict": (
            "patch_conflict",
            f"The changes so far no longer apply to branch '{ctx.run.branch}'. Retry the task, or start a new one.",
        ),
        "timeout": (
            "clone_timeout",
            f"Git clone timed out after {ctx.settings.clone_timeout_s} seconds. Repository might be too large.",
        ),
        "interrupted": ("clone_interrupted", f"Git clone was interrupted: {RESTARTED}. Retry the task."),
    }
    code, text = texts.get(report.error, ("clone_failed", f"Failed to clone repository: {report.message}"))
    return RunFailed(text, error_code=code)
