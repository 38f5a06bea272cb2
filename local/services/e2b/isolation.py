"""How a sandbox is separated from this machine: bubblewrap where it works, else a plain process.

All lay out one directory per sandbox with the homes of its users, and know the command line that starts `sandbox_init`
in it.

- `Bubblewrap`, server is root: own mounts and pids, and real users, in the state that E2B's build scripts leave an
  image. Commands of `root` keep uid 0 with the few capabilities a supervisor needs (change user, own and signal other
  users' things); `user` is uid 1000 and `agent` 1001.
- `Bubblewrap`, server is anybody else: the same files, but one uid (1000) for all users.
- `PlainProcess`: no separation at all. What runs there can do whatever the server's user can.

The network is the machine's in all of them. README.md says what each of them cannot show.
"""

import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

from local.services.e2b.template import Template

INIT = Path(__file__).with_name("sandbox_init.py")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # envd's, and so that of every command
PYTHON = Path("/opt/python")  # in a sandbox
SANDBOX_PYTHON = f"{PYTHON}/bin/python3"  # in a sandbox, whatever isolates it
HOST = Path("/opt/host")  # in a sandbox: below it, folders of programs lie at their paths on the machine
SANDBOX_INIT = Path("/opt/sandbox_init.py")  # inside bubblewrap
MARK = "E2B_SANDBOX_ID"  # in the environment of every process we start, so that a later server can find it
SHELL_PIECES = re.compile(r"""'[^']*'|"(?:\\.|[^"\\])*"|\\.|[^'"\\]+|.""", re.S)
UIDS = {"root": 0, "user": 1000, "agent": 1001}
ANOTHER_UID = 1002  # of a template's own default user

# What a sandbox sees of the machine's /etc: name resolution, certificates, the dynamic loader. No accounts, no keys.
SHARED_ETC = (
    *("alternatives", "ca-certificates", "ca-certificates.conf", "crypto-policies", "pki", "ssl"),
    *("hosts", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime", "mime.types", "nsswitch.conf"),
    *("protocols", "resolv.conf", "services"),
)
CAPABILITIES = ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL")
# Settings of the whole machine's kernel that uid 0 may write without any capability.
KERNEL_SETTINGS = ("acpi", "bus", "driver", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger")

# What E2B's scripts write into an image, in the order of building. The first of them begins with Debian's profile.
PROFILE = """\
if [ "$(id -u)" -eq 0 ]; then
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
else
  PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games
fi
export PATH
for script in /etc/profile.d/*.sh; do
  [ ! -r "$script" ] || . "$script"
done
unset script
export PS1='\\w \\$ '
if [ -f ~/.bashrc ]; then source ~/.bashrc; fi; if [ -f ~/.profile ]; then source ~/.profile; fi
"""
PROFILE_D = {"shell.sh": "export SHELL='/bin/bash'\n", "prompt.sh": "export PS1='\\w \\$ '\n"}
SSHD_CONFIG = "PermitRootLogin yes\nPermitEmptyPasswords yes\nPasswordAuthentication yes\n"
SUDOERS = "root ALL=(ALL:ALL) ALL\n%sudo ALL=(ALL:ALL) ALL\nuser ALL=(ALL:ALL) NOPASSWD: ALL\n"
WITHOUT_PASSWORD = ("root", "user")
ENV_FILE = "ENV_ID=local\nTEMPLATE_ID=local\nBUILD_ID=local\n"
OPEN_FOLDERS = ("usr/local", "code")  # writable for everybody, with all below them
USR_LOCAL = ("bin", "etc", "games", "include", "lib", "sbin", "share", "src")

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

    def localized(self, folder: Path, argv: Sequence[str], /) -> list[str]:
        """The command line that does in this sandbox what `argv` does in one of E2B's."""


class PlainProcess:
    """Directories and processes of the server's own user. The only choice without bubblewrap, as on macOS.

    There is no root directory of its own and there are no users, so the places that a sandbox of E2B has lie in
    `folder`. In command lines, and nowhere else (not in files, not in variables), they are replaced as whole words:

    | in a sandbox of E2B       | here                                                             |
    |---------------------------|------------------------------------------------------------------|
    | /root, /home/NAME, /tmp   | the same below `folder`; so is the template's default folder     |
    | /opt/python/bin/python3   | the interpreter of this server                                   |
    | /opt/python/bin           | a folder that holds only that interpreter, for PATH              |
    | /opt/host/PATH            | /PATH: the folders of programs stay where they are               |
    | AGENT_USER=agent          | AGENT_USER= : there is nobody to switch to                       |
    | /usr/bin/env -i           | with E2B_SANDBOX_ID, by which a later server finds the processes |
    """

    name = "process"

    def __init__(self, extra_path: Sequence[Path], scratch: Path, template: Template | None = None) -> None:
        """`scratch` is a folder that outlives the sandboxes: it holds the `python3` they find on PATH.

        Nothing depends on `extra_path`: programs are found where they are.
        """
        del extra_path
        scratch.mkdir(parents=True, exist_ok=True)
        replace_link(scratch / "python3", real_python())
        self._scratch = scratch
        self._template = template or Template()

    def lay_out(self, folder: Path) -> None:
        template = self._template
        # The machine's /etc/profile cannot have the template's lines, nor does it source .bashrc as E2B's does.
        profile = template.profile + ("[ ! -f ~/.bashrc ] || . ~/.bashrc\n" if template.root_bashrc else "")
        for name, home in homes(template).items():
            make_folder(folder, home.lstrip("/"), 0o700 if name == "root" else 0o755)
            if profile:
                write_file(folder / home.lstrip("/") / ".profile", profile)
        if template.root_bashrc:
            write_file(folder / "root/.bashrc", template.root_bashrc)
        make_folder(folder, template.folder.lstrip("/"))
        make_folder(folder, "tmp")

    def view(self, folder: Path) -> View:
        users = {name: User(f"{folder}{home}") for name, home in homes(self._template).items()}
        return View(str(folder), users, owns_pid_namespace=False)

    def command(self, _folder: Path) -> list[str]:
        return [str(real_python()), "-I", "-S", str(INIT)]

    def localized(self, folder: Path, argv: Sequence[str]) -> list[str]:
        places = {"/tmp", *homes(self._template).values(), self._template.folder} - {"/"}  # noqa: S108
        here = {place: f"{folder}{place}" for place in places}
        here |= {SANDBOX_PYTHON: str(real_python()), f"{PYTHON}/bin": str(self._scratch), str(HOST): ""}
        words = {"AGENT_USER=agent": "AGENT_USER=", "/usr/bin/env -i": f"/usr/bin/env -i {MARK}={folder.name}"}
        shell = argv.index("-c") + 1 if "-c" in argv else len(argv)
        return [replaced(replaced(word, words), here, in_shell=position == shell) for position, word in enumerate(argv)]


class Bubblewrap:
    """Own root directory, own processes; real users too when the server is root."""

    name = "bubblewrap"

    def __init__(self, extra_path: Sequence[Path], template: Template | None = None) -> None:
        self._extra_path = extra_path
        self._template = template or Template()
        self._separate_users = os.geteuid() == 0

    def lay_out(self, folder: Path) -> None:
        for path, mode in (("root", 0o700), ("tmp", 0o1777), ("var/tmp", 0o1777), ("run", 0o755), ("etc", 0o755)):
            make_folder(folder, path, mode)
        for name in ("", *USR_LOCAL):
            make_folder(folder, f"usr/local/{name}")
        make_folder(folder, "code")
        for path in OPEN_FOLDERS:
            for below in (folder / path, *(folder / path).rglob("*")):
                below.chmod(0o777)
        for name, home in homes(self._template).items():
            if name != "root":
                self._give(make_folder(folder, home.lstrip("/")), name)
        if not (folder / self._template.folder.lstrip("/")).exists():  # as WORKDIR, which makes it for the user
            self._give(make_folder(folder, self._template.folder.lstrip("/")), self._template.user)
        self._write_etc(folder / "etc")
        if self._separate_users:  # the mark of an image of E2B: there, commands of root run as root
            write_file(folder / ".e2b", ENV_FILE)
        if self._template.root_bashrc:
            write_file(folder / "root/.bashrc", self._template.root_bashrc)
        for _, target in self._mounts:  # bubblewrap would make the way to them private to root
            make_folder(folder, target.relative_to("/").parent)
        self._put_python(folder)

    def _give(self, path: Path, name: str) -> None:
        if self._separate_users:
            os.chown(path, uids(self._template)[name], uids(self._template)[name])

    def _write_etc(self, etc: Path) -> None:
        """Accounts and login files as E2B's scripts leave them."""
        home, numbers = homes(self._template), uids(self._template)
        accounts = [f"{name}:x:{uid}:{uid}:{name}:{home[name]}:/bin/bash\n" for name, uid in numbers.items()]
        passwords = [f"{name}:{'' if name in WITHOUT_PASSWORD else '!'}:20000:0:99999:7:::\n" for name in numbers]
        groups = [f"{name}:x:{uid}:\n" for name, uid in numbers.items()]
        write_file(etc / "passwd", "".join(accounts) + "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n")
        write_file(etc / "shadow", "".join(passwords) + "nobody:*:20000:0:99999:7:::\n", 0o640)
        write_file(etc / "group", "".join(groups) + "sudo:x:27:user\nnogroup:x:65534:\n")
        write_file(etc / "sudoers", SUDOERS, 0o440)
        write_file(etc / "profile", PROFILE + self._template.profile)
        for name, text in PROFILE_D.items():
            write_file(make_folder(etc, "profile.d") / name, text)
        write_file(make_folder(etc, "ssh") / "sshd_config", SSHD_CONFIG)

    def view(self, _folder: Path) -> View:
        numbers = uids(self._template) if self._separate_users else {}
        users = {name: User(home, numbers.get(name), numbers.get(name)) for name, home in homes(self._template).items()}
        return View("/", users, owns_pid_namespace=True)

    def command(self, folder: Path) -> list[str]:
        argv = ["bwrap", "--bind", str(folder), "/", "--dev", "/dev", "--proc", "/proc"]
        argv += ["--perms", "1777", "--tmpfs", "/dev/shm"]  # noqa: S108  (the sandbox's own)
        for source, target in self._mounts:
            argv += ["--ro-bind-try", str(source), str(target)]
        if (local := Path("/usr/local")).is_dir() and not local.is_symlink():  # else there is no place for it
            argv += ["--bind", str(folder / "usr/local"), "/usr/local"]
        for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
            there = folder / name  # since the first start; bubblewrap makes none that is there
            if (link := Path("/", name)).is_symlink() and not (there.exists() or there.is_symlink()):
                argv += ["--symlink", str(link.readlink()), str(link)]
        argv += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "e2b"]
        argv += ["--as-pid-1", "--die-with-parent", "--new-session", "--chdir", "/", "--clearenv", "--cap-drop", "ALL"]
        if self._separate_users:
            argv += [word for capability in CAPABILITIES for word in ("--cap-add", capability)]
            argv += [word for path in kernel_settings() for word in ("--ro-bind", str(path), str(path))]
        else:
            argv += ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        if self._python_needs_its_libraries:
            argv += ["--setenv", "LD_LIBRARY_PATH", str(PYTHON / "lib")]
        return [*argv, "--", str(self._python), "-I", "-S", str(SANDBOX_INIT)]

    def localized(self, _folder: Path, argv: Sequence[str]) -> list[str]:
        return list(argv)

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

    # The python3 of a sandbox is the one the server runs on. Under /usr it is there already. Anywhere else (pyenv, uv,
    # and /usr/local, which is the sandbox's own) its folder may be out of reach of the users, so the installation is
    # rebuilt under /opt/python from read-only mounts. There bin/python3 is a script: a shared build carries the
    # absolute path of its libpython.

    @property
    def _python_is_bound(self) -> bool:
        return not real_python().is_relative_to("/usr") or real_python().is_relative_to("/usr/local")

    @property
    def _python_needs_its_libraries(self) -> bool:
        return self._python_is_bound and bool(sysconfig.get_config_var("Py_ENABLE_SHARED"))

    @property
    def _python(self) -> Path:
        return PYTHON / "real/python3" if self._python_is_bound else real_python()

    def _put_python(self, folder: Path) -> None:
        python3 = make_folder(folder, (PYTHON / "bin").relative_to("/")) / "python3"
        if not self._python_is_bound:
            python3.symlink_to(real_python())
            return
        libraries = f'LD_LIBRARY_PATH="{PYTHON}/lib${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}" '
        start = libraries if self._python_needs_its_libraries else ""
        write_file(python3, f'#!/bin/bash\n{start}exec -a "$0" {PYTHON}/real/python3 "$@"\n', 0o755)


def agent_path(extra_path: Sequence[Path]) -> str:
    """PATH for the agent in a sandbox, whatever isolates it: these folders of the machine, python3, the system's.

    It belongs into the command line that starts a program there, where it means the same with every isolation.
    """
    return ":".join([*(str(inside(path)) for path in extra_path), f"{PYTHON}/bin", SYSTEM_PATH])


def homes(template: Template) -> dict[str, str]:
    """The home of each user of a sandbox."""
    return {name: "/root" if name == "root" else f"/home/{name}" for name in uids(template)}


def uids(template: Template) -> dict[str, int]:
    """The users of a sandbox where they differ."""
    return UIDS | ({} if template.user in UIDS else {template.user: ANOTHER_UID})


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
    """Where a sandbox sees a folder of the machine: never below a place that is the sandbox's own, as /root or /tmp."""
    return HOST / path.relative_to("/")


def replaced(text: str, changes: Mapping[str, str], *, in_shell: bool = False) -> str:
    """The text with each of the words or first parts of a path replaced. In a line for the shell, its quoting holds."""
    longest_first = "|".join(re.escape(word) for word in sorted(changes, key=len, reverse=True))
    whole_words = re.compile(rf"(?<![\w./~@%+)}}-])(?:{longest_first})(?![\w.@+-])")
    if not in_shell:
        return whole_words.sub(lambda found: changes[found[0]], text)
    pieces = SHELL_PIECES.finditer(text)
    return "".join(whole_words.sub(partial(quoted_like, piece[0], changes), piece[0]) for piece in pieces)


def quoted_like(piece: str, changes: Mapping[str, str], found: re.Match[str]) -> str:
    """What takes the place of `found`, so that the shell reads it as it is in this quoted or unquoted piece."""
    if piece.startswith("'"):
        return changes[found[0]].replace("'", "'\\''")
    special = r'["$`\\]' if piece.startswith('"') else r"[^\w@%+=:,./-]"
    return re.sub(special, r"\\\g<0>", changes[found[0]])


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
