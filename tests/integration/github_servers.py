"""GitHub's stand-in on this machine, and repositories for it."""

import os
import socket
import subprocess
import threading
from contextlib import contextmanager

import uvicorn

from local.services.github import create_app

PATIENCE_S = 60
ENVIRONMENT = {
    **{f"GIT_{who}_{what}": "Ada" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
}


def serving(root, **options):
    """Serve the repositories below `root`, as a context manager; the URL of the API."""
    return serving_app(create_app(root, **options))


@contextmanager
def serving_app(app):
    """Serve it in a thread; its URL. Requests sent before it is ready wait in the listener's queue."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(PATIENCE_S)


class Git:
    """git in one folder: `git("log")` is what it prints, as text without the last line's end."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, *arguments, stdin=b""):
        return self.raw(*arguments, stdin=stdin).decode().removesuffix("\n")

    def raw(self, *arguments, stdin=b""):
        command = ["git", "-C", str(self.folder), *arguments]
        return subprocess.run(command, input=stdin, env=ENVIRONMENT, capture_output=True, check=True).stdout

    def add_commit(self, files, *parents, branch=None, message="Begin"):
        """A commit with just these `{path: File}`; its id."""
        self("read-tree", "--empty")
        for path, file in files.items():
            blob = self("hash-object", "-w", "--stdin", stdin=file.content)
            self("update-index", "--add", "--cacheinfo", f"{file.mode},{blob},{path}")
        commit = self("commit-tree", self("write-tree"), *(f"-p{one}" for one in parents), f"-m{message}")
        if branch:
            self("update-ref", f"refs/heads/{branch}", commit)
        return commit


def bare_repository(root, owner, name):
    """A new one below `root`, whose current branch will be main."""
    folder = root / owner / f"{name}.git"
    folder.mkdir(parents=True)
    git = Git(folder)
    git("init", "-q", "--bare", "-b", "main")
    return git
