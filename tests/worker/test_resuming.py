"""Killed and stopped workers: whoever takes the job next goes on with it, in real processes."""

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import av
import numpy as np
import pytest
from redis import Redis

from tests.conftest import Valkey
from tests.worker import tiny
from tests.worker.conftest import Process, Running, Studio, until
from worker.jobs import keys
from worker.jobs.artifacts import checkpoint_prefix
from worker.jobs.contract import Stage, Status, Tier
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

STEPS = 40
JOB: dict[str, Any] = {
    "width": 32,
    "height": 32,
    "num_frames": 8,
    "num_inference_steps": STEPS,
    "guidance_scale": 1.0,
}
PACE_S = 0.1
HANDED_BACK_S = 5.0


@pytest.fixture(scope="module")
def crew(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker of a tiny preset of the family, for all tests of this module."""
    folder = tmp_path_factory.mktemp("crew")
    settings = JobSettings(
        redis_url=valkey_server.url,  # type: ignore[arg-type]
        data_dir=folder / "data",
    )
    redis = Redis.from_url(valkey_server.url)
    redis.flushall()
    studio = Studio(JobStore(redis, settings), settings, folder)
    studio.weights = tiny.write_weights(folder / "tiny", PACE_S)
    yield studio, employ(studio)
    studio.close()
    redis.close()


def employ(studio: Studio) -> Process:
    return studio.worker(
        weights_dir=studio.weights,
        model_loader="tests.worker.tiny:load_model",
        checkpoint_overhead=1,
        torch_threads=1,
        drain_s=1,  # less than a film takes
        cancel_grace_s=10,
        encoder="libx264",
    )


def saved_steps(studio: Studio, job_id: str) -> int:
    """Steps that the job's row knows to be safe."""
    written = studio.store.redis.hget(keys.job(job_id), "ckpt")
    return 0 if written is None else int(json.loads(written)["steps"])  # type: ignore[arg-type]


def frames(studio: Studio, job_id: str) -> np.ndarray:
    job = studio.ended(job_id)
    assert job.result is not None, job
    with studio.artifacts.open(job.result.video.key) as file, av.open(file) as film:
        return np.stack([frame.to_ndarray() for frame in film.decode(video=0)])


def resumed_at(process: Process, job_id: str) -> list[int]:
    """Where the worker's attempts at a job went on."""
    lines = [json.loads(line) for line in process.log.read_text().splitlines() if line[:1] == "{"]
    events = [line for line in lines if line.get("event") == "checkpoint.resumed"]
    return [event["steps"] for event in events if event["job_id"] == job_id]


def check_resumed(studio: Studio, job_id: str, whole: str, process: Process) -> None:
    """The film is the uninterrupted one's, and no saved step was made twice."""
    assert np.array_equal(frames(studio, job_id), frames(studio, whole))
    [at] = resumed_at(process, job_id)
    assert at >= 3
    assert tiny.count_calls(studio.weights)[process.child_pid()] == STEPS - at
    told = [event.job for event in studio.store.events.read(job_id, None).events]
    shares = [job.progress for job in told]
    assert shares == sorted(shares)
    steps = [
        job.step for job in told if job.attempt == 2 and job.stage is Stage.DENOISING and job.total
    ]
    assert min(steps) >= at
    prefix = checkpoint_prefix("studio", job_id)
    until(lambda: not list(studio.artifacts.list(prefix)), what="the checkpoints to go")
    assert studio.store.redis.hget(keys.job(job_id), "ckpt") is None


def test_a_flex_job_makes_room_for_one_with_priority_and_is_gone_on_with(crew: Running) -> None:
    studio, worker = crew
    long = JOB | {"num_inference_steps": 100}
    whole = studio.submit(**long)
    frames(studio, whole)
    flex = studio.submit(**long, tier=Tier.FLEX)
    until(lambda: saved_steps(studio, flex) >= 3, what="a checkpoint")
    first = studio.submit(**JOB, tier=Tier.PRIORITY)
    until(lambda: studio.job(first).status is Status.IN_PROGRESS, what="the job with priority")
    waiting = studio.job(flex)
    assert (waiting.status, waiting.stage) == (Status.QUEUED, Stage.QUEUED)
    assert waiting.retries_left == studio.settings.max_attempts - 1
    assert [attempt.reason for attempt in waiting.attempts] == [
        "a job of a higher tier took the worker"
    ]
    assert studio.ended(first).completed_at < (studio.ended(flex).completed_at or 0)
    assert np.array_equal(frames(studio, flex), frames(studio, whole))
    assert len(resumed_at(worker, flex)) == 1
    until(lambda: studio.info(worker).loads == 1, what="the one load")


def test_a_killed_child_and_a_stopped_worker_cost_no_saved_step(crew: Running) -> None:
    studio, worker = crew
    killed = studio.submit(**JOB)
    until(lambda: saved_steps(studio, killed) >= 3, what="a checkpoint")
    os.kill(worker.child_pid(), signal.SIGKILL)
    job = studio.ended(killed)
    assert (job.status, job.attempt) == (Status.COMPLETED, 2)
    second_child = tiny.count_calls(studio.weights)[worker.child_pid()]
    whole = studio.submit(**JOB)
    frames(studio, whole)
    calls = tiny.count_calls(studio.weights)[worker.child_pid()]
    assert calls - second_child == STEPS
    assert np.array_equal(frames(studio, killed), frames(studio, whole))
    assert [second_child] == [STEPS - at for at in resumed_at(worker, killed)]

    drained = studio.submit(**JOB)
    until(lambda: saved_steps(studio, drained) >= 3, what="a checkpoint")
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    until(lambda: studio.job(drained).status is Status.QUEUED, what="the job to be handed back")
    assert time.monotonic() - began < HANDED_BACK_S
    assert worker.wait() == 0
    job = studio.job(drained)
    assert (job.stage, job.queue_position) == (Stage.QUEUED, 1)
    assert job.retries_left == studio.settings.max_attempts - 1
    known = saved_steps(studio, drained)
    other = employ(studio)
    assert studio.ended(drained).attempt == 2
    assert resumed_at(other, drained) == [known]
    check_resumed(studio, drained, whole, other)
