"""No fault of the store loses a finished film: real worker, real bucket, a wire that is cut."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.buckets import Bucket, Wire
from tests.conftest import Valkey
from tests.worker.conftest import Process, Studio, until
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.connection import web_client
from worker.jobs.contract import Job, Stage, Status
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

Afar = tuple[Studio, Process]


def begin(folder: Path, url: str, fields: dict[str, Any]) -> Studio:
    """A studio whose results go into the bucket."""
    settings = JobSettings(redis_url=url, data_dir=folder / "data", **fields)
    return Studio(JobStore(web_client(url), settings), settings, folder)


@pytest.fixture(scope="module")
def module_afar(
    valkey_server: Valkey, s3_fields: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Afar]:
    folder = tmp_path_factory.mktemp("afar")
    redis = web_client(valkey_server.url)
    redis.flushall()
    opened = begin(folder, valkey_server.url, s3_fields)
    yield opened, opened.worker(storage_patience_s=600, **s3_fields)
    opened.close()
    redis.close()


@pytest.fixture
def afar(module_afar: Afar, wire: Wire) -> Afar:
    """A worker that stores in the bucket, over a wire that is whole."""
    return module_afar


def uploading(studio: Studio, job_id: str, wire: Wire) -> Job:
    """The job once its film is finished and the store was asked in vain."""
    until(lambda: wire.refused >= 2, what="tries to store")
    until(lambda: studio.job(job_id).stage is Stage.UPLOADING, what="the stage")
    return studio.job(job_id)


def shelved(studio: Studio) -> list[str]:
    """The jobs with a film on the shelf."""
    return [path.name for path in studio.settings.shelf_dir.glob("*")]


def sidecar(job: Job, s3: ArtifactStore) -> dict[str, Any]:
    assert job.result is not None
    with s3.open(job.result.sidecar.key) as file:
        return dict(json.load(file))


def test_a_film_goes_into_the_bucket(afar: Afar, bucket: Bucket, s3: ArtifactStore) -> None:
    studio, _ = afar
    job = studio.ended(studio.submit(return_last_frame=True))
    assert job.status is Status.COMPLETED
    assert job.result is not None
    names = ("last_frame.png", "sidecar.json", "spritesheet.jpg", "thumbnail.webp", "video.mp4")
    folder = job.result.video.key.rpartition("/")[0]
    assert bucket.keys() == [f"praxino/{folder}/{name}" for name in names]
    assert sidecar(job, s3)["video_sha256"] == job.result.video.sha256
    until(lambda: shelved(studio) == [], what="an empty shelf")
    assert studio.videos() == []


def test_a_store_away_at_the_end_is_waited_for(afar: Afar, wire: Wire) -> None:
    studio, worker = afar
    wire.cut()
    job_id = studio.submit()
    uploading(studio, job_id, wire)
    assert shelved(studio) == [job_id]
    wire.mend()
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert studio.info(worker).loads == 1


def test_an_upload_cut_in_the_middle_is_repeated(afar: Afar, wire: Wire, s3: ArtifactStore) -> None:
    studio, _ = afar
    wire.cut_after(20_000)
    job_id = studio.submit("noise=1")  # a film of some 100 kB
    uploading(studio, job_id, wire)
    wire.mend()
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert job.result is not None
    assert job.result.video.size_bytes > 20_000
    assert s3.exists(job.result.video.key)


def test_a_cancel_ends_the_waiting_and_keeps_the_model(afar: Afar, wire: Wire) -> None:
    studio, worker = afar
    loads = studio.info(worker).loads
    wire.cut()
    job_id = studio.submit()
    uploading(studio, job_id, wire)
    studio.store.cancel(job_id, "studio")
    job = studio.ended(job_id)
    assert job.error is not None
    assert job.error.code == "cancelled"
    wire.mend()
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == loads
    until(lambda: shelved(studio) == [], what="an empty shelf")  # dropped once the row says so


def test_a_child_killed_while_storing_loses_no_film(
    afar: Afar, wire: Wire, s3: ArtifactStore
) -> None:
    studio, worker = afar
    wire.cut()
    job_id = studio.submit()
    uploading(studio, job_id, wire)
    os.kill(worker.child_pid(), signal.SIGKILL)
    until(lambda: studio.job(job_id).attempt == 2, what="the second attempt")
    wire.mend()
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 2)
    assert sidecar(job, s3)["attempt"] == 1  # made by the first, only stored by the second
    assert studio.completions(job_id) == 1


def test_the_time_limit_does_not_end_a_finished_film(
    afar: Afar, wire: Wire, s3: ArtifactStore
) -> None:
    studio, _ = afar
    wire.cut()
    job_id = studio.submit(job_timeout_s=3.0)
    until(lambda: len(studio.job(job_id).attempts) >= 1, what="an attempt over its time")
    reasons = {attempt.reason for attempt in studio.job(job_id).attempts}
    assert reasons == {"the finished clip could not be stored in time"}
    wire.mend()
    job = studio.ended(job_id)
    assert job.status is Status.COMPLETED
    assert job.retries_left == studio.settings.max_attempts - 1
    assert sidecar(job, s3)["attempt"] == 1
