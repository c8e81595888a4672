"""Finished films that are not stored yet: kept on this machine, so that no fault of the store
loses one.

A film goes onto the shelf whole, by one rename, and comes off it when its job has ended. Whoever
tries the job next on this machine finds it and only stores it. Knows no queue and no model.
"""

import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, ValidationError

from worker.jobs.artifacts import ArtifactStore
from worker.jobs.blobs import SEGMENT
from worker.jobs.contract import Artifact

log = structlog.get_logger()

Value = TypeVar("Value")

FACTS = "film.json"
FIRST_WAIT_S = 0.2
LONGEST_WAIT_S = 5.0
BLINK_S = 0.1  # how long a wait may overlook a cancel


class Unstored(Exception):
    """The store took nothing for longer than we wait; the film is still on the shelf."""


class Facts(BaseModel):
    """What is known of a film when it is finished."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digests: Mapping[str, str]  # SHA-256 in hex of each file, by its name
    notes: Mapping[str, Any]  # goes into the sidecar
    model_sha256: str
    stage_seconds: Mapping[str, float]
    peak_memory_mb: float


@dataclass(frozen=True)
class Film:
    """A finished film: a folder of files with the names that they get in the store."""

    folder: Path
    facts: Facts


class Shelf:
    """The finished films of one machine, by job and attempt."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def keep(self, folder: Path, job_id: str, exec: str, facts: Mapping[str, Any]) -> Film:
        """Move a folder of finished files onto the shelf, on the same file system.

        facts  all of `Facts` but the digests
        """
        digests = {path.name: digest(path) for path in sorted(folder.iterdir())}
        known = Facts(digests=digests, **facts)
        (folder / FACTS).write_text(known.model_dump_json(), encoding="utf-8")
        place = self._of(job_id) / exec
        place.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(place)
        return Film(place, known)

    def find(self, job_id: str) -> Film | None:
        """A whole film of this job, whichever attempt finished it."""
        for folder in sorted(self._of(job_id).glob("*")):
            with suppress(OSError, ValidationError):
                facts = Facts.model_validate_json((folder / FACTS).read_bytes())
                if all(digest(folder / name) == known for name, known in facts.digests.items()):
                    return Film(folder, facts)
        return None

    def drop(self, job_id: str) -> None:
        """The job has ended: forget its films."""
        shutil.rmtree(self._of(job_id), ignore_errors=True)

    def jobs(self) -> list[str]:
        """The jobs with something on the shelf."""
        return [path.name for path in self._root.glob("*")]

    def _of(self, job_id: str) -> Path:
        if not SEGMENT.fullmatch(job_id):
            raise ValueError(f"job {job_id!r} is not one plain name")
        return self._root / job_id


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with path.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()


def persist(
    store: ArtifactStore, key: str, path: Path, patience_s: float, check: Callable[[], None]
) -> Artifact:
    """Store a file, again and again while the store is away.

    check   called ten times a second while waiting; what it raises ends the waiting
    raises  Unstored when the patience is spent; OSError for what will not pass
    """
    try:
        return outwait(lambda: store.put_file(key, path), patience_s, check)
    except OSError as error:
        if is_lasting(error):
            raise
        raise Unstored from error


def outwait(action: Callable[[], Value], patience_s: float, check: Callable[[], None]) -> Value:
    """What an action on the store gives, tried again and again while the store is away.

    check   called ten times a second while waiting; what it raises ends the waiting
    raises  the action's OSError when the patience is spent, or at once for what will not pass
    """
    deadline = time.monotonic() + patience_s
    wait_s = FIRST_WAIT_S
    while True:
        check()
        try:
            return action()
        except OSError as error:
            if is_lasting(error) or time.monotonic() + wait_s > deadline:
                raise
            log.warning("storage.failed", reason=str(error), wait_s=wait_s)
        until = time.monotonic() + wait_s
        while (left_s := until - time.monotonic()) > 0:
            check()
            time.sleep(min(BLINK_S, left_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def is_lasting(error: OSError) -> bool:
    """Whether waiting would not help: the file is gone, or larger than any may be."""
    return isinstance(error, FileNotFoundError) or error.errno == errno.EFBIG
