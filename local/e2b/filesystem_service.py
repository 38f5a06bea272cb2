"""envd's filesystem: the RPCs and the /files endpoint behind `sandbox.files`.

All of it happens inside the sandbox (`sandbox_init`): this server only ever holds open descriptors, so a path an
agent planted cannot lead it anywhere on the machine. `watch_dir` is not offered.
"""

import asyncio
import errno
import os
import zlib
from collections.abc import AsyncIterator
from typing import Any

from connectrpc.request import RequestContext
from e2b.envd.filesystem import filesystem_pb as pb
from e2b.envd.filesystem.filesystem_connect import Filesystem
from protobuf.wkt import Timestamp
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from local.e2b.box import BoxGone, Refused
from local.e2b.envd import (
    Unauthorized,
    check_token,
    connection_lost,
    not_running,
    rpc_error,
    sandbox_of_url,
    unauthorized,
    user_of,
)
from local.e2b.isolation import DEFAULT_USER
from local.e2b.journal import CONTENT_CHARS
from local.e2b.sandboxes import Fleet, NotFound, Sandbox

CHUNK_BYTES = 256 * 1024
GZIP = 16 + zlib.MAX_WBITS
TYPES = {"file": pb.FileType.FILE, "dir": pb.FileType.DIRECTORY, "": pb.FileType.UNSPECIFIED}
STATUS = {"not_found": 404, "invalid_argument": 400, "permission_denied": 403, "unauthenticated": 401}

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
            reply = await sandbox.box.ask(op, user=user_of(sandbox, ctx.request_headers), **request)
        except Refused as refused:
            raise rpc_error(refused) from refused
        except (NotFound, BoxGone) as gone:
            raise connection_lost(sandbox_id) from gone
        return reply.value


def entry_of(entry: dict[str, Any]) -> pb.EntryInfo:
    """An entry as `sandbox_init` tells it. A symlink has its target's type and is marked as link."""
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
        is_symlink=entry["symlink"] is not None,
    )
    if entry["symlink"] is not None:
        info.symlink_target = printable(entry["symlink"])
    return info


def printable(path: str) -> str:
    """A name that is not UTF-8 arrives with surrogates, which no protobuf string may hold."""
    return path.encode(errors="replace").decode()


class Files:
    """`GET` and `POST /files`: file contents, for the holder of the access token or of a signed URL."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def serve(self, request: Request) -> Response:
        try:
            if request.method == "GET":
                return await self._download(request)
            return await self._upload(request)
        except Unauthorized as error:
            return unauthorized(str(error))
        except (NotFound, BoxGone) as error:
            return not_running(str(error))
        except (Refused, OSError) as error:
            return file_error(status_of(error), str(error))

    async def _sandbox(self, request: Request, operation: str) -> Sandbox:
        sandbox_id = request.headers.get("e2b-sandbox-id")
        if "x-access-token" not in request.headers:
            return await sandbox_of_url(self._fleet, request.query_params, operation)
        sandbox = await self._fleet.reach(sandbox_id or "")
        check_token(sandbox, request.headers)
        return sandbox

    async def _download(self, request: Request) -> Response:
        sandbox = await self._sandbox(request, "read")
        path = request.query_params.get("path", "")
        user = request.query_params.get("username", DEFAULT_USER)
        reply = await sandbox.box.ask("open_read", user=user, path=path)
        headers = {"Vary": "Accept-Encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            content = gzipped(chunks(reply.fds[0]))
        else:
            headers["Content-Length"] = str(os.fstat(reply.fds[0]).st_size)
            content = chunks(reply.fds[0])
        return StreamingResponse(content, headers=headers, media_type="application/octet-stream")

    async def _upload(self, request: Request) -> Response:
        sandbox = await self._sandbox(request, "write")
        user = request.query_params.get("username", DEFAULT_USER)
        path = request.query_params.get("path")
        metadata = {
            name.removeprefix("x-metadata-"): value
            for name, value in request.headers.items()
            if name.startswith("x-metadata-")
        }
        if request.headers.get("content-type", "").startswith("multipart/"):
            async with request.form() as form:
                files = [part for part in form.getlist("file") if isinstance(part, UploadFile)]
                written = [
                    await self._store(sandbox, user, path or part.filename or "", metadata, parts_of(part))
                    for part in files
                ]
        elif path is None:
            return file_error(400, "path query parameter is required for raw body upload")
        else:
            body: AsyncIterator[bytes] = request.stream()
            if request.headers.get("content-encoding") == "gzip":
                body = gunzipped(body)
            written = [await self._store(sandbox, user, path, metadata, body)]
        return JSONResponse(written)

    async def _store(
        self, sandbox: Sandbox, user: str, path: str, metadata: dict[str, str], content: AsyncIterator[bytes]
    ) -> dict[str, Any]:
        journal = self._fleet.journal
        if not journal.on:
            return await store(sandbox, user, path, metadata, content)
        beginning = bytearray()
        written = await store(sandbox, user, path, metadata, copied(content, beginning))
        journal.note("upload", sandbox_id=sandbox.id, path=path, content=beginning.decode("latin-1"))
        return written


async def store(
    sandbox: Sandbox, user: str, path: str, metadata: dict[str, str], content: AsyncIterator[bytes]
) -> dict[str, Any]:
    """Write one file; the answer is what the SDK calls WriteInfo."""
    reply = await sandbox.box.ask("open_write", user=user, path=path, metadata=metadata)
    fd = reply.fds[0]
    try:
        async for chunk in content:
            await asyncio.to_thread(write_all, fd, chunk)
    finally:
        os.close(fd)
    return {"type": "file", **reply.value}


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


async def chunks(fd: int) -> AsyncIterator[bytes]:
    try:
        while chunk := await asyncio.to_thread(os.read, fd, CHUNK_BYTES):
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


def status_of(error: Refused | OSError) -> int:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return 507
    return STATUS.get(error.code, 500) if isinstance(error, Refused) else 500


def file_error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"code": status, "message": message}, status)
