"""What a worker does about itself: memory that grows, crashes in a row, weights that are damaged,
inputs whose store is away."""

import itertools
import json
import os
import shutil
import signal
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.models.presets import build_preset
from tests.worker.conftest import Process, Studio, is_running, until
from worker.jobs.contract import ErrorCode, Job, Stage, Status, StoredImage
from worker.launcher import backoff_s


def events(process: Process, name: str) -> list[dict[str, object]]:
    """What a process has logged under one name."""
    lines = (json.loads(line) for line in process.log.read_text().splitlines())
    return [line for line in lines if line["event"] == name]


def test_a_child_that_has_grown_is_replaced_between_two_jobs(studio: Studio) -> None:
    worker = studio.worker(child_growth_mb=64, crash_limit=1)
    studio.ended(studio.submit())
    child = worker.child_pid()
    small, large = studio.submit("leak=8"), studio.submit("leak=100")
    assert studio.ended(small).status is Status.COMPLETED
    assert studio.ended(large).status is Status.COMPLETED
    after = studio.ended(studio.submit())
    assert (after.status, after.attempt) == (Status.COMPLETED, 1)
    assert worker.child_pid() != child
    assert studio.info(worker).loads == 2
    assert len(events(worker, "child.recycled")) == 1  # and no crash, of which one would end it


def test_memory_that_is_given_back_replaces_nobody(studio: Studio) -> None:
    worker = studio.worker(child_growth_mb=80)  # what an encoder leaves behind comes to 65 at times
    big = {"width": 512, "height": 512, "num_frames": 120, "num_inference_steps": 1}
    studio.ended(studio.submit())
    child = worker.child_pid()
    assert studio.ended(studio.submit(**big)).status is Status.COMPLETED  # 90 MiB of frames
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    assert worker.child_pid() == child, events(worker, "child.recycled")


def test_crashes_in_a_row_wait_longer_and_longer_then_the_worker_takes_no_more(
    studio: Studio,
) -> None:
    studio.start("worker.janitor")
    worker = studio.worker(crash_limit=4)
    poison = [studio.submit("die=1") for _ in range(2)]
    assert worker.wait() == 5
    died = [
        datetime.fromisoformat(str(event["timestamp"])) for event in events(worker, "child.died")
    ]
    waits = [(b - a).total_seconds() for a, b in itertools.pairwise(died)]
    # The first restart is at once, later ones wait; loading comes on top, and takes what it takes.
    due = [backoff_s(crashes) for crashes in (1, 2, 3)]
    assert due[0] == 0 < due[1] < due[2]
    assert len(waits) == 3
    assert all(wait > least - 0.05 for wait, least in zip(waits, due, strict=True))
    # The first poison ended with all its history, the second waits for another worker.
    first, second = (studio.job(job_id) for job_id in poison)
    assert first.error is not None
    assert first.error.code is ErrorCode.WORKER_LOST
    assert [attempt.number for attempt in first.attempts] == [1, 2, 3]
    died_by = {attempt.reason for attempt in first.attempts}
    assert died_by == {"the inference process died (signal 9)"}
    assert len({attempt.exec for attempt in first.attempts}) == 3
    assert (second.status, second.attempt) == (Status.QUEUED, 1)
    assert studio.store.workers() == ()


@pytest.mark.parametrize("loader", ["die_loading", "leave_loading"])
def test_a_child_that_dies_while_loading_takes_no_job_along(studio: Studio, loader: str) -> None:
    job_id = studio.submit()
    worker = studio.start(model_loader=f"tests.worker.shapes:{loader}", crash_limit=2)
    assert worker.wait() == 5
    job = studio.job(job_id)
    assert (job.status, job.attempt) == (Status.QUEUED, 0)


@pytest.mark.parametrize("damage", ["truncated", "flipped header", "another shape"])
def test_damaged_weights_are_named_and_end_the_worker(
    studio: Studio, tmp_path: Path, damage: str
) -> None:
    folder = build_preset(tmp_path / "preset", "pocket")
    weights = folder / "unet.safetensors"
    data = weights.read_bytes()
    if damage == "truncated":
        weights.write_bytes(data[: len(data) // 2])
    elif damage == "flipped header":
        weights.write_bytes(data[:9] + b"\xff" + data[10:])
    else:
        shutil.copyfile(folder / "autoencoder.safetensors", weights)
    job_id = studio.submit()
    worker = studio.start(model_loader="models.registry:load_model", weights_dir=folder)
    assert worker.wait(120) == 3
    (failed,) = events(worker, "worker.load_failed")
    assert str(folder) in str(failed["reason"])
    assert (studio.job(job_id).status, studio.job(job_id).attempt) == (Status.QUEUED, 0)


def silenced(studio: Studio, job_id: str) -> Job:
    """The job, once its first attempt has ended because the child hung."""
    until(lambda: studio.job(job_id).attempts, 20, "the end of the attempt")
    job = studio.job(job_id)
    assert job.attempts[0].reason == "the inference process fell silent"
    assert job.retries_left == studio.settings.max_attempts - 2
    return job


def test_a_child_that_hangs_is_replaced_and_its_job_given_back(
    studio: Studio, tmp_path: Path
) -> None:
    worker = studio.worker(silence_s=0.5)
    computing = studio.submit("hang=2")
    silenced(studio, computing)
    studio.store.cancel(computing, "studio")
    first = given_frame(studio, tmp_path)
    stored = studio.settings.artifacts_dir / first.artifact.key
    stored.unlink()
    os.mkfifo(stored)  # nobody writes: whoever opens it to read hangs
    reading = studio.submit(task_type="image", first_frame=first)
    assert silenced(studio, reading).stage in (Stage.QUEUED, Stage.LOADING)
    studio.store.cancel(reading, "studio")
    slow = studio.ended(studio.submit("pace=0.2", num_inference_steps=6))
    assert (slow.status, slow.attempt) == (Status.COMPLETED, 1)  # slow is not silent
    assert len(events(worker, "child.died")) <= 4  # once, and again if the job came sooner


def test_a_child_that_hangs_over_storing_is_replaced_and_one_that_waits_is_not(
    studio: Studio, tmp_path: Path
) -> None:
    worker = studio.worker(silence_s=0.5)
    job_id = studio.submit("pace=0.1")
    studio.denoising(job_id)
    root = studio.settings.artifacts_dir
    root.write_text("in the way")
    until(lambda: len(events(worker, "storage.failed")) >= 4, what="waiting for over a second")
    job = studio.job(job_id)
    assert (job.stage, job.attempts) == (Stage.UPLOADING, ())
    os.kill(worker.child_pid(), signal.SIGSTOP)
    silenced(studio, job_id)
    root.unlink()
    assert studio.ended(job_id).status is Status.COMPLETED
    (sidecar,) = root.glob(f"studio/{job_id}/*/sidecar.json")
    assert json.loads(sidecar.read_text())["attempt"] == 1  # it was not made again


def given_frame(studio: Studio, folder: Path) -> StoredImage:
    path = folder / "first.png"
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(path)
    artifact = studio.artifacts.put_file("studio/inputs/first.png", path)
    return StoredImage(artifact=artifact, width=64, height=64)


@pytest.mark.parametrize("away", ["another file in its place", "nothing in its place"])
def test_inputs_are_waited_for_while_their_store_is_away(
    studio: Studio, tmp_path: Path, away: str
) -> None:
    worker = studio.worker(silence_s=0.5)  # it waits for longer, aloud
    first = given_frame(studio, tmp_path)
    root = studio.settings.artifacts_dir
    root.rename(tmp_path / "aside")
    if away == "another file in its place":
        root.write_text("in the way")
    job_id = studio.submit(task_type="image", first_frame=first)
    until(lambda: len(events(worker, "storage.failed")) >= 3, what="several tries")
    told = {(line["job_id"], line["tenant"]) for line in events(worker, "storage.failed")}
    assert told == {(job_id, "studio")}
    assert studio.job(job_id).status is Status.IN_PROGRESS
    root.unlink(missing_ok=True)
    (tmp_path / "aside").rename(root)
    job = studio.ended(job_id)
    assert (job.status, job.attempt) == (Status.COMPLETED, 1)


def test_a_cancel_ends_the_wait_for_an_input(studio: Studio, tmp_path: Path) -> None:
    worker = studio.worker()
    first = given_frame(studio, tmp_path)
    studio.settings.artifacts_dir.rename(tmp_path / "aside")
    job_id = studio.submit(task_type="image", first_frame=first)
    until(lambda: events(worker, "storage.failed"), what="a try")
    child = worker.child_pid()
    studio.store.cancel(job_id, "studio")
    began = time.monotonic()
    error = studio.ended(job_id).error
    assert time.monotonic() - began < 30  # and not the patience of ten minutes
    assert error is not None
    assert error.code is ErrorCode.CANCELLED
    assert is_running(child)
