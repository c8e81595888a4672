"""What expires with time: files of results and inputs, the indexes that name them, and what workers
that are gone have left behind."""

import time
from pathlib import Path
from shutil import rmtree
from typing import cast

import structlog
from redis import Redis

from worker.clock import Clock
from worker.jobs import keys, transport
from worker.jobs.artifacts import ArtifactStore, job_prefix
from worker.jobs.characters import CharacterShelf
from worker.jobs.files import FileShelf
from worker.jobs.inputs import InputShelf
from worker.jobs.settings import DAY_S, JobSettings
from worker.jobs.tenants import read_tenants
from worker.orphans import clear_orphans
from worker.shelf import Shelf

log = structlog.get_logger()

ORPHANS_EVERY_S = 3600.0


class Sweeper:
    """Deletes what no row stands for any more. Slow work: call it about once a minute."""

    def __init__(self, settings: JobSettings, redis: Redis, artifacts: ArtifactStore) -> None:
        self._settings = settings
        self._redis = redis
        self._artifacts = artifacts
        self._inputs = InputShelf(redis, artifacts)
        self._files = FileShelf(redis, artifacts)
        self._characters = CharacterShelf(redis, artifacts)
        self._cleared: set[str] = set()  # jobs whose files are gone and whose row still stands
        self._orphans = Clock(ORPHANS_EVERY_S, at_once=True)

    def sweep(self) -> None:
        """One pass over every tenant's old jobs and this machine's folders, and now and then over
        all blobs. What a store that is away keeps is left for the next pass."""
        transport.forget_workers(self._redis)
        try:
            for tenant in read_tenants(self._redis):
                self.expire_results(tenant)
            self.expire_inputs()
            if self._orphans.due():
                clear_orphans(self._redis, self._artifacts)
        except OSError as error:
            log.warning("storage.failed", action="sweep", reason=str(error))
        self.clear_scratch(self._settings.data_dir / "scratch")
        self.clear_shelf(Shelf(self._settings.shelf_dir))

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
            expired = bool(expires_at and float(expires_at) < time.time())
            if (gone or expired) and job_id not in self._cleared:
                self._artifacts.delete_prefix(job_prefix(tenant, job_id))
                self._cleared.add(job_id)
            if gone:
                self._redis.zrem(index, job_id)
                self._cleared.discard(job_id)

    def expire_inputs(self) -> None:
        """Delete inputs that no job wants any more, and uploaded files past their time."""
        inputs, files = self._inputs.sweep(), self._files.sweep()
        self._characters.sweep()
        if inputs or files:
            log.info("inputs.expired", jobs=inputs, files=files)

    def clear_shelf(self, shelf: Shelf) -> None:
        """Drop finished films whose job has ended."""
        waiting = shelf.jobs()
        live = cast("set[bytes]", self._redis.smembers(keys.LIVE)) if waiting else set()
        for job_id in waiting:
            if job_id.encode() not in live:
                shelf.drop(job_id)

    def clear_scratch(self, folder: Path) -> None:
        """Delete what killed workers left behind; a living one touches its folder at each job."""
        if not folder.is_dir():
            return
        for path in folder.iterdir():
            if path.stat().st_mtime < time.time() - DAY_S:
                rmtree(path, ignore_errors=True)
                log.info("scratch.cleared", folder=path.name)
