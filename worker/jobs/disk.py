"""Blobs in a folder: written beside, flushed to the disk, then renamed into place."""

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

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


class DiskStore:
    """Artifacts below one folder. A key is a relative path of plain names; nothing overwrites
    a blob in place, so a reader sees the old one or the new one, whole.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._moved: Callable[[], None] = unseen

    def telling(self, moved: Callable[[], None]) -> "DiskStore":
        """The same folder. What is read from `open` is the reader's to tell."""
        other = copy.copy(self)
        other._moved = moved
        return other

    def put_file(self, key: str, path: Path) -> Artifact:
        """Copy a local file to `key`; durable and complete once this returns.

        raises ValueError for an unsafe key or unknown suffix; OSError, leaving nothing behind
        """
        media_type = read_media_type(key)
        target = self._locate(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{uuid4().hex}.part")
        try:
            sha256, size = _copy(path, beside, self._moved)
            beside.replace(target)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        _flush_folder(target.parent)
        return Artifact(key=key, sha256=sha256, size_bytes=size, media_type=media_type)

    def copy(self, artifact: Artifact, key: str) -> Artifact:
        """Give a blob a second name: bytes are copied only where the disk cannot link.

        raises FileNotFoundError, ValueError for an unsafe key; OSError, leaving nothing behind
        """
        read_media_type(key)
        source, target = self._locate(artifact.key), self._locate(key)
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{uuid4().hex}.part")
        try:
            os.link(source, beside)
            beside.replace(target)
        except FileNotFoundError:
            raise
        except OSError:
            return self.put_file(key, source)
        finally:
            beside.unlink(missing_ok=True)
        _flush_folder(target.parent)
        return artifact.model_copy(update={"key": key})

    def open(self, key: str) -> BinaryIO:
        """The blob's bytes. raises FileNotFoundError, StorageFault, ValueError for an unsafe key"""
        try:
            return self._locate(key).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            self._refuse_absence()
            raise

    def path(self, key: str) -> Path | None:
        """The blob's file, or None if there is none. raises StorageFault"""
        found = self._locate(key)
        if found.is_file():
            return found
        self._refuse_absence()
        return None

    def exists(self, key: str) -> bool:
        """Whether the blob is there. raises StorageFault"""
        return self.path(key) is not None

    def delete_prefix(self, prefix: str) -> None:
        """Delete every blob below `prefix`, a folder; fine if there is none."""
        folder = self._locate(prefix.rstrip("/"))
        shutil.rmtree(folder, ignore_errors=True)

    def list(self, prefix: str) -> Iterator[Blob]:
        """Every blob below `prefix`, a folder or "" for all; half-written ones included."""
        folder = self._locate(prefix.rstrip("/")) if prefix else self._root
        for path in sorted(folder.rglob("*")):
            with suppress(FileNotFoundError):  # deleted meanwhile
                if path.is_file():
                    facts = path.stat()
                    key = path.relative_to(self._root).as_posix()
                    yield Blob(key, facts.st_size, facts.st_mtime)

    def link(self, key: str, ttl_s: int, serving: Serving) -> str | None:
        """None: only this service can reach the folder."""
        check_key(key)
        return None

    def _refuse_absence(self) -> None:
        """Say that nothing is gone if the whole folder is: a disk that is not mounted comes back.

        raises StorageFault
        """
        if not self._root.is_dir():
            raise StorageFault("the folder of the artifacts is away")

    def _locate(self, key: str) -> Path:
        check_key(key)
        return self._root.joinpath(*key.split("/"))


def _copy(source: Path, target: Path, moved: Callable[[], None]) -> tuple[str, int]:
    """Copy and flush. returns the SHA-256 in hex and the size in bytes"""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, target.open("xb") as writer:
        while chunk := reader.read(CHUNK_BYTES):
            digest.update(chunk)
            size += writer.write(chunk)
            moved()
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest(), size


def _flush_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
