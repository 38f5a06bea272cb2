"""Where PostgreSQL's files lie when the user who runs it cannot look below a private folder such as /root.

They are then placed in a folder that everybody may enter. No folder of the person is opened.
"""

import hashlib
import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from local.services.postgres.account import Account, PostgresError

HOME_PREFIX = "async-code-data-"
ORIGIN = "stands-for"  # the file in a stand-in that names the folder it stands for
MOVED = "moved-to"  # the link in a data folder whose files had to be placed elsewhere


def home_of(data_dir: Path) -> Path:
    """The folder that holds the server's files, as the last `home_for` decided."""
    link = data_dir / MOVED
    return link.readlink() if link.is_symlink() else data_dir


def home_for(account: Account, data_dir: Path) -> Path:
    """The folder that holds the server's files: `data_dir`, or its stand-in where `account` can enter.

    The two name each other, so that deleting `data_dir` is noticed: it starts afresh, and the space is freed.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    if not account.switch:
        return data_dir
    link = data_dir / MOVED
    if not link.is_symlink() and account.can("x", data_dir.parent):
        data_dir.chmod(0o711)  # may be entered; each file in it has its own rights
        return data_dir
    return _linked_stand_in(data_dir, link) or _new_stand_in(account, data_dir, link)


def shared_places(account: Account) -> list[Path]:
    """Folders in which we may write and which `account` may enter. Raises PostgresError when there is none."""
    candidates = [Path("/var/tmp"), Path("/tmp")]  # noqa: S108 - what we use there is checked to be ours
    with suppress(FileNotFoundError):  # no temporary folder is writable
        candidates.insert(1, Path(tempfile.gettempdir()))
    places = [
        place
        for place in dict.fromkeys(candidates)
        if place.is_dir() and os.access(place, os.W_OK) and account.can("x", place)
    ]
    if not places:
        raise PostgresError(
            f"PostgreSQL would run as user {account.uid}, who can reach neither the project nor a writable one of "
            f"{', '.join(map(str, dict.fromkeys(candidates)))}. "
            "Move the project to a readable folder, or start as an ordinary user."
        )
    return places


def check_is_ours(path: Path) -> None:
    """Refuse a folder in a shared place that another user put there, or may write to."""
    if not is_ours(path):
        raise PostgresError(f"{path} exists but can be changed by another user. Remove it and start again.")


def is_ours(path: Path) -> bool:
    found = path.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and not found.st_mode & 0o022


def origin_of(stand_in: Path) -> Path | None:
    """The folder that `stand_in` stands for; None when it does not say, or is not ours."""
    with suppress(OSError):
        if is_ours(stand_in):
            return Path(os.fsdecode((stand_in / ORIGIN).read_bytes()))
    return None


def mark_origin(stand_in: Path, origin: Path) -> None:
    (stand_in / ORIGIN).write_bytes(os.fsencode(origin))


def short_hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]


def _linked_stand_in(data_dir: Path, link: Path) -> Path | None:
    """The stand-in that `link` names, if it is this folder's; a project that was moved keeps its data."""
    if not link.is_symlink():
        return None
    home = link.readlink()
    origin = origin_of(home)
    if origin is None or (origin != data_dir.resolve() and origin.exists()):  # gone, or the project was copied
        return None
    mark_origin(home, data_dir.resolve())
    return home


def _new_stand_in(account: Account, data_dir: Path, link: Path) -> Path:
    place = shared_places(account)[0]
    _remove_forgotten_homes(place)
    home = place / f"{HOME_PREFIX}{short_hash(str(data_dir.resolve()))}"
    if os.path.lexists(home):
        check_is_ours(home)
        shutil.rmtree(home)
    home.mkdir(mode=0o711)
    home.chmod(0o711)  # whatever the umask is
    mark_origin(home, data_dir.resolve())
    link.unlink(missing_ok=True)
    link.symlink_to(home)
    return home


def _remove_forgotten_homes(place: Path) -> None:
    """Free the space of stand-ins (about 50 MB each) whose data folders have been deleted."""
    for home in place.glob(f"{HOME_PREFIX}*"):
        origin = origin_of(home)
        with suppress(OSError):  # another start may be doing the same
            if origin is not None and not origin.exists():
                shutil.rmtree(home)
