"""What a worker forecasts holds: rehearsed before its first job, learned from every one."""

import time

import pytest

from service.outlook import Outlook, median_error
from tests.cards import plain_card, plain_catalog
from tests.worker.conftest import Process, Studio, read_submission, until
from worker.forecast import Pace
from worker.jobs.catalog import CostCurve
from worker.jobs.contract import Status, VideoRequest
from worker.jobs.costs import Sample, shape_of
from worker.jobs.outcomes import Serving

PACE = "pace=0.1"  # most of a job is waiting, so that a busy machine matters little


def request(**fields: object) -> VideoRequest:
    return read_submission({"prompt": "a square"} | fields).request


def told(studio: Studio, worker: Process) -> Serving:
    """What a worker says about its one model."""
    (found,) = studio.info(worker).serving
    return found


def test_forecasts_of_a_warmed_worker_hold(studio: Studio) -> None:
    """The goal is a median error of a quarter, told at admission and in mid-run, and right after
    a long job was cancelled."""
    worker = studio.worker(rehearse=True)
    outlook = Outlook(studio.store, plain_catalog())
    fields = {"num_inference_steps": 15}
    for _ in range(2):
        studio.ended(studio.submit(PACE, **fields))
    long = studio.denoising(studio.submit(PACE, num_inference_steps=100))
    assert (outlook.eta_s(long) or 0) > 8
    studio.store.cancel(long.id, long.tenant)
    studio.ended(long.id)
    promised = []
    for _ in range(4):
        job = studio.job(studio.submit(PACE, **fields))
        promised.append((job.id, outlook.eta_s(job), time.time()))
    assert len({round(eta or 0, 1) for _, eta, _ in promised}) == 4  # each stands behind the other
    running = studio.denoising(promised[0][0], 5)
    promised.append((running.id, outlook.eta_s(running), time.time()))
    pairs = []
    for job_id, eta, at in promised:
        job = studio.ended(job_id)
        assert job.completed_at is not None
        assert eta is not None
        pairs.append((eta, job.completed_at - at))
    assert median_error(pairs) <= 0.25, pairs
    until(lambda: told(studio, worker).samples[-1].jobs == 6, what="the last job's lesson")
    info = told(studio, worker)
    assert info.memory_mb is not None
    learned = studio.store.learned("pocket")
    assert [sample.shape for sample in learned] == [info.samples[-1].shape]


def test_a_worker_is_rehearsed_before_its_first_job(studio: Studio) -> None:
    info = told(studio, studio.worker(rehearse=True))
    [sample] = info.samples
    assert (sample.jobs, sample.shape.num_frames) == (0, plain_card().default_frames)
    assert sample.step_s >= 0.002  # the model's own pace
    assert sample.peak_mb > 0
    assert studio.videos() == []
    assert not list((studio.settings.data_dir / "scratch").glob("**/*.*"))


def test_without_rehearsal_the_worker_learns_from_jobs_alone(studio: Studio) -> None:
    worker = studio.worker()
    assert told(studio, worker).samples == ()
    assert studio.ended(studio.submit()).status is Status.COMPLETED
    until(lambda: len(studio.store.learned("pocket")) == 1, what="the job's lesson")


def sample(step_s: float, jobs: int = 1) -> Sample:
    return Sample(shape=shape_of(request()), lead_s=0.0, step_s=step_s, tail_s=0.05, jobs=jobs)


def test_steps_seen_correct_what_was_expected() -> None:
    pace = Pace()
    pace.rehearsed(CostCurve(), sample(1.0), ())
    pace.begin(request(num_inference_steps=100))
    pace.note_step(0, 100)
    expected = pace.eta_s()
    assert expected == pytest.approx(100, abs=1)
    for index in range(1, 31):
        time.sleep(0.005)
        pace.note_step(index, 100)
    corrected = pace.eta_s()
    assert corrected is not None
    assert corrected < 0.15 * 70  # 70 steps of 5 ms, and some doubt


def test_the_time_left_falls_between_reports_and_never_below_nothing() -> None:
    pace = Pace()
    pace.rehearsed(CostCurve(), sample(0.1), ())
    pace.begin(request(num_inference_steps=2))
    pace.note_step(0, 2)
    first = pace.eta_s()
    time.sleep(0.1)
    second = pace.eta_s()
    assert first is not None
    assert second is not None
    assert second <= first - 0.08
    pace.note_step(2, 2)
    time.sleep(0.1)
    assert pace.eta_s() == 0


def test_nothing_is_forecast_before_anything_is_known() -> None:
    pace = Pace()
    assert pace.eta_s() is None
    pace.begin(request())
    assert pace.eta_s() is None


def test_only_films_that_were_made_teach() -> None:
    pace = Pace()
    pace.begin(request())
    pace.note_step(0, 4)
    pace.note_end(None)
    pace.note_settled()
    assert (pace.samples, pace.fresh) == ((), None)
    pace.begin(request())
    pace.note_step(0, 4)
    pace.note_step(4, 4)
    pace.note_end(123.0)
    pace.note_settled()
    assert pace.fresh is not None
    assert pace.fresh.peak_mb == 123.0
    assert len(pace.samples) == 1


def test_steps_of_an_earlier_attempt_are_not_taken_for_this_ones() -> None:
    pace = Pace()
    pace.rehearsed(CostCurve(), sample(1.0), ())
    pace.begin(request(num_inference_steps=100))
    pace.note_step(90, 100)
    assert pace.eta_s() == pytest.approx(10, abs=1)
    time.sleep(0.02)
    pace.note_step(91, 100)
    corrected = pace.eta_s()
    assert corrected is not None
    assert corrected > 5  # one quick step against two doubtful ones, not against ninety-two
    pace.note_end(1.0)
    pace.note_settled()
    assert (pace.samples, pace.fresh) == ((sample(1.0),), None)


def test_a_second_load_keeps_what_jobs_taught() -> None:
    pace = Pace()
    pace.rehearsed(CostCurve(), sample(0.1), ())
    pace.rehearsed(CostCurve(), sample(9.9, jobs=0), ())
    assert pace.samples == (sample(0.1),)
