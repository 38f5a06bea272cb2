"""A machine with a real envd, as `local.services.e2b` starts it: another kind of isolation, with its own pid 1."""

import json
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

from local.services.e2b.isolation import User, View, homes, real_python, uids
from tests.conformance.image import ENVD, HOSTNAME, SSHD, Image, Mounts

INIT = Path(__file__).with_name("machine_init.py")
PORTS = range(20_000, 32_000)  # below those that the kernel gives to connections


class Machines:
    """An `Isolation`. The network is this machine's, so each envd has its own port and each sshd its own address."""

    name = "envd"

    def __init__(self, image: Image) -> None:
        self._image = image
        self._mounts: dict[Path, Mounts] = {}
        self._ports: dict[Path, int] = {}
        self._addresses: dict[Path, str] = {}

    def lay_out(self, folder: Path) -> None:
        self._addresses[folder] = loopback_address()
        self._ports[folder] = free_port(set(self._ports.values()))
        self._mounts[folder] = self._image.lay_out(folder, self._addresses[folder])

    def port(self, folder: Path) -> int:
        """The one on which the machine's envd listens."""
        return self._ports[folder]

    def forget(self, folder: Path) -> None:
        """Its port is free again."""
        for kept in (self._mounts, self._ports, self._addresses):
            kept.pop(folder, None)

    def view(self, _folder: Path) -> View:
        numbers, template = uids(self._image.template), self._image.template
        users = {name: User(home, numbers[name], numbers[name]) for name, home in homes(template).items()}
        return View("/", users, owns_pid_namespace=True)

    def command(self, folder: Path) -> list[str]:
        mounts = self._mounts[folder]
        spec = {
            "root": str(folder),
            "layers": mounts.layers,
            "shared": mounts.shared,
            "hostname": HOSTNAME,
            "address": self._addresses[folder],
            "sshd": f"/{SSHD}" if self._image.has(SSHD) else None,
            "envd": [ENVD, "-isnotfc", "-no-cgroups", "-port", str(self._ports[folder])],
        }
        return [str(real_python()), "-I", "-S", str(INIT), json.dumps(spec)]

    def localized(self, _folder: Path, argv: Sequence[str]) -> list[str]:
        return list(argv)


def loopback_address() -> str:
    """One that no other machine has, most likely."""
    return f"127.{secrets.randbelow(250) + 2}.{secrets.randbelow(250)}.{secrets.randbelow(250) + 2}"


def free_port(taken: set[int]) -> int:
    while True:
        port = secrets.choice(PORTS)
        if port not in taken:
            with socket.socket() as probe:
                try:
                    probe.bind(("0.0.0.0", port))
                except OSError:
                    continue
            return port
