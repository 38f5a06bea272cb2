"""GitHub's git side on a laptop: bare repositories over smart HTTP, for cloning only, and pages to look at them.

    python -m local.services.git.server --root R --port P

serves `R/<owner>/<name>.git` as `http://127.0.0.1:P/<owner>/<name>[.git]`, through git's own `http-backend`. A browser
gets a page there, and one of each pull request at `…/<owner>/<name>/pull/<number>`.
A repository whose folder holds a file `required-token` wants that text as the password of HTTP Basic.
"""

import argparse
import asyncio
import base64
import contextlib
import hmac
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from local.listening import add_port_arguments, listener_of, serve
from local.mirrors import NAME, TOKEN_FILE, GitError
from local.services.github import pages
from local.services.github.pulls import Pulls
from local.services.github.repository import Repository

CHUNK = 64 * 1024


def create_app(root: Path) -> Starlette:
    """Return the server of the repositories below `root`. Raises GitError when git cannot serve HTTP."""
    backend = _http_backend()

    async def clone(request: Request, repository: Path) -> Response:
        if _asks_to_push(request):
            return PlainTextResponse("This server is for cloning only; it accepts no push.", 403)
        return await _run_backend(backend, root, repository, request)

    def allowed(handle: Callable[[Request, Path], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """Have only those requests handled that may read the repository."""

        async def answer(request: Request) -> Response:
            repository = _repository(root, request)
            if repository is None:
                return PlainTextResponse("Repository not found.", 404)
            if not _may_read(repository, request.headers.get("authorization", "")):
                challenge = {"www-authenticate": 'Basic realm="git"'}
                return PlainTextResponse("This repository needs a token.", 401, challenge)
            return await handle(request, repository)

        return answer

    return Starlette(
        routes=[
            Route("/{owner}/{name}/info/refs", allowed(clone), methods=["GET"]),
            Route("/{owner}/{name}/{service}", allowed(clone), methods=["POST"]),
            Route("/{owner}/{name}", allowed(_repository_page), methods=["GET"]),
            Route("/{owner}/{name}/pull/{number}", allowed(_pull_page), methods=["GET"]),
        ],
        exception_handlers={404: _nothing_here, 405: _nothing_here},
    )


async def _repository_page(request: Request, folder: Path) -> Response:
    return _page(await run_in_threadpool(pages.repository_page, _shown(request, folder)))


async def _pull_page(request: Request, folder: Path) -> Response:
    page = await run_in_threadpool(pages.pull_page, _shown(request, folder), request.path_params["number"])
    return PlainTextResponse("Pull request not found.", 404) if page is None else _page(page)


async def _nothing_here(_request: Request, _error: Exception) -> Response:
    return PlainTextResponse("Nothing is at this address. A repository is at /<owner>/<name>.", 404)


def _shown(request: Request, folder: Path) -> pages.Shown:
    path = f"/{folder.parent.name}/{folder.name.removesuffix('.git')}"
    url = f"{request.base_url.scheme}://{request.base_url.netloc}{path}"
    pulls = Pulls(folder.with_name(f"{folder.name.removesuffix('.git')}.pulls.json"))
    return pages.Shown(repository=Repository(folder), pulls=pulls, path=path, url=url)


def _page(html: str) -> Response:
    """What it shows is written by agents and repositories: nothing in it may run or load anything."""
    return HTMLResponse(html, headers=pages.HEADERS)


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
    except ValueError:  # not base64, or not even ASCII
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


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.services.git.server")
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
