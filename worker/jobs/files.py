"""Files that callers uploaded to use as inputs later: their rows, and their bytes.

A row expires by itself; the bytes go when the janitor sees that their time is over. Nobody but
the tenant who uploaded a file can find it.
"""

import time
from pathlib import Path
from typing import cast
from uuid import uuid4

from redis import Redis

from worker.jobs import keys
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.contract import Artifact, Record

UNFINISHED_S = 3600.0  # an upload that never got its row is deleted after this time


class StoredFile(Record):
    """An uploaded file. Times are Unix seconds."""

    id: str
    tenant: str
    filename: str  # as the caller calls it; never part of a key
    purpose: str
    created_at: float
    expires_at: float
    artifact: Artifact


class FileShelf:
    """The uploaded files of all tenants. Safe to share between threads."""

    def __init__(self, redis: Redis, artifacts: ArtifactStore) -> None:
        self._redis = redis
        self._artifacts = artifacts

    def put(
        self, tenant: str, path: Path, suffix: str, filename: str, purpose: str, ttl_s: float
    ) -> StoredFile:
        """Keep a local file's bytes.

        suffix  of its kind, known to the artifact store
        raises  OSError, ValueError for an unknown suffix
        """
        file_id = f"file-{uuid4().hex}"
        # Listed before the first byte, so that an upload cut short is cleared away.
        self._redis.zadd(keys.FILES, {f"{tenant}/{file_id}": time.time() + UNFINISHED_S})
        artifact = self._artifacts.put_file(f"{prefix(tenant, file_id)}content{suffix}", path)
        now = time.time()
        file = StoredFile(
            id=file_id,
            tenant=tenant,
            filename=filename,
            purpose=purpose,
            created_at=now,
            expires_at=now + ttl_s,
            artifact=artifact,
        )
        pipeline = self._redis.pipeline()
        pipeline.set(keys.file(file_id), file.model_dump_json(), px=max(1, round(ttl_s * 1000)))
        pipeline.zadd(keys.tenant_files(tenant), {file_id: now})
        pipeline.zadd(keys.FILES, {f"{tenant}/{file_id}": file.expires_at})
        pipeline.execute()
        return file

    def get(self, file_id: str, tenant: str) -> StoredFile | None:
        """The tenant's file, or None if there is none of this id."""
        row = cast("bytes | None", self._redis.get(keys.file(file_id)))
        file = StoredFile.model_validate_json(row) if row else None
        return file if file and file.tenant == tenant and file.expires_at > time.time() else None

    def list(self, tenant: str) -> tuple[StoredFile, ...]:
        """All of the tenant's files, oldest first; forgets those whose time is over."""
        index = keys.tenant_files(tenant)
        ids = [item.decode() for item in cast("list[bytes]", self._redis.zrange(index, 0, -1))]
        rows = cast("list[bytes | None]", self._redis.mget(map(keys.file, ids)) if ids else [])
        gone = [file_id for file_id, row in zip(ids, rows, strict=True) if row is None]
        if gone:
            self._redis.zrem(index, *gone)
        return tuple(StoredFile.model_validate_json(row) for row in rows if row)

    def count(self, tenant: str) -> int:
        """How many files the tenant has, some of which may just have expired."""
        return int(self._redis.zcard(keys.tenant_files(tenant)))

    def delete(self, file: StoredFile) -> None:
        """Forget a file, then its bytes; jobs keep what they were given of it."""
        pipeline = self._redis.pipeline()
        pipeline.delete(keys.file(file.id))
        pipeline.zrem(keys.tenant_files(file.tenant), file.id)
        pipeline.execute()
        self._drop(file.tenant, file.id)

    def sweep(self) -> int:
        """Delete the bytes of files whose time is over. returns how many"""
        now = time.time()
        due = cast("list[bytes]", self._redis.zrangebyscore(keys.FILES, "-inf", now))
        for member in due:
            tenant, _, file_id = member.decode().partition("/")
            self._redis.zrem(keys.tenant_files(tenant), file_id)
            self._drop(tenant, file_id)
        return len(due)

    def _drop(self, tenant: str, file_id: str) -> None:
        self._artifacts.delete_prefix(prefix(tenant, file_id))
        self._redis.zrem(keys.FILES, f"{tenant}/{file_id}")


def prefix(tenant: str, file_id: str) -> str:
    """The start of the keys of an uploaded file, slash included; no job's folder is called so."""
    return f"{tenant}/files/{file_id}/"
