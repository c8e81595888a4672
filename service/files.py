"""`/v1/files`: pictures and clips uploaded once, to be named by id in later requests."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import structlog
from fastapi import APIRouter, Query, Request
from starlette.datastructures import UploadFile
from starlette.responses import Response

from service.content import FileAnswer, read_part
from service.deps import Body, Services, Tenant, Wired
from service.errors import (
    InvalidInputMedia,
    InvalidValue,
    MissingParameter,
    NoSuchFile,
    UnknownParameter,
    show,
)
from service.forms import Tree, parse_body
from service.gathering import read_chunks, save_chunks, sniff
from service.inputs import StorageUnavailable, scratch_folder
from service.ranges import Slice, is_current
from service.repeats import IdempotencyKey, once
from service.schema import binary, refusals, upload_body
from service.signatures import ALL
from service.values import Choice, Integer, from_json_text, refuse
from service.wire import Shape, written
from worker.jobs.files import StoredFile

log = structlog.get_logger(__name__)
router = APIRouter(tags=["files"])

FILES = "/v1/files"
FILE_ID = re.compile(r"file-[0-9a-f]{32}")
PURPOSES = ("vision", "user_data")
MAX_NAME_CHARS = 255
MIN_TTL_S = 3600
MEDIA_TYPES = tuple(signature.media_type for signature in ALL)


class File(Shape):
    """OpenAI's File object. Times are Unix seconds."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: str
    status: Literal["processed"] = "processed"
    status_details: None = None


class FilePage(Shape):
    """A slice of a tenant's files; ask `after=<last_id>` while `has_more`."""

    object: Literal["list"] = "list"
    data: list[File]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedFile(Shape):
    """The receipt of a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


@router.post(
    FILES,
    operation_id="createFile",
    summary="Upload a picture or clip",
    response_model=File,
    responses=refusals(400, 401, 409, 413, 415, 422, 429, 503),
    openapi_extra=upload_body(PURPOSES),
)
def create_file(
    body: Body, tenant: Tenant, services: Wired, idempotency_key: IdempotencyKey = None
) -> Response:
    """Keep a file for later requests; what it is, its content tells. A repeated call gets the
    same file."""
    tree = parse_body(body)
    upload, purpose, ttl_s = read_upload(tree, services.settings.file_ttl_s)

    def find(file_id: str) -> StoredFile | None:
        return services.files.get(file_id, tenant)

    def make() -> StoredFile:
        return take_in(upload, purpose, ttl_s, tenant, services)

    file, headers = once(idempotency_key, FILES, tree, tenant, services, find, make)
    return written(to_file(file), headers)


@router.get(
    FILES,
    operation_id="listFiles",
    summary="List files",
    response_model=FilePage,
    responses=refusals(400, 401, 503),
)
def list_files(
    tenant: Tenant,
    services: Wired,
    after: Annotated[str | None, Query(description="Id that the page follows.")] = None,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
    order: Annotated[Literal["asc", "desc"], Query(description="By creation time.")] = "desc",
    purpose: Annotated[str | None, Query()] = None,
) -> Response:
    """One page of the caller's own files."""
    files = [file for file in services.files.list(tenant) if purpose in (None, file.purpose)]
    if order == "desc":
        files.reverse()
    if after is not None:
        places = [index for index, file in enumerate(files) if file.id == after]
        if not places:
            raise InvalidValue(f"after: must be the id of a file; got {show(after)}", "after")
        files = files[places[0] + 1 :]
    page = [to_file(file) for file in files[:limit]]
    answer = FilePage(
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(files) > limit,
    )
    return written(answer)


@router.get(
    FILES + "/{file_id}",
    operation_id="retrieveFile",
    summary="Retrieve a file's facts",
    response_model=File,
    responses=refusals(401, 404, 503),
)
def retrieve_file(file_id: str, tenant: Tenant, services: Wired) -> Response:
    """What is known of a file."""
    return written(to_file(find_file(file_id, tenant, services)))


@router.delete(
    FILES + "/{file_id}",
    operation_id="deleteFile",
    summary="Delete a file",
    response_model=DeletedFile,
    responses=refusals(401, 404, 503),
)
def delete_file(file_id: str, tenant: Tenant, services: Wired) -> Response:
    """Forget a file; jobs that were given it keep what they need of it."""
    services.files.delete(find_file(file_id, tenant, services))
    return written(DeletedFile(id=file_id))


@router.get(
    FILES + "/{file_id}/content",
    operation_id="downloadFile",
    summary="Download a file",
    response_class=Response,
    responses={
        200: {"description": "All of it.", "content": binary(*MEDIA_TYPES)},
        206: {"description": "The asked range.", "content": binary(*MEDIA_TYPES)},
        304: {"description": "Unchanged."},
        **refusals(401, 404, 416, 503),
    },
)
def download_file(request: Request, file_id: str, tenant: Tenant, services: Wired) -> Response:
    """The bytes as they were uploaded, or the slice that `Range` asks for."""
    artifact = find_file(file_id, tenant, services).artifact
    etag = f'"{artifact.sha256}"'
    headers = {"ETag": etag, "Cache-Control": "private"}
    if is_current(request.headers, etag):
        return Response(status_code=304, headers=headers)
    part = read_part(request, artifact, etag)
    suffix = artifact.key.rpartition(".")[2]
    headers |= {
        "Content-Type": artifact.media_type,
        "Content-Disposition": f'attachment; filename="{file_id}.{suffix}"',
        "X-Content-Type-Options": "nosniff",
        "Accept-Ranges": "bytes",
    }
    if part is not None:
        headers["Content-Range"] = f"bytes {part.first}-{part.last}/{artifact.size_bytes}"
    try:
        opened = services.artifacts.open(artifact.key)
    except FileNotFoundError as error:
        raise NoSuchFile(file_id) from error
    whole = Slice(0, artifact.size_bytes - 1)
    return FileAnswer(opened, part or whole, 200 if part is None else 206, headers)


def read_upload(tree: Tree, max_ttl_s: int) -> tuple[UploadFile, str, float]:
    """The file, its purpose, and for how long it is wanted. raises BadRequest"""
    for name in tree:
        if name not in ("file", "purpose", "expires_after"):
            raise UnknownParameter(f"Unknown parameter: {show(name)}", name)
    for name in ("file", "purpose"):
        if tree.get(name) is None:
            raise MissingParameter(f"{name}: is required", name)
    upload = tree["file"]
    if not isinstance(upload, UploadFile):
        raise refuse("file", "a file in a multipart/form-data body", upload)
    purpose = Choice(PURPOSES).read(tree["purpose"], "purpose")
    return upload, purpose, read_ttl(tree.get("expires_after"), max_ttl_s)


def read_ttl(value: object, max_ttl_s: int) -> float:
    """OpenAI's `expires_after: {anchor, seconds}`; absent, as long as files are kept here."""
    if value is None:
        return max_ttl_s
    said = from_json_text(value, "expires_after")
    if not isinstance(said, Mapping) or said.get("anchor", "created_at") != "created_at":
        raise refuse("expires_after", '{anchor: "created_at", seconds}', said)
    longest = max(MIN_TTL_S, max_ttl_s)
    return Integer(MIN_TTL_S, longest).read(said.get("seconds"), "expires_after.seconds")


def take_in(
    upload: UploadFile, purpose: str, ttl_s: float, tenant: str, services: Services
) -> StoredFile:
    """raises InvalidValue if the tenant keeps too many, InvalidInputMedia, StorageUnavailable"""
    limit = services.settings.max_files_per_tenant
    if services.files.count(tenant) >= limit:
        raise InvalidValue(f"file: {limit} files are kept, the most allowed; delete some", "file")
    try:
        file = keep(upload, purpose, ttl_s, tenant, services)
    except OSError as error:
        raise StorageUnavailable("The file cannot be stored at the moment") from error
    log.info("file.created", file_id=file.id, tenant=tenant, size_bytes=file.artifact.size_bytes)
    return file


def keep(
    upload: UploadFile, purpose: str, ttl_s: float, tenant: str, services: Services
) -> StoredFile:
    """Store an upload once its content is known to be a picture or a clip of allowed size.

    raises InvalidInputMedia, OSError
    """
    settings = services.settings
    with scratch_folder(services) as folder:
        path = folder / "upload"
        with path.open("xb") as sink:
            upload.file.seek(0)
            largest = max(settings.max_image_bytes, settings.max_video_bytes)
            size = save_chunks(read_chunks(upload.file), sink, largest, "file")
        signature = sniff(path, None, "file")
        if signature.kind == "image" and size > settings.max_image_bytes:
            raise InvalidInputMedia(
                f"file: has {size} bytes; the limit for pictures is {settings.max_image_bytes}",
                "file",
            )
        name = plain_name(upload.filename, signature.suffix)
        return services.files.put(tenant, path, signature.suffix, name, purpose, ttl_s)


def plain_name(name: str | None, suffix: str) -> str:
    """A file's name as it is shown again: printable, short, and never a path."""
    last = re.split(r"[/\\]", name or "")[-1]
    kept = "".join(char for char in last if char.isprintable())[:MAX_NAME_CHARS]
    return kept or f"upload{suffix}"


def find_file(file_id: str, tenant: str, services: Services) -> StoredFile:
    """raises NoSuchFile"""
    file = services.files.get(file_id, tenant) if FILE_ID.fullmatch(file_id) else None
    if file is None:
        raise NoSuchFile(file_id)
    return file


def to_file(file: StoredFile) -> File:
    """The file as its owner sees it."""
    return File(
        id=file.id,
        bytes=file.artifact.size_bytes,
        created_at=int(file.created_at),
        expires_at=int(file.expires_at),
        filename=file.filename,
        purpose=file.purpose,
    )
