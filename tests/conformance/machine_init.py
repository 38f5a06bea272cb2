"""One machine with a real envd: its mounts, its boots, its first process. Linux, root, standard library only.

Two processes of this program make a machine:

- The *holder* has the machine's mounts (a mount and UTS namespace) and lives as long as the machine. It answers the
  calls of `local.e2b.box`: one byte and one socket per call, a JSON request, a JSON answer. When the server's end of
  the control socket closes, the holder ends, and every process of the machine with it.
- The *first process* is pid 1 of one boot, in a pid and IPC namespace of that boot. It does what systemd does on a
  machine of E2B: it starts envd and sshd, starts envd again when it ends, and reaps what is left.
"""

# It runs before any module of ours can be found, and its paths are those of another machine.
# ruff: noqa: PTH101, PTH102, PTH108, PTH110, PTH112, PTH114, PTH119, PTH123, PTH208, PTH211

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from typing import Any, NoReturn

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2
CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC, CLONE_NEWPID = 0x20000, 0x4000000, 0x8000000, 0x20000000
PR_SET_PDEATHSIG, PR_CAPBSET_DROP = 1, 24

# Root of the machine is root of the host's kernel. These would let it reach the host, by accident or not: kernel
# modules, raw devices, device files, the host's clock and its power switch.
HELD_BACK = {"SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_BOOT": 22, "SYS_TIME": 25, "MKNOD": 27}
KERNEL_SETTINGS = ("acpi", "bus", "driver", "fs", "irq", "mtrr", "scsi", "sys", "sysrq-trigger")
# What systemd gives a service that asks for nothing else.
SERVICE_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "GOTRACEBACK": "all",
}
LAYERS = "/.layers"
RESTART_S = 0.1  # systemd's RestartSec

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int = 0, options: str = "") -> None:
    done = libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    checked(done, f"mount {kind or source} on {target}")


def unmount(target: str) -> None:
    checked(libc.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


def unshare(flags: int) -> None:
    checked(libc.unshare(flags), "unshare")


def die_with_parent() -> None:
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


# --- the machine's file system -----------------------------------------------------------------------------------


def enter(spec: dict[str, Any]) -> None:
    """Make the machine's root directory ours, with all its mounts. Raises OSError."""
    root = spec["root"]
    unshare(CLONE_NEWNS | CLONE_NEWUTS)
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount(root, root, "", MS_BIND)
    mount("none", root, "", MS_REMOUNT | MS_BIND)  # setuid and devices work, whatever the folder's disk forbids
    for layer in spec["layers"]:
        lower = ":".join(layer["lower"])
        options = f"lowerdir={lower},upperdir={layer['upper']},workdir={layer['work']}"
        mount("overlay", root + layer["target"], "overlay", 0, options)
    for source, target in spec["shared"]:
        mount(source, root + target, "", MS_BIND)
        mount("none", root + target, "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    make_devices(f"{root}/dev")
    mount("sysfs", f"{root}/sys", "sysfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("none", root + LAYERS, "tmpfs", MS_RDONLY, "size=4k,mode=000")
    os.chdir(root)
    checked(libc.pivot_root(b".", b"."), "pivot_root")
    unmount(".")
    os.chdir("/")
    socket.sethostname(spec["hostname"])


def make_devices(dev: str) -> None:
    mount("dev", dev, "tmpfs", MS_NOSUID, "mode=755,size=4m")
    os.umask(0)
    for name, number in (("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)):
        os.mknod(f"{dev}/{name}", 0o666 | 0o020000, os.makedev(1, number))
    os.mknod(f"{dev}/tty", 0o666 | 0o020000, os.makedev(5, 0))
    os.umask(0o022)
    for name in ("pts", "shm"):
        os.mkdir(f"{dev}/{name}")
    mount("devpts", f"{dev}/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,mode=620,ptmxmode=666,gid=5")
    mount("shm", f"{dev}/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
    for name, target in (("ptmx", "pts/ptmx"), ("fd", "/proc/self/fd"), ("stdin", "fd/0")):
        os.symlink(target, f"{dev}/{name}")
    for number, name in enumerate(("stdout", "stderr"), 1):
        os.symlink(f"fd/{number}", f"{dev}/{name}")


def mount_proc() -> None:
    """This boot's /proc. The kernel's settings in it are the host's, so nobody writes them."""
    with contextlib.suppress(OSError):
        unmount("/proc")
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    for name in KERNEL_SETTINGS:
        path = f"/proc/{name}"
        if os.path.exists(path):
            mount(path, path, "", MS_BIND)
            mount("none", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY)


def forget_what_a_boot_forgets() -> None:
    for folder in ("/run", "/dev/shm"):
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if os.path.isdir(path) and not os.path.islink(path):
                shutil.rmtree(path)
            else:
                os.unlink(path)
    for folder, mode in (("/run/lock", 0o1777), ("/run/sshd", 0o755)):
        os.mkdir(folder)
        os.chmod(folder, mode)


# --- the first process of a boot ---------------------------------------------------------------------------------


class FirstProcess:
    """Pid 1: keeps envd running and does what the holder says, one line at a time."""

    def __init__(self, orders: socket.socket, spec: dict[str, Any]) -> None:
        self._orders = orders
        self._spec = spec
        self._envd = 0

    def run(self) -> NoReturn:
        os.setsid()
        mount_proc()
        forget_what_a_boot_forgets()
        for number in HELD_BACK.values():
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
        wake, wakes = os.pipe()
        os.set_blocking(wakes, False)
        os.set_blocking(wake, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes)
        if self._spec["sshd"]:
            self._start([self._spec["sshd"], "-D", "-o", f"ListenAddress={self._spec['address']}:22"])
        self._envd = self._start(self._spec["envd"], important=True)
        while True:
            ready, _, _ = select.select([self._orders.fileno(), wake], [], [])
            if wake in ready:
                os.read(wake, 4096)
            self._reap()
            if self._orders.fileno() in ready and (order := self._orders.recv(64)):
                self._obey(order.decode())
                self._orders.sendall(b"done")

    def _obey(self, order: str) -> None:
        if order == "restart_envd":
            os.kill(self._envd, signal.SIGKILL)
            os.waitpid(self._envd, 0)
            self._start_envd()
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, int(order))

    def _reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._envd:
                self._start_envd()

    def _start_envd(self) -> None:
        time.sleep(RESTART_S)
        self._envd = self._start(self._spec["envd"], important=True)

    def _start(self, argv: list[str], *, important: bool = False) -> int:
        if pid := os.fork():
            return pid
        try:
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
                signal.signal(number, signal.SIG_DFL)
            os.setsid()
            null = os.open("/dev/null", os.O_RDWR)
            log = os.open(f"/run/{os.path.basename(argv[0])}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for target, source in ((0, null), (1, log), (2, log)):
                os.dup2(source, target)
            if important:
                with contextlib.suppress(OSError):  # a container may lack the capability
                    os.setpriority(os.PRIO_PROCESS, 0, -20)
                    with open("/proc/self/oom_score_adj", "w") as file:
                        file.write("-1000")
            os.execve(argv[0], argv, SERVICE_ENVIRONMENT)
        except OSError as error:
            print(error, file=sys.stderr, flush=True)
        finally:
            os._exit(127)


# --- the holder --------------------------------------------------------------------------------------------------


class Holder:
    def __init__(self, control: socket.socket, spec: dict[str, Any]) -> None:
        self._control = control
        self._spec = spec
        self._keeper = 0
        self._first = 0
        self._orders: socket.socket

    def run(self) -> None:
        """Answer calls until the server hangs up. Raises EOFError when the first process ends by itself."""
        self._boot()
        while True:
            ready, _, _ = select.select([self._control, self._orders], [], [])
            if self._orders in ready:
                raise EOFError("the first process of the machine ended")
            _, fds, _, _ = socket.recv_fds(self._control, 1, 1)
            if not fds:
                self._halt()
                return
            with socket.socket(fileno=fds[0]) as call:
                self._answer(call)

    def _answer(self, call: socket.socket) -> None:
        request = b""
        while chunk := call.recv(4096):
            request += chunk
        asked = json.loads(request)
        match asked["op"]:
            case "signal":
                answer = self._order(str(int(asked["number"])))
            case "restart_envd":
                answer = self._order("restart_envd")
            case "reboot":
                self._halt()
                self._boot()
                answer = {"ok": None}
            case op:
                answer = {"refused": "unimplemented", "message": f"a machine does not know {op}", "pid": 0}
        with contextlib.suppress(OSError):  # the server may have given up
            call.sendall(json.dumps(answer).encode() + b"\n")

    def _order(self, order: str) -> dict[str, Any]:
        self._orders.sendall(order.encode())
        if not self._orders.recv(16):
            raise EOFError(f"the first process of the machine ended at: {order}")
        return {"ok": None}

    def _boot(self) -> None:
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._keeper = os.fork()
        if self._keeper == 0:
            try:
                self._control.close()
                self._orders.close()
                keep(theirs, self._spec)
            except OSError as error:
                print(error, file=sys.stderr, flush=True)
            finally:
                os._exit(1)
        theirs.close()
        self._first = int(self._orders.recv(16) or 0)
        if not self._first:
            raise EOFError("the machine does not boot")

    def _halt(self) -> None:
        """End all processes of the boot, and wait until they are gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)
        os.waitpid(self._keeper, 0)  # who waits for the first process, which ends as the last one
        self._orders.close()


def keep(orders: socket.socket, spec: dict[str, Any]) -> None:
    """Start the first process of a boot and wait for its end."""
    die_with_parent()
    unshare(CLONE_NEWPID | CLONE_NEWIPC)
    if first := os.fork():
        orders.sendall(str(first).encode())
        orders.close()
        os.waitpid(first, 0)
        return
    try:
        die_with_parent()
        FirstProcess(orders, spec).run()
    except OSError as error:
        print(error, file=sys.stderr, flush=True)
    finally:
        os._exit(1)


def main() -> None:
    spec, control = json.loads(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server says when to end
    try:
        enter(spec)
        Holder(control, spec).run()
    except (OSError, EOFError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
