"""`make conformance ENVD=<binary>`: say what is missing, else run the suites of the sandbox against that envd."""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from local.services.e2b.journal import Journal
from local.services.e2b.sandboxes import IsolationUnavailable
from local.services.e2b.template import Template
from tests.conformance import settings
from tests.conformance.fleet import EnvdFleet

PROJECT = Path(__file__).parents[2]
RUNS = "tests/integration/runs"
SUITES = (
    "tests/conformance",
    "tests/integration/test_e2b_sandboxes.py",
    "tests/integration/test_local_e2b.py",
    "tests/integration/test_jobs.py",
    "tests/integration/test_an_agent_is_never_root.py",
    f"{RUNS}/test_costs.py",
    f"{RUNS}/test_faults.py",
    f"{RUNS}/test_full_disk.py",
    f"{RUNS}/test_many_tasks.py",
    f"{RUNS}/test_odd_templates.py",
    f"{RUNS}/test_preferences_reach_the_agent.py",
    f"{RUNS}/test_project_setup.py",
    f"{RUNS}/test_pull_requests_of_runs.py",
    f"{RUNS}/test_user_control.py",
    f"{RUNS}/test_whole_runs.py",
)
NEEDED = ("bin/sh", "bin/bash", "usr/bin/env", "usr/bin/python3", "usr/bin/git")
# E2B's scripts install these into each image: without them, ways to root would be missing that there are at E2B.
INSTALLED = ("usr/bin/sudo", "usr/sbin/sshd", "usr/bin/ssh", "usr/bin/socat")
TRIAL_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("suites", nargs="*", help="tests for pytest; by default all that use a sandbox")
    parser.add_argument("--workers", default="2", help="test processes")
    options = parser.parse_args()
    given = {name: value for name in ("ENVD", "IMAGE") if (value := os.environ.get(name))}
    if problems := missing(given):
        sys.exit("".join(f"{problem}\n" for problem in problems).rstrip())
    envd, image = Path(given["ENVD"]).resolve(), Path(given.get("IMAGE", "/")).resolve()
    print(f"envd {version_of(envd)} in machines made of {image}", flush=True)
    environment = {**os.environ, settings.ENVD: str(envd), settings.IMAGE: str(image)}
    argv = [sys.executable, "-m", "pytest", *(options.suites or SUITES)]
    argv += ["--numprocesses", options.workers, "--dist", "loadfile"]
    os.chdir(PROJECT)
    os.execve(sys.executable, argv, environment)


def missing(given: Mapping[str, str]) -> list[str]:
    """What has to be there before the suites can run, a sentence each."""
    problems = []
    if sys.platform != "linux":
        problems.append(f"Machines with an own envd exist on Linux only; this is {sys.platform}.")
    if os.geteuid() != 0:
        problems.append("Only root can make a machine: run it with sudo.")
    problems += problems_with_envd(given.get("ENVD"))
    problems += problems_with_image(Path(given.get("IMAGE", "/")))
    return problems or problems_with_a_machine(given)


def problems_with_envd(path: str | None) -> list[str]:
    if not path:
        return ["No envd is named: make conformance ENVD=/path/to/envd."]
    if not os.access(path, os.X_OK) or not Path(path).is_file():
        return [f"{path} is not a program."]
    try:
        version_of(Path(path))
    except (OSError, subprocess.SubprocessError) as error:
        return [f"{path} does not run here, or is no envd: {error}."]
    return []


def version_of(envd: Path) -> str:
    """Raises OSError and SubprocessError."""
    argv = [str(envd), "-version"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=TRIAL_S, check=True).stdout.strip()


def problems_with_image(image: Path) -> list[str]:
    if not image.is_dir():
        return [f"{image} is not a folder with a root file system."]
    problems = [f"The image {image} has no /{path}." for path in NEEDED if not os.path.lexists(image / path)]
    for path in INSTALLED:
        if not os.path.lexists(image / path):
            problems.append(
                f"The image {image} has no /{path}, which E2B installs into each image: name another IMAGE."
            )
    return problems


def problems_with_a_machine(given: Mapping[str, str]) -> list[str]:
    """Start one and ask its envd whether it is there."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        fleet = EnvdFleet(
            Path(folder, "root"),
            [],
            envd=Path(given["ENVD"]),
            base=Path(given.get("IMAGE", "/")).resolve(),
            template=Template(),
            journal=Journal(),
        )
        try:
            asyncio.run(opened_and_closed(fleet))
        except (IsolationUnavailable, OSError, subprocess.SubprocessError) as error:
            return [f"This machine, or the container that it is, does not allow it: {error}"]
    return []


async def opened_and_closed(fleet: EnvdFleet) -> None:
    await fleet.open()
    await fleet.close()


if __name__ == "__main__":
    main()
