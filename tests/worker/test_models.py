"""Several models in one real worker: each job gets its own model's film, whatever else happens."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from redis import Redis

from models.protocol import Frames, Task
from tests.conftest import Valkey
from tests.worker import trio
from tests.worker.conftest import Process, Studio, is_running, until
from worker.jobs.contract import ErrorCode, Job, Stage, Status
from worker.jobs.pause import Pause
from worker.jobs.settings import JobSettings
from worker.jobs.store import JobStore

FIELDS: dict[str, Any] = {
    "width": 32,
    "height": 32,
    "num_frames": 8,
    "num_inference_steps": 2,
    "guidance_scale": 1.0,
}
ROUNDS = 2
IDLE_S = 1.0
GRACE_S = 3.0

House = tuple[Studio, Process, dict[str, Path]]


@pytest.fixture(scope="module")
def house(valkey_server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """One worker of three models that holds two at once, for all tests of this module."""
    folder = tmp_path_factory.mktemp("house")
    settings = JobSettings(
        redis_url=valkey_server.url,  # type: ignore[arg-type]
        data_dir=folder / "data",
        max_attempts=1,
    )
    redis = Redis.from_url(valkey_server.url)
    redis.flushall()
    studio = Studio(JobStore(redis, settings), settings, folder)
    folders = trio.write_models(settings.data_dir)
    worker = studio.worker(
        models=",".join(trio.NAMES),
        weights_dir="",
        model_loader="tests.worker.trio:load_model",
        loaded_models=2,
        model_turn_s=0,
        idle_unload_s=IDLE_S,
        cancel_grace_s=GRACE_S,
        torch_threads=1,
        encoder="libx264",
    )
    yield studio, worker, folders
    studio.close()
    redis.close()


def drawn(folder: Path) -> tuple[Frames, str]:
    """The film as a model draws it by itself, and the digest of its weights."""
    model = trio.load_model(folder.name, folder, "cpu", "auto")
    task = Task("text", "a square", "", 32, 32, 8, 8, 7, 2, 1.0, "dpmpp_2m")
    return model.generate(task, lambda step: None), model.weights_sha256


def stored(studio: Studio, job: Job) -> Frames:
    assert job.result is not None
    with av.open(str(studio.artifacts.path(job.result.video.key))) as film:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)])


def distance(one: Frames, other: Frames) -> float:
    return float(np.abs(one.astype(float) - other).mean())


def loaded(house: House) -> set[str]:
    studio, worker, _ = house
    return {each.model for each in studio.info(worker).serving if each.loaded}


def test_jobs_that_alternate_over_three_models_get_the_films_of_their_own(house: House) -> None:
    studio, worker, folders = house
    loads = studio.info(worker).loads
    own = {name: drawn(folder) for name, folder in folders.items()}
    pause = Pause(studio.store.redis)
    pause.pause()  # so that all wait at once
    ids = [studio.submit(model=name, **FIELDS) for _ in range(ROUNDS) for name in trio.NAMES]
    pause.resume()
    jobs = [studio.ended(job_id) for job_id in ids]
    films: dict[str, Frames] = {}
    for job in jobs:
        name = job.request.model
        assert (job.status, job.attempt) == (Status.COMPLETED, 1), job
        assert job.result is not None
        assert job.result.model_sha256 == own[name][1]
        film = stored(studio, job)
        assert np.array_equal(films.setdefault(name, film), film)
        nearest = min(own, key=lambda other: distance(own[other][0], film))
        assert nearest == name
    begun = [job.request.model for job in sorted(jobs, key=lambda job: job.started_at or 0)]
    assert begun == [*trio.NAMES] * ROUNDS
    until(lambda: studio.info(worker).state == "idle")
    info = studio.info(worker)
    # Two places, so each has to be loaded again, but perhaps for what the worker began with.
    assert info.loads - loads in (len(jobs) - 1, len(jobs))
    assert {each.model: each.weights_sha256 for each in info.serving} == {
        name: sha256 for name, (_, sha256) in own.items()
    }
    assert len(loaded(house)) <= 2
    assert studio.store.tally().loaded["three",] == ROUNDS


def test_an_idle_worker_holds_no_model_and_takes_jobs_all_the_same(house: House) -> None:
    studio, worker, _ = house
    long = studio.submit(model="one", **FIELDS | {"num_frames": 32, "num_inference_steps": 100})
    assert studio.ended(long).status is Status.COMPLETED
    until(lambda: studio.info(worker).state == "idle")
    assert "one" in loaded(house)  # it was in use meanwhile, however long the job took
    until(lambda: not loaded(house), 10 + IDLE_S, "an empty worker")
    info = studio.info(worker)
    assert (info.state, info.models) == ("idle", trio.NAMES)
    assert studio.ended(studio.submit(model="one", **FIELDS)).status is Status.COMPLETED
    until(lambda: loaded(house) == {"one"}, 10, "the one model")


def swapping(studio: Studio, model: str) -> str:
    """A job that has begun and waits for its model."""
    job_id = studio.submit(model=model, **FIELDS)
    until(lambda: studio.job(job_id).status is Status.IN_PROGRESS, what="begin")
    time.sleep(0.1)
    assert studio.job(job_id).stage is Stage.LOADING
    studio.store.cancel(job_id, "studio")
    return job_id


def test_a_job_is_cancelled_while_its_model_loads(house: House) -> None:
    studio, worker, folders = house
    until(lambda: not loaded(house), 10 + IDLE_S, "an empty worker")
    child = worker.child_pid()
    slow = folders["three"] / trio.SLOW
    for seconds in ("3", "60"):
        slow.write_text(seconds)
        began = time.monotonic()
        error = studio.ended(swapping(studio, "three")).error
        assert error is not None
        assert error.code is ErrorCode.CANCELLED
        assert time.monotonic() - began < 5 + GRACE_S
        assert is_running(child) == (seconds == "3")
        until(lambda: not loaded(house), 10 + IDLE_S, "an empty worker")
    slow.unlink()
    assert studio.ended(studio.submit(model="three", **FIELDS)).status is Status.COMPLETED


def test_a_model_that_does_not_load_fails_its_own_jobs_only(house: House) -> None:
    studio, worker, folders = house
    weights = folders["two"] / "unet.safetensors"
    kept = weights.rename(weights.with_suffix(".kept"))
    job = studio.ended(studio.submit(model="two", **FIELDS))
    assert job.error is not None
    assert job.error.code is ErrorCode.INTERNAL_ERROR
    assert job.error.message == "The worker could not load the model."
    until(lambda: studio.info(worker).of("two") is None, what="a worker without that model")
    kept.rename(weights)
    for name in ("one", "three"):
        assert studio.ended(studio.submit(model=name, **FIELDS)).status is Status.COMPLETED
    assert studio.ended(studio.submit(model="two", **FIELDS)).status is Status.COMPLETED
    until(lambda: studio.info(worker).of("two") is not None, what="a worker with all models")
