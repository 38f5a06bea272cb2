"""How a sandbox is separated from this machine: bubblewrap where it works, else a plain process.

Both lay out one directory per sandbox with the homes of `root`, `agent` and `user`, and know the command line that
starts `sandbox_init` in it.

- `Bubblewrap`, server is root: own mounts and pids, and real users. Commands of `root` keep uid 0 with the few
  capabilities a supervisor needs (change user, own and signal other users' things), `agent` is uid 1000.
- `Bubblewrap`, server is anybody else: own mounts and pids, but one uid (1000) for all three users.
- `PlainProcess`: no separation at all. What runs there can do whatever the server's user can.

The network is the machine's in all of them.
"""

import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

INIT = Path(__file__).with_name("sandbox_init.py")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_USER = "user"
HOMES = {"root": "/root", "agent": "/home/agent", "user": "/home/user"}
PYTHON = Path("/opt/python")  # inside bubblewrap
SANDBOX_INIT = Path("/opt/sandbox_init.py")  # inside bubblewrap

# What a sandbox sees of the machine's /etc: name resolution, certificates, the dynamic loader. No accounts, no keys.
SHARED_ETC = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "pki", "ssl"),
    *("hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf"),
    *("protocols", "resolv.conf", "services"),
)
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL")
# Settings of the whole machine's kernel that uid 0 may write without any capability.
KERNEL_SETTINGS = ("acpi", "bus", "driver", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger")
PASSWD = """\
root:x:0:0:root:/root:/bin/bash
agent:x:1000:1000:agent:/home/agent:/bin/bash
user:x:1001:1001:user:/home/user:/bin/bash
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
GROUP = "root:x:0:\nagent:x:1000:\nuser:x:1001:\nnogroup:x:65534:\n"


NOT_ISOLATED = "Sandboxes are plain processes here: an agent can read and change your files."
# How bubblewrap begins to complain when the kernel, a container or AppArmor does not let it make a sandbox.
FORBIDDEN = re.compile(
    r"^bwrap: .*(namespace|[ug]id map|permissions|make / slave|pivot_root|mount|RTM_NEWADDR|setuid|capabilit)", re.M
)
PYTHON_PROBLEM = "python3 does not run in the sandbox"
COMPLAINT_CHARS = 300


@dataclass(frozen=True, slots=True)
class User:
    """An account of the sandbox. `uid` and `gid` are None where all accounts are the same one."""

    home: str
    uid: int | None = None
    gid: int | None = None


@dataclass(frozen=True, slots=True)
class View:
    """A sandbox as its own processes see it: what `sandbox_init` is told when it starts."""

    root: str
    users: dict[str, User]
    owns_pid_namespace: bool

    def for_init(self) -> dict[str, object]:
        return asdict(self)


class Isolation(Protocol):
    """`folder` is always the directory of one sandbox. No mode of what is made in it depends on the umask."""

    name: str

    def lay_out(self, folder: Path, /) -> None:
        """Make the sandbox's directories and files in the empty `folder`."""

    def view(self, folder: Path, /) -> View: ...

    def command(self, folder: Path, /) -> list[str]:
        """The command line that runs `sandbox_init` in the sandbox; its arguments follow."""

    def environment(self, folder: Path, /) -> dict[str, str]:
        """What every command of the sandbox finds in its environment beside HOME and USER."""


class PlainProcess:
    """Directories and processes of the server's own user. The only choice without bubblewrap, as on macOS."""

    name = "process"

    def __init__(self, extra_path: Sequence[Path], scratch: Path) -> None:
        """`scratch` is a folder that outlives the sandboxes: it holds the `python3` they find on PATH."""
        scratch.mkdir(parents=True, exist_ok=True)
        replace_link(scratch / "python3", real_python())
        self._path = ":".join(map(str, [*extra_path, scratch]))

    def lay_out(self, folder: Path) -> None:
        for home, mode in (("root", 0o700), ("home/agent", 0o755), ("home/user", 0o755)):
            make_folder(folder, home, mode)
            # bash -l reads the machine's /etc/profile first, which on Debian and macOS sets PATH anew
            write_file(folder / home / ".profile", f'export PATH={shlex.quote(self._path)}:"$PATH"\n')
        make_folder(folder, "tmp")

    def view(self, folder: Path) -> View:
        users = {name: User(f"{folder}{home}") for name, home in HOMES.items()}
        return View(str(folder), users, owns_pid_namespace=False)

    def command(self, _folder: Path) -> list[str]:
        return [str(real_python()), "-I", "-S", str(INIT)]

    def environment(self, folder: Path) -> dict[str, str]:
        return {
            "PATH": f"{self._path}:{SYSTEM_PATH}",
            "TMPDIR": str(folder / "tmp"),
            "AGENT_USER": "",
            "AGENT_HOME": str(folder / "home/agent"),
            "IS_SANDBOX": "1",  # lets claude run with --dangerously-skip-permissions where the user is root
        }


class Bubblewrap:
    """Own root directory, own processes; real users too when the server is root."""

    name = "bubblewrap"

    def __init__(self, extra_path: Sequence[Path]) -> None:
        self._extra_path = extra_path
        self._separate_users = os.geteuid() == 0

    def lay_out(self, folder: Path) -> None:
        for path, mode in (("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777), ("run", 0o755), ("etc", 0o755)):
            make_folder(folder, path, mode)
        for name, user in self.view(folder).users.items():
            if name != "root":
                make_folder(folder, f"home/{name}")
                if user.uid is not None and user.gid is not None:
                    os.chown(folder / "home" / name, user.uid, user.gid)
        write_file(folder / "etc/passwd", PASSWD)
        write_file(folder / "etc/group", GROUP)
        for _, target in self._mounts:  # bubblewrap would make the way to them private to root
            make_folder(folder, target.relative_to("/").parent)
        self._put_python(folder)

    def view(self, _folder: Path) -> View:
        if not self._separate_users:
            return View("/", {name: User(home) for name, home in HOMES.items()}, owns_pid_namespace=True)
        uids = {"root": 0, "agent": 1000, "user": 1001}
        users = {name: User(HOMES[name], uid, uid) for name, uid in uids.items()}
        return View("/", users, owns_pid_namespace=True)

    def command(self, folder: Path) -> list[str]:
        argv = ["bwrap", "--bind", str(folder), "/", "--dev", "/dev", "--proc", "/proc"]
        argv += ["--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108  (the sandbox's own)
        for source, target in self._mounts:
            argv += ["--ro-bind-try", str(source), str(target)]
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            if (link := Path("/", name)).is_symlink():
                argv += ["--symlink", str(link.readlink()), str(link)]
        argv += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "e2b"]
        argv += ["--as-pid-1", "--die-with-parent", "--new-session", "--chdir", "/", "--clearenv", "--cap-drop", "ALL"]
        if self._separate_users:
            argv += [word for capability in CAPABILITIES for word in ("--cap-add", capability)]
            argv += [word for path in kernel_settings() for word in ("--ro-bind", str(path), str(path))]
        else:
            argv += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        if self._python_is_bound:
            argv += ["--setenv", "LD_LIBRARY_PATH", str(PYTHON / "lib")]
        return [*argv, "--", str(self._python), "-I", "-S", str(SANDBOX_INIT)]

    def environment(self, _folder: Path) -> dict[str, str]:
        extra = [str(inside(path)) for path in self._extra_path]
        return {
            "PATH": ":".join([*extra, str(PYTHON / "bin"), SYSTEM_PATH]),
            "AGENT_USER": "agent" if self._separate_users else "",
            "AGENT_HOME": HOMES["agent"],
        }

    @cached_property
    def _mounts(self) -> list[tuple[Path, Path]]:
        """(folder or file of the machine, where the sandbox sees it), read-only."""
        system = [Path("/", name) for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix")]
        mounts = [(path, path) for path in system if path.is_dir() and not path.is_symlink()]
        mounts += [(Path("/etc", name), Path("/etc", name)) for name in SHARED_ETC if Path("/etc", name).exists()]
        mounts += [(path, inside(path)) for path in map(installation, self._extra_path)]
        mounts.append((INIT, SANDBOX_INIT))
        if self._python_is_bound:
            mounts.append((real_python(), PYTHON / "real/python3"))
            prefix = Path(sys.base_prefix)
            mounts += [(path, PYTHON / path.name) for path in prefix.iterdir() if path.name not in ("bin", "real")]
        return mounts

    # The python3 of a sandbox is the one the server runs on. Under /usr it is there already. Anywhere else
    # (pyenv, uv) its folder may be out of reach of uid 1000, so the installation is rebuilt under /opt/python from
    # read-only mounts. There bin/python3 is a script: a shared build carries the absolute path of its libpython.

    @property
    def _python_is_bound(self) -> bool:
        return not real_python().is_relative_to("/usr")

    @property
    def _python(self) -> Path:
        return PYTHON / "real/python3" if self._python_is_bound else real_python()

    def _put_python(self, folder: Path) -> None:
        python3 = make_folder(folder, (PYTHON / "bin").relative_to("/")) / "python3"
        if not self._python_is_bound:
            python3.symlink_to(real_python())
            return
        library, real = PYTHON / "lib", PYTHON / "real/python3"
        write_file(
            python3,
            f"#!/bin/bash\n"
            f'LD_LIBRARY_PATH="{library}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" exec -a "$0" {real} "$@"\n',
            0o755,
        )


def why_not_isolated(problem: str | None) -> str:
    """One line for the person where sandboxes are plain processes: what that means, why it is so, what to do.

    `problem` is why bubblewrap does not work here; None where it was not asked for.
    """
    said = " ".join((problem or "").split())[:COMPLAINT_CHARS].removesuffix(".")
    if sys.platform != "linux":
        reason = "Bubblewrap, which isolates them, exists for Linux only."
    elif shutil.which("bwrap") is None:
        reason = "Install bubblewrap to isolate them (Debian and Ubuntu: sudo apt install bubblewrap)."
    elif problem is None:
        reason = "Bubblewrap is installed but was not asked for."
    elif FORBIDDEN.search(problem):
        reason = (
            f"Bubblewrap is installed, but this machine or container forbids what it needs ({said}). "
            "In Docker, start the container with --privileged, or with --cap-add SYS_ADMIN --security-opt "
            "seccomp=unconfined --security-opt apparmor=unconfined; on Ubuntu 24.04 or newer, run "
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0."
        )
    elif PYTHON_PROBLEM in problem and "Permission denied" in problem:
        reason = f"Bubblewrap works, but the users of a sandbox cannot read {sys.base_prefix}: chmod -R go+rX it."
    else:
        reason = f"Bubblewrap is installed but does not work here: {said}."
    return f"{NOT_ISOLATED} {reason}"


def installation(path: Path) -> Path:
    """What a folder of programs needs to be of use: all of `prefix` where the programs of `prefix/bin` are links
    to their parts elsewhere in it, else the folder itself. Never a folder that holds the person's home."""
    prefix = path.parent
    leads_out = any(program.is_symlink() and program.resolve().parent != path for program in path.iterdir())
    home = os.path.expanduser("~")  # noqa: PTH111  (Path.home() raises for a user without a home)
    is_private = Path(home).is_relative_to(prefix)
    return prefix if path.name == "bin" and leads_out and not is_private else path


def inside(path: Path) -> Path:
    """Where a sandbox in bubblewrap sees a folder of the machine: at the same place, except below the private /root."""
    return Path("/opt/host") / path.relative_to("/root") if path.is_relative_to("/root") else path


def kernel_settings() -> list[Path]:
    return [path for name in KERNEL_SETTINGS if (path := Path("/proc", name)).exists()]


def real_python() -> Path:
    """The interpreter behind this virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def make_folder(root: Path, path: str | Path, mode: int = 0o755) -> Path:
    """Make `path` below `root`, and the folders on the way to it, which everybody may enter. What is there stays."""
    for step in (*reversed(Path(path).parents), Path(path)):
        folder = root / step
        if not folder.exists():
            folder.mkdir()
            folder.chmod(mode if step == Path(path) else 0o755)
    return root / path


def write_file(path: Path, text: str, mode: int = 0o644) -> None:
    path.write_text(text)
    path.chmod(mode)


def replace_link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
