"""A worker whose disk is full fails no jobs: it rests until it has room, and others go on."""

import json
import resource
import time
from pathlib import Path

import pytest

from tests.worker.conftest import Studio, until
from worker import rest
from worker.attempt import Outcome, Verdict
from worker.ending import ROOMLESS_FREE_S, costs_retry, goes_back
from worker.jobs.contract import Job, Status
from worker.rest import Rest, takes_a_file


def nap_s(resting: Rest) -> float:
    began = time.monotonic()
    until(resting.over, 5.0)
    return time.monotonic() - began


def test_every_job_in_a_row_without_room_doubles_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "FIRST_S", 0.1)
    resting = Rest(tmp_path / "scratch")
    assert resting.over()
    for least_s in (0.1, 0.2, 0.4):
        resting.begin()
        assert nap_s(resting) >= least_s
    resting.went_well()
    resting.begin()
    assert nap_s(resting) < 0.2


def test_no_rest_is_longer_than_half_a_minute(tmp_path: Path) -> None:
    resting = Rest(tmp_path)
    for _ in range(2000):
        resting.begin()
    assert resting._until is not None
    assert resting._until - time.monotonic() <= rest.LONGEST_S


def test_a_rest_lasts_until_a_file_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "FIRST_S", 0.05)
    folder = tmp_path / "scratch"
    resting = Rest(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (rest.PROBE_BYTES - 1, hard))
    try:
        assert not takes_a_file(folder)
        resting.begin()
        for _ in range(5):
            time.sleep(0.06)
            assert not resting.over()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert takes_a_file(folder)
    assert nap_s(resting) < 1
    assert list(folder.iterdir()) == []


def test_a_full_disk_costs_a_job_time_and_no_retry(studio: Studio) -> None:
    worker = studio.worker(encoder="libx264")
    child = worker.child_pid()
    before = resource.prlimit(child, resource.RLIMIT_FSIZE)
    resource.prlimit(child, resource.RLIMIT_FSIZE, (0, before[1]))
    job_id = studio.submit()
    until(lambda: len(studio.job(job_id).attempts) >= 3, what="more attempts than a fault may have")
    job = studio.job(job_id)
    assert job.status is not Status.FAILED
    assert job.retries_left == studio.settings.max_attempts - 1
    assert {"disk is full" in attempt.reason for attempt in job.attempts} == {True}
    until(lambda: studio.info(worker).state == "resting", what="a worker that rests")
    resource.prlimit(child, resource.RLIMIT_FSIZE, before)
    assert studio.ended(job_id).status is Status.COMPLETED
    assert studio.info(worker).loads == 1
    events = [json.loads(line) for line in worker.log.read_text().splitlines()]
    rests = [event["rest_s"] for event in events if event["event"] == "disk.full"]
    assert rests[:3] == [1, 2, 4]


def test_a_job_that_never_finds_room_fails_in_the_end(studio: Studio) -> None:
    job = studio.job(studio.submit())
    outcome = Outcome(Verdict.ROOMLESS, retryable=True)
    left = job.model_copy(update={"started_at": time.time() - ROOMLESS_FREE_S / 2})
    late = job.model_copy(update={"started_at": time.time() - 2 * ROOMLESS_FREE_S})
    last = late.model_copy(update={"retries_left": 0})

    def fate(job: Job) -> tuple[bool, bool]:
        return goes_back(job, outcome), costs_retry(job, outcome)

    assert [fate(each) for each in (left, late, last)] == [
        (True, False),
        (True, True),
        (False, True),
    ]
