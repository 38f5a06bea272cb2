"""Before anything of others runs in a sandbox, and before a secret comes into one that was kept: is it closed?

sandbox/programs/close.py says what that means. A sandbox that is open gets no secret and no agent.
"""

from functions.executor.work.jobs import RunFolder, parsed
from sandbox.programs.protocol import CloseReport, CloseVerb
from shared.domain.errors import RunFailed
from shared.observability import get_logger

logger = get_logger("executor")

PROGRAM = "close"
TIMEOUT_S = 60  # it looks at some ten thousand files, of a disk that nobody has read yet
UNSAFE = "sandbox_unsafe"


def close(folder: RunFolder) -> None:
    """Close a new sandbox. Raises RunFailed when an agent could become root in it all the same."""
    if problems := _problems(folder, "close"):
        logger.error("sandbox.unsafe", extra={"problems": problems})
        raise RunFailed(
            "The sandbox is not safe enough to run an agent: the agent could become root in it. "
            "The operator has to build the sandbox template again.",
            error_code=UNSAFE,
        )


def is_still_closed(folder: RunFolder) -> bool:
    """Whether a sandbox that was kept is as it was closed, and runs nothing that an agent has left."""
    problems = _problems(folder, "check")
    if problems:
        logger.warning("sandbox.not_reused", extra={"problems": problems})
    return not problems


def _problems(folder: RunFolder, verb: CloseVerb) -> tuple[str, ...]:
    report = parsed(CloseReport, folder.run(PROGRAM, verb, timeout_s=TIMEOUT_S))
    if report.closed:
        logger.info("sandbox.closed", extra={"changed": report.closed})
    return report.problems if report.ok or report.problems else ("It is not closed, and does not say why.",)
