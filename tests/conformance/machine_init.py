"""One machine with a real envd: its mounts and its first process. Linux, root, standard library only.

The program makes the machine's mounts and forks its first process, pid 1 of a new pid namespace, which does what
systemd does on a machine of E2B: it starts envd and sshd, starts envd again when it ends, and reaps what is left. It
answers the calls of `local.services.e2b.box`: one byte and one socket per call, a JSON request, a JSON answer. When the
server's end of the control socket closes, it ends, and every process of the machine with it.
"""

# It runs before any module of ours can be found, and its paths are those of another machine.
# ruff: noqa: PTH101, PTH102, PTH103, PTH108, PTH110, PTH112, PTH114, PTH119, PTH123, PTH208, PTH211

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
from typing import Any

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
        os.makedirs(root + target, exist_ok=True)
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
    """The kernel's settings in it are the host's, so nobody writes them."""
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


# --- the first process -------------------------------------------------------------------------------------------


class FirstProcess:
    """Pid 1: keeps envd running and answers calls, one after the other."""

    def __init__(self, control: socket.socket, spec: dict[str, Any]) -> None:
        self._control = control
        self._spec = spec
        self._envd = 0

    def run(self) -> None:
        """Returns when the server hangs up. Raises OSError."""
        os.setsid()
        mount_proc()
        forget_what_a_boot_forgets()
        for number in HELD_BACK.values():
            libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)
        wake, wakes = os.pipe()
        os.set_blocking(wakes, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakes)
        if self._spec["sshd"]:
            self._start([self._spec["sshd"], "-D", "-o", f"ListenAddress={self._spec['address']}:22"])
        self._envd = self._start(self._spec["envd"], important=True)
        while True:
            ready, _, _ = select.select([self._control.fileno(), wake], [], [])
            if wake in ready:
                os.read(wake, 4096)
                self._reap()
            if self._control.fileno() in ready:
                _, fds, _, _ = socket.recv_fds(self._control, 1, 1)
                if not fds:
                    return
                with socket.socket(fileno=fds[0]) as call:
                    call.set_inheritable(False)  # envd that is started meanwhile would hold the answer open
                    self._answer(call)

    def _answer(self, call: socket.socket) -> None:
        request = b""
        while chunk := call.recv(4096):
            request += chunk
        asked = json.loads(request)
        answer: dict[str, Any] = {"ok": None}
        if asked["op"] == "signal":
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, int(asked["number"]))
        elif asked["op"] == "restart_envd":
            os.kill(self._envd, signal.SIGKILL)
            os.waitpid(self._envd, 0)
            self._start_envd()
        else:
            message = f"a machine does not know {asked['op']}"
            answer = {"refused": "unimplemented", "message": message, "pid": 0, "status": 501}
        with contextlib.suppress(OSError):  # the server may have given up
            call.sendall(json.dumps(answer).encode() + b"\n")

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
            for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
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


def main() -> None:
    spec, control = json.loads(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    control.set_inheritable(False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server says when to end
    try:
        enter(spec)
        unshare(CLONE_NEWPID | CLONE_NEWIPC)
        if first := os.fork():
            control.close()
            _, status = os.waitpid(first, 0)
            sys.exit(os.waitstatus_to_exitcode(status))
        die_with_parent()
        FirstProcess(control, spec).run()
    except OSError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
