"""A job through a real supervisor and child on a real queue server."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest

from tests.worker.conftest import ROOT, Studio, is_running, until
from worker.jobs.contract import ErrorCode, Status


def test_job_becomes_film(studio: Studio) -> None:
    worker = studio.worker()
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
    assert studio.info(worker).loads == 1


def test_events_tell_every_stage_in_order(studio: Studio) -> None:
    studio.worker()
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


def test_one_load_serves_many_jobs(studio: Studio) -> None:
    worker = studio.worker()
    ids = [studio.submit(f"square {index}") for index in range(4)]
    assert [studio.ended(job_id).status for job_id in ids] == [Status.COMPLETED] * 4
    assert studio.info(worker).loads == 1


def test_same_request_same_film(studio: Studio) -> None:
    studio.worker()
    first, second = (studio.ended(studio.submit("twice")) for _ in range(2))
    with_comment = [job.result for job in (first, second)]
    assert all(with_comment)
    # The comment holds job id and timings; the pictures are equal.
    import av

    pictures = []
    for result in with_comment:
        assert result is not None
        path = studio.artifacts.path(result.video.key)
        with av.open(str(path)) as film:
            pictures.append([frame.to_ndarray().tobytes() for frame in film.decode(video=0)])
    assert pictures[0] == pictures[1]


def test_cancelled_in_queue_never_runs(studio: Studio) -> None:
    job_id = studio.submit()
    studio.store.cancel(job_id, "studio")
    studio.worker()
    other = studio.ended(studio.submit())
    assert other.status is Status.COMPLETED
    job = studio.job(job_id)
    assert job.error is not None
    assert (job.error.code, job.attempt) == (ErrorCode.CANCELLED, 0)
    assert len(studio.videos()) == 1


def test_soft_cancel_is_quick_and_keeps_the_model(studio: Studio) -> None:
    worker = studio.worker()
    job_id = studio.submit("pace=0.05", num_inference_steps=100)
    studio.denoising(job_id, 2)
    started = time.monotonic()
    studio.store.cancel(job_id, "studio")
    job = studio.ended(job_id)
    assert time.monotonic() - started < 0.6  # the flag alone would take up to a second
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == 1
    assert len(studio.videos()) == 1


def test_cancel_without_the_fast_path_takes_the_flag(studio: Studio) -> None:
    worker = studio.worker()
    job_id = studio.submit("pace=0.05", num_inference_steps=100)
    studio.denoising(job_id)
    studio.store.redis.hset(f"px:job:{job_id}", "cancel", "1")
    started = time.monotonic()
    job = studio.ended(job_id)
    assert time.monotonic() - started < 2.5
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert studio.info(worker).loads == 1


def test_hung_child_is_killed_after_grace(studio: Studio) -> None:
    worker = studio.worker()
    job_id = studio.submit("hang=2")
    child = worker.child_pid()
    studio.denoising(job_id, 1)
    studio.store.cancel(job_id, "studio")
    job = studio.ended(job_id)
    assert job.error is not None
    assert job.error.code is ErrorCode.CANCELLED
    assert not is_running(child)
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == 2


def test_soft_time_limit_keeps_the_model(studio: Studio) -> None:
    worker = studio.worker()
    job_id = studio.submit("pace=0.05", num_inference_steps=100, job_timeout_s=0.5)
    job = studio.ended(job_id)
    assert job.error is not None
    assert job.error.code is ErrorCode.TIMEOUT
    assert "0.5 s" in job.error.message
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == 1


def test_hard_time_limit_kills(studio: Studio) -> None:
    worker = studio.worker()
    job = studio.ended(studio.submit("hang=1", job_timeout_s=0.5))
    assert job.error is not None
    assert job.error.code is ErrorCode.TIMEOUT
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == 2


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("RuntimeError", ErrorCode.INTERNAL_ERROR),
        ("ValueError", ErrorCode.INTERNAL_ERROR),
        ("MemoryError", ErrorCode.OUT_OF_MEMORY),
    ],
)
def test_deterministic_fault_fails_at_once(studio: Studio, fault: str, code: ErrorCode) -> None:
    worker = studio.worker()
    job = studio.ended(studio.submit(f"raise={fault}"))
    assert job.error is not None
    assert (job.error.code, job.attempt) == (code, 1)
    assert "/path" not in job.error.message
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == 1


def test_sticky_fault_is_retried_with_a_new_child(studio: Studio) -> None:
    worker = studio.worker(crash_limit=9)
    job = studio.ended(studio.submit("raise=CUDA"))
    assert job.error is not None
    assert (job.error.code, job.attempt) == (ErrorCode.INTERNAL_ERROR, 3)
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == 4


def test_full_disk_is_a_clear_failure(studio: Studio) -> None:
    # One megabyte is the largest file: a noisy clip of this size does not fit.
    worker = studio.worker(max_file_mb=1, encoder="libx264")
    big = {"width": 2048, "height": 1152, "num_frames": 24, "num_inference_steps": 1}
    job = studio.ended(studio.submit("noise=1", **big), 60)
    assert job.error is not None
    assert "disk is full" in job.error.message
    assert job.attempt == 3
    assert studio.videos() == []
    assert not list((studio.settings.data_dir / "scratch").glob("**/*.*"))
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert studio.info(worker).loads == 1


@pytest.mark.parametrize("damage", ["missing", "corrupt"])
def test_bad_weights_stop_the_worker_and_no_job(studio: Studio, damage: str) -> None:
    weights = studio.weights / "shapes.json"
    if damage == "missing":
        weights.unlink()
    else:
        weights.write_bytes(weights.read_bytes()[:7])
    job_id = studio.submit()
    worker = studio.start()
    assert worker.wait() == 3
    last = json.loads(worker.log.read_text().splitlines()[-1])
    events = [json.loads(line) for line in worker.log.read_text().splitlines()]
    reasons = [event["reason"] for event in events if event["event"] == "worker.load_failed"]
    assert len(reasons) == 1, last
    assert str(studio.weights) in reasons[0]
    assert (studio.job(job_id).status, studio.job(job_id).attempt) == (Status.QUEUED, 0)


def test_bad_setting_is_named_without_its_value(studio: Studio) -> None:
    worker = studio.start(redis_url="http://:secret@host")
    assert worker.wait() == 2
    assert "PRAXINO_REDIS_URL" in worker.log.read_text()
    assert "secret" not in worker.log.read_text()


def test_sigterm_gives_a_long_job_back_uncounted(studio: Studio) -> None:
    worker = studio.worker(drain_s=0)
    job_id = studio.submit("pace=0.05", num_inference_steps=60)
    studio.denoising(job_id, 2)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    job = studio.job(job_id)
    assert (job.status, job.queue_position) == (Status.QUEUED, 1)
    assert job.retries_left == studio.settings.max_attempts - 1
    assert [attempt.reason for attempt in job.attempts] == ["the worker was stopped"]
    assert studio.store.workers() == ()
    studio.worker()
    assert studio.ended(job_id).status is Status.COMPLETED
    assert len(studio.videos()) == 1


def test_sigterm_lets_a_short_job_finish(studio: Studio) -> None:
    worker = studio.worker(drain_s=10)
    job_id = studio.submit("pace=0.03", num_inference_steps=40)
    studio.denoising(job_id, 3)
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    job = studio.job(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)


def test_second_sigterm_leaves_a_hung_child_behind_at_once(studio: Studio) -> None:
    worker = studio.worker(drain_s=0, cancel_grace_s=60)
    job_id = studio.submit("hang=2")
    studio.denoising(job_id, 1)
    child = worker.child_pid()
    worker.signal(signal.SIGTERM)
    time.sleep(1.2)
    worker.signal(signal.SIGTERM)
    assert worker.wait(5) == 0
    assert studio.job(job_id).status is Status.QUEUED
    assert not is_running(child)


def test_idle_worker_stops_at_once(studio: Studio) -> None:
    worker = studio.worker()
    child = worker.child_pid()
    worker.signal(signal.SIGTERM)
    assert worker.wait(4) == 0
    assert not is_running(child)


def test_progress_rises_and_tells_the_time_left(studio: Studio) -> None:
    studio.worker()
    job_id = studio.submit("pace=0.05", num_inference_steps=40)
    studio.denoising(job_id, 8)
    job = studio.job(job_id)
    assert 0 < job.progress < 100
    assert job.eta_s is not None
    assert 0.5 * 0.05 * (40 - job.step) < job.eta_s < 4 * 0.05 * (40 - job.step) + 1


@pytest.mark.parametrize(
    ("modules", "strangers"),
    [
        (("worker.__main__", "worker.janitor"), ("torch", "diffusers", "transformers", "av")),
        (("worker.child",), ("redis", "rq", "torch")),
    ],
)
def test_processes_load_no_strangers(modules: tuple[str, ...], strangers: tuple[str, ...]) -> None:
    code = (
        f"import sys, importlib\nfor name in {modules!r}: importlib.import_module(name)\n"
        f"print([name for name in {strangers!r} if name in sys.modules])"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_running_processes_hold_no_strangers(studio: Studio) -> None:
    worker = studio.worker()
    studio.ended(studio.submit())
    maps = until(lambda: open(f"/proc/{worker.pid}/maps").read())  # noqa: SIM115
    assert "/torch/" not in maps
