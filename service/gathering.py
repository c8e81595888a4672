"""Inputs from wherever they are to files of this machine: counted while they come, told apart by
their content. Nothing here decodes.
"""

import base64
import binascii
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from service.deps import Services
from service.errors import (
    InvalidInputMedia,
    NoSuchFile,
    VideoExpired,
    VideoNotFound,
    VideoNotReady,
)
from service.given import Given
from service.signatures import ALL, HEAD_BYTES, Signature, read_signature
from service.sources import CharacterView, DataUrl, FileId, RemoteUrl, Source, Upload, VideoId
from service.wire import is_expired
from worker.jobs.contract import Status
from worker.jobs.outbound import OutboundError, Times
from worker.jobs.outcomes import JobNotFound

CHUNK_BYTES = 1 << 20
FETCHING_S = 120.0  # for everything that a request names on other servers

Kind = Literal["image", "video"]


@dataclass(frozen=True)
class Gathered:
    """An input as a local file whose suffix tells its kind."""

    path: Path
    kind: Kind


class Gatherer:
    """Brings the inputs of one request into one folder."""

    def __init__(self, services: Services, tenant: str, folder: Path) -> None:
        self._services = services
        self._tenant = tenant
        self._folder = folder
        self._found: dict[Source, Gathered] = {}
        self._fetch_until = time.monotonic() + FETCHING_S

    def fetch(self, given: Given, kind: Kind) -> Gathered:
        """The input as a file, fetched once however often it is given.

        raises InvalidInputMedia for another kind of file, none at all, or too many bytes;
               NoSuchFile, VideoNotFound, VideoNotReady, VideoExpired for an id
        """
        source = given.source
        if source not in self._found:
            # A frame of an earlier job is cut out of its film later.
            wanted: Kind = "video" if isinstance(source, VideoId) else kind
            self._found[source] = self._save(given, wanted)
        return self._found[source]

    def _save(self, given: Given, kind: Kind) -> Gathered:
        settings = self._services.settings
        limit = settings.max_image_bytes if kind == "image" else settings.max_video_bytes
        raw = self._folder / f"source-{len(self._found)}"
        with raw.open("xb") as sink:
            if isinstance(given.source, RemoteUrl):
                self._download(given.source, sink, limit, given.param)
            else:
                save_chunks(self._chunks(given), sink, limit, given.param)
        signature = sniff(raw, kind, given.param)
        return Gathered(raw.rename(raw.with_suffix(signature.suffix)), kind)

    def _chunks(self, given: Given) -> Iterator[bytes]:
        match given.source:
            case Upload(file):
                file.file.seek(0)
                yield from read_chunks(file.file)
            case DataUrl(text):
                yield decode_data_url(text, given.param)
            case FileId(file_id):
                yield from self._stored(self._key_of_file(file_id, given.param))
            case CharacterView(key):
                yield from self._stored(key)
            case VideoId(video_id):
                yield from self._stored(self._key_of_video(video_id, given.param))

    def _stored(self, key: str) -> Iterator[bytes]:
        try:
            with self._services.artifacts.open(key) as file:
                yield from read_chunks(file)
        except FileNotFoundError as error:
            raise VideoExpired("The bytes of an input have expired", "video") from error

    def _key_of_file(self, file_id: str, param: str) -> str:
        file = self._services.files.get(file_id, self._tenant)
        if file is None:
            raise NoSuchFile(file_id, param)
        return file.artifact.key

    def _key_of_video(self, video_id: str, param: str) -> str:
        try:
            job = self._services.store.get(video_id, self._tenant)
        except JobNotFound as error:
            raise VideoNotFound(video_id) from error
        if job.status is not Status.COMPLETED or job.result is None:
            raise VideoNotReady(f"{param}: video {video_id} has no content (yet)", param)
        if is_expired(job):
            raise VideoExpired(f"{param}: the content of video {video_id} has expired", param)
        return job.result.video.key

    def _download(self, source: RemoteUrl, sink: BinaryIO, limit: int, param: str) -> None:
        left_s = max(1.0, self._fetch_until - time.monotonic())
        times = Times(total_s=min(Times().total_s, left_s))
        try:
            self._services.outbound.fetch(source.url, sink, limit, times)
        except OutboundError as error:
            raise InvalidInputMedia(f"{param}: cannot be fetched: {error}", param) from error


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The rest of an open file."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def save_chunks(chunks: Iterator[bytes], sink: BinaryIO, limit: int, param: str) -> int:
    """Write chunks, counting. returns the bytes written; raises InvalidInputMedia"""
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise InvalidInputMedia(f"{param}: has more than {limit} bytes, the limit", param)
        sink.write(chunk)
    return size


def decode_data_url(text: str, param: str) -> bytes:
    """The bytes of `data:…;base64,…`, whatever type it declares. raises InvalidInputMedia"""
    head, comma, payload = text.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InvalidInputMedia(f"{param}: a data-URL must be data:<type>;base64,<bytes>", param)
    try:
        return base64.b64decode(payload, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidInputMedia(f"{param}: the data-URL is not valid base64", param) from error


def sniff(path: Path, kind: Kind | None, param: str) -> Signature:
    """What a file is by its content, if it is of the wanted kind. raises InvalidInputMedia"""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise InvalidInputMedia(f"{param}: the file is empty", param)
    signature = read_signature(head)
    if signature is None or kind not in (None, signature.kind):
        wanted = [known.media_type for known in ALL if kind in (None, known.kind)]
        found = "something else" if signature is None else signature.media_type
        raise InvalidInputMedia(
            f"{param}: must be {', '.join(wanted)} by its content; it is {found}", param
        )
    return signature
