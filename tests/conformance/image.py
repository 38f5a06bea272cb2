"""The image that the machines start from: a root file system in the state that E2B's build scripts leave it in.

Its base is this machine's own root, or a folder with another one (`IMAGE`). Programs, libraries and /etc of the base
are seen through overlays; its homes, /tmp and /run are not. On top comes what the scripts do (see
docs/how-to/conformance.md): root and `user` without a password, sudo for `user`, an open sshd, a writable /usr/local
and /code, additions to /etc/profile, and the account `agent` of our Dockerfile.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from local.services.e2b.isolation import (
    ENV_FILE,
    PROFILE_D,
    SSHD_CONFIG,
    USR_LOCAL,
    WITHOUT_PASSWORD,
    homes,
    inside,
    installation,
    make_folder,
    uids,
    write_file,
)
from local.services.e2b.template import Template

LAYERED = ("usr", "etc", "var", "opt", "nix", "bin", "sbin", "lib", "lib32", "lib64", "libx32")
HOSTNAME = "e2b.local"
ENVD = "/usr/bin/envd"
SSHD = "usr/sbin/sshd"
OPAQUE = "trusted.overlay.opaque"  # an attribute that hides what lower layers have in a folder
FIRST_PERSON = 1000  # accounts from here on are people's, not the system's

PROMPT = PROFILE_D["prompt.sh"]
SOURCED = "if [ -f ~/.bashrc ]; then source ~/.bashrc; fi; if [ -f ~/.profile ]; then source ~/.profile; fi\n"
SUDOERS = "user ALL=(ALL:ALL) NOPASSWD: ALL\n"
HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


@dataclass(frozen=True, slots=True)
class Mounts:
    """What `machine_init` mounts for one machine, beside its own folder."""

    layers: list[dict[str, object]]
    shared: list[tuple[str, str]]


@dataclass(slots=True)
class Image:
    """`base` is a root file system, `folder` where our layer on top of it is made.

    `programs` are folders of this machine whose programs the image has in /usr/local/bin: the agents' command lines.
    """

    base: Path
    folder: Path
    envd: Path
    template: Template
    programs: Sequence[Path] = ()
    _names: list[str] = field(default_factory=list)

    def build(self) -> None:
        """Make our layer. Raises OSError and CalledProcessError."""
        self._names = [name for name in LAYERED if (path := self.base / name).is_dir() and not path.is_symlink()]
        if self.folder.exists():
            shutil.rmtree(self.folder)
        make_folder(self.folder, "usr/bin")
        make_folder(self.folder, "etc")
        shutil.copy(self.envd, self.folder / ENVD[1:])
        (self.folder / ENVD[1:]).chmod(0o755)
        self._make_usr_local()
        self._make_accounts()
        self._open_doors()
        self._make_var()

    def has(self, path: str) -> bool:
        return os.path.lexists(self.base / path)

    def lay_out(self, root: Path, address: str) -> Mounts:
        """Fill the folder of a new machine. `address` is the one on which its sshd listens."""
        for path, mode in (("root", 0o700), ("tmp", 0o1777), ("code", 0o777)):
            make_folder(root, path, mode)
        for path in ("boot", "dev", "home", "media", "mnt", "proc", "run", "srv", "sys", ".layers"):
            make_folder(root, path)
        for name in LAYERED:
            if (self.base / name).is_symlink():
                (root / name).symlink_to((self.base / name).readlink())
        self._make_homes(root)
        write_file(root / ".e2b", ENV_FILE)
        layers = [self._layer(root, name) for name in self._names]
        hosts = make_folder(root / ".layers", "etc/upper")
        write_file(hosts / "hosts", f"{HOSTS}{address}\t{HOSTNAME}\n")
        shared = [(str(path), str(inside(path))) for path in map(installation, self.programs)]
        return Mounts(layers, shared)

    def _layer(self, root: Path, name: str) -> dict[str, object]:
        make_folder(root, name)
        upper = make_folder(root / ".layers", f"{name}/upper")
        work = make_folder(root / ".layers", f"{name}/work")
        lower = [str(path / name) for path in (self.folder, self.base) if (path / name).is_dir()]
        return {"target": f"/{name}", "lower": lower, "upper": str(upper), "work": str(work)}

    def _make_homes(self, root: Path) -> None:
        users = uids(self.template)
        for name, home in homes(self.template).items():
            if name != "root":
                if (skeleton := self.base / "etc/skel").is_dir():
                    shutil.copytree(skeleton, root / home[1:], symlinks=True)
                give(make_folder(root, home[1:]), users[name])
        if not (root / self.template.folder[1:]).exists():  # as WORKDIR, which makes it for the user
            give(make_folder(root, self.template.folder[1:]), users[self.template.user])
        for name in (".bashrc", ".profile"):
            if (source := self.base / f"usr/share/base-files/dot{name}").is_file():
                write_file(root / "root" / name, source.read_text())
        with (root / "root/.bashrc").open("a") as file:
            file.write(PROMPT + self.template.root_bashrc)

    def _make_usr_local(self) -> None:
        """Writable for everybody. This machine's own is left out: a new Debian has an empty one."""
        local = self.folder / "usr/local"
        if self.base == Path("/"):
            for name in USR_LOCAL:
                make_folder(local, name)
            hide_lower(local)
        else:
            shutil.copytree(self.base / "usr/local", local, symlinks=True, dirs_exist_ok=True)
        for folder in self.programs:
            for program in folder.iterdir():
                link = local / "bin" / program.name
                link.unlink(missing_ok=True)
                link.symlink_to(inside(folder) / program.name)
        for path in (local, *local.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o777)

    def _make_accounts(self) -> None:
        """Those of the base's system, and `user` and `agent`."""
        system = [line for line in self._lines("etc/passwd") if 0 < int(line.split(":")[2]) < FIRST_PERSON]
        groups = [line for line in self._lines("etc/group") if int(line.split(":")[2]) < FIRST_PERSON]
        passwd = ["root:x:0:0:root:/root:/bin/bash", *system]
        shadow = ["root::20000:0:99999:7:::"]
        shadow += [f"{line.split(':')[0]}:*:20000:0:99999:7:::" for line in system]
        for name, uid in uids(self.template).items():
            if name != "root":
                passwd.append(f"{name}:x:{uid}:{uid}::/home/{name}:/bin/bash")
                shadow.append(f"{name}:{'' if name in WITHOUT_PASSWORD else '!'}:20000:0:99999:7:::")
                groups.append(f"{name}:x:{uid}:")
        passwd.append("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin")
        shadow.append("nobody:*:20000:0:99999:7:::")
        groups.append("nogroup:x:65534:")
        groups = [f"{line}user" if line.startswith("sudo:") else line for line in groups]
        etc = self.folder / "etc"
        write_file(etc / "passwd", lines_of(passwd))
        write_file(etc / "group", lines_of(groups))
        write_file(etc / "shadow", lines_of(shadow), 0o640)
        write_file(etc / "gshadow", lines_of(f"{line.split(':')[0]}:*::" for line in groups), 0o640)

    def _open_doors(self) -> None:
        etc = self.folder / "etc"
        write_file(etc / "profile", self._text("etc/profile") + PROMPT + SOURCED + self.template.profile)
        for name, text in PROFILE_D.items():
            write_file(make_folder(etc, "profile.d") / name, text)
        write_file(etc / "hostname", f"{HOSTNAME}\n")
        write_file(etc / "resolv.conf", Path("/etc/resolv.conf").read_text())
        if self.has("etc/sudoers"):
            write_file(etc / "sudoers", self._text("etc/sudoers") + SUDOERS, 0o440)
        ssh = make_folder(etc, "ssh")
        hide_lower(ssh)  # the keys of the machine that the base is
        for name in ("ssh_config", "sshd_config"):
            if self.has(f"etc/ssh/{name}"):
                write_file(ssh / name, self._text(f"etc/ssh/{name}"))
        if self.has(SSHD):
            with (ssh / "sshd_config").open("a") as file:
                file.write(SSHD_CONFIG)
            make_folder(ssh, "sshd_config.d")
            for kind in ("rsa", "ed25519"):
                key = ssh / f"ssh_host_{kind}_key"
                subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", str(key)], check=True)

    def _make_var(self) -> None:
        for name, mode in (("tmp", 0o1777), ("mail", 0o2775)):
            hide_lower(make_folder(self.folder, f"var/{name}", mode))

    def _text(self, path: str) -> str:
        return (self.base / path).read_text() if self.has(path) else ""

    def _lines(self, path: str) -> list[str]:
        return [line for line in self._text(path).splitlines() if line.count(":") > 2]


def lines_of(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def give(folder: Path, uid: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)


def hide_lower(folder: Path) -> None:
    """Let an overlay with `folder` in it show nothing that lower layers have in its place."""
    os.setxattr(folder, OPAQUE, b"y")
