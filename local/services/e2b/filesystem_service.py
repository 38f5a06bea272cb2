"""envd's filesystem: the RPCs and the /files endpoint behind `sandbox.files`.

All of it happens inside the sandbox (`sandbox_init`): this server only ever holds open descriptors, so a path an
agent planted cannot lead it anywhere on the machine. `watch_dir` is not offered, nor more than one range of a file.
"""

import asyncio
import errno
import os
import re
import zlib
from collections.abc import AsyncIterator
from email.utils import formatdate
from functools import partial
from typing import Any

from connectrpc.request import RequestContext
from e2b.envd.filesystem import filesystem_pb as pb
from e2b.envd.filesystem.filesystem_connect import Filesystem
from protobuf.wkt import Timestamp
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from local.services.e2b.box import BoxGone, Refused
from local.services.e2b.envd import (
    Unauthorized,
    check_token,
    connection_lost,
    not_running,
    rpc_error,
    sandbox_of_url,
    serve,
    unauthorized,
    user_of,
)
from local.services.e2b.journal import CONTENT_CHARS
from local.services.e2b.sandboxes import Fleet, NotFound, Sandbox

BYTES = "application/octet-stream"
CHUNK_BYTES = 256 * 1024
DISCONNECTED_EVERY_S = 0.5
GZIP = 16 + zlib.MAX_WBITS
TYPES = {"file": pb.FileType.FILE, "dir": pb.FileType.DIRECTORY, "": pb.FileType.UNSPECIFIED}
PATHS = {"path", "source", "destination"}
RANGE = re.compile(r"bytes=(\d*)-(\d*)")

Context = RequestContext[Any, Any]


class FilesystemService(Filesystem):
    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def stat(self, request: pb.StatRequest, ctx: Context) -> pb.StatResponse:
        return pb.StatResponse(entry=entry_of(await self._ask(ctx, "stat", path=request.path)))

    async def list_dir(self, request: pb.ListDirRequest, ctx: Context) -> pb.ListDirResponse:
        entries = await self._ask(ctx, "list", path=request.path, depth=request.depth or 1)
        return pb.ListDirResponse(entries=[entry_of(entry) for entry in entries])

    async def make_dir(self, request: pb.MakeDirRequest, ctx: Context) -> pb.MakeDirResponse:
        return pb.MakeDirResponse(entry=entry_of(await self._ask(ctx, "make_folder", path=request.path)))

    async def move(self, request: pb.MoveRequest, ctx: Context) -> pb.MoveResponse:
        entry = await self._ask(ctx, "move", source=request.source, destination=request.destination)
        return pb.MoveResponse(entry=entry_of(entry))

    async def remove(self, request: pb.RemoveRequest, ctx: Context) -> pb.RemoveResponse:
        await self._ask(ctx, "remove", path=request.path)
        return pb.RemoveResponse()

    async def _ask(self, ctx: Context, op: str, **request: Any) -> Any:
        sandbox_id = ctx.request_headers.get("e2b-sandbox-id", "")
        try:
            sandbox = self._fleet.get(sandbox_id)
            for name in PATHS & request.keys():
                request[name] = request[name] or sandbox.envd.folder
            reply = await sandbox.box.ask(op, user=user_of(sandbox, ctx.request_headers), **request)
        except Refused as refused:
            raise rpc_error(refused) from refused
        except (NotFound, BoxGone) as gone:
            raise connection_lost(sandbox_id) from gone
        return reply.value


def entry_of(entry: dict[str, Any]) -> pb.EntryInfo:
    """An entry as `sandbox_init` tells it. A symlink has its target's type: this envd does not mark it as a link."""
    seconds, nanos = divmod(entry["modified_ns"], 10**9)
    info = pb.EntryInfo(
        name=printable(entry["name"]),
        path=printable(entry["path"]),
        type=TYPES[entry["type"]],
        size=entry["size"],
        mode=entry["mode"],
        permissions=entry["permissions"],
        owner=entry["owner"],
        group=entry["group"],
        modified_time=Timestamp(seconds=seconds, nanos=nanos),
        metadata=entry["metadata"],
    )
    if entry["symlink"] is not None:
        info.symlink_target = printable(entry["symlink"])
    return info


def printable(path: str) -> str:
    """A name that is not UTF-8 arrives with surrogates, which no protobuf string may hold."""
    return path.encode(errors="replace").decode()


class Files:
    """`GET` and `POST /files`: file contents, for the holder of the access token or of a signed URL. An ASGI app."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            sandbox = await self._sandbox(request, "read" if request.method == "GET" else "write")
        except Unauthorized as error:
            await unauthorized(str(error))(scope, receive, send)
        except NotFound as error:
            await not_running(str(error))(scope, receive, send)
        else:
            await serve(partial(self._serve, sandbox), sandbox, scope, receive, send)

    async def _serve(self, sandbox: Sandbox, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            work = self._download if request.method == "GET" else self._upload
            response = await work(sandbox, request)
        except BoxGone as error:
            response = not_running(str(error))
        except Refused as refused:
            response = file_error(refused.status, str(refused))
        except BadRequest as error:
            response = file_error(400, str(error))
        except OSError as error:
            response = file_error(*failed_write(error, request))
        if response is not None:
            await response(scope, receive, send)

    async def _sandbox(self, request: Request, operation: str) -> Sandbox:
        sandbox_id = request.headers.get("e2b-sandbox-id")
        if sandbox_id is None or ("x-access-token" not in request.headers and "signature" in request.query_params):
            return await sandbox_of_url(self._fleet, request.query_params, operation)
        sandbox = await self._fleet.reach(sandbox_id)
        check_token(sandbox, request.headers)
        return sandbox

    async def _download(self, sandbox: Sandbox, request: Request) -> Response | None:
        user, path = subject(sandbox, request)
        reply = await sandbox.box.ask("open_read", user=user, path=path)
        if not reply.fds:
            await never_answered(request)
            return None
        return content_of(reply.fds[0], reply.value["modified_s"], request)

    async def _upload(self, sandbox: Sandbox, request: Request) -> Response | None:
        if (encoding := request.headers.get("content-encoding", "identity")) not in ("identity", "gzip"):
            raise BadRequest(
                f"error decompressing request body: unsupported Content-Encoding: {encoding}, supported: [gzip]"
            )
        content_type = request.headers.get("content-type", "")
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type == "application/octet-stream":
            return await self._upload_body(sandbox, request)
        if media_type.startswith("multipart/"):
            return await self._upload_form(sandbox, request)
        raise BadRequest(
            f"unsupported content type: {content_type}, expected multipart/form-data or application/octet-stream"
        )

    async def _upload_body(self, sandbox: Sandbox, request: Request) -> Response | None:
        if "path" not in request.query_params:
            raise BadRequest("path query parameter is required for raw body upload")
        user, path = subject(sandbox, request)
        body: AsyncIterator[bytes] = request.stream()
        if request.headers.get("content-encoding") == "gzip":
            body = gunzipped(body)
        entry = await self._store(sandbox, user, path, request, [], body)
        if entry is None:
            await never_answered(request)
            return None
        return JSONResponse([entry])

    async def _upload_form(self, sandbox: Sandbox, request: Request) -> Response | None:
        """Write the files one after the other: those before one that fails are there."""
        user, path = subject(sandbox, request)
        entries: list[dict[str, Any]] = []
        async with request.form(max_files=float("inf"), max_fields=float("inf")) as form:
            for part in form.getlist("file"):
                if isinstance(part, str):
                    raise BadRequest("error getting multipart custom part file name: the part names no file")
                target = path if "path" in request.query_params else part.filename or sandbox.envd.folder
                written = [entry["path"] for entry in entries]
                entry = await self._store(sandbox, user, target, request, written, parts_of(part))
                if entry is None:
                    await never_answered(request)
                    return None
                entries.append(entry)
        return JSONResponse(entries)

    async def _store(
        self,
        sandbox: Sandbox,
        user: str,
        path: str,
        request: Request,
        written: list[str],
        content: AsyncIterator[bytes],
    ) -> dict[str, Any] | None:
        """Write one file; the answer is what the SDK calls WriteInfo, or None where envd waits for a reader."""
        journal, beginning = self._fleet.journal, bytearray()
        metadata = {
            name.removeprefix("x-metadata-"): value
            for name, value in request.headers.items()
            if name.startswith("x-metadata-")
        }
        reply = await sandbox.box.ask("open_write", user=user, path=path, metadata=metadata, written=written)
        if not reply.fds:
            return None
        fd = reply.fds[0]
        try:
            async for chunk in copied(content, beginning) if journal.on else content:
                await asyncio.to_thread(write_all, fd, chunk)
        finally:
            os.close(fd)
        journal.note("upload", sandbox_id=sandbox.id, path=path, content=beginning.decode("latin-1"))
        return {"type": "file", **reply.value}


class BadRequest(Exception):
    """A request that envd answers with 400 in these words."""


def subject(sandbox: Sandbox, request: Request) -> tuple[str, str]:
    """The user as whom a request acts, and the path it names: both have defaults."""
    query = request.query_params
    return query.get("username", sandbox.envd.user), query.get("path") or sandbox.envd.folder


async def never_answered(request: Request) -> None:
    """What a FIFO does to envd, which opens it and waits for the other side: until the client goes away."""
    while not await request.is_disconnected():
        await asyncio.sleep(DISCONNECTED_EVERY_S)


def content_of(fd: int, modified_s: int, request: Request) -> Response:
    """The answer of envd for an open file, which it closes: compressed where the client takes that, else whole or in
    part as long as the file is said to be. Files of /proc do not say it."""
    headers = {"Vary": "Accept-Encoding", "Content-Disposition": "inline"}
    if "gzip" in request.headers.get("accept-encoding", "") and "range" not in request.headers:
        headers["Content-Encoding"] = "gzip"
        return StreamingResponse(gzipped(chunks(fd)), headers=headers, media_type=BYTES)
    try:
        size = os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        os.close(fd)
        return PlainTextResponse("seeker can't seek\n", 500)
    headers |= {"Accept-Ranges": "bytes", "Last-Modified": formatdate(modified_s, usegmt=True)}
    wanted_range = request.headers.get("range", "")
    if wanted_range and not wanted_range.startswith("bytes="):
        os.close(fd)
        return PlainTextResponse("invalid range\n", 416)
    part = part_of(wanted_range, size)
    if part is not None and not part:
        os.close(fd)
        return PlainTextResponse("invalid range: failed to overlap\n", 416, {"Content-Range": f"bytes */{size}"})
    wanted, status = (range(size), 200) if part is None else (part, 206)
    if part is not None:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    headers["Content-Length"] = str(len(wanted))
    os.lseek(fd, wanted.start, os.SEEK_SET)
    return StreamingResponse(chunks(fd, len(wanted)), status, headers, BYTES)


def part_of(wanted: str, size: int) -> range | None:
    """The bytes that a Range header names: None for all of them, empty for none that are there."""
    found = RANGE.fullmatch(wanted.replace(" ", ""))
    if found is None or found.groups() == ("", ""):
        return None
    first, last = found.groups()
    if not first:
        return range(max(0, size - int(last)), size)
    return range(min(int(first), size), min(int(last) + 1 if last else size, size))


def failed_write(error: OSError, request: Request) -> tuple[int, str]:
    if error.errno != errno.ENOSPC:
        return 500, f"error writing file: {(error.strerror or '').lower()}"
    length = request.headers.get("content-length", "0")
    attempt = "" if length == "0" else f"attempted to write {length} bytes: "
    return 507, f"{attempt}not enough disk space available"


async def copied(content: AsyncIterator[bytes], beginning: bytearray) -> AsyncIterator[bytes]:
    """The same content, of which the beginning is put aside."""
    async for chunk in content:
        beginning += chunk[: CONTENT_CHARS - len(beginning)]
        yield chunk


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


async def parts_of(upload: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await upload.read(CHUNK_BYTES):
        yield chunk


async def chunks(fd: int, length: int | None = None) -> AsyncIterator[bytes]:
    """What is in the file, or at most that many bytes of it: it may grow meanwhile."""
    try:
        left = CHUNK_BYTES if length is None else length
        while chunk := await asyncio.to_thread(os.read, fd, min(CHUNK_BYTES, left)):
            left -= 0 if length is None else len(chunk)
            yield chunk
    finally:
        os.close(fd)


async def gzipped(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    compressor = zlib.compressobj(wbits=GZIP)
    async for chunk in content:
        yield compressor.compress(chunk)
    yield compressor.flush()


async def gunzipped(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    decompressor = zlib.decompressobj(wbits=GZIP)
    async for chunk in content:
        yield decompressor.decompress(chunk)
    yield decompressor.flush()


def file_error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"code": status, "message": message}, status)
