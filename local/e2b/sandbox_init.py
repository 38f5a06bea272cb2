"""The first process of a sandbox: it starts commands, touches files and reports exits. Stdlib only.

It runs *inside* the sandbox, so a path or a symlink an agent planted is resolved where the agent lives, never on
the host, and a pid means the same in every command. The server holds the other end of one inherited socket:

- server -> init: one byte and one socket per call. `c` starts a command, `f` is anything else. Init forks; the
  child reads one JSON request from that socket, answers in JSON lines (file descriptors ride along) and ends the
  answer by closing, which for a command is the moment of `exec`.
- init -> server: a line `<pid> <wait status>` for every command that ended.

When the socket closes the server is gone, and every process of the sandbox goes with it.
"""

# Starting it is most of what creating a sandbox costs, hence os.path instead of pathlib and two late imports.
# ruff: noqa: PTH102, PTH104, PTH108, PTH110, PTH112, PTH114, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208, S606

import contextlib
import fcntl
import json
import os
import select
import signal
import socket
import stat
import struct
import sys
import termios
import time
from collections.abc import Iterator
from typing import Any, NoReturn

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
METADATA_PREFIX = "user.e2b."  # extended attributes in which envd keeps a file's metadata


class Refused(Exception):
    """An answer the caller expects. `code` is the Connect code in lower case, e.g. `not_found`."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Sandbox:
    """What init was told about the sandbox it runs.

    `root` is the sandbox's root directory as init sees it: "/" in a mount namespace, else a host folder.
    `users` maps a name to {"home", "uid", "gid"}; uid is None where all users are the same one.
    """

    def __init__(self, root: str, users: dict[str, dict[str, Any]], owns_pid_namespace: bool) -> None:
        self.root = root
        self.users = users
        self.owns_pid_namespace = owns_pid_namespace

    def user(self, name: str) -> dict[str, Any]:
        if name not in self.users:
            raise Refused("unauthenticated", f"invalid username: '{name}'")
        return self.users[name]

    def path(self, path: str, user: str) -> str:
        """The absolute path `path` means for `user`: relative and ~ start at the home. May not leave the root."""
        home = self.user(user)["home"]
        if path == "~" or path.startswith("~/"):
            path = home + path[1:]
        path = os.path.normpath(os.path.join(home, path))
        if self.root == "/":
            return path  # the kernel keeps us inside
        if not within(path, self.root):
            path = os.path.normpath(self.root + path)
        real = os.path.realpath(os.path.dirname(path))
        if not within(real, self.root) or not within(os.path.realpath(path), self.root):
            raise Refused("permission_denied", f"path '{path}' leaves the sandbox")
        return os.path.join(real, os.path.basename(path))

    def processes(self) -> list[int]:
        """Pids of all other processes of a sandbox that has no pid namespace: what descends from init."""
        children: dict[int, list[int]] = {}
        for pid, parent in parents():
            children.setdefault(parent, []).append(pid)
        found, queue = [], [INIT_PID]
        while queue:
            for pid in children.get(queue.pop(), []):
                queue.append(pid)
                if pid != os.getpid():
                    found.append(pid)
        return found

    def signal_all(self, number: int) -> None:
        """Signal every process but init and the caller. Repeats until none is new: a fork may race the sweep."""
        if self.owns_pid_namespace:
            with contextlib.suppress(ProcessLookupError):
                os.kill(-1, number)
            return
        seen: set[int] = set()
        while new := set(self.processes()) - seen:
            for pid in new:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            seen |= new


INIT_PID = os.getpid()


def within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def parents() -> Iterator[tuple[int, int]]:
    """(pid, parent pid) of every process on this machine."""
    if not os.path.isdir("/proc/self"):  # macOS
        import subprocess

        listing = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        for line in listing.stdout.splitlines():
            pid, parent = line.split()
            yield int(pid), int(parent)
        return
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                yield int(name), int(file.read().rpartition(")")[2].split()[1])


# --- what a forked child does for one call -----------------------------------------------------------------------


def answer(sandbox: Sandbox, call: socket.socket) -> NoReturn:
    """Serve one call in this forked child and exit."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)  # Python ignores the last two; a command must not inherit that
    try:
        request = json.loads(read_all(call))
        op = request.pop("op")
        if op == "start":
            start(sandbox, call, **request)
        reply, fds = OPERATIONS[op](sandbox, **request)
        send(call, {"ok": reply}, fds)
    except Refused as refusal:
        send(call, {"refused": refusal.code, "message": str(refusal), "pid": os.getpid()})
    except OSError as error:
        send(call, {"refused": "internal", "message": str(error), "pid": os.getpid(), "errno": error.errno})
    os._exit(0)


def read_all(call: socket.socket) -> bytes:
    return b"".join(iter(lambda: call.recv(1 << 16), b""))


def send(call: socket.socket, reply: object, fds: list[int] | None = None) -> None:
    line = json.dumps(reply).encode() + b"\n"
    sent = socket.send_fds(call, [line], fds) if fds else 0
    call.sendall(line[sent:])


Answer = tuple[Any, list[int]]


def start(
    sandbox: Sandbox,
    call: socket.socket,
    user: str,
    argv: list[str],
    env: dict[str, str],
    cwd: str,
    stdin: bool,
    terminal: list[int] | None,
) -> NoReturn:
    """Become the command. Answers {"pid"} and our ends of its stdio: [stdin?, stdout, stderr], or [terminal]."""
    who = sandbox.user(user)
    folder = sandbox.path(cwd, user)
    if not os.path.exists(folder):
        raise Refused("invalid_argument", f"cwd '{folder}' does not exist")
    os.setsid()
    theirs, ours = open_terminal(*terminal) if terminal else open_pipes(stdin)
    become(who)
    try:
        os.chdir(folder)
        send(call, {"ok": {"pid": os.getpid()}}, ours)
        for target, fd in enumerate(theirs):
            os.dup2(fd, target)
        os.execvpe(argv[0], argv, env)
    except OSError as error:
        raise Refused("invalid_argument", f"error starting process '{argv[0]}': {error.strerror}") from error


def open_pipes(stdin: bool) -> tuple[list[int], list[int]]:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    if not stdin:
        return [os.open(os.devnull, os.O_RDONLY), out_write, err_write], [out_read, err_read]
    in_read, in_write = os.pipe()
    return [in_read, out_write, err_write], [in_write, out_read, err_read]


def open_terminal(columns: int, rows: int) -> tuple[list[int], list[int]]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return [slave] * 3, [master]


def become(who: dict[str, Any]) -> None:
    if who["uid"] is not None:
        os.setgroups([who["gid"]])
        os.setgid(who["gid"])
        os.setuid(who["uid"])


def send_signal(sandbox: Sandbox, pid: int, number: int) -> Answer:
    """Signal one process; pid 0 means all of the sandbox."""
    if pid == 0:
        sandbox.signal_all(number)
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    return None, []


# Like envd, the file calls act as the sandbox's own root and give what they create to the user.


def open_read(sandbox: Sandbox, user: str, path: str) -> Answer:
    """A regular file opened for reading; answers {"name"} and the descriptor."""
    path = sandbox.path(path, user)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # O_NONBLOCK: a planted FIFO must not hang us
    except FileNotFoundError as error:
        raise Refused("not_found", f"path '{path}' does not exist") from error
    kind = os.fstat(fd).st_mode
    if stat.S_ISDIR(kind):
        raise Refused("invalid_argument", f"path '{path}' is a directory")
    if not stat.S_ISREG(kind):
        raise Refused("invalid_argument", f"path '{path}' is not a regular file")
    return {"name": os.path.basename(path)}, [fd]


def open_write(sandbox: Sandbox, user: str, path: str, metadata: dict[str, str]) -> Answer:
    """An emptied file, its folders made; answers {"path", "name"} and the descriptor."""
    path = sandbox.path(path, user)
    who = sandbox.user(user)
    make_folders(os.path.dirname(path), who)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    except IsADirectoryError as error:
        raise Refused("invalid_argument", f"path is a directory: {path}") from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise Refused("invalid_argument", f"path '{path}' is not a regular file")
    give(fd, who)
    write_metadata(fd, metadata)
    return {"path": path, "name": os.path.basename(path), "metadata": read_metadata(fd)}, [fd]


def stat_entry(sandbox: Sandbox, user: str, path: str) -> Answer:
    return entry(sandbox.path(path, user)), []


def list_folder(sandbox: Sandbox, user: str, path: str, depth: int) -> Answer:
    """Entries below a folder, symlinks not followed, in lexical order with a folder before what it holds."""
    folder = sandbox.path(path, user)
    if not os.path.exists(folder):
        raise Refused("not_found", f"path not found: {folder}")
    if not os.path.isdir(folder):
        raise Refused("invalid_argument", f"path is not a directory: {folder}")
    return list(walk(folder, depth)), []


def walk(folder: str, depth: int) -> Iterator[dict[str, Any]]:
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        with contextlib.suppress(Refused):  # gone since it was listed
            yield entry(path)
            if depth > 1 and os.path.isdir(path) and not os.path.islink(path):
                yield from walk(path, depth - 1)


def make_folder(sandbox: Sandbox, user: str, path: str) -> Answer:
    path = sandbox.path(path, user)
    if os.path.isdir(path):
        raise Refused("already_exists", f"directory already exists: {path}")
    if os.path.lexists(path):
        raise Refused("invalid_argument", f"path already exists but it is not a directory: {path}")
    make_folders(path, sandbox.user(user))
    return entry(path), []


def move(sandbox: Sandbox, user: str, source: str, destination: str) -> Answer:
    source, destination = sandbox.path(source, user), sandbox.path(destination, user)
    make_folders(os.path.dirname(destination), sandbox.user(user))
    try:
        os.rename(source, destination)
    except FileNotFoundError as error:
        raise Refused("not_found", f"source file not found: {source}") from error
    return entry(destination), []


def remove(sandbox: Sandbox, user: str, path: str) -> Answer:
    """Remove a file or a whole folder; nothing there is fine, as with envd."""
    path = sandbox.path(path, user)
    if os.path.isdir(path) and not os.path.islink(path):
        import shutil

        shutil.rmtree(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return None, []


def make_folders(path: str, who: dict[str, Any]) -> None:
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise Refused("internal", f"path is a file: {path}")
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder, 0o755)
        give(folder, who)


def give(target: str | int, who: dict[str, Any]) -> None:
    if who["uid"] is not None:
        os.chown(target, who["uid"], who["gid"])


def entry(path: str) -> dict[str, Any]:
    """What envd tells about a path: of a symlink the target's type and mode, `symlink` set to where it points."""
    try:
        info = os.lstat(path)
    except FileNotFoundError as error:
        raise Refused("not_found", f"file not found: {path}") from error
    symlink, target = None, info
    if stat.S_ISLNK(info.st_mode):
        symlink = os.path.realpath(path)
        with contextlib.suppress(OSError):
            target = os.stat(symlink)
    return {
        "name": os.path.basename(path),
        "path": path,
        "type": "dir" if stat.S_ISDIR(target.st_mode) else "file" if stat.S_ISREG(target.st_mode) else "",
        "size": info.st_size,
        "mode": stat.S_IMODE(target.st_mode),
        "permissions": stat.filemode(info.st_mode).replace("l", "L", 1),
        "owner": account("pwd", "getpwuid", info.st_uid),
        "group": account("grp", "getgrgid", info.st_gid),
        "modified_ns": info.st_mtime_ns,
        "symlink": symlink,
        "metadata": {} if symlink else read_metadata(path),
    }


def account(module: str, lookup: str, number: int) -> str:
    try:
        return str(getattr(__import__(module), lookup)(number)[0])
    except KeyError:
        return str(number)


def read_metadata(target: str | int) -> dict[str, str]:
    if not hasattr(os, "listxattr"):  # macOS
        return {}
    with contextlib.suppress(OSError):  # a file system without extended attributes has no metadata
        names = [name for name in os.listxattr(target) if name.startswith(METADATA_PREFIX)]
        return {name.removeprefix(METADATA_PREFIX): os.getxattr(target, name).decode() for name in names}
    return {}


def write_metadata(fd: int, metadata: dict[str, str]) -> None:
    """Replace a file's metadata; envd, too, goes on where the file system cannot keep any."""
    if not hasattr(os, "setxattr"):  # macOS
        return
    for name in read_metadata(fd):
        os.removexattr(fd, METADATA_PREFIX + name)
    with contextlib.suppress(OSError):
        for name, value in metadata.items():
            os.setxattr(fd, METADATA_PREFIX + name, value.encode())


OPERATIONS: dict[str, Any] = {
    "signal": send_signal,
    "open_read": open_read,
    "open_write": open_write,
    "stat": stat_entry,
    "list": list_folder,
    "make_folder": make_folder,
    "move": move,
    "remove": remove,
}


# --- init itself -------------------------------------------------------------------------------------------------


def serve(sandbox: Sandbox, control: socket.socket) -> None:
    """Fork a child per call and report the commands that end, until the server closes the socket."""
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nobody inside may interrupt pid 1
    commands: set[int] = set()
    while True:
        readable, _, _ = select.select([control.fileno(), wake_read], [], [])
        if wake_read in readable:
            os.read(wake_read, 4096)
            report_exits(control, commands)
        if control.fileno() in readable:
            kind, fds, _, _ = socket.recv_fds(control, 1, 1)
            if not kind:
                return
            os.set_inheritable(fds[0], False)  # so that a command's exec ends its answer
            pid = os.fork()
            if pid == 0:
                answer(sandbox, socket.socket(fileno=fds[0]))
            os.close(fds[0])
            if kind == b"c":
                commands.add(pid)


def report_exits(control: socket.socket, commands: set[int]) -> None:
    """Reap everything that ended, orphans too."""
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            pid, status = ended
            if pid in commands:
                commands.discard(pid)
                control.sendall(f"{pid} {status}\n".encode())


def end_everything(sandbox: Sandbox) -> None:
    """Kill and reap what is left."""
    if sandbox.owns_pid_namespace:
        return  # the kernel does it when pid 1 exits
    give_up = time.monotonic() + 5
    while sandbox.processes() and time.monotonic() < give_up:
        sandbox.signal_all(signal.SIGKILL)
        time.sleep(0.01)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    control.set_inheritable(False)
    sandbox = Sandbox(**json.loads(sys.argv[2]))
    os.umask(0o022)
    if sys.platform == "linux" and not sandbox.owns_pid_namespace:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans stay our descendants
    with contextlib.suppress(ConnectionError):  # the server died while we reported to it
        serve(sandbox, control)
    end_everything(sandbox)


if __name__ == "__main__":
    main()
