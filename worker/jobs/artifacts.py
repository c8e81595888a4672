"""Results of jobs: their keys, and the store that keeps them.

A key holds the attempt token, so attempts never write over each other; only the published row
says which one counts. Every key starts with its tenant's name.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from worker.jobs.blobs import Blob, Serving
from worker.jobs.contract import Artifact, Job
from worker.jobs.disk import DiskStore
from worker.jobs.settings import StorageSettings

VIDEO = "video.mp4"
THUMBNAIL = "thumbnail.webp"
SPRITESHEET = "spritesheet.jpg"
LAST_FRAME = "last_frame.png"
SIDECAR = "sidecar.json"

CHECKPOINTS = "checkpoints"  # in the place of an attempt: they outlive the one that wrote them

# What a client may ask for, by the name of the field in JobResult.
FILES = {
    "video": VIDEO,
    "thumbnail": THUMBNAIL,
    "spritesheet": SPRITESHEET,
    "last_frame": LAST_FRAME,
}


class ArtifactStore(Protocol):
    """Where blobs live. Keys are relative paths of plain names; others raise ValueError.

    Any call may raise StorageFault, an OSError: the store is away or refuses, and the same call
    may succeed later.
    """

    def put_file(self, key: str, path: Path) -> Artifact:
        """Copy a local file to `key`; durable and complete once this returns. May be repeated.

        raises FileNotFoundError if there is no such local file
        """
        ...

    def copy(self, artifact: Artifact, key: str) -> Artifact:
        """Give a blob a second key; each may then be deleted without the other. May be repeated.

        raises FileNotFoundError if the blob is gone
        """
        ...

    def open(self, key: str) -> BinaryIO:
        """The blob's bytes, seekable. raises FileNotFoundError"""
        ...

    def path(self, key: str) -> Path | None:
        """The blob's local file, or None if it is missing or not local."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the blob is there."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete every blob below `prefix`, a folder; fine if there is none."""
        ...

    def list(self, prefix: str) -> Iterator[Blob]:
        """Every blob below `prefix`, a folder or "" for all of them."""
        ...

    def telling(self, moved: Callable[[], None]) -> "ArtifactStore":
        """The same store, which calls `moved` whenever some bytes of a blob have moved."""
        ...

    def link(self, key: str, ttl_s: int, serving: Serving) -> str | None:
        """A URL under which anybody may GET the blob for `ttl_s` seconds; None if blobs can only
        be streamed. Does not look whether the blob is there."""
        ...


def open_store(settings: StorageSettings) -> ArtifactStore:
    """The store that the settings name. Makes no folder and no connection before the first blob."""
    if settings.bucket is not None:
        # Loaded by those who use it: the client library costs a second and 30 MB.
        from worker.jobs.s3 import S3Store

        return S3Store(settings)
    return DiskStore(settings.artifacts_dir)


def job_prefix(tenant: str, job_id: str) -> str:
    """The start of the keys of all results of a job, slash included."""
    return f"{tenant}/{job_id}/"


def checkpoint_prefix(tenant: str, job_id: str) -> str:
    """The start of the keys of all checkpoints of a job, slash included."""
    return f"{job_prefix(tenant, job_id)}{CHECKPOINTS}/"


def artifact_prefix(job: Job, exec: str) -> str:
    """The start of the keys of one attempt's results, slash included: add VIDEO or another name."""
    return f"{job_prefix(job.tenant, job.id)}{exec}/"
