"""The bytes of a finished video: variants, ranges, validators."""

import base64
from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.deps import Services, Tenant, Wired
from service.errors import RangeNotSatisfiable, VideoExpired, VideoNotReady
from service.ranges import Slice, Unsatisfiable, is_current, read_range
from service.schema import binary, refusals
from service.videos import find
from service.wire import PREFIX, is_expired
from worker.jobs.contract import Artifact, Job, Status

router = APIRouter(tags=["videos"])

CHUNK_BYTES = 256 * 1024
PATH = PREFIX + "/{video_id}/content"
SUFFIXES = {"video/mp4": "mp4", "image/webp": "webp"}

Variant = Annotated[Literal["video", "thumbnail"], Query()]


@router.get(
    PATH,
    operation_id="downloadVideoContent",
    summary="Download a video or its thumbnail",
    response_class=Response,
    responses={
        200: {"description": "All of it.", "content": binary("video/mp4", "image/webp")},
        206: {"description": "The asked range.", "content": binary("video/mp4", "image/webp")},
        304: {"description": "Unchanged."},
        **refusals(400, 401, 404, 410, 416, 503),
    },
)
def download_content(
    request: Request, video_id: str, tenant: Tenant, services: Wired, variant: Variant = "video"
) -> Response:
    """The file, or the slice of it that `Range` asks for."""
    job = find(video_id, tenant, services)
    artifact = choose(job, variant)
    headers = describe(artifact, video_id)
    if is_current(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=unchanged(headers))
    part = read_part(request, artifact, headers["ETag"])
    if part is not None:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{artifact.size_bytes}"
    whole = Slice(0, artifact.size_bytes - 1)
    file = open_artifact(services, artifact)
    return FileAnswer(file, part or whole, 200 if part is None else 206, headers)


@router.head(PATH, include_in_schema=False)
def head_content(
    request: Request, video_id: str, tenant: Tenant, services: Wired, variant: Variant = "video"
) -> Response:
    """What a GET without `Range` would send, but the bytes."""
    artifact = choose(find(video_id, tenant, services), variant)
    headers = describe(artifact, video_id)
    if is_current(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=unchanged(headers))
    open_artifact(services, artifact).close()
    return Response(headers=headers | {"Content-Length": str(artifact.size_bytes)})


def choose(job: Job, variant: str) -> Artifact:
    """The variant's file. raises VideoNotReady, VideoExpired"""
    if job.status is Status.FAILED:
        raise VideoNotReady(f"Video {job.id} failed and has no content", "video_id")
    if job.status is not Status.COMPLETED or job.result is None:
        raise VideoNotReady(
            "Video is not ready yet, use GET /v1/videos/{video_id} to check status", "video_id"
        )
    if is_expired(job):
        raise VideoExpired(f"The content of video {job.id} has expired", "video_id")
    return job.result.video if variant == "video" else job.result.thumbnail


def describe(artifact: Artifact, video_id: str) -> dict[str, str]:
    digest = base64.b64encode(bytes.fromhex(artifact.sha256)).decode()
    name = f"{video_id}.{SUFFIXES.get(artifact.media_type, 'bin')}"
    return {
        "Content-Type": artifact.media_type,
        "Content-Disposition": f'inline; filename="{name}"',
        "ETag": f'"{artifact.sha256}"',
        "Repr-Digest": f"sha-256=:{digest}:",
        "Accept-Ranges": "bytes",
        "Cache-Control": "private",
    }


def unchanged(headers: dict[str, str]) -> dict[str, str]:
    return {name: headers[name] for name in ("ETag", "Cache-Control")}


def read_part(request: Request, artifact: Artifact, etag: str) -> Slice | None:
    try:
        return read_range(request.headers, etag, artifact.size_bytes)
    except Unsatisfiable as error:
        raise RangeNotSatisfiable(
            f"Range: must lie within {artifact.size_bytes} bytes",
            "Range",
            {"Content-Range": f"bytes */{artifact.size_bytes}"},
        ) from error


def open_artifact(services: Services, artifact: Artifact) -> BinaryIO:
    """raises VideoExpired if the file was cleared away meanwhile"""
    try:
        return services.artifacts.open(artifact.key)
    except FileNotFoundError as error:
        raise VideoExpired("The content is gone", "video_id") from error


class FileAnswer(Response):
    """Sends a slice of an open file, read in threads, and closes the file whatever happens."""

    def __init__(self, file: BinaryIO, part: Slice, status: int, headers: dict[str, str]) -> None:
        super().__init__(None, status, headers | {"Content-Length": str(part.length)})
        self.file = file
        self.part = part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            async for chunk in self.chunks():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self.file.close()

    async def chunks(self) -> AsyncIterator[bytes]:
        await to_thread.run_sync(self.file.seek, self.part.first)
        left = self.part.length
        while left > 0:
            chunk = await to_thread.run_sync(self.file.read, min(CHUNK_BYTES, left))
            if not chunk:
                raise OSError(f"the file ends {left} bytes early")
            left -= len(chunk)
            yield chunk
