"""The agents' own command line programs, fetched from PyPI when a run first needs one.

Neither program is ours to ship, and each weighs about 150 MB to fetch and 380 MB unpacked, so only the one
that is asked for is fetched, once, into a cache folder. It comes as a wheel installed without its Python
dependencies: nothing in it is ever imported, only the program inside is run.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

FETCH_LIMIT_S = 1800  # 170 MB at 0.1 MB/s
REPORT_EVERY_S = 1.0

OnProgress = Callable[[str], None]


class CliFetchError(Exception):
    """The program could not be fetched; `str(error)` says why and what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cli:
    title: str
    package: str
    version: str  # of the package on PyPI
    program: str  # path inside the unpacked wheel; helper programs lie where it expects them
    size_mb: int  # of the wheel for Linux x86-64, to tell the person how long the wait is


CLIS: dict[str, Cli] = {
    "claude": Cli(
        title="Claude Code",
        package="claude-agent-sdk",
        version="0.2.187",
        program="claude_agent_sdk/_bundled/claude",
        size_mb=167,
    ),
    "codex": Cli(
        title="Codex",
        package="openai-codex-cli-bin",
        version="0.163.0",
        program="codex_cli_bin/bin/codex",
        size_mb=142,
    ),
}


def ensure_cli(agent: str, cache: Path, on_progress: OnProgress | None = None) -> Path:
    """The folder to put on PATH so that `claude` or `codex` runs in the version we test with.

    The first call fetches the program into `cache`/agents; `on_progress` then gets a sentence now and then.
    A `claude` or `codex` that the person has installed is left alone: its version is not ours to rely on.
    Safe when two processes ask at once: both get a whole program. Raises CliFetchError, or KeyError when
    there is no such agent.
    """
    cli = CLIS[agent]
    home = cache / "agents" / f"{agent}-{cli.version}"
    if not (home / "bin" / agent).exists():
        _fetch(agent, cli, home, on_progress or _ignore)
    return home / "bin"


def _ignore(_: str) -> None:
    pass


def _fetch(agent: str, cli: Cli, home: Path, on_progress: OnProgress) -> None:
    """Install the wheel beside `home` and rename it into place, so that nobody sees half a program."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=home.parent) as staging:
        unpacked, downloads = Path(staging, "unpacked"), Path(staging, "downloads")
        downloads.mkdir()
        _pip_install(cli, unpacked, downloads, on_progress)
        _link_program(agent, cli, unpacked)
        try:
            unpacked.rename(home)
        except OSError as obstacle:
            if not (home / "bin" / agent).exists():  # else a faster process has put it there
                raise CliFetchError(f"{home} is in the way: remove it and try again.") from obstacle
    on_progress(f"{cli.title} is ready.")


def _pip_install(cli: Cli, target: Path, downloads: Path, on_progress: OnProgress) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    argv += ["--no-deps", "--no-compile", "--no-cache-dir", "--only-binary=:all:", "--target", str(target)]
    argv += ["--timeout", "20", "--retries", "2", f"{cli.package}=={cli.version}"]
    on_progress(f"Fetching {cli.title} ({cli.package} {cli.version}, about {cli.size_mb} MB, only once)")
    log = downloads / "pip.log"
    with log.open("wb") as output:
        pip = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=os.environ | {"TMPDIR": str(downloads)},
        )
    try:
        _wait(pip, cli, downloads, on_progress)
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        raise CliFetchError(_why(cli, log.read_text(errors="replace")))


def _wait(pip: "subprocess.Popen[bytes]", cli: Cli, downloads: Path, on_progress: OnProgress) -> None:
    seen_mb = 0
    for _ in range(int(FETCH_LIMIT_S / REPORT_EVERY_S)):
        with suppress(subprocess.TimeoutExpired):
            pip.wait(REPORT_EVERY_S)
            return
        mb = _fetched_mb(downloads)
        if mb > seen_mb:
            on_progress(f"Fetching {cli.title}: {mb} of about {cli.size_mb} MB")
        seen_mb = mb
    raise CliFetchError(f"Fetching {cli.title} took more than {FETCH_LIMIT_S // 60} minutes and was stopped.")


def _fetched_mb(downloads: Path) -> int:
    """Megabytes of the wheel so far. pip may move its files while we look; then this look counts as zero."""
    try:
        return sum(file.stat().st_size for file in downloads.rglob("*.whl")) // 1_000_000
    except FileNotFoundError:
        return 0


def _link_program(agent: str, cli: Cli, unpacked: Path) -> None:
    program = unpacked / cli.program
    if not program.is_file():
        raise CliFetchError(f"{cli.package} {cli.version} carries no {cli.program} for this platform.")
    program.chmod(0o755)
    shutil.rmtree(unpacked / "bin", ignore_errors=True)  # console scripts of the package, which need Python
    (unpacked / "bin").mkdir()
    (unpacked / "bin" / agent).symlink_to(Path("..", cli.program))


def _why(cli: Cli, pip_output: str) -> str:
    """One sentence from pip's output, which says `No matching distribution` without network, too."""
    wanted = f"{cli.title} ({cli.package} {cli.version})"
    if "No module named pip" in pip_output:
        return f"{wanted} could not be fetched: this Python has no pip. Run `{sys.executable} -m ensurepip`."
    if "NewConnectionError" in pip_output or "Connection" in pip_output or "timed out" in pip_output:
        return f"{wanted} could not be fetched: the package index cannot be reached. Is there a network?"
    if "No matching distribution" in pip_output:
        return f"{wanted} has no build for this platform or Python on the package index."
    if "No space left" in pip_output:
        return f"{wanted} could not be unpacked: the disk is full (it needs about 600 MB)."
    lines = [line.strip() for line in pip_output.splitlines() if line.strip()]
    return f"{wanted} could not be fetched: {lines[-1] if lines else 'pip gave no reason.'}"
