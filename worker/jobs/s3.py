"""Blobs in a bucket of an S3 server: Amazon's, or any that speaks the same API.

An upload becomes visible as a whole or not at all, and carries its SHA-256, which the server
checks. What the caller of a store gets to see are FileNotFoundError and StorageFault, never the
client library's own errors.
"""

import base64
import copy
import hashlib
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from worker.jobs.blobs import (
    CHUNK_BYTES,
    Blob,
    Serving,
    StorageFault,
    check_key,
    read_media_type,
    unseen,
)
from worker.jobs.contract import Artifact
from worker.jobs.settings import StorageSettings, reveal

IN_MEMORY_BYTES = 8 << 20  # a blob opened for reading; larger ones go through a temporary file
DELETED_AT_ONCE = 1000  # the most keys that one request may name
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})

# Whoever waits for an answer waits here: on a request of the API, or on a cancel. Workers with a
# finished film repeat the call for much longer.
CONNECT_TIMEOUT_S = 3
READ_TIMEOUT_S = 10
TRIES = 2
POOL = 32  # connections, for the API's threads


class S3Store:
    """Artifacts in one bucket, all keys below one prefix. Safe to share between threads."""

    def __init__(self, settings: StorageSettings) -> None:
        place = settings.bucket
        assert place is not None
        self._bucket, self._prefix = place
        self._client = connect(settings, settings.s3_endpoint)
        public = settings.s3_public_endpoint
        self._signer = connect(settings, public) if public else self._client
        self._moved: Callable[[], None] = unseen

    def telling(self, moved: Callable[[], None]) -> "S3Store":
        """The same bucket, over the same connections."""
        other = copy.copy(self)
        other._moved = moved
        return other

    def put_file(self, key: str, path: Path) -> Artifact:
        """Copy a local file to `key`; durable and complete once this returns.

        raises ValueError for an unsafe key or unknown suffix, FileNotFoundError without the
               local file, StorageFault
        """
        check_key(key)
        media_type = read_media_type(key)
        with Upload(path, self._moved) as reader:
            digest = hashlib.file_digest(reader, "sha256")
            size = reader.tell()
            reader.seek(0)
            with translated(key):
                self._client.put_object(
                    Bucket=self._bucket,
                    Key=self._prefix + key,
                    Body=reader,
                    ContentLength=size,
                    ContentType=media_type,
                    ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
                )
        return Artifact(key=key, sha256=digest.hexdigest(), size_bytes=size, media_type=media_type)

    def copy(self, artifact: Artifact, key: str) -> Artifact:
        """A copy made within the bucket. raises FileNotFoundError, StorageFault, ValueError"""
        check_key(key)
        check_key(artifact.key)
        source = {"Bucket": self._bucket, "Key": self._prefix + artifact.key}
        with translated(artifact.key):
            self._client.copy_object(Bucket=self._bucket, Key=self._prefix + key, CopySource=source)
        return artifact.model_copy(update={"key": key})

    def open(self, key: str) -> BinaryIO:
        """The blob's bytes, fetched whole. raises FileNotFoundError, StorageFault, ValueError"""
        check_key(key)
        # The caller's to close, which deletes it.
        spool = cast("BinaryIO", tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES))  # noqa: SIM115
        try:
            with translated(key):
                body = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"]
                with body:
                    for chunk in body.iter_chunks(CHUNK_BYTES):
                        spool.write(chunk)
                        self._moved()
        except BaseException:
            spool.close()
            raise
        spool.seek(0)
        return spool

    def path(self, key: str) -> Path | None:
        """None: no blob is a local file."""
        check_key(key)
        return None

    def exists(self, key: str) -> bool:
        """Whether the blob is there. raises StorageFault"""
        check_key(key)
        try:
            with translated(key):
                self._client.head_object(Bucket=self._bucket, Key=self._prefix + key)
        except FileNotFoundError:
            return False
        return True

    def delete_prefix(self, prefix: str) -> None:
        """Delete every blob below `prefix`, a folder; fine if there is none. raises StorageFault"""
        check_key(prefix.rstrip("/"))  # or "" would mean everything
        keys = [{"Key": self._prefix + blob.key} for blob in self.list(prefix)]
        for start in range(0, len(keys), DELETED_AT_ONCE):
            some = {"Objects": keys[start : start + DELETED_AT_ONCE], "Quiet": True}
            with translated(prefix):
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=some)
            if answer.get("Errors"):
                raise StorageFault(f"the object store kept some blobs below {prefix}")

    def list(self, prefix: str) -> Iterator[Blob]:
        """Every blob below `prefix`, a folder or "" for all. raises StorageFault"""
        folder = prefix.rstrip("/")
        if folder:
            check_key(folder)
            folder += "/"
        pages = self._client.get_paginator("list_objects_v2")
        with translated(prefix):
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix + folder):
                for item in page.get("Contents", ()):
                    key = item["Key"].removeprefix(self._prefix)
                    yield Blob(key, item["Size"], item["LastModified"].timestamp())

    def link(self, key: str, ttl_s: int, serving: Serving) -> str | None:
        """A URL under which anybody may GET the blob for `ttl_s` seconds."""
        check_key(key)
        with translated(key):
            url: str = self._signer.generate_presigned_url(
                "get_object",
                Params={
                    "Bucket": self._bucket,
                    "Key": self._prefix + key,
                    "ResponseContentType": serving.media_type,
                    "ResponseContentDisposition": serving.disposition,
                    "ResponseCacheControl": "private",
                },
                ExpiresIn=ttl_s,
            )
        return url

    def close(self) -> None:
        """Close every connection."""
        self._client.close()
        self._signer.close()


class Upload(BufferedReader):
    """A local file on its way out: it is read on when what was read before is sent."""

    def __init__(self, path: Path, moved: Callable[[], None]) -> None:
        super().__init__(FileIO(path))
        self._moved = moved

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        self._moved()
        return super().read(size)


def connect(settings: StorageSettings, endpoint: str | None) -> Any:
    """A client; talks to nobody yet. What the settings leave open, the environment decides."""
    session = boto3.Session(
        aws_access_key_id=reveal(settings.s3_access_key_id),
        aws_secret_access_key=reveal(settings.s3_secret_access_key),
        region_name=settings.s3_region,
    )
    config = Config(
        signature_version="s3v4",
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=READ_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": TRIES},
        max_pool_connections=POOL,
        # Buckets as host names need DNS entries, which only Amazon's own endpoint has for sure.
        s3={"addressing_style": "path" if endpoint else "auto"},
        # Our own SHA-256 is sent; the library's additional checksums are unknown to many servers.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = session.region_name or "us-east-1"
    return session.client("s3", endpoint_url=endpoint, region_name=region, config=config)


@contextmanager
def translated(key: str) -> Iterator[None]:
    """Turn the client library's errors into ours; what they say about hosts stays out."""
    try:
        yield
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", "unknown"))
        if code in MISSING:
            raise FileNotFoundError(key) from error
        raise StorageFault(f"the object store refused: {code}") from error
    except BotoCoreError as error:
        raise StorageFault(f"the object store does not answer: {type(error).__name__}") from error
