"""Whether the local stack can work on this machine: checked before anything is downloaded or made.

    python -E -m local.preflight [stack] [tests]

`problems` cannot work, `warnings` may: one sentence each, which says what was found, what is needed and what to do.
Only the standard library is used, since no package is installed yet.
"""

import errno
import os
import sys
from collections.abc import Callable, Collection
from pathlib import Path

from local.agent_clis import CLIS
from local.machine import Facts, Place, facts_of_this_machine, look_at, size_mb
from shared.domain.agents import DEFAULT_AGENT

PROJECT_ROOT = Path(__file__).resolve().parents[1]
LOCAL = PROJECT_ROOT / ".local"
VENV = PROJECT_ROOT / ".venv"

# Root hands the files of PostgreSQL to another user, reads them, and starts and stops the server as that user.
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7}  # <linux/capability.h>

# Measured in containers with Docker's default limits, Debian 12, two cores: one `make demo` takes at most 812 MB of
# memory (without file caches) with Claude Code and 713 with Codex, and 74 or 92 processes and threads.
NEEDED_MEMORY_MB = 850
AMPLE_MEMORY_MB = 1024
NEEDED_PROCESSES = 90
NEEDED_OPEN_FILES = 128
NEEDED_SHARED_MEMORY_MB = 4  # one segment of PostgreSQL has 1 MB; less than 2 is too little for its start
LARGEST_FILE_MB = 300  # the agent's program; a segment of PostgreSQL's log has 16

# Disk in MB: what stays, and what is only there meanwhile. Measured: 262 and 60, 365 and the download, 41.
LOCAL_PACKAGES_MB = (270, 70)
DEV_PACKAGES_MB = (640, 160)
CLI_MB = 370
DATA_MB = 60


def problems(facts: Facts) -> list[str]:
    """What keeps the local stack from working on this machine; empty when nothing is known that does."""
    return _said(facts, (*PLACE_CHECKS, *STACK_CHECKS))


def package_problems(facts: Facts) -> list[str]:
    """Only what keeps packages from being installed: for what needs no stack, such as the linters."""
    return _said(facts, PLACE_CHECKS)


def warnings(facts: Facts) -> list[str]:
    """What may keep the local stack from working, and what it would work better with."""
    return _said(facts, (scarce_memory,))


def gather(
    *,
    stack: bool = True,
    tests: bool = False,
    agents: Collection[str] | None = None,
    clouds: Collection[str] | None = None,
    data: Path | None = None,
) -> Facts:
    """The facts of this machine, and of the folders that are written to: only what is not there yet needs room.

    What is None is read from the environment, as far as it says so.
    """
    if agents is None:
        agents = tuple(CLIS) if tests else _words("AGENT") or (DEFAULT_AGENT,)
    places = [_packages(tests=tests)]
    if stack:
        places += [_agent_program(agent) for agent in agents if agent in CLIS]
        places.append(_data(data or Path(os.environ.get("LOCAL_DATA") or LOCAL / "data").expanduser()))
    runs_postgres = tests or "supabase" not in (_words("CLOUD") if clouds is None else clouds)
    return facts_of_this_machine(tuple(places), runs_postgres=runs_postgres)


def main(arguments: list[str]) -> int:
    """0 when nothing is in the way; 1 with a sentence per problem on stderr."""
    stack = "stack" in arguments
    facts = gather(stack=stack, tests="tests" in arguments)
    found = problems(facts) if stack else package_problems(facts)
    for sentence in found:
        print(sentence, file=sys.stderr)
    return 1 if found else 0


# --------------------------------------------------------------------------------------------------------------- places


def _packages(*, tests: bool) -> Place:
    done = (VENV / (".dev-packages" if tests else ".local-packages")).exists()
    kept_mb, passing_mb = (0, 0) if done else DEV_PACKAGES_MB if tests else LOCAL_PACKAGES_MB
    missing_mb = 0 if done else max(kept_mb - size_mb(VENV), 0)  # an installation may have been interrupted
    return look_at("the Python packages", VENV, missing_mb, passing_mb, written=not done, runs_programs=True)


def _agent_program(agent: str) -> Place:
    cli = CLIS[agent]
    folder = LOCAL / "cache" / "agents"
    done = (folder / f"{agent}-{cli.version}" / "bin" / agent).exists()
    sizes_mb = (0, 0) if done else (CLI_MB, cli.size_mb)
    return look_at(cli.title, folder, *sizes_mb, written=not done, runs_programs=True)


def _data(folder: Path) -> Place:
    return look_at("the database", folder, DATA_MB, written=True)


def unwritable_place(facts: Facts) -> str | None:
    for place in facts.places:
        if error := place.write_error:
            return f"{place.path} cannot be written to ({error.strerror}): {_remedy(error, place)}."
    return None


def _remedy(error: OSError, place: Place) -> str:
    if error.errno == errno.EROFS:
        return "mount its file system writable, or copy the project to a folder that is"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free space on its disk, or raise your quota"
    if place.owner:
        return f"it belongs to {place.owner}; start as that user, or change its owner with chown -R"
    return "change its permissions, or copy the project to a folder of your own"


def full_disk(facts: Facts) -> str | None:
    """Together, since several places usually lie on one disk."""
    for device in dict.fromkeys(place.device for place in facts.places):
        there = [place for place in facts.places if place.device == device]
        needed_mb, free_mb = _peak_mb(there), min(place.free_mb for place in there)
        if free_mb < needed_mb and not any(place.write_error for place in there):
            parts = _listed([place.purpose for place in there if place.needed_mb])
            return (
                f"The disk of {there[0].path} has {free_mb} MB free, and {needed_mb} MB are needed for {parts}: "
                f"free at least {needed_mb - free_mb} MB, or use a larger disk."
            )
    return None


def _peak_mb(places: list[Place]) -> int:
    """They are filled one after the other, and what a place needs only meanwhile is gone before the next."""
    kept_mb = peak_mb = 0
    for place in places:
        peak_mb = max(peak_mb, kept_mb + place.needed_mb + place.passing_mb)
        kept_mb += place.needed_mb
    return max(peak_mb, kept_mb)


def forbidden_programs(facts: Facts) -> str | None:
    for place in facts.places:
        if place.runs_programs and place.noexec:
            return (
                f"{place.path} lies on a file system mounted with noexec, where {place.purpose} cannot run: "
                "move the project to another file system, or mount this one with exec."
            )
    return None


# ---------------------------------------------------------------------------------------------------------------- stack


def missing_git(facts: Facts) -> str | None:
    return None if facts.has_git else "git is not installed: install it (Debian and Ubuntu: sudo apt install git)."


def nameless_user(facts: Facts) -> str | None:
    if facts.uid == 0 or facts.user is not None or not facts.runs_postgres:
        return None
    return (
        f"User id {facts.uid} has no name on this system, and PostgreSQL needs one: start the container as a user of "
        "its /etc/passwd, or let it see the host's (docker run -v /etc/passwd:/etc/passwd:ro)."
    )


def powerless_root(facts: Facts) -> str | None:
    """PostgreSQL refuses to run as root, so root must be able to start it as another user."""
    if facts.uid != 0 or not facts.runs_postgres:
        return None
    if facts.account is None:
        return (
            "PostgreSQL refuses to run as root, and this system has no user `postgres` or `nobody` to run it: "
            "start as an ordinary user."
        )
    held = facts.capabilities
    if held is not None and (missing := [name for name, bit in CAPABILITIES.items() if not held >> bit & 1]):
        options = " ".join(f"--cap-add {name}" for name in missing)
        return (
            f"PostgreSQL refuses to run as root, and root lacks {_listed(missing)} here to run it as another user: "
            f"start as an ordinary user, or add these capabilities (docker run {options})."
        )
    if error := facts.switch_error:
        return (
            f"PostgreSQL refuses to run as root, and root cannot become the user {facts.account} here "
            f"({error.strerror}): start as an ordinary user."
        )
    return None


def too_little_memory(facts: Facts) -> str | None:
    if facts.memory_mb is None or facts.memory_mb + facts.swap_mb >= NEEDED_MEMORY_MB:
        return None
    return f"{_memory(facts)}, and the local stack with one agent needs {NEEDED_MEMORY_MB} MB: {_more_memory(facts)}."


def scarce_memory(facts: Facts) -> str | None:
    if too_little_memory(facts):
        return None
    if facts.memory_mb is not None and facts.memory_mb < AMPLE_MEMORY_MB:
        return f"{_memory(facts)}, which is just enough for one agent's small task: {_more_memory(facts)}."
    if facts.available_mb is not None and facts.available_mb < NEEDED_MEMORY_MB:
        return (
            f"Only {facts.available_mb} MB of memory are available now, and the local stack with one agent needs "
            f"{NEEDED_MEMORY_MB} MB: end other programs if it fails."
        )
    return None


def _memory(facts: Facts) -> str:
    return f"{'This container' if facts.in_container else 'This machine'} has {facts.memory_mb} MB of memory"


def _more_memory(facts: Facts) -> str:
    return "give it more (docker run --memory 2g)" if facts.in_container else "use a machine with 2 GB or more"


def low_limit(facts: Facts) -> str | None:
    for found, needed, what, remedy in (
        (facts.processes, NEEDED_PROCESSES, "processes and threads", "docker run --pids-limit 500, or ulimit -u 500"),
        (facts.open_files, NEEDED_OPEN_FILES, "open files", "docker run --ulimit nofile=1024, or ulimit -n 1024"),
        (
            facts.shared_memory_mb if facts.runs_postgres else None,
            NEEDED_SHARED_MEMORY_MB,
            "MB in /dev/shm",
            "docker run --shm-size 64m",
        ),
        (facts.file_size_mb, LARGEST_FILE_MB, "MB per file", "ulimit -f unlimited"),
    ):
        if found is not None and found < needed:
            return f"A limit allows only {found} {what} here, and the local stack needs {needed}: raise it ({remedy})."
    return None


PLACE_CHECKS: tuple[Callable[[Facts], str | None], ...] = (unwritable_place, full_disk, forbidden_programs)
STACK_CHECKS = (missing_git, nameless_user, powerless_root, too_little_memory, low_limit)


def _words(variable: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in os.environ.get(variable, "").split(",") if word.strip())


def _said(facts: Facts, checks: tuple[Callable[[Facts], str | None], ...]) -> list[str]:
    return [sentence for check in checks if (sentence := check(facts))]


def _listed(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
