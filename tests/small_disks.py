"""A disk of its own, of some bytes and inodes, for what must be seen on a full one. It takes the right to mount."""

import os
import subprocess
from contextlib import contextmanager, suppress

import pytest

NO_ROOM = "No space left on device"


@contextmanager
def small_disk(folder, options):
    """An empty disk at the new `folder`, made with these options of tmpfs. Skips the test where none can be mounted."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a small disk takes the right to mount one")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder, *, bytes_left=0, inodes_left=None):
    """Use up the disk of `folder`: its bytes but so many, or its inodes where `inodes_left` says how many stay."""
    junk = folder / "junk"
    junk.mkdir()
    disk = os.statvfs(folder)
    if inodes_left is not None:
        for number in range(disk.f_ffree - 1 - inodes_left):
            (junk / str(number)).touch()
        return
    with suppress(OSError), (junk / "bytes").open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - bytes_left)
