"""Sandboxes whose only disk is small: both homes lie on one tmpfs of that size, so what is full is really full."""

import shutil
from pathlib import Path

from local.services.e2b.isolation import Bubblewrap

DISK_MB = 24
DISK = "/disk"


class SmallDisk(Bubblewrap):
    """Bubblewrap, with the homes of root and the agent as links into the small disk."""

    name = "bubblewrap with a small disk"

    def lay_out(self, folder):
        super().lay_out(folder)
        for home in ("root", "home/agent"):
            (folder / home).rmdir()
            (folder / home).symlink_to(f"{DISK}/{home.rpartition('/')[2]}")

    def command(self, folder):
        argv = super().command(folder)
        disk = ["--size", str(DISK_MB * 2**20), "--tmpfs", DISK]
        homes = ["--perms", "0700", "--dir", f"{DISK}/root", "--perms", "0777", "--dir", f"{DISK}/agent"]
        at = argv.index("--dev")
        return [*argv[:at], *disk, *homes, *argv[at:]]


class FewInodes(SmallDisk):
    """The same with room for bytes and for few files: the homes lie in `disk`, which is so. One sandbox at a time."""

    name = "bubblewrap with few inodes"
    disk: Path

    def lay_out(self, folder):
        super().lay_out(folder)
        for home, mode in (("root", 0o700), ("agent", 0o777)):
            shutil.rmtree(self.disk / home, ignore_errors=True)
            (self.disk / home).mkdir()
            (self.disk / home).chmod(mode)

    def command(self, folder):
        argv = Bubblewrap.command(self, folder)
        at = argv.index("--dev")
        return [*argv[:at], "--bind", str(self.disk), DISK, *argv[at:]]
