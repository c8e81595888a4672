"""Jobs through one real supervisor and its child: results, cancellation, limits, faults."""

import hashlib
import json
import time

import av
import pytest

from tests.worker.conftest import Running, is_running
from worker.jobs import keys, transport
from worker.jobs.contract import ErrorCode, Status


def test_job_becomes_film(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job = studio.ended(studio.submit())
    assert job.status is Status.COMPLETED, job
    assert job.attempt == 1
    assert job.progress == 100
    assert job.result is not None
    for artifact in (job.result.video, job.result.thumbnail, job.result.sidecar):
        with studio.artifacts.open(artifact.key) as blob:
            data = blob.read()
        assert hashlib.sha256(data).hexdigest() == artifact.sha256
        assert len(data) == artifact.size_bytes
    with studio.artifacts.open(job.result.sidecar.key) as blob:
        sidecar = json.load(blob)
    assert sidecar["request"]["prompt"] == "a square"
    assert sidecar["video_sha256"] == job.result.video.sha256
    assert sidecar["stage_seconds"].keys() >= {"denoising", "decoding", "post_processing"}
    assert studio.info(worker).loads == loads


def test_events_tell_every_stage_in_order(running: Running) -> None:
    studio, _ = running
    job_id = studio.submit("pace=0.01")
    studio.ended(job_id)
    events = studio.store.events.read(job_id, None)
    stages = [str(event.job.stage) for event in events.events]
    order = list(dict.fromkeys(stages))
    assert order == [
        "queued",
        "loading",
        "encoding",
        "denoising",
        "decoding",
        "post_processing",
        "uploading",
        "done",
    ]


def test_one_load_serves_many_jobs(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    ids = [studio.submit(f"square {index}") for index in range(4)]
    assert [studio.ended(job_id).status for job_id in ids] == [Status.COMPLETED] * 4
    assert studio.info(worker).loads == loads


def test_same_request_same_pictures(running: Running) -> None:
    studio, _ = running
    pictures = []
    for _ in range(2):
        result = studio.ended(studio.submit("twice")).result
        assert result is not None
        # The comment holds job id and timings, so the files differ.
        with av.open(str(studio.artifacts.path(result.video.key))) as film:
            pictures.append([frame.to_ndarray().tobytes() for frame in film.decode(video=0)])
    assert len(pictures[0]) == 15
    assert pictures[0] == pictures[1]


def test_cancelled_in_queue_never_runs(running: Running) -> None:
    studio, _ = running
    before = studio.submit("pace=0.05", num_inference_steps=10)
    job_id = studio.submit()
    studio.store.cancel(job_id, "studio")
    for other in (before, studio.submit()):
        assert studio.ended(other).status is Status.COMPLETED
    job = studio.job(job_id)
    assert job.error is not None
    assert (job.error.code, job.attempt) == (ErrorCode.CANCELLED, 0)
    assert not studio.videos(job_id)


def test_soft_cancel_is_quick_and_keeps_the_model(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job_id = studio.submit("pace=0.05", num_inference_steps=100)
    studio.denoising(job_id, 2)
    started = time.monotonic()
    studio.store.cancel(job_id, "studio")
    job = studio.ended(job_id)
    assert time.monotonic() - started < 1.5
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == loads
    assert not studio.videos(job_id)


def test_stop_command_alone_cancels(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job_id = studio.submit("pace=0.05", num_inference_steps=100)
    studio.denoising(job_id)
    assert transport.send_stop(studio.store.redis, job_id)
    job = studio.ended(job_id)
    assert job.error is not None
    assert (job.error.code, job.cancel_requested) == (ErrorCode.CANCELLED, False)
    assert studio.info(worker).loads == loads


def test_cancel_without_the_fast_path_takes_the_flag(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job_id = studio.submit("pace=0.05", num_inference_steps=100)
    studio.denoising(job_id)
    studio.store.redis.hset(keys.job(job_id), "cancel", "1")
    started = time.monotonic()
    job = studio.ended(job_id)
    assert time.monotonic() - started < 4.0
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert studio.info(worker).loads == loads


def test_hung_child_is_killed_after_grace(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job_id = studio.submit("hang=2")
    child = worker.child_pid()
    studio.denoising(job_id, 1)
    studio.store.cancel(job_id, "studio")
    job = studio.ended(job_id)
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert not is_running(child)
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == loads + 1


def test_soft_time_limit_keeps_the_model(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job_id = studio.submit("pace=0.05", num_inference_steps=100, job_timeout_s=0.5)
    job = studio.ended(job_id)
    assert job.error is not None
    assert job.error.code is ErrorCode.TIMEOUT
    assert "0.5 s" in job.error.message
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == loads


def test_hard_time_limit_kills(running: Running) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job = studio.ended(studio.submit("hang=1", job_timeout_s=0.5))
    assert job.error is not None
    assert job.error.code is ErrorCode.TIMEOUT
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == loads + 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("RuntimeError", ErrorCode.INTERNAL_ERROR),
        ("ValueError", ErrorCode.INTERNAL_ERROR),
        ("MemoryError", ErrorCode.OUT_OF_MEMORY),
        ("OutOfMemoryError", ErrorCode.OUT_OF_MEMORY),
    ],
)
def test_deterministic_fault_fails_at_once(running: Running, fault: str, code: ErrorCode) -> None:
    studio, worker = running
    loads = studio.info(worker).loads
    job = studio.ended(studio.submit(f"raise={fault}"))
    assert job.error is not None
    assert (job.error.code, job.attempt) == (code, 1)
    assert "/path" not in job.error.message
    log = worker.log.read_text()
    assert "misbehave" in log  # where it happened
    assert "raise=" not in log  # never the prompt, nor a text that may quote it
    assert "/path" not in log
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == loads


def test_progress_rises_and_tells_the_time_left(running: Running) -> None:
    studio, _ = running
    job_id = studio.submit("pace=0.05", num_inference_steps=40)
    studio.denoising(job_id, 8)
    job = studio.job(job_id)
    assert 0 < job.progress < 100
    assert job.eta_s is not None
    assert 0.5 * 0.05 * (40 - job.step) < job.eta_s < 4 * 0.05 * (40 - job.step) + 1
