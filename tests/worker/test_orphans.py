"""Blobs that nobody needs go, from either store; those that somebody needs stay."""

import time
from collections.abc import Callable
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis

from tests.buckets import Wire
from tests.conftest import Valkey
from tests.worker.conftest import read_submission, until
from tests.worker.test_storage import begin
from worker.expiry import Sweeper
from worker.jobs import keys, transport
from worker.jobs.artifacts import (
    SIDECAR,
    VIDEO,
    ArtifactStore,
    artifact_prefix,
    checkpoint_prefix,
    job_prefix,
    open_store,
)
from worker.jobs.contract import Job, JobResult
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore
from worker.orphans import YOUNG_S, clear_orphans
from worker.shelf import Shelf

WIP = transport.wip_key(transport.queue_name("pocket"))
OLD_S = -1.0  # everything that is there is older than this

Put = Callable[[str], str]


@pytest.fixture(params=["disk", "s3"])
def blobs(request: pytest.FixtureRequest, job_settings: JobSettings) -> ArtifactStore:
    """Either store."""
    if request.param == "disk":
        return open_store(job_settings)
    found: ArtifactStore = request.getfixturevalue("s3")
    return found


@pytest.fixture
def put(blobs: ArtifactStore, tmp_path: Path) -> Put:
    """Stores something small under a key."""
    source = tmp_path / "source"
    source.write_bytes(b"film")

    def act(key: str) -> str:
        return blobs.put_file(key, source).key

    return act


def claim(store: JobStore, redis: Redis) -> tuple[Job, str]:
    """A running job and its token."""
    job, token = store.submit(read_submission({"prompt": "a square"})).job, uuid4().hex
    redis.zadd(WIP, {f"{job.id}:{token}": time.time() + 60})
    claimed = store.claim(job.id, token, "worker", WIP)
    assert claimed.job is not None
    return claimed.job, token


def complete(store: JobStore, redis: Redis, blobs: ArtifactStore, tmp_path: Path) -> str:
    """A completed job; the key of its film."""
    job, token = claim(store, redis)
    film = tmp_path / VIDEO
    film.write_bytes(b"film")
    kept = blobs.put_file(artifact_prefix(job, token) + VIDEO, film)
    result = JobResult(
        video=kept,
        thumbnail=kept,
        sidecar=kept,
        model_sha256="",
        stage_seconds={},
        peak_memory_mb=0.0,
    )
    assert store.complete(job.id, token, result)
    return kept.key


def test_only_what_a_row_stands_for_stays(
    store: JobStore, redis: Redis, blobs: ArtifactStore, put: Put, tmp_path: Path
) -> None:
    published = complete(store, redis, blobs, tmp_path)
    folder = published.rsplit("/", 2)[0]
    running, token = claim(store, redis)
    deleted = complete(store, redis, blobs, tmp_path)
    store.delete(deleted.split("/")[1], "studio")
    wanted = {
        published,
        put(f"{folder}/inputs/first_frame.png"),
        put(artifact_prefix(running, token) + VIDEO),
        put(f"{checkpoint_prefix('studio', running.id)}{token}-1/state.safetensors"),
        put("studio/files/file-1/content.png"),
        put("studio/elsewhere.json"),
    }
    put(f"{folder}/{uuid4().hex}/{VIDEO}")  # of an attempt that lost
    put(f"{folder}/checkpoints/{uuid4().hex}-1/state.safetensors")  # of a job that has ended
    put(f"{job_prefix('studio', 'video_' + '0' * 32)}{uuid4().hex}/{SIDECAR}")  # of no job at all
    clear_orphans(redis, blobs)
    assert len(list(blobs.list(""))) == len(wanted) + 4  # all is young: nobody touches it
    for _ in range(2):
        clear_orphans(redis, blobs, OLD_S)
        assert {blob.key for blob in blobs.list("")} == wanted


def test_young_blobs_wait_for_their_job(redis: Redis, blobs: ArtifactStore, put: Put) -> None:
    """Inputs are stored before their job is admitted."""
    key = put(f"studio/video_{uuid4().hex}/inputs/first_frame.png")
    clear_orphans(redis, blobs, 5.0)
    assert blobs.exists(key)
    assert YOUNG_S >= 3600


def test_expired_results_leave_either_store(
    redis: Redis, job_settings: JobSettings, blobs: ArtifactStore, tmp_path: Path
) -> None:
    settings = job_settings.model_copy(update={"result_ttl_s": 1})
    expired = complete(JobStore(redis, settings), redis, blobs, tmp_path)
    kept = complete(JobStore(redis, job_settings), redis, blobs, tmp_path)
    sweeper = Sweeper(settings, redis, blobs)
    sweeper.sweep()
    assert blobs.exists(expired)
    time.sleep(1.1)
    sweeper.sweep()
    assert not blobs.exists(expired)
    assert blobs.exists(kept)
    assert redis.hget(keys.job(expired.split("/")[1]), "state") == b"completed"


def test_expired_files_are_deleted_once_and_not_every_minute(
    redis: Redis, job_settings: JobSettings, s3: ArtifactStore, wire: Wire, tmp_path: Path
) -> None:
    settings = job_settings.model_copy(update={"result_ttl_s": 1})
    key = complete(JobStore(redis, settings), redis, s3, tmp_path)
    time.sleep(1.1)
    sweeper = Sweeper(settings, redis, s3)
    sweeper.sweep()
    assert not s3.exists(key)
    wire.sent.clear()
    sweeper.sweep()
    assert key.split("/")[1].encode() not in wire.sent


def test_a_sweep_survives_a_store_that_is_away(
    redis: Redis, job_settings: JobSettings, s3: ArtifactStore, wire: Wire, tmp_path: Path
) -> None:
    settings = job_settings.model_copy(update={"result_ttl_s": 1})
    key = complete(JobStore(redis, settings), redis, s3, tmp_path)
    time.sleep(1.1)
    sweeper = Sweeper(settings, redis, s3)
    wire.cut()
    sweeper.sweep()
    wire.mend()
    assert s3.exists(key)
    sweeper.sweep()
    assert not s3.exists(key)


def test_no_lease_waits_for_a_store_that_does_not_answer(
    valkey: Valkey,
    s3_fields: dict[str, str],
    s3: ArtifactStore,
    wire: Wire,
    redis: Redis,
    tmp_path: Path,
) -> None:
    studio = begin(tmp_path, valkey.url, s3_fields)
    try:
        wire.stall()
        studio.start("worker.janitor", sweep_every_s=0.1, **s3_fields)
        until(lambda: wire.sent, what="a question to the store")  # of 20 s, that nobody answers
        job, token = claim(studio.store, redis)
        redis.zadd(WIP, {f"{job.id}:{token}": time.time() - 1})
        until(lambda: studio.job(job.id).queue_position == 1, 10, "the job back in line")
    finally:
        studio.close()


def test_the_shelf_keeps_only_films_of_live_jobs(
    store: JobStore, redis: Redis, job_settings: JobSettings, tmp_path: Path
) -> None:
    shelf = Shelf(job_settings.shelf_dir)
    facts = {"notes": {}, "model_sha256": "", "stage_seconds": {}, "peak_memory_mb": 0.0}
    running, token = claim(store, redis)
    for job_id in (running.id, f"video_{'0' * 32}"):
        folder = tmp_path / job_id
        folder.mkdir()
        (folder / VIDEO).write_bytes(b"film")
        shelf.keep(folder, job_id, token, facts)
    Sweeper(job_settings, redis, open_store(job_settings)).sweep()
    assert shelf.jobs() == [running.id]
