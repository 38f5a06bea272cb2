"""What a run works on: its folder in its running sandbox, and its repository."""

from functions.executor.context import StepContext
from functions.executor.errors import SandboxGone
from functions.executor.work.jobs import RunFolder
from shared.domain.errors import InvalidInput, RunFailed
from shared.domain.repository import Repository

# Where clone.py puts the agent's working copy, below the agent's home, and the pristine one, beside the run's folder: a
# follow-up in the same sandbox has a folder of its own.
WORK_TREE = "repo"
BASE_GIT = "../base.git"
AGENT_JOB = "agent"
CLONE_JOB = "clone"  # its output stays: what it reported can be read again


def open_workspace(ctx: StepContext) -> RunFolder:
    """Raises SandboxGone when the run's sandbox has ended, Unavailable when it is out of reach."""
    if ctx.run.sandbox_id is None:
        raise SandboxGone(run_id=ctx.run.id)
    return RunFolder(ctx.ports.sandboxes.attach(ctx.run.sandbox_id), ctx.run.id)


def repository_of(ctx: StepContext) -> Repository:
    """Raises RunFailed for one that may not be cloned: a user may have called the database without the API's checks."""
    try:
        return Repository.parse(ctx.run.repo_url, origins=ctx.settings.repo_origins)
    except InvalidInput as error:
        raise RunFailed(str(error), error_code="repository_refused") from error
