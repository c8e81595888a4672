"""The bytes of a finished video: variants, ranges, validators, and who may have them.

Where the artifact store can be reached by clients they are sent there; else the bytes pass here.
"""

import base64
import time
from collections.abc import AsyncIterator
from typing import Annotated, BinaryIO, Literal

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.security import HTTPAuthorizationCredentials
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from service.deps import Services, Wired, bearer, get_caller
from service.errors import PermissionDenied, RangeNotSatisfiable, VideoExpired, VideoNotReady
from service.ranges import Slice, Unsatisfiable, is_current, read_range
from service.schema import binary, refusals
from service.videos import known_shape
from service.wire import content_path, is_expired
from worker.jobs.blobs import Serving
from worker.jobs.contract import Artifact, Job, Status

router = APIRouter(tags=["videos"])

CHUNK_BYTES = 256 * 1024
PATH = content_path("{video_id}")
SUFFIXES = {"video/mp4": "mp4", "image/webp": "webp", "image/jpeg": "jpg", "image/png": "png"}
BYTES = {"content": binary(*SUFFIXES)}

Variant = Annotated[Literal["video", "thumbnail", "spritesheet", "last_frame"], Query()]


def get_reader(
    request: Request,
    services: Wired,
    video_id: str,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    variant: Variant = "video",
    expires: Annotated[int | None, Query(description="Of a signed link.")] = None,
    signature: Annotated[str | None, Query(description="Of a signed link.")] = None,
) -> str | None:
    """The tenant whose videos may be read; None is any, once a signed link for this one was shown.

    raises PermissionDenied for a link that is none or whose time is over, InvalidApiKey,
           RateLimited
    """
    if signature is not None:
        if services.links.allows(content_path(video_id), variant, expires, signature):
            return None
        if credentials is None:
            raise PermissionDenied(
                "signature: this link is not valid for this file, or its time is over", "signature"
            )
    return get_caller(request, services, credentials).tenant


Reader = Annotated[str | None, Depends(get_reader)]


@router.get(
    PATH,
    operation_id="downloadVideoContent",
    summary="Download a video or a picture of it",
    response_class=Response,
    responses={
        200: {"description": "All of it.", **BYTES},
        206: {"description": "The asked range.", **BYTES},
        302: {"description": "It is to be had at `Location`, for a while and without a key."},
        304: {"description": "Unchanged."},
        **refusals(400, 401, 403, 404, 410, 416, 429, 503),
    },
)
def download_content(
    request: Request, video_id: str, reader: Reader, services: Wired, variant: Variant = "video"
) -> Response:
    """The file, or the slice of it that `Range` asks for."""
    job = services.store.get(known_shape(video_id), reader)
    artifact = choose(job, variant)
    headers = describe(artifact, video_id)
    if is_current(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=unchanged(headers))
    elsewhere = find_elsewhere(job, artifact, headers, services)
    if elsewhere is not None:
        return Response(status_code=302, headers=elsewhere)
    part = read_part(request, artifact, headers["ETag"])
    if part is not None:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{artifact.size_bytes}"
    whole = Slice(0, artifact.size_bytes - 1)
    file = open_artifact(services, artifact)
    return FileAnswer(file, part or whole, 200 if part is None else 206, headers)


@router.head(PATH, include_in_schema=False)
def head_content(
    request: Request, video_id: str, reader: Reader, services: Wired, variant: Variant = "video"
) -> Response:
    """What the bytes are, wherever a GET finds them."""
    artifact = choose(services.store.get(known_shape(video_id), reader), variant)
    headers = describe(artifact, video_id)
    if is_current(request.headers, headers["ETag"]):
        return Response(status_code=304, headers=unchanged(headers))
    check_there(services, artifact)
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
    found: Artifact | None = getattr(job.result, variant)
    if found is None:
        hint = "; order it with return_last_frame" if variant == "last_frame" else ""
        raise VideoNotReady(f"Video {job.id} was made without a {variant}{hint}", "variant")
    return found


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


def find_elsewhere(
    job: Job, artifact: Artifact, headers: dict[str, str], services: Services
) -> dict[str, str] | None:
    """Where the store itself serves the file, as headers; None if only we can.

    raises VideoExpired if the file was cleared away meanwhile
    """
    left_s = services.settings.link_ttl_s
    if job.expires_at is not None:
        left_s = max(1, min(left_s, int(job.expires_at - time.time())))
    serving = Serving(artifact.media_type, headers["Content-Disposition"])
    link = services.artifacts.link(artifact.key, left_s, serving)
    if link is None:
        return None
    check_there(services, artifact)
    return {"Location": link, "Cache-Control": "no-store"}


def check_there(services: Services, artifact: Artifact) -> None:
    if not services.artifacts.exists(artifact.key):
        raise VideoExpired("The content is gone", "video_id")


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
