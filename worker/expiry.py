"""What expires with time: the files of old results, and the indexes that name them."""

import time
from collections.abc import Iterator
from pathlib import Path
from shutil import rmtree
from typing import cast

import structlog
from redis import Redis

from worker.jobs import keys
from worker.jobs.artifacts import ArtifactStore, job_prefix
from worker.jobs.settings import DAY_S, JobSettings

log = structlog.get_logger()


class Sweeper:
    """Deletes what no row stands for any more. Slow work: call it about once a minute."""

    def __init__(self, settings: JobSettings, redis: Redis, artifacts: ArtifactStore) -> None:
        self._settings = settings
        self._redis = redis
        self._artifacts = artifacts

    def sweep(self) -> None:
        """One pass over every tenant's old jobs and this machine's scratch folders."""
        for tenant in self._tenants():
            self.expire_results(tenant)
        self.clear_scratch(self._settings.data_dir / "scratch")

    def expire_results(self, tenant: str) -> None:
        """Delete the files of results past their time, and index entries without a row."""
        index = keys.tenant_jobs(tenant)
        oldest_kept = time.time() - self._settings.result_ttl_s
        for member in cast("list[bytes]", self._redis.zrangebyscore(index, "-inf", oldest_kept)):
            job_id = member.decode()
            expires_at, params = cast(
                "list[bytes | None]",
                self._redis.hmget(keys.job(job_id), "expires_at", "params"),
            )
            gone = params is None
            if gone or (expires_at and float(expires_at) < time.time()):
                self._artifacts.delete_prefix(job_prefix(tenant, job_id))
            if gone:
                self._redis.zrem(index, job_id)

    def clear_scratch(self, folder: Path) -> None:
        """Delete what killed workers left behind; a living one touches its folder at each job."""
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - DAY_S:
                rmtree(path, ignore_errors=True)
                log.info("scratch.cleared", folder=path.name)

    def _tenants(self) -> Iterator[str]:
        pattern = keys.tenant_jobs("*")
        before, after = (part.encode() for part in pattern.split("*"))
        for key in self._redis.scan_iter(pattern, count=1000):
            yield cast(bytes, key).removeprefix(before).removesuffix(after).decode()
