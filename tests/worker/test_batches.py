"""Several jobs made at once by one real worker: each is its own, whatever becomes of the others."""

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from redis import Redis

from tests.conftest import Valkey
from tests.worker import tiny
from tests.worker.conftest import Process, Running, Studio, until
from tests.worker.test_resuming import frames, resumed_at, saved_steps
from worker.jobs.contract import ErrorCode, Job, Status, Tier
from worker.jobs.pause import Pause
from worker.jobs.settings import JobSettings
from worker.jobs.store import MATE_AFTER_S, JobStore

STEPS = 20
PACE_S = 0.1
JOB: dict[str, Any] = {
    "width": 32,
    "height": 32,
    "num_frames": 8,
    "num_inference_steps": STEPS,
    "guidance_scale": 1.0,
}


@pytest.fixture(scope="module")
def crew(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One worker that makes up to four jobs at once, for all tests of this module."""
    folder = tmp_path_factory.mktemp("crew")
    settings = JobSettings(
        redis_url=valkey_server.url,  # type: ignore[arg-type]
        data_dir=folder / "data",
    )
    redis = Redis.from_url(valkey_server.url)
    redis.flushall()
    studio = Studio(JobStore(redis, settings), settings, folder)
    studio.weights = tiny.write_weights(folder / "tiny", PACE_S)
    card = json.loads((studio.weights / "card.json").read_text(encoding="utf-8"))
    (studio.weights / "card.json").write_text(json.dumps(card | {"batchable": True}))
    yield studio, employ(studio)
    studio.close()
    redis.close()


def employ(studio: Studio) -> Process:
    return studio.worker(
        weights_dir=studio.weights,
        model_loader="tests.worker.tiny:load_model",
        batch=4,
        checkpoint_overhead=1,
        torch_threads=1,
        drain_s=1,  # less than a film takes
        cancel_grace_s=10,
        encoder="libx264",
    )


def submit_batch(studio: Studio, *jobs: dict[str, Any]) -> list[str]:
    """Jobs that wait together until a worker may take them."""
    pause = Pause(studio.store.redis)
    pause.pause()
    ids = [studio.submit(**JOB | job) for job in jobs]
    time.sleep(MATE_AFTER_S)
    pause.resume()
    return ids


def seeds(*numbers: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {"seed": number, "prompt": f"a cat {'far ' * number}away"} | fields for number in numbers
    ]


def calls(studio: Studio) -> int:
    return sum(tiny.count_calls(studio.weights).values())


def batches(studio: Studio) -> dict[tuple[str, ...], int]:
    return dict(studio.store.tally().batched)


def check_alike(studio: Studio, job_id: str, alone: str) -> None:
    """Two films agree but for what the codec makes of rounding."""
    one, other = frames(studio, job_id).astype(int), frames(studio, alone).astype(int)
    assert np.abs(one - other).mean() < 0.5


def ended(studio: Studio, ids: list[str]) -> list[Job]:
    return [studio.ended(job_id) for job_id in ids]


def test_jobs_of_two_tenants_are_made_at_once_each_with_its_own_film(crew: Running) -> None:
    studio, worker = crew
    steps = 8
    asked = seeds(1, 2, 3, num_inference_steps=steps)
    asked[1]["tenant"] = "other"
    ids = submit_batch(studio, *asked)
    jobs = ended(studio, ids)
    assert [job.status for job in jobs] == [Status.COMPLETED] * 3
    assert calls(studio) == steps
    assert batches(studio) == {("pocket", "3"): 1}
    for job_id in ids:
        told = [event.job.step for event in studio.store.events.read(job_id, None).events]
        assert 0 < max(told) <= steps
        assert studio.completions(job_id) == 1
    keys = [job.result.video.key for job in jobs if job.result]
    assert [key.split("/")[:2] for key in keys] == [[job.tenant, job.id] for job in jobs]
    for job_id, fields in zip(ids, asked, strict=True):
        alone = studio.submit(**JOB | fields)
        check_alike(studio, job_id, alone)
    assert calls(studio) == 4 * steps
    assert np.abs(frames(studio, ids[0]).astype(int) - frames(studio, ids[1])).mean() > 1
    assert studio.info(worker).loads == 1


def test_a_cancelled_job_and_one_out_of_time_leave_the_others_alone(crew: Running) -> None:
    studio, worker = crew
    asked = seeds(1, 2, 3, 4, num_inference_steps=60)
    asked[2]["job_timeout_s"] = 3.0
    ids = submit_batch(studio, *asked)
    studio.denoising(ids[3], 2)
    before = studio.info(worker).loads
    assert studio.store.cancel(ids[3], "studio")
    cancelled = studio.ended(ids[3])
    late = studio.ended(ids[2])
    assert studio.job(ids[0]).status is Status.IN_PROGRESS
    assert [job.error and job.error.code for job in (cancelled, late)] == ["cancelled", "timeout"]
    assert [job.status for job in ended(studio, ids[:2])] == [Status.COMPLETED] * 2
    assert [job.attempt for job in ended(studio, ids)] == [1] * 4
    assert studio.info(worker).loads == before


@pytest.mark.parametrize(
    ("cramped", "status"),
    [("film-1", Status.COMPLETED), ("film-1 MainThread", Status.FAILED)],
    ids=["beside others", "at all"],
)
def test_a_job_without_memory_is_tried_once_alone_and_the_others_do_not_notice(
    crew: Running, cramped: str, status: Status
) -> None:
    studio, worker = crew
    before = studio.info(worker).loads
    (studio.weights / tiny.CRAMPED).write_text(cramped)  # the second job of a batch, alone or not
    ids = submit_batch(studio, *seeds(1, 2, 3, num_inference_steps=8))
    jobs = ended(studio, ids)
    (studio.weights / tiny.CRAMPED).unlink()
    assert [job.status for job in jobs] == [Status.COMPLETED, status, Status.COMPLETED]
    assert [job.attempt for job in jobs] == [1, 2, 1]
    (tried,) = jobs[1].attempts
    assert tried.reason == "no memory for it beside other jobs"
    assert jobs[1].retries_left == studio.settings.max_attempts - 1
    if jobs[1].error is not None:
        assert jobs[1].error.code is ErrorCode.OUT_OF_MEMORY
        assert "not enough memory" in jobs[1].error.message
    assert studio.info(worker).loads == before


def test_a_flex_batch_makes_room_whole(crew: Running) -> None:
    studio, worker = crew
    ids = submit_batch(studio, *seeds(1, 2, tier=Tier.FLEX, num_inference_steps=80))
    until(lambda: all(saved_steps(studio, job_id) >= 3 for job_id in ids), what="checkpoints")
    first = studio.submit(**JOB, tier=Tier.PRIORITY)
    done = studio.ended(first).completed_at
    assert done is not None
    jobs = ended(studio, ids)
    assert all(job.completed_at is not None and job.completed_at > done for job in jobs)
    assert [[attempt.reason for attempt in job.attempts] for job in jobs] == [
        ["a job of a higher tier took the worker"]
    ] * 2
    assert all(job.retries_left == studio.settings.max_attempts - 1 for job in jobs)
    assert all(len(resumed_at(worker, job_id)) == 1 for job_id in ids)


def test_a_killed_child_returns_every_job_to_a_retry_of_its_own_alone(crew: Running) -> None:
    studio, worker = crew
    formed = sum(batches(studio).values())
    ids = submit_batch(studio, *seeds(1, 2, 3))
    until(lambda: all(saved_steps(studio, job_id) >= 3 for job_id in ids), what="checkpoints")
    os.kill(worker.child_pid(), signal.SIGKILL)
    jobs = ended(studio, ids)
    assert [(job.status, job.attempt) for job in jobs] == [(Status.COMPLETED, 2)] * 3
    assert all("inference process died" in job.attempts[0].reason for job in jobs)
    assert all(job.retries_left == studio.settings.max_attempts - 2 for job in jobs)
    assert all(len(resumed_at(worker, job_id)) == 1 for job_id in ids)
    assert sum(batches(studio).values()) == formed + 1
    alone = studio.submit(**JOB | seeds(2)[0])
    check_alike(studio, ids[1], alone)


def test_a_stopped_worker_hands_the_whole_batch_back_to_go_on_elsewhere(crew: Running) -> None:
    studio, worker = crew
    ids = submit_batch(studio, *seeds(5, 6))
    until(lambda: all(saved_steps(studio, job_id) >= 3 for job_id in ids), what="checkpoints")
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    jobs = [studio.job(job_id) for job_id in ids]
    assert [job.status for job in jobs] == [Status.QUEUED] * 2
    assert all(job.retries_left == studio.settings.max_attempts - 1 for job in jobs)
    other = employ(studio)
    assert [job.attempt for job in ended(studio, ids)] == [2, 2]
    assert all(len(resumed_at(other, job_id)) == 1 for job_id in ids)
