"""Workers of several classes on one queue server: each makes what is meant for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis

from tests.worker.conftest import Studio, until
from worker.jobs.contract import Status
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

CLASSES = {"gpu_classes": "large,small"}


@pytest.fixture
def fleet(redis: Redis, job_settings: JobSettings, tmp_path: Path) -> Iterator[Studio]:
    settings = job_settings.model_copy(update={"gpu_classes": ("large", "small")})
    opened = Studio(JobStore(redis, settings), settings, tmp_path)
    yield opened
    opened.close()


def test_a_job_waits_for_a_worker_of_its_class_though_another_is_idle(fleet: Studio) -> None:
    small = fleet.worker(**CLASSES, gpu_class="small")
    meant, anybodys = fleet.submit(gpu_class="large"), fleet.submit()
    assert fleet.ended(anybodys).worker == fleet.info(small).name
    until(lambda: fleet.info(small).state == "idle", what="a worker without a job")
    assert fleet.job(meant).status is Status.QUEUED
    large = fleet.worker(**CLASSES, gpu_class="large")
    job = fleet.ended(meant)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)
    assert job.worker == fleet.info(large).name
    assert fleet.info(large).gpu_class == "large"
