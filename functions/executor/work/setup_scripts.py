"""Which setup scripts a run has: the project's, then the repository's own, of the commit that was cloned."""

from dataclasses import dataclass

from sandbox.programs.protocol import CloneReport, SetupScript
from shared.domain.errors import RunFailed
from shared.domain.run import Run

REPOSITORYS = ".asynccode/setup.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One of the scripts: the job that runs it, how it is called in sentences, and as `$0`."""

    job: str
    title: str
    name: str
    text: str


def scripts(run: Run, cloned: CloneReport) -> tuple[Script, ...]:
    """The run's setup scripts, in their order. `cloned` is what clone.py reported.

    Raises RunFailed when the repository's own is none that can be run.
    """
    title = f"The repository's setup script {REPOSITORYS}"
    own = cloned.setup or SetupScript()
    if own.problem:
        raise RunFailed(f"{title} {own.problem}.", error_code="setup_failed")
    both = (
        Script(job="setup", title="The project's setup script", name="setup", text=run.setup_script or ""),
        Script(job="repository_setup", title=title, name=REPOSITORYS, text=own.script or ""),
    )
    return tuple(script for script in both if script.text)
