"""What expires is deleted, and nothing else."""

import os
import time
from pathlib import Path

from redis import Redis

from tests.worker.conftest import read_submission
from worker.expiry import Sweeper
from worker.jobs import keys, transport
from worker.jobs.artifacts import VIDEO, artifact_prefix, open_store
from worker.jobs.contract import Artifact, Job, JobResult
from worker.jobs.settings import DAY_S, JobSettings
from worker.jobs.store import JobStore

WIP = transport.wip_key(transport.queue_name("pocket"))


def finish(store: JobStore, redis: Redis, folder: Path) -> Job:
    """A completed job with a file in the artifact store."""
    job = store.submit(read_submission({"prompt": "a square"})).job
    redis.zadd(WIP, {f"{job.id}:one": time.time() + 60})
    assert store.claim(job.id, "one", "worker", WIP).job is not None
    film = folder / VIDEO
    film.write_bytes(b"film")
    kept: Artifact = open_store(store.settings).put_file(artifact_prefix(job, "one") + VIDEO, film)
    result = JobResult(
        video=kept,
        thumbnail=kept,
        sidecar=kept,
        model_sha256="",
        stage_seconds={},
        peak_memory_mb=0.0,
    )
    assert store.complete(job.id, "one", result)
    return job


def files(settings: JobSettings) -> list[Path]:
    return list((settings.data_dir / "artifacts").glob("**/*.mp4"))


def sweeper(settings: JobSettings, redis: Redis) -> Sweeper:
    return Sweeper(settings, redis, open_store(settings))


def test_files_go_when_their_time_is_over(redis: Redis, valkey: object, tmp_path: Path) -> None:
    url = f"unix://{redis.connection_pool.connection_kwargs['path']}"
    settings = JobSettings(redis_url=url, data_dir=tmp_path, result_ttl_s=1)  # type: ignore[arg-type]
    job = finish(JobStore(redis, settings), redis, tmp_path)
    sweeper(settings, redis).sweep()
    assert len(files(settings)) == 1
    time.sleep(1.1)
    sweeper(settings, redis).sweep()
    assert files(settings) == []
    # The row stays another day, so that the result is known to be gone.
    assert redis.zscore(keys.tenant_jobs("studio"), job.id) is not None


def test_index_forgets_what_has_no_row(redis: Redis, valkey: object, tmp_path: Path) -> None:
    url = f"unix://{redis.connection_pool.connection_kwargs['path']}"
    settings = JobSettings(redis_url=url, data_dir=tmp_path, result_ttl_s=1)  # type: ignore[arg-type]
    job = finish(JobStore(redis, settings), redis, tmp_path)
    redis.delete(keys.job(job.id))
    time.sleep(1.1)
    sweeper(settings, redis).sweep()
    assert redis.zscore(keys.tenant_jobs("studio"), job.id) is None
    assert files(settings) == []


def test_a_kept_result_stays(redis: Redis, job_settings: JobSettings, tmp_path: Path) -> None:
    finish(JobStore(redis, job_settings), redis, tmp_path)
    sweeper(job_settings, redis).sweep()
    assert len(files(job_settings)) == 1


def test_only_old_scratch_is_cleared(redis: Redis, job_settings: JobSettings) -> None:
    old, young = (job_settings.data_dir / "scratch" / name for name in ("old", "young"))
    for folder in (old, young):
        folder.mkdir(parents=True)
        (folder / "part").touch()
    os.utime(old, (0, time.time() - DAY_S - 60))
    sweeper(job_settings, redis).sweep()
    assert (old.exists(), young.exists()) == (False, True)
