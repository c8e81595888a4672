"""How a worker starts, leaves and gives up, and what it may not load."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.worker.conftest import ROOT, Studio, is_running, until
from worker.jobs.contract import ErrorCode, Status

HANDED_BACK_S = 5.0


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
    big = {"width": 384, "height": 384, "num_frames": 12, "num_inference_steps": 1}
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


def test_sigterm_hands_a_hung_job_back_in_time(studio: Studio) -> None:
    """Whatever the grace of a cancel: a machine that goes away waits for nobody."""
    worker = studio.worker(drain_s=0, cancel_grace_s=60)
    job_id = studio.submit("hang=2")
    studio.denoising(job_id, 1)
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    until(lambda: studio.job(job_id).status is Status.QUEUED, HANDED_BACK_S, "the job handed back")
    assert time.monotonic() - began < HANDED_BACK_S
    assert worker.wait(5) == 0


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
