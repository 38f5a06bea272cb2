"""The run's folder in its running sandbox."""

from functions.executor.errors import SandboxGone
from functions.executor.jobs import RunFolder
from functions.executor.ports import Ports
from shared.domain.run import Run

# Where clone.py puts the agent's working copy, below the agent's home, and the pristine one, beside the run's folder: a
# follow-up in the same sandbox has a folder of its own.
WORK_TREE = "repo"
BASE_GIT = "../base.git"
CLONE_JOB = "clone"  # its output stays: what it reported can be read again


def folder_of(run: Run, ports: Ports) -> RunFolder:
    """Raises SandboxGone when the run's sandbox has ended, Unavailable when it is out of reach."""
    if run.sandbox_id is None:
        raise SandboxGone(run_id=run.id)
    return RunFolder(ports.sandboxes.attach(run.sandbox_id), run.id)
