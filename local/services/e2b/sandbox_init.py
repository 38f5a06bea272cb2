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
# ruff: noqa: PTH102, PTH104, PTH108, PTH110, PTH112, PTH113, PTH114, PTH115, PTH116, PTH118, PTH119, PTH120, PTH123, PTH208, S606

import contextlib
import errno
import fcntl
import json
import os
import resource
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
OOM_SCORE = 100  # envd's: the kernel ends a command before it ends envd
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # on which envd finds programs of its own
SCAN_EVERY_S = 1
LOCALHOST = {"0100007F": 4, "0" * 24 + "01000000": 6}  # as in /proc/net/tcp and tcp6
LISTENING = "0A"
GATEWAY = "169.254.0.21"  # the address under which a sandbox of E2B is reached
STATUS = {
    **{"not_found": 404, "invalid_argument": 400, "permission_denied": 403, "unauthenticated": 401},
    **{"already_exists": 409, "internal": 500},
}


class Refused(Exception):
    """An answer the caller expects: its Connect code in lower case, and the status of a file call."""

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.status = STATUS[code] if status is None else status


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
        if path.startswith("~"):
            if path[1:2] not in ("", "/"):
                reason = "cannot expand user-specific home dir"
                raise Refused("invalid_argument", f"failed to expand path '' for user '{user}': {reason}")
            path = home + path[1:]
        if self.root == "/":  # the kernel keeps us inside
            return path if path.startswith("/") else os.path.normpath(os.path.join(home, path))
        path = os.path.normpath(os.path.join(home, path))
        if not within(path, self.root):
            path = os.path.normpath(self.root + path)
        if path == self.root:
            return path
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
        if fds and not can_seek(fds[0]):
            feed(call, reply, fds[0])
        send(call, {"ok": reply}, fds)
    except Refused as refusal:
        send_refusal(call, refusal)
    except OSError as error:
        send_refusal(call, Refused("internal", reason_of(error)))
    except ValueError:  # NUL in a path: Python refuses what the system call would
        send_refusal(call, Refused("internal", f"error checking if path exists: {os.strerror(errno.EINVAL).lower()}"))
    os._exit(0)


def can_seek(fd: int) -> bool:
    """Whether a file says how long it is, from which many of /proc refrain."""
    try:
        os.lseek(fd, 0, os.SEEK_END)
        os.lseek(fd, 0, os.SEEK_SET)
    except OSError:
        return False
    return True


def feed(call: socket.socket, reply: object, fd: int) -> NoReturn:
    """Answer with a pipe and carry the file into it: /proc/self is there only while the one who opened it is."""
    there, here = os.pipe()
    send(call, {"ok": reply}, [there])
    call.close()
    os.close(there)
    while chunk := os.read(fd, 1 << 16):
        while chunk:
            chunk = chunk[os.write(here, chunk) :]
    os._exit(0)


def send_refusal(call: socket.socket, refusal: Refused) -> None:
    send(call, {"refused": refusal.code, "message": str(refusal), "status": refusal.status, "pid": os.getpid()})


def reason_of(error: OSError) -> str:
    """The words for a failed system call, in lower case as Go writes them."""
    what = "" if error.filename is None else f" {os.fsdecode(error.filename)}"
    return f"{what.lstrip()}: {(error.strerror or '').lower()}".removeprefix(": ")


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
    wrapper = wrapper_of(argv)
    os.setsid()
    theirs, ours = open_terminal(*terminal) if terminal else open_pipes(stdin)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    become(who)
    try:
        os.chdir(folder)
        send(call, {"ok": {"pid": os.getpid()}}, ours)
        for target, fd in enumerate(theirs):
            os.dup2(fd, target)
        os.execve(wrapper[0], wrapper, env)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or os.strerror(errno.EINVAL)
        message = f"error starting process '{' '.join(argv)}': fork/exec {wrapper[0]}: {reason.lower()}"
        raise Refused("invalid_argument", message) from error


def wrapper_of(argv: list[str]) -> list[str]:
    """The command line in which envd starts another one, with the helpers that it finds on its PATH."""
    helpers = [("ionice", "-c 2 -n 4"), ("nice", "-n 0")]
    words = [f"{program} {options} " for name, options in helpers if (program := found_on_path(name))]
    score = f"echo {oom_score()} > /proc/$$/oom_score_adj && " if os.path.exists("/proc/self/oom_score_adj") else ""
    return ["/bin/sh", "-c", f'{score}exec {"".join(words)}"${{@}}"', "--", *argv]


def found_on_path(name: str) -> str | None:
    paths = (os.path.join(folder, name) for folder in SYSTEM_PATH.split(":"))
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), None)


def oom_score() -> int:
    """envd's, or what a server has that was started with a higher one: few may lower it."""
    with open("/proc/self/oom_score_adj") as file:
        return max(OOM_SCORE, int(file.read()))


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


def resolved(sandbox: Sandbox, user: str, path: str, failure: str) -> str:
    """The absolute path. Raises Refused; where the path is not valid, `failure` stands before the reason."""
    try:
        return sandbox.path(path, user)
    except Refused as refusal:
        if refusal.code == "invalid_argument":
            raise Refused(refusal.code, f"{failure}: {refusal}") from refusal
        raise


def open_read(sandbox: Sandbox, user: str, path: str) -> Answer:
    """A file opened for reading; answers {"name", "modified_s"} and the descriptor. None of them for a FIFO, where
    envd waits for a writer."""
    path = resolved(sandbox, user, path, f"error expanding and resolving path '{path}'")
    try:
        info = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(error, NotADirectoryError):
            raise Refused("internal", f"error checking if path exists '{path}': stat {reason_of(error)}") from error
        raise Refused("not_found", f"path '{path}' does not exist") from error
    except OSError as error:
        raise Refused("internal", f"error checking if path exists '{path}': stat {reason_of(error)}") from error
    if stat.S_ISDIR(info.st_mode):
        raise Refused("invalid_argument", f"path '{path}' is a directory")
    if stat.S_ISFIFO(info.st_mode):
        return None, []
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO planted just now must not hang us
    except OSError as error:
        raise Refused("internal", f"error opening file '{path}': open {reason_of(error)}") from error
    return {"name": os.path.basename(os.path.normpath(path)), "modified_s": int(info.st_mtime)}, [fd]


def open_write(sandbox: Sandbox, user: str, path: str, metadata: dict[str, str], written: list[str]) -> Answer:
    """An emptied file, its folders made; answers {"path", "name"} and the descriptor. None of them for a FIFO, where
    envd waits for a reader. `written` are the paths that the same request has written to before."""
    path = resolved(sandbox, user, path, "error resolving path")
    if path in written:
        raise Refused("invalid_argument", already_uploaded(path, written))
    who = sandbox.user(user)
    try:
        make_folders(os.path.dirname(os.path.normpath(path)), who)
    except Refused as refusal:
        raise Refused("internal", f"error ensuring directories: {refusal}") from refusal
    try:
        kind = os.stat(path).st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    except OSError as error:
        raise Refused("internal", f"error getting file info: stat {reason_of(error)}") from error
    if stat.S_ISDIR(kind):
        raise Refused("invalid_argument", f"path is a directory: {path}")
    if stat.S_ISFIFO(kind):
        return None, []
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Refused("internal", f"not enough inodes available: open {reason_of(error)}", 507) from error
        raise Refused("internal", f"error opening file: open {reason_of(error)}") from error
    if stat.S_ISREG(os.fstat(fd).st_mode):  # a device is the machine's own
        give(fd, who)
        write_metadata(fd, metadata)
    info = {"path": path, "name": os.path.basename(os.path.normpath(path))}
    kept = read_metadata(fd)
    return info | ({"metadata": kept} if kept else {}), [fd]


def already_uploaded(path: str, written: list[str]) -> str:
    others = [other for other in written if other != path]
    message = f"you cannot upload multiple files to the same path '{path}' in one upload request"
    message += ", only the first specified file was uploaded"
    return f"{message}, also the following files were uploaded: {', '.join(others)}" if len(others) > 1 else message


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
    if os.path.exists(path):
        raise Refused("invalid_argument", f"path already exists but it is not a directory: {path}")
    make_folders(path, sandbox.user(user))
    return entry(path), []


def move(sandbox: Sandbox, user: str, source: str, destination: str) -> Answer:
    source, destination = sandbox.path(source, user), sandbox.path(destination, user)
    make_folders(os.path.dirname(os.path.normpath(destination)), sandbox.user(user))
    try:
        os.rename(source, destination)
    except FileNotFoundError as error:
        raise Refused("not_found", f"source file not found: {source}") from error
    except OSError as error:
        raise Refused("internal", f"error renaming: rename {source} {destination}: {error.strerror}".lower()) from error
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
    """The folder and those on the way to it, which belong to the user as far as they are new. Follows symlinks."""
    missing, path = [], os.path.normpath(path)
    while path != "/" and not os.path.exists(path):
        missing.append(path)
        path = os.path.dirname(path)
    if not os.path.isdir(path):
        raise Refused("internal", f"path is a file: {path}")
    for folder in reversed(missing):
        try:
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o755)
        except OSError as error:
            raise Refused("internal", f"failed to create directory: mkdir {reason_of(error)}") from error
        give(folder, who)


def give(target: str | int, who: dict[str, Any]) -> None:
    if who["uid"] is not None:
        os.chown(target, who["uid"], who["gid"])


def entry(path: str) -> dict[str, Any]:
    """What envd tells about a path: of a symlink the target's type and mode, `symlink` set to where it leads.

    A link that leads nowhere has no type and mode 0, and leads to itself.
    """
    try:
        info = os.lstat(path)
    except FileNotFoundError as error:
        raise Refused("not_found", f"file not found: {path}") from error
    symlink, target = None, info.st_mode
    if stat.S_ISLNK(info.st_mode):
        try:
            symlink = os.path.realpath(path, strict=True)
            target = os.stat(symlink).st_mode
        except OSError:
            symlink, target = path, 0
    return {
        "name": os.path.basename(os.path.normpath(path)),
        "path": path,
        "type": "dir" if stat.S_ISDIR(target) else "file" if stat.S_ISREG(target) else "",
        "size": info.st_size,
        "mode": target & 0o777,
        "permissions": mode_text(info.st_mode),
        "owner": account("pwd", "getpwuid", info.st_uid),
        "group": account("grp", "getgrgid", info.st_gid),
        "modified_ns": info.st_mtime_ns,
        "symlink": symlink,
        "metadata": read_metadata(path),
    }


def mode_text(mode: int) -> str:
    """As Go writes a file's mode: a letter for each thing it is, then the permissions of the three classes."""
    kinds = {stat.S_IFDIR: "d", stat.S_IFLNK: "L", stat.S_IFBLK: "D", stat.S_IFIFO: "p", stat.S_IFSOCK: "S"}
    letters = {**kinds, stat.S_IFCHR: "D"}.get(stat.S_IFMT(mode), "")
    letters += "u" if mode & stat.S_ISUID else ""
    letters += "g" if mode & stat.S_ISGID else ""
    letters += "c" if stat.S_ISCHR(mode) else ""
    letters += "t" if mode & stat.S_ISVTX else ""
    return (letters or "-") + stat.filemode(mode & 0o777)[1:]


def account(module: str, lookup: str, number: int) -> str:
    try:
        return str(getattr(__import__(module), lookup)(number)[0])
    except KeyError:
        return str(number)


def read_metadata(target: str | int) -> dict[str, str]:
    """The metadata in a file's extended attributes, without what is not UTF-8: anything in the sandbox can set it."""
    if not hasattr(os, "listxattr"):  # macOS
        return {}
    found = {}
    with contextlib.suppress(OSError):  # a file system without extended attributes has no metadata
        for name in os.listxattr(target):
            if name.startswith(METADATA_PREFIX):
                with contextlib.suppress(UnicodeError):
                    found[name.removeprefix(METADATA_PREFIX)] = os.getxattr(target, name).decode()
    return found


def write_metadata(fd: int, metadata: dict[str, str]) -> None:
    """Replace a file's metadata; envd, too, goes on where the file system cannot keep any."""
    if not hasattr(os, "setxattr"):  # macOS
        return
    with contextlib.suppress(OSError):
        for name in os.listxattr(fd):
            if name.startswith(METADATA_PREFIX):
                os.removexattr(fd, name)
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


# --- envd's port forwarder ---------------------------------------------------------------------------------------


def forward_ports(sandbox: Sandbox) -> NoReturn:
    """For each process of the sandbox that listens on localhost, start `socat` as envd does: as root, found on PATH.

    It never forwards anything here, where no interface has its address. What counts is that it is started.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    forwarded: dict[tuple[int, int], int] = {}
    while True:
        time.sleep(SCAN_EVERY_S)
        listening = set(listeners(sandbox))
        for pid, port, version in listening:
            if (pid, port) not in forwarded:
                forwarded[pid, port] = start_socat(port, version)
        for key in forwarded.keys() - {(pid, port) for pid, port, _ in listening}:
            if forwarded[key]:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(forwarded[key], signal.SIGKILL)
                forwarded[key] = 0


def start_socat(port: int, version: int) -> int:
    """Its pid, or 0 where there is none."""
    program = found_on_path("socat")
    if program is None:
        return 0
    source = f"TCP4-LISTEN:{port},bind={GATEWAY},reuseaddr,fork"
    argv = ["socat", "-d", "-d", "-d", source, f"TCP{version}:localhost:{port}"]
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setpgid(0, 0)
        with contextlib.suppress(OSError):
            os.execve(program, argv, {"PATH": SYSTEM_PATH})
        os._exit(127)
    return pid


def listeners(sandbox: Sandbox) -> Iterator[tuple[int, int, int]]:
    """(pid, port, IP version) of each process of the sandbox that listens on localhost. The network is the machine's:
    others listen there, too."""
    ports = dict(listening_sockets())
    if not ports:
        return
    for uid, gid in {(who["uid"], who["gid"]) for who in sandbox.users.values()}:
        for pid, inode in sockets_of(uid, gid):
            if inode in ports:
                yield pid, *ports[inode]


def listening_sockets() -> Iterator[tuple[str, tuple[int, int]]]:
    """(inode, (port, IP version)) of the sockets that listen on localhost."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{name}") as table:
            for line in list(table)[1:]:
                fields = line.split()
                address, _, port = fields[1].partition(":")
                if fields[3] == LISTENING and address in LOCALHOST:
                    yield fields[9], (int(port, 16), LOCALHOST[address])


def sockets_of(uid: int | None, gid: int | None) -> list[tuple[int, str]]:
    """(pid, inode) of the open sockets of a user's processes. Without CAP_SYS_PTRACE only that user may see them."""
    if uid is None or gid is None:
        return list(visible_sockets())
    os.setegid(gid)
    os.seteuid(uid)
    try:
        return list(visible_sockets())
    finally:
        os.seteuid(0)
        os.setegid(0)


def visible_sockets() -> Iterator[tuple[int, str]]:
    for pid in os.listdir("/proc"):
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd") if pid.isdigit() else ():
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if target.startswith("socket:["):
                        yield int(pid), target[len("socket:[") : -1]


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
    if sandbox.owns_pid_namespace and os.fork() == 0:
        control.close()
        forward_ports(sandbox)
    if sys.platform == "linux" and not sandbox.owns_pid_namespace:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans stay our descendants
    with contextlib.suppress(ConnectionError):  # the server died while we reported to it
        serve(sandbox, control)
    end_everything(sandbox)


if __name__ == "__main__":
    main()
