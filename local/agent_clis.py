"""The agents' own command line programs, fetched from PyPI when a run first needs one.

Neither program is ours to ship, and each weighs about 150 MB to fetch and 380 MB unpacked, so only the one
that is asked for is fetched, once, into a cache folder. It comes as a wheel installed without its Python
dependencies: nothing in it is ever imported, only the program inside is run.
"""

import errno
import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from local.pip_environment import PIP, pip_settings
from shared.domain.agents import PROFILES
from shared.domain.agents.profile import AgentProfile

FETCH_LIMIT_S = 1800  # 170 MB at 0.1 MB/s
REPORT_EVERY_S = 1.0


# What pip says, and what it means for the person. The first that fits is taken.
REASONS = (
    (r"No module named pip", "could not be fetched: this Python has no pip. Run `{python} -m ensurepip`."),
    (r"No space left|Disk quota exceeded", "could not be unpacked: the disk is full (it needs about 600 MB)."),
    (
        r"ProxyError|407 Client Error|SOCKS",
        "could not be fetched: the proxy lets no request pass. Check http_proxy, https_proxy and all_proxy.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|confirming the ssl certificate",
        "could not be fetched: the certificate of the package index is not trusted. Name its authority in PIP_CERT.",
    ),
    (
        r"Could not fetch URL \S+: ((?!404)\d{3} \w+ Error: [\w ]+) for",
        "could not be fetched: the package index answers `{0}`.",
    ),
    (
        r"NewConnectionError|connection error|Connection (?:refused|reset|aborted|broken)|Max retries|timed out",
        "could not be fetched: the package index cannot be reached. Is there a network?",
    ),
    (r"No matching distribution", "has no build for this platform or Python on the package index."),
)

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


def _cli(profile: AgentProfile) -> Cli:
    wheel = profile.wheel
    return Cli(
        title=profile.title,
        package=wheel.package,
        version=wheel.version,
        program=wheel.program,
        size_mb=wheel.size_mb,
    )


CLIS: dict[str, Cli] = {name: _cli(profile) for name, profile in PROFILES.items()}


def ensure_cli(
    agent: str, cache: Path, on_progress: OnProgress | None = None, caller: Mapping[str, str] | None = None
) -> Path:
    """The folder to put on PATH so that the agent's program runs in the version we test with.

    The first call fetches the program into `cache`/agents; `on_progress` then gets a sentence now and then. `caller` is
    the environment that says how to reach a package index; by default, this process's.
    A program of the same name that the person has installed is not used: its version may be another.
    Safe when two processes ask at once: the second waits. Raises CliFetchError, or KeyError when there is no such
    agent.
    """
    cli = CLIS[agent]
    home = cache / "agents" / f"{agent}-{cli.version}"
    try:
        if not (home / "bin" / agent).exists():
            _fetch_once(agent, cli, home, on_progress or _ignore, os.environ if caller is None else caller)
        elif _leftovers(agent, home):
            _remove_leftovers(agent, home)
        _let_everybody_read(home)
    except OSError as error:
        reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
        raise CliFetchError(f"{cli.title} cannot be stored in {home.parent}: {reason}.") from error
    return home / "bin"


def _ignore(_: str) -> None:
    pass


def _fetch_once(agent: str, cli: Cli, home: Path, on_progress: OnProgress, caller: Mapping[str, str]) -> None:
    """Fetch the program unless another process does so meanwhile."""
    home.parent.mkdir(parents=True, exist_ok=True)
    with _lock_file(agent, home).open("w") as lock:
        if not _locked(lock):
            on_progress(f"Waiting for another process that fetches {cli.title}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        _delete(_leftovers(agent, home))
        if not (home / "bin" / agent).exists():
            _fetch(agent, cli, home, on_progress, caller)


# Whoever fetches holds the lock. So a staging folder found without it was left by a process that was killed.


def _lock_file(agent: str, home: Path) -> Path:
    return home.with_name(f".{agent}.lock")


def _leftovers(agent: str, home: Path) -> list[Path]:
    return list(home.parent.glob(f".{agent}-*"))


def _delete(folders: list[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder)


def _locked(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_leftovers(agent: str, home: Path) -> None:
    """Free the space (up to 550 MB) of downloads that were killed. It may fail: the program itself is there."""
    with suppress(OSError), _lock_file(agent, home).open("w") as lock:
        if _locked(lock):
            _delete(_leftovers(agent, home))


def _let_everybody_read(home: Path) -> None:
    """The users of a sandbox run the program, whatever the umask was when it was fetched."""
    for path in (home, *home.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            wanted = mode | (0o555 if path.is_dir() or mode & 0o100 else 0o444)
            if mode != wanted:
                with suppress(OSError):  # another user's, or on a read-only disk: it may serve all the same
                    path.chmod(wanted)


def _fetch(agent: str, cli: Cli, home: Path, on_progress: OnProgress, caller: Mapping[str, str]) -> None:
    """Install the wheel beside `home` and rename it into place, so that nobody sees half a program."""
    with tempfile.TemporaryDirectory(prefix=f".{home.name}-", dir=home.parent) as staging:
        unpacked, downloads = Path(staging, "unpacked"), Path(staging, "downloads")
        downloads.mkdir()
        _pip_install(cli, unpacked, downloads, on_progress, caller)
        _link_program(agent, cli, unpacked)
        try:
            unpacked.rename(home)
        except OSError as obstacle:
            raise CliFetchError(f"{home} is in the way: remove it and try again.") from obstacle
    on_progress(f"{cli.title} is ready.")


def _pip_install(cli: Cli, target: Path, downloads: Path, on_progress: OnProgress, caller: Mapping[str, str]) -> None:
    details, log = downloads / "details.log", downloads / "pip.log"
    argv = [*PIP, "install", "--quiet", "--log", str(details), "--no-input", "--disable-pip-version-check"]
    argv += ["--no-deps", "--no-compile", "--no-cache-dir", "--only-binary=:all:", "--target", str(target)]
    argv += [f"{cli.package}=={cli.version}"]
    on_progress(f"Fetching {cli.title} ({cli.package} {cli.version}, about {cli.size_mb} MB, only once)")
    with log.open("wb") as output:
        pip = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**_patience(pip_settings(caller)), "TMPDIR": str(downloads)},
        )
    try:
        _wait(pip, cli, downloads, on_progress)
    finally:
        if pip.poll() is None:
            pip.kill()
            pip.wait()
    if pip.returncode != 0:
        said = [file.read_text(errors="replace") for file in (details, log) if file.exists()]
        raise CliFetchError(_why(cli, pip.returncode, "\n".join(said)))


def _patience(settings: dict[str, str]) -> dict[str, str]:
    """The settings with limits of ours, where the person has set none."""
    limits = {"PIP_RETRIES": "2"} if "PIP_DEFAULT_TIMEOUT" in settings else {"PIP_RETRIES": "2", "PIP_TIMEOUT": "20"}
    return limits | settings


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


def _why(cli: Cli, exit_code: int, pip_output: str) -> str:
    """One sentence from pip's output, which says `No matching distribution` without network, too."""
    wanted = f"{cli.title} ({cli.package} {cli.version})"
    if exit_code < 0:
        return f"{wanted} could not be fetched: pip was ended by signal {-exit_code}. Is there enough memory?"
    for pattern, sentence in REASONS:
        if found := re.search(pattern, pip_output):
            return f"{wanted} {sentence.format(*found.groups(), python=sys.executable)}"
    lines = [line.strip() for line in pip_output.splitlines() if line.strip()]
    return f"{wanted} could not be fetched: {lines[-1] if lines else 'pip gave no reason.'}"
