"""Results of jobs: their keys, and the store that keeps them.

A key holds the attempt token, so attempts never write over each other; only the published row
says which one counts.
"""

from pathlib import Path
from typing import BinaryIO, Protocol

from worker.jobs.contract import Artifact, Job
from worker.jobs.disk import DiskStore
from worker.jobs.settings import JobSettings

VIDEO = "video.mp4"
THUMBNAIL = "thumbnail.webp"
SIDECAR = "sidecar.json"


class ArtifactStore(Protocol):
    """Where blobs live. Keys are relative paths of plain names; others raise ValueError."""

    def put_file(self, key: str, path: Path) -> Artifact:
        """Copy a local file to `key`; durable and complete once this returns."""
        ...

    def open(self, key: str) -> BinaryIO:
        """The blob's bytes. raises FileNotFoundError"""
        ...

    def path(self, key: str) -> Path | None:
        """The blob's local file, or None if it is missing or not local."""
        ...

    def exists(self, key: str) -> bool:
        """Whether the blob is there."""
        ...

    def delete_prefix(self, prefix: str) -> None:
        """Delete every blob below `prefix`; fine if there is none."""
        ...


def open_store(settings: JobSettings) -> ArtifactStore:
    """The store that the settings name. Makes no folder before the first blob."""
    return DiskStore(settings.data_dir / "artifacts")


def job_prefix(tenant: str, job_id: str) -> str:
    """The start of the keys of all results of a job, slash included."""
    return f"{tenant}/{job_id}/"


def artifact_prefix(job: Job, exec: str) -> str:
    """The start of the keys of one attempt's results, slash included: add VIDEO or another name."""
    return f"{job_prefix(job.tenant, job.id)}{exec}/"
