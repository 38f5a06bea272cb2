"""GitHub's git side on a laptop: bare repositories over smart HTTP, for cloning only.

    python -m local.git_server --root R --port P

serves `R/<owner>/<name>.git` as `http://127.0.0.1:P/<owner>/<name>[.git]`, through git's own `http-backend`.
A repository whose folder holds a file `required-token` wants that text as the password of HTTP Basic.
"""

import argparse
import asyncio
import base64
import binascii
import contextlib
import hmac
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from tempfile import NamedTemporaryFile

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from local.listening import add_port_arguments, listener_of, serve
from local.sample_repository import COMMITS

NAME = re.compile(r"[A-Za-z0-9_.-]*[A-Za-z0-9_-][A-Za-z0-9_.-]*")  # not "." and not ".."
CHUNK = 64 * 1024
TOKEN_FILE = "required-token"
DETACHED = "detached-head"  # the branch we publish for a source that is on none


class GitError(Exception):
    """git is missing or refused; the text is a sentence for a person."""


def publish(root: Path, owner: str, name: str, source: Path) -> None:
    """Make or update the mirror `root/owner/name.git` from the repository at `source`.

    It gets the branches, the tags and the current branch of `source`, as committed; a file with its required
    token stays. Raises GitError when `source` is no git repository or has no commit yet.
    """
    if not (NAME.fullmatch(owner) and NAME.fullmatch(name)):
        raise GitError(f"{owner}/{name} is not a name of a repository.")
    with _git_environ() as env:
        if _git(env, source, "rev-parse", "--verify", "--quiet", "HEAD", check=False) == "":
            raise GitError(f"{source} is not a git repository with at least one commit.")
        current = _git(env, source, "symbolic-ref", "--quiet", "--short", "HEAD", check=False)
        mirror = root / owner / f"{name}.git"
        mirror.mkdir(parents=True, exist_ok=True)
        _git(env, mirror, "init", "--bare", "--quiet")
        branches = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        detached = [] if current else [f"+HEAD:refs/heads/{DETACHED}"]
        fetch = ("fetch", "--quiet", "--prune", "--update-shallow")
        _git(env, mirror, *fetch, str(source.resolve()), *branches, *detached)
        _git(env, mirror, "symbolic-ref", "HEAD", f"refs/heads/{current or DETACHED}")
        # What GitHub allows too: `clone --filter=blob:none`, and `fetch` of any commit by its id.
        _git(env, mirror, "config", "uploadpack.allowFilter", "true")
        _git(env, mirror, "config", "uploadpack.allowAnySHA1InWant", "true")


def make_sample_repository(path: Path) -> None:
    """Make the demo's repository at `path`: a small Python library of three commits, always the same ids."""
    path.mkdir(parents=True)
    with _git_environ() as env:
        _git(env, path, "init", "--quiet", "--initial-branch=main", "--object-format=sha1")
        for commit in COMMITS:
            for file, text in commit.files.items():
                (path / file).parent.mkdir(parents=True, exist_ok=True)
                (path / file).write_text(text, encoding="utf-8")
            _git(env, path, "add", "--all")
            author = {
                f"GIT_{who}_{what}": value
                for who in ("AUTHOR", "COMMITTER")
                for what, value in (("NAME", commit.name), ("EMAIL", commit.email), ("DATE", commit.date))
            }
            _git({**env, **author}, path, "commit", "--quiet", "--message", commit.message)


def create_app(root: Path) -> Starlette:
    """Return the server of the repositories below `root`. Raises GitError when git cannot serve HTTP."""
    backend = _http_backend()

    async def serve(request: Request) -> Response:
        repository = _repository(root, request)
        if repository is None:
            return PlainTextResponse("Repository not found.", 404)
        if not _may_read(repository, request.headers.get("authorization", "")):
            challenge = {"www-authenticate": 'Basic realm="git"'}
            return PlainTextResponse("This repository needs a token.", 401, challenge)
        if _asks_to_push(request):
            return PlainTextResponse("This server is for cloning only; it accepts no push.", 403)
        return await _run_backend(backend, root, repository, request)

    return Starlette(
        routes=[
            Route("/{owner}/{name}/info/refs", serve, methods=["GET"]),
            Route("/{owner}/{name}/{service}", serve, methods=["POST"]),
        ]
    )


def _repository(root: Path, request: Request) -> Path | None:
    owner, name = request.path_params["owner"], request.path_params["name"].removesuffix(".git")
    if not (NAME.fullmatch(owner) and NAME.fullmatch(name)):
        return None
    repository = root / owner / f"{name}.git"
    return repository if (repository / "HEAD").is_file() else None


def _may_read(repository: Path, authorization: str) -> bool:
    try:
        token = (repository / TOKEN_FILE).read_text().strip()
    except FileNotFoundError:
        return True
    try:
        given = base64.b64decode(authorization.removeprefix("Basic "), validate=True).partition(b":")[2]
    except binascii.Error:
        return False
    return hmac.compare_digest(given, token.encode())


def _asks_to_push(request: Request) -> bool:
    service = request.path_params.get("service") or request.query_params.get("service")
    return service != "git-upload-pack"  # also refuses the old "dumb" protocol, which asks for no service


async def _run_backend(backend: Path, root: Path, repository: Path, request: Request) -> Response:
    """Answer with git's CGI program; it reads the whole request before it writes."""
    body = await request.body()
    service = request.path_params.get("service", "info/refs")
    env = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_PROJECT_ROOT": str(root),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": "1",  # the mirror may belong to another user than the server's
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "PATH_INFO": f"/{repository.relative_to(root)}/{service}",
        "QUERY_STRING": request.url.query,
        "REQUEST_METHOD": request.method,
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(len(body)),
        "HTTP_CONTENT_ENCODING": request.headers.get("content-encoding", ""),
        "HTTP_GIT_PROTOCOL": request.headers.get("git-protocol", ""),
        "REMOTE_ADDR": "127.0.0.1",
    }
    process = await asyncio.create_subprocess_exec(
        backend,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=env,
        start_new_session=True,  # so that its helpers can be ended with it
    )
    assert process.stdin is not None  # noqa: S101 - they are pipes
    assert process.stdout is not None  # noqa: S101
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may refuse without reading
        process.stdin.write(body)
        await process.stdin.drain()
    process.stdin.close()
    status, headers = await _cgi_head(process.stdout)
    return StreamingResponse(_output(process), status, headers)


async def _cgi_head(stdout: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Read the header lines of a CGI answer up to the empty line."""
    headers: dict[str, str] = {}
    while line := (await stdout.readline()).decode("latin-1").strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    if not headers:
        return 500, {}  # the program died; it said why on our stderr
    return int(headers.pop("status", "200").split()[0]), headers


async def _output(process: asyncio.subprocess.Process) -> AsyncIterator[bytes]:
    """Stream what the program writes; end it and its helpers when the client goes away."""
    assert process.stdout is not None  # noqa: S101 - it is a pipe
    try:
        while chunk := await process.stdout.read(CHUNK):
            yield chunk
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def _http_backend() -> Path:
    """Return git's CGI program. Raises GitError with what to install."""
    try:
        folder = subprocess.run(["git", "--exec-path"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise GitError("git is not installed; please install it and try again.") from error
    backend = Path(folder.strip()) / "git-http-backend"
    if not backend.is_file():
        raise GitError(f"This git cannot serve HTTP ({backend} is missing); please install the full git package.")
    return backend


@contextlib.contextmanager
def _git_environ() -> Iterator[dict[str, str]]:
    """Give an environment in which git reads no settings but ours and trusts every folder's owner."""
    with NamedTemporaryFile("w", suffix=".gitconfig") as config:
        config.write("[safe]\n\tdirectory = *\n")
        config.flush()
        yield {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": config.name,  # a file, as git keeps it for the programs it starts
        }


def _git(env: Mapping[str, str], folder: Path, *arguments: str, check: bool = True) -> str:
    """Run git in `folder`, which must itself be a repository or become one, and return what it printed."""
    ceiling = {"GIT_CEILING_DIRECTORIES": str(folder.resolve().parent)}
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, env={**env, **ceiling}, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise GitError("git is not installed; please install it and try again.") from error
    if check and done.returncode != 0:
        raise GitError(f"git {arguments[0]} failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.git_server")
    parser.add_argument("--root", type=Path, required=True, help="folder with <owner>/<name>.git")
    add_port_arguments(parser)
    arguments = parser.parse_args()
    try:
        app = create_app(arguments.root.resolve())
    except GitError as error:
        sys.exit(str(error))
    serve(app, listener_of(arguments), lifespan="off", timeout_graceful_shutdown=2)


if __name__ == "__main__":
    main()
