"""A film that could not be stored waits on its machine for the next attempt and the next worker."""

import signal
from pathlib import Path

from tests.buckets import Wire
from tests.conftest import Valkey
from tests.worker.conftest import until
from tests.worker.test_storage import begin, shelved, sidecar
from worker.jobs.artifacts import ArtifactStore
from worker.jobs.contract import Status


def test_a_film_outlives_patience_and_worker(
    valkey: Valkey,
    s3_fields: dict[str, str],
    s3: ArtifactStore,
    wire: Wire,
    tmp_path: Path,
) -> None:
    studio = begin(tmp_path, valkey.url, s3_fields)
    try:
        worker = studio.worker(storage_patience_s=0.5, **s3_fields)
        wire.cut()
        job_id = studio.submit()
        until(lambda: len(studio.job(job_id).attempts) >= 2, what="two attempts given back")
        worker.signal(signal.SIGTERM)  # it drains, and the film stays on the machine
        assert worker.wait() == 0
        job = studio.job(job_id)
        assert job.status is Status.QUEUED
        assert job.retries_left == studio.settings.max_attempts - 1
        assert {attempt.reason for attempt in job.attempts} <= {
            "The clip is finished, but the storage did not take it.",
            "the worker was stopped",
        }
        assert shelved(studio) == [job_id]
        wire.mend()
        studio.worker(**s3_fields)
        job = studio.ended(job_id)
        assert job.status is Status.COMPLETED
        assert sidecar(job, s3)["attempt"] == 1
        until(lambda: shelved(studio) == [], what="an empty shelf")
    finally:
        studio.close()
